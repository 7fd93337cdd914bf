"""The promise of frame for frame: whatever clock a film runs by, `dub` gives back each of its frames at its own time.

The real command with the embedded model on real files: nobody is there at the start, in the middle and at the end.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

FRAMES = 24
SIZE = (160, 160)
TICK = Fraction(1, 90_000)
STUTTER = [n * 3600 + (1800 if n % 5 == 2 else 0) + (36_000 if n >= 17 else 0) for n in range(FRAMES)]  # and a hold of 0.4 s


@pytest.fixture(scope="module")
def picture() -> Callable[[int], NDArray[np.uint8]]:
    """Frame number -> a drifting face in frames 5 to 10 and 15 to 20, else a wall."""
    import cv2
    from skimage.data import astronaut

    portrait = np.asarray(cv2.resize(astronaut()[16:240, 112:336], SIZE, interpolation=cv2.INTER_AREA), np.uint8)
    wall = np.full_like(portrait, 90)
    return lambda number: np.roll(portrait, number // 2, axis=1) if number % 10 >= 5 and number < 21 else wall


def times(film: Path) -> list[Fraction]:
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        return [frame.pts * stream.time_base for frame in container.decode(stream) if frame.pts is not None]


@pytest.mark.parametrize(
    ("suffix", "fps", "pts"),
    [
        (".mp4", Fraction(30_000, 1001), None),
        (".mkv", Fraction(24_000, 1001), None),
        (".mov", Fraction(50), None),
        (".mp4", Fraction(25), STUTTER),
    ],
    ids=["29.97", "23.976", "50", "variable"],
)
def test_every_frame_keeps_its_time_and_faceless_ones_their_picture(
    tmp_path: Path,
    make_film: Callable[..., Path],
    make_speech: Callable[..., Path],
    picture: Callable[[int], NDArray[np.uint8]],
    suffix: str,
    fps: Fraction,
    pts: Sequence[int] | None,
) -> None:
    film = make_film(
        tmp_path / f"film{suffix}",
        frames=FRAMES,
        fps=fps,
        size=SIZE,
        vfr_pts=pts,
        time_base=TICK if pts else None,
        picture=picture,
    )
    voice, out = make_speech(tmp_path / "fr.wav", seconds=0.9), tmp_path / f"out{suffix}"
    command = [sys.executable, "-m", "musetalk_cli", "dub", str(film), "--audio", f"fr={voice}", "-o", str(out)]
    done = subprocess.run([*command, "--work-dir", str(tmp_path / "work"), "--progress", "none"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert times(out) == times(film) and len(times(out)) == FRAMES
    changed = differing(film, out)
    assert not changed & {0, 1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23}
    assert changed, "no mouth was dubbed"


def differing(film: Path, other: Path) -> set[int]:
    """Frames in which the lower middle of the picture changed by more than an encoder changes it."""
    with av.open(str(film)) as a, av.open(str(other)) as b:
        pairs = zip(a.decode(video=0), b.decode(video=0), strict=True)
        planes = [(x.to_ndarray(format="gray").astype(int), y.to_ndarray(format="gray").astype(int)) for x, y in pairs]
    return {number for number, (x, y) in enumerate(planes) if np.abs(x - y).max() > 24}
