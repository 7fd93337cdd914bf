"""What `--watermark` costs and survives: real dubs of a folder of clips, coded again as they are on their way to a viewer.

    python examples/measure_watermark.py CLIPS VOICES OUT [--seconds 5] [--clips 100]

Each clip's first seconds are dubbed by model lite with a voice of VOICES, without and with the mark, both lossless. The marked dub and
the clip itself are coded again, by H.264 at CRF 28 in preset medium at half the size (both), and of every fifth clip by each alone
(crf, half); then the detector looks for the key. A line a clip goes to OUT/figures.jsonl, the sum to stdout; run again, it goes on.
psnr: of the mark in R, G, B over the pixels that the dub has changed. Clips in which it has a mouth for less than 1.5 s are summed apart.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import Runtime
from musetalk_cli.errors import MusetalkError
from musetalk_cli.executor import Serial
from musetalk_cli.media.ffmpeg import find_ffmpeg
from musetalk_cli.pipeline import Run, make
from musetalk_cli.progress import Events
from musetalk_cli.settings import Choices, dub_config, for_job
from musetalk_cli.signals import Stop
from musetalk_cli.types import DubJob
from musetalk_cli.watermark import THRESHOLD, Evidence, evidence_of, found_in, read_tracks
from musetalk_cli.work import Work

KEY = "musetalk"
WRONG_KEYS = 200  # looked for in each clip that has no mark: chances to be flagged by mistake
H264 = ["-c:v", "libx264", "-preset", "medium", "-pix_fmt", "yuv420p", "-an"]
HALF = ["-vf", "scale=trunc(iw/4)*2:trunc(ih/4)*2"]
RECODED = {"both": [*HALF, *H264, "-crf", "28"], "crf": [*H264, "-crf", "28"], "half": [*HALF, *H264, "-crf", "12"]}
ALONE_EVERY = 5
LEAST_S = 1.5  # of new mouth in a clip that counts as a dub
CPU = Runtime("cpu", 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("voices", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each clip")
    parser.add_argument("--clips", dest="count", type=int, default=100)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    figures = asked.out / "figures.jsonl"
    told = {row["clip"]: row for row in map(json.loads, figures.read_text().splitlines())} if figures.exists() else {}
    voices = sorted(path for path in asked.voices.iterdir() if path.suffix in (".wav", ".flac", ".mp3", ".m4a"))
    for number, clip in enumerate(sorted(asked.clips.rglob("*.mp4"))):
        if sum("error" not in row for row in told.values()) >= asked.count:
            break
        name = "-".join(clip.relative_to(asked.clips).with_suffix("").parts)
        if name not in told:
            told[name] = measured(clip, voices[number % len(voices)], number, asked.seconds, asked.out / name)
            with figures.open("a") as lines:
                lines.write(json.dumps(told[name]) + "\n")
    print(json.dumps(summary(list(told.values())), indent=1))


def measured(clip: Path, voice: Path, number: int, seconds: float, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"clip": folder.name}
    try:
        cut, said = cut_out(clip, voice, number, seconds, folder)
        plain, marked = (dubbed(cut, said, key, folder) for key in ("", KEY))
        row["psnr"], row["seconds"] = cost(cut, plain, marked)
        for how in RECODED if number % ALONE_EVERY == 0 else ("both",):
            row[how] = asdict(found_in(evidence_in(recoded(marked, how, folder / f"{how}.mp4")), KEY))
        original = evidence_in(recoded(cut, "both", folder / "original.mp4"))
        row["original"] = asdict(found_in(original, KEY))
        row["wrong"] = max(found_in(original, f"wrong {i}").score for i in range(WRONG_KEYS))
    except MusetalkError as error:  # no face, or none that is to be dubbed
        row["error"] = str(error)
    print(json.dumps(row), flush=True)
    return row


def cut_out(clip: Path, voice: Path, number: int, seconds: float, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    cut, said = folder / "clip.mp4", folder / "voice.wav"
    if not (cut.exists() and said.exists()):
        length = ["-t", str(seconds)]
        ffmpeg("-i", clip, *length, "-an", "-c:v", "libx264", "-qp", "1", "-preset", "ultrafast", cut)
        ffmpeg("-ss", 2 + 3 * (number % 15), "-i", voice, *length, "-ac", "1", "-ar", "16000", said)
    return cut, said


def dubbed(cut: Path, voice: Path, key: str, folder: Path) -> Path:
    """Lossless, so that what differs is the mark. The analysis is done once."""
    choices = Choices(model="lite", codec="libx264", crf=0, copy=False, precision="fp32", device="cpu")
    job = DubJob(cut, voice, folder / "dub.mp4")
    config = for_job(dub_config(choices, CPU), job)
    config = replace(config, blend=replace(config.blend, watermark=key))
    with Work.open(folder / "work", Events(), Stop()) as work:
        made, _ = make(job, Run(cut, config, CPU, work, Events(), Serial()))
        return made.load().path


def recoded(film: Path, how: str, made: Path) -> Path:
    ffmpeg("-i", film, *RECODED[how], made)
    return made


def evidence_in(film: Path) -> Evidence:
    return evidence_of(read_tracks(film, CPU))


def ffmpeg(*arguments: object) -> None:
    subprocess.run([str(find_ffmpeg()), "-y", "-v", "error", *map(str, arguments)], check=True)


def cost(cut: Path, plain: Path, marked: Path) -> tuple[float, float]:
    """PSNR in dB of 255, over R, G and B of the pixels in which the dub is not the film, and those between them; seconds that have such."""
    squares, count, dubbed = 0.0, 0, 0
    for film, without, with_mark in zip(pictures(cut), pictures(plain), pictures(marked), strict=True):
        changed = (film != without).any(2).astype(np.uint8)
        inside = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
        difference = with_mark[inside].astype(np.float64) - without[inside]
        squares, count = squares + float(np.square(difference).sum()), count + difference.size
        dubbed += int(changed.any())
    db = 10 * float(np.log10(255**2 * count / squares)) if squares else float("inf")
    return round(db, 2), round(dubbed / rate_of(cut), 2)


def rate_of(film: Path) -> float:
    with av.open(str(film)) as opened:
        return float(opened.streams.video[0].average_rate or 25)


def pictures(film: Path) -> Iterator[NDArray[np.uint8]]:
    with av.open(str(film)) as opened:
        for frame in opened.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Dubs of less than LEAST_S are told apart: a mouth that is shown for a moment carries little."""
    good = [row for row in rows if "error" not in row]
    dubs, brief = ([row for row in good if (row["seconds"] >= LEAST_S) == long] for long in (True, False))
    told: dict[str, Any] = {"clips": len(good), "not dubbed": len(rows) - len(good), "threshold": THRESHOLD}
    told |= {how: scores([row[how]["score"] for row in dubs if how in row]) for how in RECODED}
    told["brief, both"] = scores([row["both"]["score"] for row in brief])
    told["original"] = scores([row["original"]["score"] for row in good])
    decibels = sorted(row["psnr"] for row in good)
    told["psnr"] = {"lowest": decibels[:3], "median": float(np.median(decibels))} if good else {}
    told["wrong keys"] = {"tried": len(good) * WRONG_KEYS, "highest": max((row["wrong"] for row in good), default=0.0)}
    return told


def scores(of: list[float]) -> dict[str, Any]:
    of = sorted(round(score, 2) for score in of)
    flagged = sum(score >= THRESHOLD for score in of)
    return {"of": len(of), "marked": flagged} | ({"lowest": of[:5], "median": of[len(of) // 2], "highest": of[-1]} if of else {})


if __name__ == "__main__":
    main()
