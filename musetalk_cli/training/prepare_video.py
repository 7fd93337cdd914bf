"""One video made ready for training. In: a video. Out: samples in a training set, and a record of what became of every face.

    video -- 25 fps -- shots -- faces followed -- long and large enough? -- does the voice belong to it? -- SET/samples/NAME
                                                       no: the record says why

A video is decoded twice, once to look and once to cut out what is kept, and never held in memory: what grows with its length is
landmarks (1 KB a face and frame). Boxes and smoothing are those of the face stage. A sample appears whole. Knows nothing of other
videos, nor of networks that are trained.
"""

import errno
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import FacesConfig
from musetalk_cli.crop import crop_face, face_box
from musetalk_cli.errors import InputError, ResourceError
from musetalk_cli.media.shots import CutFinder, shots_between
from musetalk_cli.models.analysis import EmbeddedAnalyser
from musetalk_cli.stages.s2_faces import DETECT_EVERY, Observer, Picture
from musetalk_cli.tracks import Person, Sighting, cuts, filled, follow, smoothed, steady
from musetalk_cli.training.dataset import (
    FRAMES,
    SAMPLES_DIR,
    UNFINISHED,
    About,
    FrameWriter,
    Split,
    Track,
    read_frames_of,
    write_sample,
)
from musetalk_cli.training.footage import (
    FPS,
    SAMPLES_PER_FRAME,
    Footage,
    from_pcm,
    spool_sound,
    watch,
    watch_again,
)
from musetalk_cli.training.framing import Framing, boxes_within, cut, framing_of, points_within
from musetalk_cli.training.sync import Pairing, Sync, SyncExpert, offset_and_confidence, sync_reason
from musetalk_cli.types import Shot

if TYPE_CHECKING:
    import av

    from musetalk_cli.models.whisper_encoder import WhisperEncoder

LONGEST_S = 28  # of a sample: with a second of sound before and after it is one block of whisper's
HEARD_BESIDE = FPS  # frames of sound before and after a sample that whisper hears with it
SURE_OFFSET = 2  # frames; one is the error of the measurement: clips known to be in sync come out at 0 and -1 alike
SILENT_DB = -45.0  # of the loudest second; below it nobody speaks
SLOWEST_FPS = 14.0  # pictures a second that a video must have: lips are faster
CUT_THRESHOLD, MIN_SHOT = 27.0, 8  # as DemuxConfig
IDENTITY = r"([^/_]+)[^/]*$"  # the file's name up to the first "_"
RECORDS_DIR = "videos"


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """What to keep, and what it is called."""

    identity: str = IDENTITY  # pattern with a group, searched in the path below RAW without its suffix; or one name for all
    val_share: float = 0.05  # of identities held out
    val_identities: tuple[str, ...] = ()  # held out; given, they replace the share
    speech: bool = True  # False: faces only, the sound is not read
    sync: str = "embedded"  # embedded | none | path of a SyncNet's weights
    min_confidence: float | None = None  # None: what the expert was measured to need
    max_offset: int = 6  # frames by which the sound may be off
    correct_offset: bool = True  # shift the sound by what was measured
    min_seconds: float = 1.0
    min_face: int = 80  # source pixels of box width
    whisper: str = ""  # folder of whisper-tiny in transformers' layout; "": the embedded one


@dataclass(frozen=True, slots=True)
class Video:
    """One file of RAW."""

    path: Path
    source: str  # below RAW
    stem: str  # of the names of its samples: unique, [A-Za-z0-9_.-]


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """One line of the manifest."""

    name: str  # "" where a video has no track at all
    source: str
    kept: bool
    reason: str  # "" where kept
    identity: str
    split: str
    start_s: float = 0.0
    frames: int = 0
    face_px: float = 0.0
    judged: bool = False  # long and large enough to be asked whether it speaks
    offset_frames: int | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """What became of one video."""

    source: str
    size: int  # bytes of the file
    seconds: float  # that could be read
    unreadable: bool
    tracks: tuple[TrackRecord, ...]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a process opens once."""

    encoder: "WhisperEncoder | None"  # None: no features
    expert: SyncExpert | None


class Candidate(NamedTuple):
    """One face without a gap: F frames at 25 fps, source pixels."""

    name: str
    shot: int
    start: int  # frame of the video
    landmarks: NDArray[np.float32]  # (F, 68, 2) smoothed
    boxes: NDArray[np.int32]  # (F, 4) margin 0

    @property
    def stop(self) -> int:
        return self.start + len(self.boxes)

    @property
    def face_px(self) -> float:
        return float(np.median(self.boxes[:, 2] - self.boxes[:, 0]))


class Judged(NamedTuple):
    """A candidate after the sound was heard."""

    candidate: Candidate
    sync: Sync | None
    reason: str  # "" where it is kept


class Task(NamedTuple):
    """One video to prepare."""

    video: Video
    out: Path  # SET
    tools: Tools
    config: PrepareConfig

    @property
    def scratch(self) -> Path:
        """What is needed while the video is worked on."""
        return self.out / RECORDS_DIR / f"{UNFINISHED}{self.video.stem}"

    def unfinished(self, candidate: Candidate) -> Path:
        """The sample's folder until it is whole."""
        return self.out / SAMPLES_DIR / f"{UNFINISHED}{candidate.name}"


def prepare_video(task: Task) -> VideoRecord:
    """Writes the samples of one video. What is wrong with the video stands in the record; raises ResourceError on a full disk."""
    try:
        task.scratch.mkdir(parents=True, exist_ok=True)
        return _prepared(task)
    except InputError as error:
        return unreadable(task.video, error.fact, task.config)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"{task.out}: the disk is full", "make room, then run again: what is finished is kept") from error
        return unreadable(task.video, f"{type(error).__name__}: {error}", task.config)
    finally:
        shutil.rmtree(task.scratch, ignore_errors=True)


def unreadable(video: Video, reason: str, config: PrepareConfig) -> VideoRecord:
    """The record of a video of which nothing can be used."""
    return VideoRecord(video.source, size_of(video.path), 0.0, True, (_line(video, reason, config),))


def _prepared(task: Task) -> VideoRecord:
    video, config = task.video, task.config
    footage, people = look_through(video.path, config.min_face)
    seconds = footage.frames / FPS
    record = VideoRecord(video.source, size_of(video.path), seconds, False, ())
    if len(np.unique(footage.picked)) / seconds < SLOWEST_FPS:
        return replace(record, tracks=(_line(video, f"fewer than {SLOWEST_FPS:g} pictures a second", config),))
    found = [_checked(candidate, config) for candidate in candidates(people, footage.size, video.stem)]
    if not found:
        return replace(record, tracks=(_line(video, _no_face(people, config), config),))
    listen = config.speech and not all(row.reason for row in found)
    sound = spool_sound(footage, task.scratch / "sound.pcm") if listen else None
    judged = _kept(task, footage, found, sound)
    return replace(record, tracks=tuple(_finished(task, row, footage, sound) for row in judged))


def _no_face(people: Sequence[tuple[Shot, Person]], config: PrepareConfig) -> str:
    if not people:
        return "no face"
    largest = max(person.size_px[0] for _, person in people)
    if largest < config.min_face:
        return f"too small: {largest:.0f} px wide, needs {config.min_face}"
    return "no landmarks: turned away, hidden or not a face"


def look_through(path: Path, min_face: int) -> tuple[Footage, list[tuple[Shot, Person]]]:
    """Everyone in each shot of a video; frames are those at 25 a second. Raises InputError for what cannot be read."""
    cut_finder = CutFinder(CUT_THRESHOLD, MIN_SHOT)
    sightings: list[list[Sighting]] = []
    block: list[Picture] = []
    with EmbeddedAnalyser() as analyser:
        observer = Observer(analyser, FacesConfig(min_face=min_face))

        def see(footage: Footage, number: int, frame: "av.VideoFrame") -> None:
            cut_finder.watch(frame)
            block.append(Picture(number, footage.rgb(frame, quick=True)))
            if number % DETECT_EVERY == 0:
                sightings.extend(observer.sightings(block))
                block.clear()

        footage = watch(path, see)
        sightings.extend(observer.sightings(block) if block else [])
    shots = shots_between(cut_finder.cuts(), footage.frames, Fraction(FPS), Fraction(LONGEST_S))
    bridge = FacesConfig().bridge
    people = [(shot, person) for shot in shots for person in follow(sightings[shot.start : shot.stop], bridge=bridge)]
    return footage, people


def candidates(people: Sequence[tuple[Shot, Person]], size: tuple[int, int], stem: str) -> list[Candidate]:
    """Every unbroken run of every person; size: (width, height) of the film. Named stem-shot-track."""
    found: list[Candidate] = []
    counts: dict[int, int] = {}
    for shot, person in people:
        for start, landmarks, boxes in _unbroken(person, shot, size):
            track = counts[shot.index] = counts.get(shot.index, -1) + 1
            found.append(Candidate(f"{stem}-{shot.index}-{track}", shot.index, start, landmarks, boxes))
    return found


def _unbroken(person: Person, shot: Shot, size: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int32]]]:
    """(first frame, smoothed landmarks, boxes) of each run of frames without a gap, a cut or a face outside the picture."""
    faces = FacesConfig()
    whole = steady(filled(person, faces.bridge), shot)
    if not len(whole.frames):
        return
    breaks = (np.diff(whole.frames) != 1) | cuts(whole.landmarks)
    points = smoothed(whole.frames, whole.landmarks, faces.smooth)
    boxes = [face_box(row, size, margin=0) for row in points]
    inside = np.array([box is not None for box in boxes])
    edges = np.flatnonzero(breaks | ~inside[1:] | ~inside[:-1]) + 1
    for run in np.split(np.arange(len(points)), edges):
        if inside[run[0]]:
            yield int(whole.frames[run[0]]), points[run], np.array([boxes[i] for i in run], np.int32)


def _checked(candidate: Candidate, config: PrepareConfig) -> Judged:
    seconds = len(candidate.boxes) / FPS
    reason = ""
    if seconds < config.min_seconds:
        reason = f"too short: {seconds:.2f} s, needs {config.min_seconds:g}"
    elif candidate.face_px < config.min_face:
        reason = f"too small: {candidate.face_px:.0f} px wide, needs {config.min_face}"
    return Judged(candidate, None, reason)


def _kept(task: Task, footage: Footage, found: list[Judged], sound: NDArray[np.int16] | None) -> list[Judged]:
    """The candidates judged, and frames.mkv of those that are kept in their unfinished folders."""
    expert = task.tools.expert
    if sound is not None:
        found = [_audible(row, sound) for row in found]
    if sound is None or expert is None:
        judged = found if sound is None else alone(found)
        _cut_out(task, footage, judged)
        return judged
    if expert.sees:
        _cut_out(task, footage, found)
    judged = best_of_each_moment([row if row.reason else _judged(task, row, expert, sound) for row in found])
    if not expert.sees:
        _cut_out(task, footage, judged)
    for row in judged:
        if row.reason:
            shutil.rmtree(task.unfinished(row.candidate), ignore_errors=True)
    return judged


def _audible(row: Judged, sound: NDArray[np.int16]) -> Judged:
    candidate = row.candidate
    samples = from_pcm(sound[candidate.start * SAMPLES_PER_FRAME : candidate.stop * SAMPLES_PER_FRAME])
    return row._replace(reason=row.reason or ("" if loudest_db(samples) > SILENT_DB else "silent"))


def loudest_db(samples: NDArray[np.float32]) -> float:
    """RMS of the loudest second, in dB of full scale."""
    seconds = np.array_split(samples, max(len(samples) // (FPS * SAMPLES_PER_FRAME), 1))
    loudest = max(float(np.sqrt(np.mean(np.square(second, dtype=np.float64)))) for second in seconds)
    return 20 * float(np.log10(max(loudest, 1e-9)))


def alone(rows: list[Judged]) -> list[Judged]:
    """Without anyone who is in a frame with another: nobody was asked who of them speaks."""
    kept = [row for row in rows if not row.reason]
    together = {id(a) for a in kept for b in kept if a is not b and _meet(a.candidate, b.candidate)}
    return [
        row._replace(reason="another face beside it, and no sync filter to say who speaks") if id(row) in together else row
        for row in rows
    ]


def best_of_each_moment(rows: list[Judged]) -> list[Judged]:
    """Of two kept candidates that meet in a frame only the more confident one: one voice is heard."""
    kept: list[Judged] = []
    for row in sorted((row for row in rows if not row.reason), key=lambda row: -(row.sync.confidence if row.sync else 0.0)):
        if not any(_meet(row.candidate, other.candidate) for other in kept):
            kept.append(row)
    ids = {id(row) for row in kept}
    return [row if row.reason or id(row) in ids else row._replace(reason="the voice fits another face better") for row in rows]


def _meet(a: Candidate, b: Candidate) -> bool:
    return a.start < b.stop and b.start < a.stop


def _judged(task: Task, row: Judged, expert: SyncExpert, sound: NDArray[np.int16]) -> Judged:
    """Whether the voice belongs to the face."""
    candidate, config = row.candidate, task.config
    speech, features = _heard(task, candidate, sound)
    crops = _crops(task, candidate) if expert.sees else None
    lead = min(candidate.start, HEARD_BESIDE)
    sync = offset_and_confidence(expert.scores(Pairing(candidate.landmarks, features, speech, lead, crops)))
    least = expert.min_confidence if config.min_confidence is None else config.min_confidence
    return row._replace(sync=sync, reason=sync_reason(sync, len(candidate.boxes), least, config.max_offset))


def _heard(
    task: Task, candidate: Candidate, sound: NDArray[np.int16], shift: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Sound and whisper's states from HEARD_BESIDE frames before the candidate, as far as there are, to as many after it.

    Whisper needs as long for a second as for thirty, so what it heard unshifted is kept.
    """
    first = max(candidate.start - HEARD_BESIDE + shift, 0)
    stop = min(candidate.stop + HEARD_BESIDE + shift, len(sound) // SAMPLES_PER_FRAME)
    speech = from_pcm(sound[first * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME])
    if task.tools.encoder is None:
        return speech, np.zeros((0, 5, 384), np.float16)
    kept = task.scratch / f"{candidate.name}.{shift}.npy"
    if not kept.exists():
        from musetalk_cli.models.whisper import hidden_states  # faces alone need no torch

        np.save(kept, hidden_states(task.tools.encoder, speech))
    return speech, np.load(kept, allow_pickle=False)


def _crops(task: Task, candidate: Candidate) -> Callable[[Sequence[int]], NDArray[np.uint8]]:
    """What a SyncNet sees: frame numbers -> (K, 256, 256, 3)."""
    framing = framing_of(candidate.landmarks)
    boxes = boxes_within(candidate.boxes, framing)
    path = task.unfinished(candidate) / FRAMES

    def crops(numbers: Sequence[int]) -> NDArray[np.uint8]:
        frames = read_frames_of(path, numbers)
        return np.stack([crop_face(rgb, boxes[i]) for rgb, i in zip(frames, numbers, strict=True)])

    return crops


def _cut_out(task: Task, footage: Footage, rows: Sequence[Judged]) -> None:
    """frames.mkv of all that have no reason against them, in one more pass over the video."""
    kept = sorted((row.candidate for row in rows if not row.reason), key=lambda candidate: candidate.start)
    if not kept:
        return
    wanted = np.zeros(footage.frames, np.bool_)
    for candidate in kept:
        wanted[candidate.start : candidate.stop] = True
    cutter = _Cutter(task, footage, kept)
    try:
        watch_again(footage, wanted, cutter.see)
    finally:
        cutter.close()


class _Cutter:
    """Writers of the candidates that are on screen."""

    def __init__(self, task: Task, footage: Footage, kept: list[Candidate]) -> None:
        self._task, self._footage, self._waiting = task, footage, kept[::-1]
        self._open: list[tuple[Candidate, Framing, FrameWriter]] = []

    def see(self, number: int, frame: "av.VideoFrame") -> None:
        while self._waiting and self._waiting[-1].start <= number:
            candidate = self._waiting.pop()
            folder = self._task.unfinished(candidate)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            framing = framing_of(candidate.landmarks)
            self._open.append((candidate, framing, FrameWriter(folder / FRAMES, framing.kept_size)))
        rgb = self._footage.rgb(frame)
        for candidate, framing, writer in self._open:
            writer.write(cut(rgb, framing, number - candidate.start))
        self._close([row for row in self._open if row[0].stop == number + 1])

    def close(self) -> None:
        self._close(self._open)

    def _close(self, rows: list[tuple[Candidate, Framing, FrameWriter]]) -> None:
        for _, _, writer in rows:
            writer.close()
        self._open = [row for row in self._open if row not in rows]


def _finished(task: Task, row: Judged, footage: Footage, sound: NDArray[np.int16] | None) -> TrackRecord:
    """Publishes a kept candidate; the line that tells of it, or why there is none."""
    candidate, sync = row.candidate, row.sync
    line = replace(
        _line(task.video, row.reason, task.config),
        name=candidate.name,
        kept=not row.reason,
        start_s=candidate.start / FPS,
        frames=len(candidate.boxes),
        face_px=round(candidate.face_px, 1),
        judged=not row.reason.startswith("too "),
        offset_frames=None if sync is None else sync.offset,
        confidence=None if sync is None else round(sync.confidence, 4),
    )
    if line.kept:
        shift = sync.offset if sync is not None and task.config.correct_offset and abs(sync.offset) >= SURE_OFFSET else 0
        voice = _NO_VOICE if sound is None else _voice(task, candidate, sound, shift)
        _publish(task, candidate, line, footage, voice, shift != 0)
    return line


class _Voice(NamedTuple):
    pcm: NDArray[np.int16]  # (640 F,)
    features: NDArray[np.float16]  # (2 F, 5, 384)


_NO_VOICE = _Voice(np.zeros(0, np.int16), np.zeros((0, 5, 384), np.float16))


def _voice(task: Task, candidate: Candidate, sound: NDArray[np.int16], shift: int) -> _Voice:
    """The sound from `shift` frames after the candidate's start on, as long as the candidate; silence beyond the film."""
    frames, first = len(candidate.boxes), candidate.start + shift
    _, states = _heard(task, candidate, sound, shift)
    pcm = _padded(sound, first * SAMPLES_PER_FRAME, frames * SAMPLES_PER_FRAME)
    begun = max(first - HEARD_BESIDE, 0)
    return _Voice(pcm, _padded(states, 2 * (first - begun), 2 * frames) if len(states) else states)


def _padded(array: NDArray[Any], first: int, count: int) -> NDArray[Any]:
    """array[first : first + count], zeros where there is none."""
    rows = np.zeros((count, *array.shape[1:]), array.dtype)
    start, stop = max(first, 0), min(first + count, len(array))
    if start < stop:
        rows[start - first : stop - first] = array[start:stop]
    return rows


def _publish(task: Task, candidate: Candidate, line: TrackRecord, footage: Footage, voice: _Voice, corrected: bool) -> None:
    framing = framing_of(candidate.landmarks)
    about = About(
        name=line.name,
        identity=line.identity,
        source=line.source,
        start_s=line.start_s,
        fps=FPS,
        frames=line.frames,
        face_px=line.face_px,
        scale=framing.scale,
        offset_frames=line.offset_frames or 0,
        corrected=corrected,
        confidence=line.confidence or 0.0,
        split=split_of(line.identity, task.config),
    )
    film = np.array([0, 0, *footage.size], np.int32)
    track = Track(
        points_within(candidate.landmarks, framing), boxes_within(candidate.boxes, framing), boxes_within(film, framing)
    )
    folder, final = task.unfinished(candidate), task.out / SAMPLES_DIR / candidate.name
    write_sample(folder, about, track, voice.pcm, voice.features)
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)


def identity_of(source: str, identity: str) -> str:
    """Who is in a video. identity: a pattern with a group, or one name for all. Raises InputError where the pattern does not fit."""
    if "(" not in identity:
        return identity
    found = re.search(identity, source.rsplit(".", 1)[0])
    if not found or not found.group(1):
        raise InputError(f"{source}: the pattern {identity} finds no identity in it", "choose another --identity")
    return found.group(1)


def split_of(identity: str, config: PrepareConfig) -> Split:
    """train or val, by the identity's name alone, so that every run and every set holds out the same people."""
    if config.val_identities:
        return "val" if identity in config.val_identities else "train"
    place = int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big") / 2**64
    return "val" if place < config.val_share else "train"


def _line(video: Video, reason: str, config: PrepareConfig) -> TrackRecord:
    identity = identity_of(video.source, config.identity)
    return TrackRecord("", video.source, False, reason, identity, split_of(identity, config))


def size_of(path: Path) -> int:
    """Bytes; 0 where there is no such file."""
    return path.stat().st_size if path.exists() else 0
