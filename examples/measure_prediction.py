"""How true `--dry-run` is. In: films. Out: predicted and measured wall and CPU time of each dub, and by how much they differ.

    python examples/measure_prediction.py [FILM...] [--voice VOICE] [--out OUT]

Beside the films that are named: the example, and 40 seconds at 1920x1080 made of it. Each is predicted, dubbed from nothing, and dubbed
again for as often as --runs says; what others do on the machine shows in the wall time and less in the CPU time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from musetalk_cli.bench.film import EXAMPLES, generated


class Dubbed(NamedTuple):
    """One dub, from the command's start to its end."""

    wall_s: float
    cpu_s: float
    stages: dict[str, float]


def main() -> None:
    """Parse, predict, dub, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="*")
    parser.add_argument("--voice", type=Path, default=EXAMPLES / "fr.wav")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the film that is made")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--stages", action="store_true", help="stage by stage")
    given = parser.parse_args()
    made = generated(given.seconds)
    films = [(EXAMPLES / "film.mp4", given.voice), (made.film, made.voice), *((film, given.voice) for film in given.films)]
    print(f"{'film':28} {'predicted':>10} {'measured':>10} {'wall':>7} {'CPU':>7} {'disk MB':>16}")
    for film, voice in films:
        told = predicted(film, voice)
        runs = [dubbed(film, voice) for _ in range(given.runs)]
        wall, cpu = (statistics.median(run[of] for run in runs) for of in (0, 1))
        off, off_cpu = told["wall_s"] / wall - 1, told["cpu_hours"] * 3600 / cpu - 1
        print(
            f"{film.name:28} {told['wall_s']:9.1f}s {wall:9.1f}s {off:+7.0%} {off_cpu:+7.0%} {told['disk_bytes'] / 1e6:9.0f}",
            flush=True,
        )
        if given.stages:
            for stage, seconds in runs[0].stages.items():
                print(f"  {stage:26} {told['stages'].get(stage, 0.0):9.1f}s {seconds:9.1f}s", flush=True)


def predicted(film: Path, voice: Path) -> dict:
    with TemporaryDirectory() as name:
        command = dub_command(film, voice, Path(name))
        return json.loads(subprocess.run([*command, "--dry-run", "--json"], check=True, capture_output=True, text=True).stdout)


def dubbed(film: Path, voice: Path) -> Dubbed:
    with TemporaryDirectory() as name:
        began = time.perf_counter()
        child = subprocess.Popen(dub_command(film, voice, Path(name)))
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        if child.returncode:
            sys.exit(f"{film}: dub ended with {child.returncode}")
        stages: dict[str, float] = {}
        for line in (Path(name) / "work" / "run.jsonl").read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "stage.done":
                stages[event["stage"]] = stages.get(event["stage"], 0.0) + event["seconds"]
        return Dubbed(wall_s, used.ru_utime + used.ru_stime, stages)


def dub_command(film: Path, voice: Path, folder: Path) -> list[str]:
    files = ["--audio", str(voice), "-o", str(folder / f"out{film.suffix}"), "--work-dir", str(folder / "work")]
    return [sys.executable, "-m", "musetalk_cli", "dub", str(film), *files, "-q"]


if __name__ == "__main__":
    main()
