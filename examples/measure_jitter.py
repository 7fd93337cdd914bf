"""How much steadier `--steady` makes mouths, and what it costs. In: films of one person with their own sound. Out: a table.

    python examples/measure_jitter.py OUT FILM... [--steady 0 1]

Each film is dubbed with its own sound at each strength. MediaPipe's landmarks then give
jitter  root mean square acceleration of the mouth's points in the head's own frame, in thousandths of the eyes' distance
r       correlation of the lips' opening with that of the film itself
A real mouth accelerates too: the first line of each film is the film itself. Films stay in OUT; run again, it goes on.
"""

import argparse
import subprocess
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.metrics.jitter import jitter
from musetalk_cli.metrics.lips import correlation, opening
from musetalk_cli.models.analysis import EmbeddedAnalyser

BOX_SIGMA = 4.0  # frames; the landmarker is shown a box that does not tremble itself


def main() -> None:
    """Parse, dub, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("films", type=Path, nargs="+")
    parser.add_argument("--steady", type=float, nargs="+", default=[0.0, 1.0])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"{'film':20} {'steady':>8} {'jitter':>7} {'r':>6}")
    for film in given.films:
        own = landmarks_of(film)
        print(f"{film.stem:20} {'itself':>8} {jitter(own):7.2f} {'':>6}")
        for strength in given.steady:
            found = landmarks_of(dub(film, strength, given.out))
            r = correlation(opening(found), opening(own))
            print(f"{film.stem:20} {strength:8g} {jitter(found):7.2f} {r:6.3f}", flush=True)


def dub(film: Path, strength: float, out: Path) -> Path:
    """By the command, every frame of it, with its own sound."""
    output = out / f"{film.stem}.{strength:g}{film.suffix}"
    if not output.exists():
        flags = [
            "--silence",
            "closed",
            "--occlusion",
            "1",
            "--max-yaw",
            "90",
            "--no-copy",
            "--no-report",
            "-q",
            "--steady",
            f"{strength:g}",
        ]
        work = ["--work-dir", str(out / f"{film.stem}.work")]
        subprocess.run(["musetalk", "dub", str(film), "--audio", str(film), "-o", str(output), *flags, *work], check=True)
    return output


def landmarks_of(film: Path) -> NDArray[np.float64]:
    """(N, 68, 2) of the largest face of every frame, NaN without one."""
    with av.open(str(film)) as container:
        frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
    with EmbeddedAnalyser() as analyser:
        boxes: list[NDArray[np.float32]] = []
        for rgb in frames:
            faces = analyser.detect(rgb)
            best = max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])), default=None)
            boxes.append(best.box if best is not None else boxes[-1] if boxes else np.array([0, 0, 2, 2], np.float32))
        points = [analyser.landmarks(rgb, box) for rgb, box in zip(frames, _steady(np.array(boxes)), strict=True)]
    return np.array([np.full((68, 2), np.nan) if found is None else found for found in points], np.float64)


def _steady(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    apart = np.subtract.outer(np.arange(len(boxes)), np.arange(len(boxes)))
    weight = np.exp(-0.5 * (apart / BOX_SIGMA) ** 2)
    return np.asarray(weight @ boxes / weight.sum(1, keepdims=True), np.float32)


if __name__ == "__main__":
    main()
