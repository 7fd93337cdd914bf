"""What a dub would see. In: a film. Out: every shot, everyone in it, who is dubbed, who is not and why; a contact sheet; a cast map.

Runs the first stages in the film's work folder, where `dub` finds them done. Knows nothing of new voices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.cast_draft import cast_path, check_cast, draft, write_cast
from musetalk_cli.cast_map import letters
from musetalk_cli.casting import Choice, Chooser, cast_by_rule
from musetalk_cli.config import DubConfig, Runtime
from musetalk_cli.contact_sheet import Label, Mark, Tile, draw_pages, further_pages, sheet_path
from musetalk_cli.crop import upright
from musetalk_cli.media.audio import ALL_CHANNELS
from musetalk_cli.media.video import clock, read_frames, to_rgb
from musetalk_cli.people import Candidate, Persons, TrackOf, candidates, find_persons
from musetalk_cli.pipeline import Run, analysis_of, find_faces, rule_of, unit_name
from musetalk_cli.progress import counted
from musetalk_cli.session import Place, Session, Voice, open_session
from musetalk_cli.settings import Choices, choose_model, choose_runtime, dub_config
from musetalk_cli.speaking import Spoken
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_decide import ALWAYS, decisions_of
from musetalk_cli.stages.s2_faces import ShotSeen, TrackSeen, read_seen
from musetalk_cli.stages.s2_speaking import Speakers, speaking
from musetalk_cli.stages.s3_latents import listen
from musetalk_cli.targets import check_apart, check_file, check_folder, check_suffix, exists_error
from musetalk_cli.types import PASS, Decisions, Faces, Source, Verdict
from musetalk_cli.weights import folder as weights_folder
from musetalk_cli.work import Ref

STAYS = "stays as it is"
UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class PersonReport:
    """One person within one shot."""

    person: (
        str  # A, B, ...: as on the contact sheet and in the cast map, the same through the film; UNKNOWN: nobody could dub him
    )
    track: int
    frames: int  # in which the face is seen
    frames_dubbed: int
    width_px: float  # of the face, median
    height_px: float
    score: float  # of the detector, median, 0..1
    similarity: float | None  # cosine to the picture of --face
    dubbed: bool
    why: str
    verdicts: tuple[Verdict, ...] = ()  # frame by frame, were a voice never silent
    speaks: tuple[Spoken, ...] = ()  # in the film itself


@dataclass(frozen=True, slots=True)
class ShotReport:
    """One shot, and what becomes of it."""

    shot: int  # from 0, as in the work folder; people read it from 1
    start: float  # seconds from the film's start
    duration: float  # seconds
    first_frame: int
    frames: int
    frames_with_face: int
    frames_dubbed: int
    dubbed: tuple[tuple[int, int], ...]  # stretches [start, stop) of the film's frames
    people: int  # who are dubbed
    widest_px: int  # of their boxes
    verdict: str
    persons: tuple[PersonReport, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """The film and its shots; `sheets` are the pages of the contact sheet."""

    film: Path
    sheets: tuple[Path, ...]
    shots: tuple[ShotReport, ...]
    cast: Path  # the cast map

    def as_json(self) -> dict[str, object]:
        sheets = [str(sheet) for sheet in self.sheets]
        shots = [_json_of(shot) for shot in self.shots]
        return {"film": str(self.film), "shots": shots, "sheets": sheets, "cast": str(self.cast)}

    def lines(self) -> list[str]:
        head = f"{'shot':>5} {'start':>14} {'frames':>7} {'with face':>9} {'dubbed':>7} {'people':>6} {'widest':>9}"
        rows = [
            f"{s.shot + 1:5} {s.start:12.3f} s {s.frames:7} {s.frames_with_face:9} {s.frames_dubbed:7} {s.people:6} "
            f"{s.widest_px:6} px  {s.verdict}"
            for s in self.shots
        ]
        return [head, *rows, *(str(sheet) for sheet in self.sheets), str(self.cast)]


class Targets(NamedTuple):
    """What the user wants written where; None: beside the film."""

    sheet: Path | None = None
    cast: Path | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the analysis found; of each shot in order."""

    film: Path
    source: Source
    shots: tuple[ShotSeen, ...]
    faces: tuple[Faces, ...]
    persons: Persons
    choices: tuple[dict[int, Choice], ...]  # by track, for those who could be dubbed
    decisions: tuple[Decisions, ...]
    speakers: tuple[Speakers, ...]  # none where the film has no sound
    analysis: str

    def letter(self, shot: int, track: int) -> str:
        """Of the person, UNKNOWN for a track that nobody could dub."""
        number = self.persons.of.get(TrackOf(self.faces[shot].shot.index, track))
        return UNKNOWN if number is None else letters(number)


def inspect_film(
    film: Path, targets: Targets, choices: Choices, place: Place, voice: Voice, *, overwrite: bool, redraw: bool = False
) -> Inspection:
    """Find shots, faces, persons and who speaks; write the contact sheet, for a long film `{stem}-2.png` and so on beside it, and
    the draft of a cast map with a still of each person in a folder beside it.

    A cast map under its usual name that is there already is left as it is. redraw: a contact sheet is replaced nevertheless. Raises
    UsageError where a target cannot be written, OutputExistsError where one lies there already.
    """
    sheet, cast = sheet_path(film, targets.sheet), cast_path(film, targets.cast)
    check_sheet(sheet, [film, Path(choices.face)], overwrite=overwrite or redraw)
    kept = targets.cast is None and not overwrite and cast.is_file()  # nobody asked for it by name: an inspection may be repeated
    check_cast(cast, [film], overwrite=overwrite or kept)
    runtime = choose_runtime(choices)
    with open_session(film, place, voice, deliver=False) as session:
        seen = _analyse(film, dub_config(choices, runtime), runtime, session)
        reports = tuple(report(seen, shot) for shot in range(len(seen.faces)))
        sheets = tuple(write_sheets(sheet, seen, reports))
        if not kept:
            write_cast(cast, seen, sheet)
        elif cast.read_text(encoding="utf-8", errors="replace") != draft(cast, seen, sheet):
            session.events.emit(
                "warning", message=f"{cast}: is there and says something else; left as it is", hint="-y drafts it anew"
            )
    return Inspection(film, sheets, reports, cast)


def check_sheet(sheet: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Before any work: how many pages there will be is not known yet, so every file that could be one of them counts."""
    check_suffix(sheet, (".png",))
    check_folder(sheet.parent)
    check_file(sheet)
    for page in (sheet, *further_pages(sheet)):
        check_apart(page, inputs)
        if page.exists() and not overwrite:
            raise exists_error(page, "-y replaces it, -o names another")


def report(seen: Seen, number: int) -> ShotReport:
    """What is seen in a shot and what becomes of it, were a voice never silent."""
    source, faces, shown, decided = seen.source, seen.faces[number], seen.shots[number], seen.decisions[number]
    shot = faces.shot
    mouths = decided.voicing.voice(faces.frame, faces.track) != PASS
    dubbed = np.unique(faces.frame[mouths])
    start, end = source.time(shot.start), source.time(shot.stop) if shot.stop < source.frames else _end(source)
    persons = tuple(_person(track, seen, number) for track in shown.tracks)
    return ShotReport(
        shot=shot.index,
        start=round(float(start), 3),
        duration=round(float(end - start), 3),
        first_frame=shot.start,
        frames=shot.frames,
        frames_with_face=shot.frames - shown.faceless,
        frames_dubbed=len(dubbed),
        dubbed=tuple(_stretches(dubbed)),
        people=len(np.unique(faces.track[mouths])),
        widest_px=int((faces.box[mouths, 2] - faces.box[mouths, 0]).max()) if mouths.any() else 0,
        verdict=_verdict(len(dubbed), shown, persons),
        persons=persons,
    )


def write_sheets(path: Path, seen: Seen, reports: Sequence[ShotReport]) -> Iterator[Path]:
    """The pages of the contact sheet, each written whole; their paths."""
    source, dubbed = seen.source, sum(shot.frames_dubbed > 0 for shot in reports)
    facts = (
        f"{source.size[0]} x {source.size[1]}   {float(source.fps):.6g} fps   {clock(_end(source) - source.time(0))}   "
        f"{counted(len(reports), 'shot')}, {dubbed} dubbed"
    )
    tiles = (_tile(seen, shown, shot) for shown, shot in zip(seen.shots, reports, strict=True))
    for number, page in enumerate(draw_pages(seen.film.name, facts, tiles, len(reports)), 1):
        to = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        part = to.with_name(f".{to.name}.part")
        page.save(part, format="PNG")
        part.replace(to)
        yield to


def _analyse(film: Path, config: DubConfig, runtime: Runtime, session: Session) -> Seen:
    run = Run(film, config, runtime, session.work, session.events)
    source = session.work.do(demux, film, config=config.demux, runtime=runtime, unit="film")
    found = find_faces(source, run)
    faces, rule = tuple(ref.load() for ref in found), rule_of(config, runtime)
    choices = tuple({one.track: choice for one, choice in _chosen(shot, rule)} for shot in faces)
    return Seen(
        film,
        source.load(),
        tuple(read_seen(ref.folder) for ref in found),
        faces,
        find_persons(faces),
        choices,
        tuple(
            decisions_of(source.load(), shot, cast_by_rule(shot, rule, "auto").casting, [ALWAYS], config.decide) for shot in faces
        ),
        tuple(_speakers(source, found, run)),
        analysis_of(film, faces),
    )


def _chosen(faces: Faces, rule: Chooser) -> Iterator[tuple[Candidate, Choice]]:
    found = candidates(faces)
    yield from zip(found, rule(found), strict=True)


def _speakers(source: Ref[Source], found: Sequence[Ref[Faces]], run: Run) -> Iterator[Speakers]:
    """By the embedded model, whatever model dubs."""
    film = source.load()
    if not any(stream.kind == "audio" for stream in film.streams):
        return
    config, runtime = choose_model("lite", weights_folder(run.runtime.weights)), replace(run.runtime, model=None)
    heard = run.work.do(listen, run.video, ALL_CHANNELS, config=config, runtime=runtime, unit="film")
    for shot, face in zip(film.shots, found, strict=True):
        yield run.work.do(speaking, source, face, heard, config=config, runtime=runtime, unit=unit_name(shot)).load()


def _verdict(dubbed: int, seen: ShotSeen, persons: Sequence[PersonReport]) -> str:
    if dubbed:
        return "dubbed" if dubbed == seen.shot.frames else f"dubbed in {dubbed} of {seen.shot.frames} frames"
    if not persons:
        return f"{STAYS}: no face"
    largest = max(persons, key=lambda person: person.width_px * person.height_px * person.frames)
    others = len(persons) - 1
    return f"{STAYS}: {largest.person} {largest.why}" + (f", and {others} more" if others else "")


def _person(track: TrackSeen, seen: Seen, shot: int) -> PersonReport:
    faces, decided = seen.faces[shot], seen.decisions[shot]
    mouths = (decided.voicing.voice(faces.frame, faces.track) != PASS) & (faces.track == track.track)
    choice = seen.choices[shot].get(track.track)
    verdicts = tuple(verdict for verdict in decided.verdicts if verdict.track == track.track)
    why = track.unfit or ("" if choice is None else choice.why)
    if choice is not None and choice.chosen and not mouths.any():
        why = verdicts[0].why
    return PersonReport(
        person=seen.letter(shot, track.track),
        track=track.track,
        frames=track.frames,
        frames_dubbed=int(mouths.sum()),
        width_px=track.size_px[0],
        height_px=track.size_px[1],
        score=track.score,
        similarity=None if choice is None or choice.similarity is None else round(choice.similarity, 3),
        dubbed=bool(mouths.any()),
        why=why,
        verdicts=verdicts,
        speaks=tuple(spoken for spoken in seen.speakers[shot].spoken if spoken.track == track.track) if seen.speakers else (),
    )


def _json_of(shot: ShotReport) -> dict[str, object]:
    """A shot as JSON, verdicts and speech as objects."""
    about = asdict(shot)
    for person, entry in zip(shot.persons, about["persons"], strict=True):
        entry["verdicts"] = [verdict._asdict() for verdict in person.verdicts]
        entry["speaks"] = [spoken._asdict() for spoken in person.speaks]
    return about


def _stretches(frames: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Ascending frames -> half-open ranges of neighbours."""
    for _, run in groupby(enumerate(int(frame) for frame in frames), lambda pair: pair[1] - pair[0]):
        numbers = [frame for _, frame in run]
        yield numbers[0], numbers[-1] + 1


def _tile(seen: Seen, shown: ShotSeen, shot: ShotReport) -> Tile:
    source = seen.source
    (frame,) = read_frames(seen.film, source, shown.still, shown.still + 1)
    by_track = {person.track: person for person in shot.persons}
    marks = tuple(
        Mark(by_track[track.track].person, track.still_box, track.still_landmarks or (), by_track[track.track].dubbed)
        for track in shown.tracks
        if track.still_box is not None
    )
    visible = {mark.letter for mark in marks}
    people = tuple(_label(person, shot) for person in sorted(_by_weight(shot), key=lambda p: p.person not in visible))
    stays = () if shot.dubbed else (Label("", STAYS if people else shot.verdict),)
    return Tile(
        still=upright(to_rgb(frame, source.colour), source.rotation),
        aspect=_aspect(source),
        title=f"Shot {shot.shot + 1}",
        time=f"{clock(source.time(shot.first_frame))}   {shot.duration:.1f} s",
        dubbed=tuple(((a - shot.first_frame) / shot.frames, (b - shot.first_frame) / shot.frames) for a, b in shot.dubbed),
        marks=marks,
        labels=stays + people,
    )


def _aspect(source: Source) -> float:
    """Width by height as it is to be seen."""
    stored = float(source.size[0] * source.sar / source.size[1])
    return 1 / stored if source.rotation % 180 else stored


def _label(person: PersonReport, shot: ShotReport) -> Label:
    if not person.dubbed:
        return Label(person.person, person.why)
    frames = "all frames" if person.frames_dubbed == shot.frames else f"{person.frames_dubbed} of {shot.frames} frames"
    return Label(person.person, f"dubbed in {frames}: {person.why}", dubbed=True)


def _by_weight(shot: ShotReport) -> list[PersonReport]:
    return sorted(shot.persons, key=lambda p: (not p.dubbed, -p.width_px * p.height_px * p.frames))


def _end(source: Source) -> Fraction:
    """Seconds at which the last frame ends."""
    last = int(source.durations[-1]) * source.time_base or 1 / source.fps
    return source.time(source.frames - 1) + last
