"""`musetalk preview`: a few seconds, quick. In: a film, a voice, a range. Out: a film of four panels, a page to wipe over, a sheet of stills.

    demux -- the shots of the range alone: faces -- decide -- latents -- masks -- inference -- blend -- panels, under the new voice
                                                                                                  '---- stills before and after

In the film's own work folder and under the keys of `dub`: what is done is found, and what is done here `dub` finds. Knows nothing of
pixels.
"""

import os
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ffmpeg
from jinja2 import Environment, PackageLoader, select_autoescape

from musetalk_cli.cast_map import VoiceFile, read_cast, with_voices
from musetalk_cli.errors import NoFaceError, UsageError
from musetalk_cli.jobs import EXISTS_CURE, Parts, job_to_rehearse
from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg
from musetalk_cli.media.video import clock, earliest_start, open_film, read_frames
from musetalk_cli.pipeline import Run, cast_shots, hear, soundtrack, unit_name
from musetalk_cli.preview.panels import Moment, Mouth, Still, moment_of, panel_size, segment_frames, sheet, still_of, write_film
from musetalk_cli.session import Place, Voice, open_session
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_decide import decide
from musetalk_cli.stages.s2_faces import Tracks, faces, pick
from musetalk_cli.stages.s3_latents import latents
from musetalk_cli.stages.s3_masks import masks
from musetalk_cli.stages.s4_inference import inference
from musetalk_cli.stages.s5_blend import Shown, blend
from musetalk_cli.targets import check_apart, check_file, check_folder, check_suffix, exists_error
from musetalk_cli.types import Decisions, DubJob, Faces, Masks, Segment, Shot, Source, Speech, Stretch, Voicing
from musetalk_cli.work import Ref

SECONDS = 8  # of a preview whose end is not given
STILL_PX = ((40, 960), (200, 480))  # width at most, for so many stills: a page of 200 is 10 MB
SMALL_PX = 320  # of more
SUFFIXES = (".mp4", ".mov", ".mkv")


@dataclass(frozen=True, slots=True)
class Range:
    """Seconds of the film's clock; None: from the first mouth that is generated, for SECONDS; of stills the whole film."""

    start: Fraction | None = None
    stop: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Previewed:
    """The files, and what they show."""

    film: Path | None  # None: stills alone
    page: Path
    sheet: Path
    start_s: float
    stop_s: float
    frames: int

    def as_json(self) -> dict[str, object]:
        return {
            "outputs": [str(path) for path in (self.film, self.page, self.sheet) if path is not None],
            "start_s": self.start_s,
            "stop_s": self.stop_s,
            "frames": self.frames,
        }


def preview_film(
    film: Path,
    audio: Sequence[str],
    span: Range,
    output: Path | None,
    choices: Choices,
    place: Place,
    voice: Voice,
    *,
    parts: Parts | None = None,
    stills: bool = False,
    overwrite: bool = False,
) -> Previewed:
    """stills: the page and the sheet alone, of a single frame of each shot. output: .mp4, of stills .html; the others beside it.

    Raises UsageError for a range outside the film or without an end after its start, OutputExistsError for files that are there,
    NoFaceError where nobody is dubbed in the film, or, without a range, in none of its shots."""
    job = job_to_rehearse(film, audio, parts or Parts())
    if job is None:
        raise UsageError("is missing", "give the new voice: --audio fr.wav", thing="--audio")
    if span.start is not None and span.stop is not None and span.stop <= span.start:
        raise UsageError("is not after --from", "give a later second", thing="--to")
    files = _files(film, output, stills=stills)
    _check(files, job, overwrite=overwrite)
    runtime = choose_runtime(choices)
    with open_session(film, replace(place, keep=True), voice, deliver=False) as session:
        run = Run(film, dub_config(choices, runtime), runtime, session.work, session.events)
        return _previewed(job, span, files, run)


class _Files(NamedTuple):
    """What is written."""

    film: Path | None
    page: Path
    sheet: Path

    @property
    def all(self) -> list[Path]:
        return [path for path in self if path is not None]

    def beside(self) -> "_Files":
        """Where each is written before it is whole."""
        film, page, sheet = (None if path is None else path.with_name(f".part.{path.name}") for path in self)
        assert page is not None and sheet is not None
        return _Files(film, page, sheet)


def _files(film: Path, output: Path | None, *, stills: bool) -> _Files:
    name = f"{film.stem}.preview.{'html' if stills else 'mp4'}"
    target = film.with_name(name) if output is None else output / name if output.is_dir() else output
    check_suffix(target, (".html",) if stills else SUFFIXES)
    return _Files(None if stills else target, target.with_suffix(".html"), target.with_suffix(".png"))


def _check(files: _Files, job: DubJob, *, overwrite: bool) -> None:
    check_folder(files.page.parent)
    for path in files.all:
        check_file(path)
        check_apart(path, [job.video, job.audio])
        if path.exists() and not overwrite:
            raise exists_error(path, EXISTS_CURE)


class _Piece(NamedTuple):
    """What is shown of a shot."""

    shot: Shot
    stretch: Stretch
    shown: Shown | None  # None: nobody is dubbed in it
    segment: Segment | None

    def mouths(self, source: Source) -> dict[int, list[Mouth]]:
        """Of each frame."""
        found: dict[int, list[Mouth]] = {}
        if self.shown is not None:
            for row in self.shown.rows_in(self.stretch):
                face = self.shown.face(int(row), source.size)
                found.setdefault(face.frame, []).append(Mouth(face.landmarks, face.region, face.alpha))
        return found


def _previewed(job: DubJob, span: Range, files: _Files, run: Run) -> Previewed:
    own = run.work.do(demux, job.video, config=run.config.demux, runtime=run.runtime, unit="film")
    film = own.load()
    cast_map = None if job.cast is None else with_voices(read_cast(job.cast), dict(job.voices))
    voices = [VoiceFile(job.audio)] if cast_map is None else list(cast_map.voices())
    speeches = [hear(one, run) for one in voices]
    planned = _Planned(own, film, job, cast_map is not None, run, speeches, {})
    stretch = _stretch(film, span, planned, whole=files.film is None)
    shots = [shot for shot in film.shots if shot.start < stretch.stop and shot.stop > stretch.start]
    parts = [stretch if files.film is not None else planned.still(shot, stretch) for shot in shots]
    pieces = [planned.piece(shot, part) for shot, part in zip(shots, parts, strict=True)]
    kept: list[Still] = []
    moments = _moments(pieces, job.video, film, kept)
    beside = files.beside()
    try:
        if beside.film is None:
            deque(moments, maxlen=0)
        else:
            _write_film(moments, film, stretch, soundtrack(job, voices, run), run.work.folder / "tmp", beside.film)
        beside.page.write_text(_page(job, film, stretch, kept), encoding="utf-8")
        sheet(
            beside.sheet,
            [(f"shot {still.shot + 1}, {clock(still.time_s)}", still.film, still.dubbed) for still in kept],
            _aspect(film),
        )
        for part, path in zip(beside.all, files.all, strict=True):
            os.replace(part, path)
    finally:
        for path in beside.all:
            path.unlink(missing_ok=True)
    frames = sum(piece.stretch.stop - piece.stretch.start for piece in pieces)
    return Previewed(*files, float(film.time(stretch.start)), _end(film, stretch), frames)


def _write_film(moments: Iterator[Moment], film: Source, stretch: Stretch, voice: Path, tmp: Path, path: Path) -> None:
    """The four panels, under the voice."""
    tmp.mkdir(exist_ok=True)
    silent = tmp / f"preview{path.suffix}"
    try:
        write_film(silent, moments, panel_size(_seen(film), _aspect(film)), film.time_base, film.fps)
        _with_voice(silent, voice, film, stretch, path)
    finally:
        silent.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Planned:
    """Shots, looked into one by one."""

    own: Ref[Source]
    film: Source
    job: DubJob
    by_map: bool
    run: Run
    speeches: list[Ref[Speech]]
    decided: dict[int, tuple[Ref[Faces], Decisions, list[Ref[Speech]]]]

    def of(self, shot: Shot) -> tuple[Ref[Faces], Decisions, list[Ref[Speech]]]:
        """A cast map names people of the whole film, so that all of it must be analysed; a rule needs the shot alone."""
        if shot.index not in self.decided:
            wanted = self.film.shots if self.by_map else (shot,)
            do = partial(self.run.work.do, config=self.run.config.faces, runtime=self.run.runtime)
            found = [do(faces, self.run.video, self.own, one, unit=unit_name(one), frames=one.frames) for one in wanted]
            cast_map = None
            if self.job.cast is not None:
                cast_map = with_voices(read_cast(self.job.cast), dict(self.job.voices))
            cast = cast_shots(self.film, [face.load() for face in found], cast_map, self.run)
            for one, face, asked in zip(wanted, found, cast, strict=True):
                heard = [self.speeches[number] for number in asked.voices]
                decision = self.run.work.do(
                    decide,
                    self.own,
                    face,
                    asked.casting,
                    heard,
                    config=self.run.config.decide,
                    runtime=self.run.runtime,
                    unit=unit_name(one),
                )
                self.decided[one.index] = (face, decision.load(), heard)
        return self.decided[shot.index]

    def still(self, shot: Shot, within: Stretch) -> Stretch:
        """The frame of a shot that says most: in the middle of its longest line."""
        lines = self.of(shot)[1].voicing.lines
        start, stop = max(
            ((line.start, line.stop) for line in lines), key=lambda line: line[1] - line[0], default=(shot.start, shot.stop)
        )
        low, high = max(shot.start, within.start), min(shot.stop, within.stop)
        frame = min(max((start + stop) // 2, low), high - 1)
        return Stretch(frame, frame + 1)

    def piece(self, shot: Shot, within: Stretch) -> _Piece:
        """The steps of `dub`, but that the blend is of what is shown alone."""
        stretch = Stretch(max(shot.start, within.start), min(shot.stop, within.stop))
        face, decision, heard = self.of(shot)
        lines = [line for line in decision.voicing.lines if line.start < stretch.stop and line.stop > stretch.start]
        if not lines:
            return _Piece(shot, stretch, None, None)
        config, voicing = self.run.config, decision.voicing
        do = partial(self.run.work.do, runtime=self.run.runtime, unit=unit_name(shot), frames=shot.frames)
        picked = do(pick, face, Tracks(tuple(sorted({line.track for line in voicing.lines}))), config=None)
        latent = do(latents, self.job.video, self.own, picked, config=config.model)
        mask = do(masks, self.job.video, self.own, picked, config=config.masks)
        mouth = do(inference, self.own, picked, latent, heard, voicing.without_fades(), config.model, config=config.inference)
        blended = do(blend, self.job.video, self.own, picked, mask, mouth, voicing, stretch, config.model, config=config.blend)
        return _Piece(shot, stretch, _shown(picked.load(), mask.load(), voicing), blended.load())


def _shown(found: Faces, mask: Masks, voicing: Voicing) -> Shown:
    return Shown(found, mask, voicing.opacity(found.frame, found.track))


def _stretch(film: Source, span: Range, planned: _Planned, *, whole: bool) -> Stretch:
    """The frames of a range; without one, the whole film or those from the first generated mouth on."""
    if whole and span.start is None and span.stop is None:
        return Stretch(0, film.frames)
    if span.start is None and span.stop is None:
        for shot in film.shots:
            lines = planned.of(shot)[1].voicing.lines
            if lines:
                first = min(line.start for line in lines)
                return Stretch(first, _frame_at(film, film.time(first) + SECONDS))
        raise NoFaceError(
            f"nobody is dubbed in {film.frames} frames", "see what `musetalk inspect` finds", thing=str(planned.job.video)
        )
    start = span.start if span.start is not None else Fraction(0)
    stop = span.stop if span.stop is not None or whole else start + SECONDS
    stretch = Stretch(_frame_at(film, start), film.frames if stop is None else _frame_at(film, stop))
    if stretch.start >= stretch.stop:
        fact = f"no frame from {float(start):g} s on, the film ends at {_end(film, Stretch(0, film.frames)):.3f} s"
        raise UsageError(fact, "give seconds, or M:SS, within the film", thing="--from")
    return stretch


def _frame_at(film: Source, second: Fraction) -> int:
    """The first frame that is shown at that second or later."""
    low, high = 0, film.frames
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if film.time(middle) < second else (low, middle)
    return low


def _moments(pieces: Sequence[_Piece], video: Path, film: Source, kept: list[Still]) -> Iterator[Moment]:
    """Every frame of the pieces. kept: gets a still of each, from the middle of what is generated there."""
    size = _still_size(film, len(pieces))
    for piece in pieces:
        mouths = piece.mouths(film)
        worked = sorted(mouths) or [*range(*piece.stretch)]
        still = worked[len(worked) // 2]
        was = read_frames(video, film, *piece.stretch)
        now = read_frames(video, film, *piece.stretch) if piece.segment is None else segment_frames(piece.segment.path)
        for number, (one, other) in enumerate(zip(was, now, strict=True), piece.stretch.start):
            moment = moment_of(number, one, other, film, mouths.get(number, []))
            if number == still:
                kept.append(still_of(piece.shot.index, moment, size))
            yield moment


def _with_voice(silent: Path, voice: Path, film: Source, stretch: Stretch, path: Path) -> None:
    """The picture as it is, and what the voice says meanwhile."""
    with open_film(voice) as file:
        late = earliest_start(file)
    start, seconds = film.time(stretch.start), _end(film, stretch) - float(film.time(stretch.start))
    picture = ffmpeg.input(media_url(silent), **AS_FILE)["v:0"]
    heard = ffmpeg.input(media_url(voice), **AS_FILE, itsoffset=f"{-float(late):.6f}")["a:0"]
    heard = heard.filter("aresample", 48_000, first_pts=0, **{"async": 1})
    heard = (
        heard.filter("atrim", start=float(start), duration=seconds)
        .filter("asetpts", "PTS-STARTPTS")
        .filter("apad", whole_dur=seconds)
    )
    container = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[silent.suffix.lower()]
    options = {"c:v": "copy", "c:a": "aac", "b:a": "160k", "f": container, "movflags": "+faststart"}
    if container == "matroska":
        del options["movflags"]
    run_ffmpeg(ffmpeg.output(picture, heard, media_url(path), **options), purpose="put the voice to the preview")


def _page(job: DubJob, film: Source, stretch: Stretch, kept: Sequence[Still]) -> str:
    """One file, nothing outside of it."""
    pages = Environment(
        loader=PackageLoader("musetalk_cli.preview", "."), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    width, height = _still_size(film, len(kept))
    stills = [
        {
            "shot": still.shot + 1,
            "time": clock(still.time_s),
            "frame": still.number,
            "film": b64encode(still.film).decode(),
            "dubbed": b64encode(still.dubbed).decode(),
            "touched": still.touched,
        }
        for still in kept
    ]
    told = {
        "film": job.video.name,
        "voice": job.audio.name,
        "start": clock(film.time(stretch.start)),
        "width": width,
        "height": height,
    }
    return pages.get_template("wipe.html").render(
        stills=stills, stop=clock(Fraction(_end(film, stretch)).limit_denominator(1000)), **told
    )


def _still_size(film: Source, count: int) -> tuple[int, int]:
    """The more there are, the smaller."""
    width = min(next((px for most, px in STILL_PX if count <= most), SMALL_PX), _seen(film)[0])
    return width, max(round(width / _aspect(film)), 1)


def _seen(film: Source) -> tuple[int, int]:
    return film.size[::-1] if film.rotation % 180 else film.size


def _aspect(film: Source) -> float:
    """Width by height as shown: pixels need not be square."""
    width, height = film.size[0] * film.sar, Fraction(film.size[1])
    return float(height / width if film.rotation % 180 else width / height)


def _end(film: Source, stretch: Stretch) -> float:
    """Second at which its last frame goes."""
    last = stretch.stop - 1
    return float(film.time(stretch.stop) if stretch.stop < film.frames else film.time(last) + 1 / film.fps)
