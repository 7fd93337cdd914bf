"""A quick look at a film and a voice, and a second or two cut out of them. In: a film, a voice. Out: Look, excerpts as files.

    packets -- frames, keyframes, seconds --.
    some frames -- faces in each -----------|-- Look
    sound, a minute of it at most -- when somebody speaks --'

A film of up to SHORT_S seconds is decoded whole, and its shots are found; of a longer one some keyframes are.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import DemuxConfig, FacesConfig
from musetalk_cli.errors import InputError

SHORT_S = 60.0
LOOKS = 48  # frames of a film in which faces are counted
HEARD_S = 60.0  # of a voice, in WINDOWS evenly over it where it is longer
WINDOWS = 6
VOICE_S = 30.0  # of a voice's excerpt: whisper hears 30 s at once
SPEECH_HZ = 16_000
TOKENS_PER_SECOND = 50


class Counted(NamedTuple):
    """Faces large enough, in the frame at this second."""

    time_s: float
    faces: int


class Look(NamedTuple):
    """What a film is like. keyframes: seconds from its first frame. cuts: frames, or None where they are not known."""

    codec: str
    size: tuple[int, int]
    fps: Fraction
    frames: int
    seconds: float
    keyframes: tuple[float, ...]
    counted: tuple[Counted, ...]
    cuts: tuple[int, ...] | None
    sound: bool

    @property
    def share_with_face(self) -> float:
        return sum(one.faces > 0 for one in self.counted) / max(len(self.counted), 1)

    @property
    def faces_a_frame(self) -> float:
        return sum(one.faces for one in self.counted) / max(len(self.counted), 1)


class Heard(NamedTuple):
    """A voice. speaks: (T,) whether somebody does, 50 a second over the whole voice; where it was not heard, as in the part before."""

    seconds: float
    speaks: NDArray[np.bool_]

    def at(self, times_s: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(F,) whether somebody speaks then; nobody does after the end."""
        token = (times_s * TOKENS_PER_SECOND).astype(np.intp)
        inside = token < len(self.speaks)
        out: NDArray[np.bool_] = np.zeros(len(times_s), np.bool_)
        out[inside] = self.speaks[token[inside]]
        return out


def look_at(film: Path, config: FacesConfig, demux: DemuxConfig) -> Look:
    """Raises InputError where the film has no picture that can be read."""
    from musetalk_cli.media.video import open_film, picture_of

    with open_film(film) as file:
        stream = picture_of(file, film)
        tick = stream.time_base or Fraction(1, 1)
        fps = stream.average_rate or Fraction(25)
        packets = [(p.pts, p.is_keyframe) for p in file.demux(stream) if p.size and p.pts is not None]
        about = (stream.codec_context.name, (stream.width, stream.height), bool(file.streams.audio))
    if not packets:
        raise InputError(f"{film}: there is no picture in it", "give a film that ffmpeg plays")
    first = min(pts for pts, _ in packets)
    keys = tuple(sorted(float((pts - first) * tick) for pts, key in packets if key))
    seconds = len(packets) / float(fps)
    counted, cuts = _whole(film, len(packets), fps, config, demux) if seconds <= SHORT_S else (_at_keys(film, keys, config), None)
    return Look(about[0], about[1], fps, len(packets), seconds, keys or (0.0,), counted, cuts, about[2])


def hear(audio: Path) -> Heard:
    """When somebody speaks in it. Raises InputError where there is no sound."""
    from musetalk_cli.media.audio import speech_blocks
    from musetalk_cli.models.voice_activity import VoiceActivity
    from musetalk_cli.speaking import SPEECH

    blocks = list(speech_blocks(audio, SPEECH_HZ))  # a second each
    wanted = _windows(len(blocks))
    activity, heard = VoiceActivity(), list[NDArray[np.bool_]]()
    before = np.zeros(TOKENS_PER_SECOND, np.bool_)
    for number, block in enumerate(blocks):
        tokens = len(block) * TOKENS_PER_SECOND // SPEECH_HZ
        if wanted[number]:
            before = activity.hear(block, tokens) > SPEECH
        heard.append(np.resize(before, tokens) if len(before) else np.zeros(tokens, np.bool_))
    samples = sum(len(block) for block in blocks)
    return Heard(samples / SPEECH_HZ, np.concatenate(heard))


def cut_film(film: Path, look: Look, frames: int, path: Path) -> None:
    """So many frames, as copies of the film's packets, from the keyframe after which most frames show a face."""
    import ffmpeg

    from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg

    start = best_start(look, frames)
    span = (frames + 0.5) / float(look.fps)
    given = ffmpeg.input(media_url(film), **AS_FILE, ss=f"{start + 0.001:.6f}")
    streams = [given["v:0"], *([given["a:0"]] if look.sound else [])]
    run_ffmpeg(
        ffmpeg.output(*streams, media_url(path), c="copy", vframes=frames, t=f"{span:.6f}", avoid_negative_ts="make_zero"),
        purpose="cut an excerpt",
    )


def cut_voice(audio: Path, heard: Heard, path: Path) -> None:
    """VOICE_S seconds from its middle, or all of it, as a WAV."""
    import ffmpeg

    from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg

    start = max(0.0, (heard.seconds - VOICE_S) / 2)
    given = ffmpeg.input(media_url(audio), **AS_FILE, ss=f"{start:.3f}", t=f"{VOICE_S:g}")["a:0"]
    run_ffmpeg(ffmpeg.output(given, media_url(path), acodec="pcm_s16le", ar=SPEECH_HZ, ac=1), purpose="cut a voice")


def best_start(look: Look, frames: int) -> float:
    """Seconds of a keyframe: most faces after it, then nearest to the film's middle."""
    span = frames / float(look.fps)
    fitting = [key for key in look.keyframes if key + span <= look.seconds + 1e-6] or [look.keyframes[0]]

    def worth(start: float) -> tuple[float, float]:
        seen = [one.faces > 0 for one in look.counted if start <= one.time_s < start + span]
        nearest = min(look.counted, key=lambda one: abs(one.time_s - start), default=Counted(0.0, 0))
        faces = sum(seen) / len(seen) if seen else float(nearest.faces > 0)
        return faces, -abs(start + span / 2 - look.seconds / 2)

    return max(fitting, key=worth)


def _whole(
    film: Path, frames: int, fps: Fraction, config: FacesConfig, demux: DemuxConfig
) -> tuple[tuple[Counted, ...], tuple[int, ...]]:
    """Decoded once: faces of every so many frames, and the cuts."""
    from musetalk_cli.media.shots import CutFinder
    from musetalk_cli.media.video import scan
    from musetalk_cli.models.analysis import EmbeddedAnalyser

    finder, counted = CutFinder(demux.cut_threshold, demux.min_shot), list[Counted]()
    with EmbeddedAnalyser() as analyser:
        every = max(1, frames // LOOKS)

        def watch(frame: Any) -> None:
            if finder.frames % every == every // 2:
                counted.append(Counted(finder.frames / float(fps), _faces(frame, analyser, config)))
            finder.watch(frame)

        scan(film, watch)
    return tuple(counted), tuple(finder.cuts())


def _at_keys(film: Path, keys: tuple[float, ...], config: FacesConfig) -> tuple[Counted, ...]:
    from musetalk_cli.media.video import open_film, picture_of
    from musetalk_cli.models.analysis import EmbeddedAnalyser

    chosen = sorted({keys[round(n * (len(keys) - 1) / max(LOOKS - 1, 1))] for n in range(LOOKS)})
    counted = []
    with open_film(film) as file, EmbeddedAnalyser() as analyser:
        stream = picture_of(file, film)
        tick, begin = stream.time_base or Fraction(1), stream.start_time or 0
        for key in chosen:
            file.seek(begin + int(Fraction(key) / tick), stream=stream)
            frame = next(iter(file.decode(stream)), None)
            if frame is not None:
                counted.append(Counted(key, _faces(frame, analyser, config)))
    return tuple(counted)


def _faces(frame: Any, analyser: Any, config: FacesConfig) -> int:
    rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    found = analyser.detect(rgb)
    return sum(face.score >= config.min_score and face.box[2] - face.box[0] >= config.min_face for face in found)


def _windows(seconds: int) -> list[bool]:
    """Which seconds of a voice are heard."""
    if seconds <= HEARD_S:
        return [True] * seconds
    length = int(HEARD_S / WINDOWS)
    starts = [int((seconds - length) * n / (WINDOWS - 1)) for n in range(WINDOWS)]
    return [any(start <= second < start + length for start in starts) for second in range(seconds)]


def generated_frames(
    look: Look, voice: Heard, own: Heard | None, silence: str, reach_s: float, pause_s: float
) -> NDArray[np.bool_]:
    """(F,) whether a frame likely gets a mouth, where it shows a face: in speech, and in pauses as `silence` says.

    auto: a pause is given a shut mouth where the film's own sound speaks, since then its lips move. own: the film's sound, if any.
    """
    times = np.arange(look.frames) / float(look.fps)
    speech = voice.at(times)
    for start, stop in list(_gaps(speech)):
        if (stop - start) / float(look.fps) < pause_s:
            speech[start:stop] = True
    reach = round(reach_s * float(look.fps))
    near = np.convolve(speech, np.ones(2 * reach + 1), "same") > 0 if len(speech) > 2 * reach else speech
    if silence == "closed" or (silence == "auto" and own is None):
        return np.ones(look.frames, np.bool_)
    return near | own.at(times) if silence == "auto" and own is not None else near


def _gaps(speech: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~speech, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        yield int(start), int(stop)


def face_frames(look: Look) -> NDArray[np.bool_]:
    """(F,) whether a frame shows a face, as the nearest counted one does."""
    if not look.counted:
        return np.zeros(look.frames, np.bool_)
    times = np.arange(look.frames) / float(look.fps)
    at = np.array([one.time_s for one in look.counted])
    shows = np.array([one.faces > 0 for one in look.counted])
    nearest = (
        np.abs(times[:, None] - at[None]).argmin(1) if len(times) < 100_000 else np.searchsorted(at, times).clip(0, len(at) - 1)
    )
    out: NDArray[np.bool_] = shows[nearest]
    return out


def copied_frames(look: Look, touched: NDArray[np.bool_], shortest_s: float) -> int:
    """Frames between keyframes in which nothing is touched, in stretches not shorter than shortest_s."""
    keys = np.unique(np.rint(np.array([*look.keyframes, look.seconds]) * float(look.fps)).astype(int).clip(0, look.frames))
    copied = 0
    for start, stop in _gaps(touched):
        inside = keys[(keys >= start) & (keys <= stop)]
        if len(inside) > 1 and (inside[-1] - inside[0]) >= shortest_s * float(look.fps):
            copied += int(inside[-1] - inside[0])
    return copied
