"""A result beside its film. In: both, and what a run knows of them, if any. Out: a Report.

    Known --- decisions -- windows -- measure --.
    film, result -- sounds ---------------------|-- pieces -- rules -- findings, score -- Report
    voices, the film's own sound -- wanted -----'

Every step is kept in the film's work folder, so that a killed report goes on. Knows nothing of how a report looks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli import __version__
from musetalk_cli.cast_map import VoiceFile
from musetalk_cli.config import ReportConfig
from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.models.lip_judge import WEIGHTS_FILE, embedded_judge
from musetalk_cli.people import TrackOf
from musetalk_cli.pipeline import Run, unit_name
from musetalk_cli.provenance.read import read_provenance
from musetalk_cli.reading import parse_json
from musetalk_cli.report.known import Known, as_dubbed, known_of_dub, known_of_files
from musetalk_cli.report.pictures import Look, pairs_of, wishes
from musetalk_cli.report.pieces import Seen, curve_of, figures_of, generated, heard_in, pieces_of, seen_in, summed
from musetalk_cli.report.records import VERSION, Curve, Figures, FileFact, Finding, Report, Role, ShotReport, TrackReport
from musetalk_cli.report.rules import Heard, Piece, Rows, by_person, findings, frozen, score, untouched
from musetalk_cli.report.windows import Span, sampled
from musetalk_cli.session import JOURNAL
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_faces import Tracks, pick
from musetalk_cli.stages.s3_masks import masks
from musetalk_cli.stages.s8_measure import Measured, Window, Windows, measure
from musetalk_cli.stages.s8_sounds import JudgedBy, Wanted, sounds, wanted
from musetalk_cli.types import PASS, Decisions, DubJob, Faces, Outcome, Source, Verdict, Voicing
from musetalk_cli.weights import embedded_lite, folder
from musetalk_cli.work import Ref, sha256_of

JUDGE = "LSE-C, LSE-D (lip judge)"
MOST_CURVES = 24  # of tracks, those with findings first
CURVE_FRAMES = 1500  # of each


def report_of(film: Path, result: Path, run: Run, config: ReportConfig) -> Report:
    """Of two files, of which nothing is known but what they show. Raises InputError where the result is not as long as the film, or has another
    size."""
    speech = _wanted(VoiceFile(result), run)
    known = known_of_files(film, result, speech.load(), run)
    return _report(known, run, config, speech)


def report_of_dub(job: DubJob, run: Run, config: ReportConfig) -> Report:
    """Of what this job has just delivered, in the same work folder and with the same settings: what was decided is known."""
    return _report(known_of_dub(job, run), run, config, None)


def _report(known: Known, run: Run, config: ReportConfig, speech: Ref[Wanted] | None) -> Report:
    shown = run.work.do(demux, known.result, config=run.config.demux, runtime=run.runtime, unit="result")
    _check_alike(known, shown.load())
    spans = sampled(list(_spans(known)), float(known.source.load().fps), config.seconds)
    run.events.emit("report.start", result=known.result, frames=sum(span.frames for span in spans))
    seen = [part for found in _measured(known, shown, spans, run) for part in _seen(*found, known, shown.load(), config)]
    if speech is not None:
        known = as_dubbed(known, seen, speech.load(), run.config.decide)
    return _Judged(known, shown.load(), seen, run, config).report()


def _check_alike(known: Known, shown: Source) -> None:
    film = known.source.load()
    cure = "give a film and what was made of it, frame for frame"
    if shown.frames != film.frames:
        raise InputError(f"{known.result}: {shown.frames} frames, the film has {film.frames}", cure)
    if (shown.size, shown.rotation) != (film.size, film.rotation):
        told = [f"{one.size[0]}x{one.size[1]}, turned by {one.rotation}" for one in (shown, film)]
        raise InputError(f"{known.result}: {told[0]} degrees, the film {told[1]}", cure)


def _spans(known: Known) -> Iterator[Span]:
    """Each track from its first line in a shot to its last, by time."""
    for decisions in known.decisions:
        lines = decisions.voicing.lines
        for track in sorted({line.track for line in lines}):
            own = [line for line in lines if line.track == track]
            yield Span(decisions.shot.index, track, min(line.start for line in own), max(line.stop for line in own))


def _measured(known: Known, shown: Ref[Source], spans: Sequence[Span], run: Run) -> Iterator[tuple[int, Measured]]:
    """(shot, what was measured of it)."""
    for number in sorted({span.shot for span in spans}):
        shot = known.source.load().shots[number]
        windows = tuple(Window(span.track, span.start, span.stop) for span in spans if span.shot == number)
        source = known.own if shot.stop <= known.own.load().frames else known.source
        do = partial(run.work.do, runtime=run.runtime, unit=unit_name(shot))
        lines = known.decisions[number].voicing.lines
        picked = do(pick, known.faces[number], Tracks(tuple(sorted({line.track for line in lines}))), config=None)
        mask = do(masks, known.film, source, picked, config=run.config.masks)
        frames = sum(span.frames for span in spans if span.shot == number)
        measured = do(
            measure, known.film, known.result, source, shown, picked, mask, Windows(windows), config=None, frames=frames
        )
        yield number, measured.load()


def _seen(shot: int, measured: Measured, known: Known, shown: Source, config: ReportConfig) -> list[Seen]:
    return seen_in(shot, measured, _times(known.source.load(), measured.frame), _times(shown, measured.frame), config)


def _times(source: Source, frames: NDArray[np.integer]) -> NDArray[np.float64]:
    """Seconds from the film's beginning, as its sound runs."""
    return np.array([float(source.time(int(frame))) for frame in frames], np.float64)


def _wanted(voice: VoiceFile, run: Run) -> Ref[Wanted]:
    config = JudgedBy(sha256_of(embedded_judge() / WEIGHTS_FILE))
    return run.work.do(wanted, voice.path, voice.channel, config=config, runtime=run.runtime, unit="film")


@dataclass(frozen=True, slots=True)
class _Judged:
    """Everything that was measured, and what follows from it."""

    known: Known
    shown: Source
    seen: Sequence[Seen]
    run: Run
    config: ReportConfig

    def report(self) -> Report:
        known, source = self.known, self.known.source.load()
        sound = self.run.work.do(
            sounds, known.film, known.result, known.source, config=None, runtime=self.run.runtime, unit="film"
        ).load()
        pieces = [piece for part in self.seen for piece in pieces_of(part, self._of(part).voicing, sound, self.config)]
        by_track = {(part.shot, part.track): self._heard(part) for part in self.seen}
        heard = list(self._judged(pieces))
        persons = [known.persons.of[TrackOf(*_place(one))] for one in heard]
        verdicts = [(decisions.shot.index, verdict) for decisions in known.decisions for verdict in decisions.verdicts]
        found = (*_unheard(known, self.shown), *findings(pieces, by_person(heard, persons), verdicts, self.config))
        rows = [generated(part, self._of(part).voicing) for part in self.seen]
        counted = [Rows(part.shot, part.track, part.frame[inside]) for part, inside in zip(self.seen, rows, strict=True)]
        shots = tuple(self._shots(by_track))
        look = Look(known.film, known.result, source, self.shown)
        asked = wishes(self.seen, rows, found, self.config.seed)
        return Report(
            version=VERSION,
            tool=f"musetalk {__version__}",
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            film=known.film.name,
            result=known.result.name,
            frames=source.frames,
            seconds=round(float(source.time(source.frames - 1) - source.time(0) + 1 / source.fps), 3),
            fps=float(source.fps),
            score=round(score(counted, found), 2),
            findings=found,
            totals=summed([track.figures for shot in shots for track in shot.tracks if track.figures is not None]),
            shots=shots,
            curves=tuple(self._curves(found)),
            pairs=tuple(pairs_of(asked, [face.load() for face in known.faces], look)),
            files=tuple(self._files()),
            settings={"provenance": _provenance(self.known.result), **_settings(self.run, self.config)},
            stage_seconds=_stage_seconds(self.run.work.folder / JOURNAL),
            judge=JUDGE,
        )

    def _judged(self, pieces: Sequence[Piece]) -> Iterator[Heard]:
        for part in self.seen:
            inside = dubbed_in(part, self._of(part).voicing, pieces, self.config)
            if inside.any() and (heard := self._heard(part.only(inside))) is not None:
                yield heard

    def _of(self, part: Seen) -> Decisions:
        return self.known.decisions[part.shot]

    def _heard(self, part: Seen) -> Heard | None:
        film = self._asked(VoiceFile(self.known.film)) if _has_sound(self.known.source.load()) else None
        voices = [voice.asked for voice in self._voices(part)]
        return heard_in(part, self._of(part).voicing, voices, self._clock(part), None if film is None else film.asked)

    def _voices(self, part: Seen) -> list[Wanted]:
        return [self._asked(voice) for voice in self.known.voices[part.shot]]

    def _asked(self, voice: VoiceFile) -> Wanted:
        return _wanted(voice, self.run).load()

    def _clock(self, part: Seen) -> NDArray[np.float64]:
        """Seconds of the rows as the voice runs: that of the result's own sound, or a voice's, which begins with the film."""
        of_result = any(voice.path == self.known.result for voice in self.known.voices[part.shot])
        return part.result_s if of_result else part.film_s

    def _shots(self, heard: Mapping[tuple[int, int], Heard | None]) -> Iterator[ShotReport]:
        source, seen = self.known.source.load(), {(part.shot, part.track): part for part in self.seen}
        end = source.time(source.frames - 1) + 1 / source.fps
        for decisions, face in zip(self.known.decisions, self.known.faces, strict=True):
            shot = decisions.shot
            tracks = tuple(self._track(verdict, decisions, face.load(), seen, heard) for verdict in decisions.verdicts)
            start_s, stop_s = source.time(shot.start), source.time(shot.stop) if shot.stop < source.frames else end
            what, why = outcome_of(decisions.verdicts)
            yield ShotReport(
                shot.index, shot.start, shot.stop, round(float(start_s), 3), round(float(stop_s), 3), what, why, tracks
            )

    def _track(
        self,
        verdict: Verdict,
        decisions: Decisions,
        faces: Faces,
        seen: Mapping[tuple[int, int], Seen],
        heard: Mapping[tuple[int, int], Heard | None],
    ) -> TrackReport:
        place, voicing = (decisions.shot.index, verdict.track), decisions.voicing
        generated_ones = (faces.track == verdict.track) & (faces.frame >= verdict.start) & (faces.frame < verdict.stop)
        rows = int((voicing.voice(faces.frame[generated_ones], faces.track[generated_ones]) != PASS).sum())
        figures = None
        if rows:
            alike = [one for one in decisions.verdicts if one.track == verdict.track and one.what != "passed through"]
            longest = max(alike, key=lambda one: one.stop - one.start, default=verdict)
            part, sync = seen.get(place), heard.get(place) if verdict == longest else None
            figures = (
                Figures(rows, 0.0) if part is None else figures_of(part.between(verdict.start, verdict.stop), rows, voicing, sync)
            )
        who = self.known.who(*place)
        return TrackReport(verdict.track, who, verdict.start, verdict.stop, verdict.what, verdict.why, figures)

    def _curves(self, found: Sequence[Finding]) -> Iterator[Curve]:
        """Tracks with findings first, the others by time."""
        bad = {(one.shot, one.track) for one in found}
        for part in sorted(self.seen, key=lambda part: (part.shot, part.track) not in bad)[:MOST_CURVES]:
            yield curve_of(part, self._of(part).voicing, self._voices(part), self._clock(part), CURVE_FRAMES)

    def _files(self) -> Iterator[FileFact]:
        known, model = self.known, self.run.config.model
        given: list[tuple[Role, Path]] = [
            ("film", known.film),
            *(("voice", path) for path in known.files),
            ("result", known.result),
        ]
        places = [
            path for path in (self.run.runtime.model, embedded_lite(), folder(self.run.runtime.weights)) if path is not None
        ]
        for name, digest in model.weights if known.rule is None else ():
            path = next((place / name for place in places if (place / name).is_file()), None)
            if path is not None:
                yield FileFact(name, "model", path.stat().st_size, digest)
        for role, path in given:
            yield FileFact(path.name, role, path.stat().st_size, sha256_of(path))


def dubbed_in(part: Seen, voicing: Voicing, pieces: Sequence[Piece], config: ReportConfig) -> NDArray[np.bool_]:
    """(K,) generated rows but for pieces in which the mouth is the film's, or is frozen: those have no reason to go with the voice."""
    inside = generated(part, voicing)
    for piece in pieces:
        if (piece.shot, piece.track) == (part.shot, part.track) and (
            untouched(piece, config) or frozen(piece, config) is not None
        ):
            inside &= (part.frame < piece.start) | (part.frame >= piece.stop)
    return inside


def _unheard(known: Known, shown: Source) -> Iterator[Finding]:
    if _has_sound(known.source.load()) and not _has_sound(shown):
        yield Finding("not verified", None, None, 0, shown.frames, None, None, "the result has no sound: dub it again")


def outcome_of(verdicts: Sequence[Verdict]) -> tuple[Outcome, str]:
    """Of a shot: needs review if anyone does, else synced if anyone is, else passed through for what holds for most frames."""
    order: tuple[Outcome, ...] = ("needs review", "synced", "passed through")
    for outcome in order:
        alike = [verdict for verdict in verdicts if verdict.what == outcome]
        if alike:
            return outcome, max(alike, key=lambda verdict: verdict.stop - verdict.start).why
    return "passed through", "no face"


def _place(one: Heard) -> tuple[int, int]:
    if one.shot is None or one.track is None:
        raise InternalError(f"{one}: of no track")
    return one.shot, one.track


def _has_sound(source: Source) -> bool:
    return any(stream.kind == "audio" for stream in source.streams)


def _provenance(result: Path) -> str:
    """In a line, whether the result says of itself what is told here."""
    found = read_provenance(result)
    if found is None:
        return "none: the result does not say who altered what"
    state = "unchanged since" if found.intact else f"NOT as it was signed: {', '.join(found.faults)}"
    return f"C2PA manifest (altered stretches: {len(found.altered)}), signed by {found.signer}; {state}"


def _settings(run: Run, config: ReportConfig) -> dict[str, str]:
    """Every knob by its full name, those of the report last; but for hashes, which are among the files."""
    told = {**asdict(run.config), "report": asdict(config)}
    flat = {f"{part}.{name}": value for part, knobs in told.items() for name, value in knobs.items() if name != "weights"}
    return {name: str(value) for name, value in flat.items()}


def _stage_seconds(journal: Path) -> dict[str, float]:
    """What the last run over this film spent, stage by stage; what was found done costs nothing."""
    spent: dict[str, float] = {}
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines() if journal.is_file() else ():
        try:
            told = parse_json(line)
        except ValueError:  # the line in which a run was killed
            continue
        match told:
            case {"event": "run.start"}:
                spent = {name: seconds for name, seconds in spent.items() if name in BEFORE_START}
            case {"event": "stage.done", "stage": str(stage), "seconds": float() as seconds} if not told.get("reused"):
                spent[stage] = spent.get(stage, 0.0) + seconds
    return {name: round(seconds, 3) for name, seconds in spent.items()}


BEFORE_START = ("demux",)  # a run starts when it knows the film
