"""How well a model makes lips follow a voice: real dubs of held-back clips, judged by landmarks and faces that no training saw.

    pip install dlib-bin face_recognition_models
    python examples/measure_lite.py CLIPS OUT --voices id019,id025,...   CLIPS: films of one person each, named IDENTITY_*.mp4

Each voice is put on other people's films by the `musetalk` command. In the result dlib's 68 landmarks give the opening of the lips:
r      with that of the voice's own clip            shifted  the same with the voice moved by 1.4 and 2 s: should be 0
leak   with that of the film before                 open     mean opening, in that of the voice's own speaker
face   cosine of dlib's face embedding to the film's own frames, lips included
Then each film once with silence (opening, in that of the film itself) and once with its own voice (PSNR of the mouth's surroundings).
Figures go to OUT/figures.json, films stay in OUT; run again, it goes on.
"""

import argparse
import importlib.util
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import dlib
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.media.ffmpeg import find_ffmpeg
from musetalk_cli.metrics.lips import correlation, opening, shifted_correlation

SECONDS = 5
SHIFTS = (-50, -35, 35, 50)  # of the 25 a second on which openings are compared
FACES = 2  # films that each voice is put on


class Seen(NamedTuple):
    """A film as the judge sees it, 25 times a second."""

    opening: NDArray[np.float32]  # (N,) in eye distances, NaN without a face
    faces: NDArray[np.float64]  # (K, 128) of every tenth moment


class Judge:
    """dlib's detector, landmarks and face embedding."""

    def __init__(self) -> None:
        self.detector = dlib.get_frontal_face_detector()
        self.shape = dlib.shape_predictor(str(model_file("shape_predictor_68_face_landmarks.dat")))
        self.net = dlib.face_recognition_model_v1(str(model_file("dlib_face_recognition_resnet_model_v1.dat")))

    def look(self, film: Path) -> Seen:
        points, faces, box = [], [], None
        for number, rgb in enumerate(frames_25fps(film)):
            if box is None or number % 5 == 0:
                box = self.find(rgb) or box
            if box is None:
                points.append(np.full((68, 2), np.nan))
                continue
            shape = self.shape(rgb, box)
            points.append(np.array([(point.x, point.y) for point in shape.parts()], float))
            if number % 10 == 0:
                faces.append(np.array(self.net.compute_face_descriptor(rgb, shape)))
        return Seen(opening(np.stack(points).astype(np.float32)), np.stack(faces))

    def find(self, rgb: NDArray[np.uint8]) -> Any:
        """The largest face, looked for in a picture of about 360 px."""
        step = max(1, min(rgb.shape[:2]) // 360)
        found = self.detector(np.ascontiguousarray(rgb[::step, ::step]), 0)
        best = max(found, key=lambda box: box.area(), default=None)
        return best and dlib.rectangle(*(step * edge for edge in (best.left(), best.top(), best.right(), best.bottom())))


def model_file(name: str) -> Path:
    """A file of face_recognition_models, found without importing it: it asks for a part that setuptools has dropped."""
    found = importlib.util.find_spec("face_recognition_models")
    assert found and found.submodule_search_locations, "pip install face_recognition_models"
    return Path(found.submodule_search_locations[0]) / "models" / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--voices", required=True, help="identities with a voice, with commas between them")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    clips = {path.stem.split("_")[0]: cut(path, asked.out) for path in sorted(asked.clips.glob("*.mp4"))}
    judge, voices = Judge(), asked.voices.split(",")
    seen = {name: judge.look(path) for name, path in clips.items()}
    pairs = [pair_figures(judge, clips, seen, face, voice, asked.out) for voice, face in drawn(list(clips), voices)]
    alone = [alone_figures(judge, clips, seen, name, asked.out) for name in voices]
    figures = {"pairs": pairs, "alone": alone, "median": medians(pairs) | medians(alone)}
    (asked.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures["median"]))


def drawn(clips: list[str], voices: list[str]) -> Iterator[tuple[str, str]]:
    """(voice, face) pairs: each voice on FACES others, spread over the list."""
    for number, voice in enumerate(voices):
        others = [name for name in clips if name != voice]
        for turn in range(FACES):
            yield voice, others[(2 * number + turn * len(others) // FACES) % len(others)]


def pair_figures(
    judge: Judge, clips: dict[str, Path], seen: dict[str, Seen], face: str, voice: str, out: Path
) -> dict[str, str | float]:
    made = judge.look(dub(clips[face], clips[voice], out / f"{face}-{voice}.mp4"))
    count = min(len(made.opening), len(seen[voice].opening), len(seen[face].opening))
    new, said, before = (each.opening[:count] for each in (made, seen[voice], seen[face]))
    row: dict[str, str | float] = {
        "voice": voice,
        "face": face,
        "r": correlation(new, said),
        "shifted": float(np.mean([shifted_correlation(new, said, shift) for shift in SHIFTS])),
        "leak": correlation(new, before),
        "open": float(np.nanmean(new) / np.nanmean(said)),
        "identity": likeness(made, seen[face]),
    }
    print(json.dumps(row), flush=True)
    return row


def alone_figures(judge: Judge, clips: dict[str, Path], seen: dict[str, Seen], name: str, out: Path) -> dict[str, str | float]:
    """A film with silence, and with its own voice."""
    silence = out / "silence.wav"
    if not silence.exists():
        ffmpeg("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", str(SECONDS), str(silence))
    quiet = judge.look(dub(clips[name], silence, out / f"{name}-silence.mp4"))
    same = dub(clips[name], clips[name], out / f"{name}-self.mp4")
    row: dict[str, str | float] = {
        "face": name,
        "silence": float(np.nanmean(quiet.opening) / np.nanmean(seen[name].opening)),
        "self_psnr": changed_psnr(clips[name], same),
        "self_r": correlation(judge.look(same).opening, seen[name].opening),
    }
    print(json.dumps(row), flush=True)
    return row


def medians(rows: list[dict[str, str | float]]) -> dict[str, float]:
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    return {key: round(float(np.nanmedian([float(row[key]) for row in rows])), 3) for key in numbers}


def likeness(made: Seen, before: Seen) -> float:
    """Mean cosine of the faces at the same moments."""
    a, b = (seen.faces[: min(len(made.faces), len(before.faces))] for seen in (made, before))
    return float(np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def changed_psnr(film: Path, other: Path) -> float:
    """dB over the pixels that the dub changed by more than an encoder does, mean over frames."""
    found = []
    for a, b in zip(frames_25fps(film), frames_25fps(other), strict=True):
        error = np.square(a.astype(np.float32) - b)
        changed = error.max(2) > 36
        if changed.sum() > 100:
            found.append(10 * np.log10(255**2 / error[changed].mean()))
    return float(np.mean(found)) if found else float("nan")


def cut(path: Path, out: Path) -> Path:
    """The first seconds of a clip, 25 frames a second."""
    made = out / f"{path.stem.split('_')[0]}.mp4"
    if not made.exists():
        ffmpeg("-i", str(path), "-t", str(SECONDS), "-r", "25", "-crf", "10", "-c:a", "aac", str(made))
    return made


def dub(film: Path, voice: Path, output: Path) -> Path:
    if not output.exists():
        command = [
            "musetalk",
            "dub",
            str(film),
            "--audio",
            str(voice),
            "-o",
            str(output),
            "--progress",
            "none",
            "--no-report",
            "-q",
        ]
        command += ["--silence", "closed", "--occlusion", "1", "--max-yaw", "90"]  # the model alone, in every frame
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def frames_25fps(film: Path) -> Iterator[NDArray[np.uint8]]:
    with av.open(str(film)) as container:
        for frame in container.decode(video=0):
            yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)


def ffmpeg(*arguments: str) -> None:
    subprocess.run([find_ffmpeg(), "-v", "error", "-y", *arguments], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
