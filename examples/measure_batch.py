"""`musetalk batch` over many short films, some broken: what is done, what is reported, what a second run does, and how long it takes.

    python examples/measure_batch.py [--films 50] [--folder DIR] [flags of `musetalk batch`]

Cuts films out of film.mp4 and voices out of fr.wav, spoils three in different ways (broken off, no film at all, nobody in it), and runs
the batch three times: over all, again, and again with two results taken away. Exits 1 where anything is not as it should be.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from musetalk_cli.media.ffmpeg import find_ffmpeg

HERE = Path(__file__).parent
SECONDS = 0.6  # of a film: 15 frames
SPOILT = {"broken_off": 3, "no_film": 3, "nobody": 5}  # and the exit code that each deserves


class Ran(NamedTuple):
    """One run of the command."""

    exit_code: int
    seconds: float
    told: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="empty or new; default: a temporary one")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as beside:
        folder = options.folder or Path(beside) / "films"
        folder.mkdir(parents=True, exist_ok=True)
        make_films(folder, options.films)
        sys.exit(0 if measure(folder, options.films, flags) else 1)


def make_films(folder: Path, count: int) -> None:
    """film00.mp4 with film00.fr.wav, and so on; the last three spoilt. The first 1.7 s and the last 2.6 s of the example show a face."""
    starts = [0.04 * number for number in range(28)] + [3.4 + 0.04 * number for number in range(48)]
    whole = count - len(SPOILT)
    for number in range(whole):
        _cut(folder / f"film{number:02d}.mp4", starts[number % len(starts)])
    for name in SPOILT:
        _cut(folder / f"{name}.mp4", 0.0)
    broken = (folder / "broken_off.mp4").read_bytes()
    (folder / "broken_off.mp4").write_bytes(broken[: len(broken) // 2])
    (folder / "no_film.mp4").write_text("somebody's notes\n")
    _cut(folder / "nobody.mp4", 2.6)
    for number, film in enumerate(sorted(folder.glob("*.mp4"))):
        start, length = 0.2 + 0.05 * (number % 80), str(SECONDS)
        _ffmpeg("-ss", f"{start:.2f}", "-t", length, "-i", str(HERE / "fr.wav"), str(film.with_suffix(".fr.wav")))


def _cut(film: Path, start: float) -> None:
    picture = ("-vf", "scale=640:-2", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")
    _ffmpeg("-ss", f"{start:.2f}", "-t", str(SECONDS), "-i", str(HERE / "film.mp4"), *picture, str(film))


def _ffmpeg(*arguments: str) -> None:
    subprocess.run([find_ffmpeg(), "-v", "error", "-y", *arguments], check=True, stdin=subprocess.DEVNULL)


def measure(folder: Path, count: int, flags: list[str]) -> bool:
    """Three runs, a line each. Whether all of it is as it should be."""
    whole, spoilt = count - len(SPOILT), len(SPOILT)
    checks = [check("first", run(folder, flags), {"done": whole, "done before": 0, "failed": spoilt})]
    results = sorted(folder.glob("*.fr.mp4"))
    before = [film.stat().st_mtime_ns for film in results]
    checks.append(check("again", run(folder, flags), {"done": 0, "done before": whole, "failed": spoilt}))
    checks.append(len(results) == whole and before == [film.stat().st_mtime_ns for film in results])
    for film in results[:2]:
        film.unlink()
    checks.append(check("two taken away", run(folder, flags), {"done": 2, "done before": whole - 2, "failed": spoilt}))
    return all(checks)


def run(folder: Path, flags: list[str]) -> Ran:
    command = [sys.executable, "-m", "musetalk_cli", "batch", str(folder), "--json", "--progress", "none", *flags]
    began = time.monotonic()
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return Ran(ran.returncode, time.monotonic() - began, json.loads(ran.stdout))


def check(title: str, ran: Ran, wanted: dict[str, int]) -> bool:
    """Print the run; whether it went as wanted, with exit code 8 and every spoilt film named for what it is."""
    counts = ran.told["counts"]
    codes = {Path(film["film"]).stem: film["exit_code"] for film in ran.told["films"] if film["status"] == "failed"}
    print(f"{title}: {counts['done']} done, {counts['done before']} done before, {counts['failed']} reported {codes}, "
          f"exit {ran.exit_code}, {ran.seconds:.1f} s", flush=True)  # fmt: skip
    return ran.exit_code == 8 and codes == SPOILT and all(counts[status] == number for status, number in wanted.items())


if __name__ == "__main__":
    main()
