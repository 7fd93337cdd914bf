"""Tiny real films for tests. In: what a film should be like. Out: files made by real codecs. Knows nothing of stages."""

import os
import subprocess
import wave
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from musetalk_cli.media.ffmpeg import find_ffmpeg
from musetalk_cli.media.video import kept_scheduling

CODE_BITS = 10  # of the frame number drawn along the top edge, one square a bit
RATE_HZ = 48_000
os.environ.setdefault("MUSETALK_REPORT", "0")  # most tests dub; those of the report ask for one
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # two tests at once on two cores: threads that wait for each other by spinning take ten times as long
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
FRENCH = Path(__file__).parents[1] / "examples" / "fr.wav"


def make_film(
    path: Path,
    *,
    frames: int = 25,
    fps: Fraction = Fraction(25),
    size: tuple[int, int] = (128, 96),
    vfr_pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    audio: str | None = None,
    picture: Callable[[int], NDArray[np.uint8]] | None = None,
) -> Path:
    """Encode `frames` frames to `path`, its suffix naming the container.

    vfr_pts: timestamps in ticks of time_base (default 1/fps), one a frame; else 0, 1, 2, ... / fps. picture: frame number ->
    (H, W, 3) uint8 RGB; else a moving pattern with the frame's number drawn on it, see `number_of`. audio: codec of a 440 Hz
    track as long as the film.
    """
    tick = time_base or 1 / fps
    pts = [round(n / fps / tick) for n in range(frames)] if vfr_pts is None else list(vfr_pts)
    draw = picture or (lambda number: numbered_picture(number, size))
    with kept_scheduling(), av.open(str(path), "w", options={"fflags": "+bitexact"}) as film:
        stream: Any = film.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = stream.time_base = tick
        stream.codec_context.thread_count = 1
        sound: Any = film.add_stream(audio, rate=RATE_HZ) if audio else None
        for number, when in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = when, tick
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if sound is not None:
            for block in _tone(float(pts[-1] * tick + 1 / fps)):
                film.mux(sound.encode(block))
            film.mux(sound.encode(None))
    return path


def numbered_picture(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: a diagonal gradient that moves, and the number in black and white squares along the top edge."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([(x + 3 * number) % 256, (y + 2 * number) % 256, (x + y) % 256], -1).astype(np.uint8)
    side = width // CODE_BITS
    for bit in range(CODE_BITS):
        rgb[:side, bit * side : (bit + 1) * side] = 255 if number >> bit & 1 else 0
    return rgb


def number_of(rgb: NDArray[np.uint8]) -> int:
    """The number that `numbered_picture` drew, read back from a decoded frame."""
    side = rgb.shape[1] // CODE_BITS
    return sum(1 << bit for bit in range(CODE_BITS) if rgb[side // 2, bit * side + side // 2].mean() > 127)


def run_tool(*arguments: str) -> None:
    """ffmpeg as a person would use it."""
    subprocess.run([find_ffmpeg(), "-v", "error", "-y", *arguments], check=True, stdin=subprocess.DEVNULL)


def make_voice(path: Path, *, seconds: float = 1.0, rate_hz: int = 22_050, channels: int = 1) -> Path:
    """A WAV of 16-bit noise bursts, loud in every first half second. Nobody speaks in it: lips stay as they are."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    mono = rng.normal(0, 6000, len(time_s)) * (time_s % 1 < 0.5)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.repeat(np.clip(mono, -32768, 32767).astype("<i2"), channels).tobytes())
    return path


def make_speech(path: Path, *, seconds: float = 1.0, pace: float = 1.0, before: float = 0.0, after: float = 0.0) -> Path:
    """A WAV, 16 kHz mono: the first words of the example, at another pace another voice, between silences of so many seconds."""
    with wave.open(str(FRENCH)) as voice:
        said = np.frombuffer(voice.readframes(voice.getnframes()), "<i2").astype(np.float64)[3200:]  # 0.2 s of silence
    at = np.arange(round(seconds * 16_000)) * pace
    spoken = np.interp(at, np.arange(len(said)), said)
    silence = [np.zeros(round(length * 16_000)) for length in (before, after)]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.concatenate([silence[0], spoken, silence[1]]).astype("<i2").tobytes())
    return path


def _tone(seconds: float) -> list[av.AudioFrame]:
    samples = (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
    return [frame]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A test that left its process with real-time priority would make a later one hang, far from here; another number of threads would
    give sums other last digits than a process of its own has."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    assert not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The certificate that signs films here is no user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(name="make_film", scope="session")
def _make_film() -> Callable[..., Path]:
    return make_film


@pytest.fixture(name="make_voice", scope="session")
def _make_voice() -> Callable[..., Path]:
    return make_voice


@pytest.fixture(name="make_speech", scope="session")
def _make_speech() -> Callable[..., Path]:
    return make_speech
