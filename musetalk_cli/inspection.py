"""What a dub would see. In: a film. Out: every shot, everyone in it, who is dubbed, who is not and why; and a contact sheet.

Runs the first two stages in the film's work folder, where `dub` finds them done. Knows nothing of voices.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import DubConfig, Runtime
from musetalk_cli.contact_sheet import Label, Mark, Tile, draw_pages, letter_of
from musetalk_cli.media.video import clock, read_frames, to_rgb
from musetalk_cli.progress import counted
from musetalk_cli.session import Place, Session, Voice, open_session
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.stages.s2_faces import ShotSeen, TrackSeen, read_seen
from musetalk_cli.targets import check_apart, check_file, check_folder, check_suffix, exists_error
from musetalk_cli.types import Faces, Source

STAYS = "stays as it is"


@dataclass(frozen=True, slots=True)
class PersonReport:
    """One person within one shot."""

    person: str  # A, B, ...: as on the contact sheet; the next shot counts anew
    track: int
    frames: int  # in which the face is seen
    frames_dubbed: int
    width_px: float  # of the face, median
    height_px: float
    score: float  # of the detector, median, 0..1
    similarity: float | None  # cosine to the picture of --face
    dubbed: bool
    why: str


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

    def as_json(self) -> dict[str, object]:
        sheets = [str(sheet) for sheet in self.sheets]
        return {"film": str(self.film), "shots": [asdict(shot) for shot in self.shots], "sheets": sheets}

    def lines(self) -> list[str]:
        head = f"{'shot':>5} {'start':>14} {'frames':>7} {'with face':>9} {'dubbed':>7} {'people':>6} {'widest':>9}"
        rows = [
            f"{s.shot + 1:5} {s.start:12.3f} s {s.frames:7} {s.frames_with_face:9} {s.frames_dubbed:7} {s.people:6} "
            f"{s.widest_px:6} px  {s.verdict}"
            for s in self.shots
        ]
        return [head, *rows, *(str(sheet) for sheet in self.sheets)]


def inspect_film(film: Path, output: Path | None, choices: Choices, place: Place, voice: Voice, *, overwrite: bool) -> Inspection:
    """Find shots and faces, write the contact sheet: `output`, and for a long film `{stem}-2.png` and so on beside it.

    output may be a folder. Raises UsageError where no PNG can be written there, OutputExistsError where a page lies there already.
    """
    sheet = sheet_path(film, output)
    check_sheet(sheet, [film, Path(choices.face)], overwrite=overwrite)
    runtime = choose_runtime(choices)
    with open_session(film, place, voice, deliver=False) as session:
        source, shots = _analyse(film, dub_config(choices, runtime), runtime, session)
        reports = tuple(report(seen, faces, source) for seen, faces in shots)
        sheets = tuple(write_sheets(sheet, film, source, shots, reports))
    return Inspection(film, sheets, reports)


def sheet_path(film: Path, output: Path | None) -> Path:
    """Of the first page."""
    name = f"{film.stem}.faces.png"
    if output is None:
        return film.with_name(name)
    return output / name if output.is_dir() else output


def check_sheet(sheet: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Before any work: how many pages there will be is not known yet, so every file that could be one of them counts."""
    check_suffix(sheet, (".png",))
    check_folder(sheet.parent)
    check_file(sheet)
    for page in (sheet, *sorted(path for path in sheet.parent.iterdir() if _is_page(path, sheet))):
        check_apart(page, inputs)
        if page.exists() and not overwrite:
            raise exists_error(page, "-y replaces it, -o names another")


def _is_page(path: Path, first: Path) -> bool:
    return path.suffix == first.suffix and re.fullmatch(rf"{re.escape(first.stem)}-\d+", path.stem) is not None


def report(seen: ShotSeen, faces: Faces, source: Source) -> ShotReport:
    """What is seen in a shot and what becomes of it."""
    shot = faces.shot
    dubbed = np.unique(faces.frame)
    start, end = source.time(shot.start), source.time(shot.stop) if shot.stop < source.frames else _end(source)
    return ShotReport(
        shot=shot.index,
        start=round(float(start), 3),
        duration=round(float(end - start), 3),
        first_frame=shot.start,
        frames=shot.frames,
        frames_with_face=shot.frames - seen.faceless,
        frames_dubbed=len(dubbed),
        dubbed=tuple(_stretches(dubbed)),
        people=len(np.unique(faces.track)),
        widest_px=int((faces.box[:, 2] - faces.box[:, 0]).max()) if faces.rows else 0,
        verdict=_verdict(len(dubbed), seen),
        persons=tuple(_person(track) for track in seen.tracks),
    )


def write_sheets(
    path: Path, film: Path, source: Source, shots: Sequence[tuple[ShotSeen, Faces]], reports: Sequence[ShotReport]
) -> Iterator[Path]:
    """The pages of the contact sheet, each written whole; their paths."""
    dubbed = sum(shot.frames_dubbed > 0 for shot in reports)
    facts = (
        f"{source.size[0]} x {source.size[1]}   {float(source.fps):.6g} fps   {clock(_end(source) - source.time(0))}   "
        f"{counted(len(reports), 'shot')}, {dubbed} dubbed"
    )
    tiles = (_tile(film, source, seen, shot) for (seen, _), shot in zip(shots, reports, strict=True))
    for number, page in enumerate(draw_pages(film.name, facts, tiles, len(reports)), 1):
        to = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        part = to.with_name(f".{to.name}.part")
        page.save(part, format="PNG")
        part.replace(to)
        yield to


def _analyse(film: Path, config: DubConfig, runtime: Runtime, session: Session) -> tuple[Source, list[tuple[ShotSeen, Faces]]]:
    from musetalk_cli.pipeline import Run, find_faces
    from musetalk_cli.stages.s1_demux import demux

    source = session.work.do(demux, film, config=config.demux, runtime=runtime, unit="film")
    found = find_faces(source, Run(film, config, runtime, session.work, session.events))
    return source.load(), [(read_seen(shot.folder), shot.load()) for shot in found]


def _verdict(dubbed: int, seen: ShotSeen) -> str:
    if dubbed:
        return "dubbed" if dubbed == seen.shot.frames else f"dubbed in {dubbed} of {seen.shot.frames} frames"
    if not seen.tracks:
        return f"{STAYS}: no face"
    largest = max(seen.tracks, key=lambda track: track.size_px[0] * track.size_px[1] * track.frames)
    others = len(seen.tracks) - 1
    return f"{STAYS}: {letter_of(largest.track)} {largest.why}" + (f", and {others} more" if others else "")


def _person(track: TrackSeen) -> PersonReport:
    return PersonReport(
        person=letter_of(track.track),
        track=track.track,
        frames=track.frames,
        frames_dubbed=track.rows,
        width_px=track.size_px[0],
        height_px=track.size_px[1],
        score=track.score,
        similarity=track.similarity,
        dubbed=track.rows > 0,
        why=track.why,
    )


def _stretches(frames: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Ascending frames -> half-open ranges of neighbours."""
    for _, run in groupby(enumerate(int(frame) for frame in frames), lambda pair: pair[1] - pair[0]):
        numbers = [frame for _, frame in run]
        yield numbers[0], numbers[-1] + 1


def _tile(film: Path, source: Source, seen: ShotSeen, shot: ShotReport) -> Tile:
    (frame,) = read_frames(film, source, seen.still, seen.still + 1)
    marks = tuple(
        Mark(letter_of(track.track), track.still_box, track.still_landmarks or (), track.rows > 0)
        for track in seen.tracks
        if track.still_box is not None
    )
    visible = {mark.letter for mark in marks}
    people = tuple(_label(person, shot) for person in sorted(_by_weight(shot), key=lambda p: p.person not in visible))
    stays = () if shot.dubbed else (Label("", STAYS if people else shot.verdict),)
    return Tile(
        still=to_rgb(frame, source.colour),
        aspect=float(source.size[0] * source.sar / source.size[1]),
        title=f"Shot {shot.shot + 1}",
        time=f"{clock(source.time(shot.first_frame))}   {shot.duration:.1f} s",
        dubbed=tuple(((a - shot.first_frame) / shot.frames, (b - shot.first_frame) / shot.frames) for a, b in shot.dubbed),
        marks=marks,
        labels=stays + people,
    )


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
