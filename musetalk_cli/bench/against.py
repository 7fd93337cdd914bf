"""This edition beside another one. In: the other's checkout, a film, a voice. Out: paired wall and CPU times of whole dubs.

    this, other, other, this, this, other, ...: a process each, a work folder of its own, the same film and voice

What loads the machine loads both of a pair, so that their ratio says more than either time. Flags that keep every frame in work
(--silence closed, --no-copy) and leave the report out are given to the editions that know them: both do the same.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from musetalk_cli.errors import InternalError, UsageError

SAME_WORK = (("--silence", "closed"), ("--no-copy",), ("--no-report",))
HERE = Path(__file__).parents[2]
LAST_LINES = 4  # of what a run that failed said


class Checkout(NamedTuple):
    """An edition: its folder, and what `dub` is given so that all do the same."""

    folder: Path
    flags: tuple[str, ...]


class Timed(NamedTuple):
    """One dub, from the command's start to its end. stages: seconds by name."""

    wall_s: float
    cpu_s: float
    stages: dict[str, float]


class Ratio(NamedTuple):
    """Other over this, of each pair: above 1 this one is faster."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs in pairs, in the order in which they were made."""

    film: Path
    other: Path
    pairs: tuple[tuple[Timed, Timed], ...]  # this, other
    wall: Ratio
    cpu: Ratio

    def as_json(self) -> dict[str, object]:
        pairs = [{"this": this._asdict(), "other": other._asdict()} for this, other in self.pairs]
        told = {name: getattr(self, name)._asdict() for name in ("wall", "cpu")}
        return {**asdict(self), **told, "film": str(self.film), "other": str(self.other), "pairs": pairs}

    def lines(self) -> list[str]:
        """A line a run, medians of each stage, the ratios."""
        rows = [f"{self.film}: this edition against {self.other}, {len(self.pairs)} pairs"]
        for this, other in self.pairs:
            rows.append(f"this {this.wall_s:7.2f} s ({this.cpu_s:.1f} of CPU), other {other.wall_s:7.2f} s ({other.cpu_s:.1f})")
        for stage in dict.fromkeys(name for pair in self.pairs for run in pair for name in run.stages):
            this_s, other_s = (statistics.median(pair[of].stages.get(stage, 0.0) for pair in self.pairs) for of in (0, 1))
            rows.append(f"{stage:10} {this_s:8.2f} s {other_s:8.2f} s")
        told = ((self.wall, "wall time"), (self.cpu, "CPU time"))
        return [*rows, *(f"{name}: other / this {one.median:.2f} ({one.least:.2f} to {one.most:.2f})" for one, name in told)]


def compare(
    film: Path, voice: Path, other: Path, arguments: Sequence[str], runs: int, *, this: Path = HERE, quiet: bool = False
) -> Comparison:
    """Dub film with voice `runs` times with each edition. arguments: of every dub. Raises UsageError where one is no checkout,
    InternalError where a dub fails."""
    editions = (_edition(this), _edition(other.absolute()))
    pairs = []
    for number in range(runs):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        made = {of: _dub(editions[of], film.absolute(), voice.absolute(), arguments) for of in order}
        pairs.append((made[0], made[1]))
        if not quiet:
            print(f"pair {number + 1}: this {made[0].wall_s:.2f} s, other {made[1].wall_s:.2f} s", file=sys.stderr, flush=True)
    wall, cpu = (_ratio([(this[of], that[of]) for this, that in pairs]) for of in (0, 1))
    return Comparison(film, other, tuple(pairs), wall, cpu)


def _ratio(pairs: Sequence[tuple[object, object]]) -> Ratio:
    ratios = [float(str(other)) / float(str(this)) for this, other in pairs]
    return Ratio(round(statistics.median(ratios), 3), round(min(ratios), 3), round(max(ratios), 3))


def _edition(folder: Path) -> Checkout:
    asked = _python(folder, "-c", "import musetalk_cli; print(musetalk_cli.__file__)")
    if asked.returncode or not Path(asked.stdout.strip()).resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{folder}: no checkout of musetalk", "give the folder that holds musetalk_cli", thing="--against")
    known = _python(folder, "-m", "musetalk_cli", "dub", "--help").stdout
    return Checkout(folder, tuple(part for flag in SAME_WORK if flag[0] in known for part in flag))


def _dub(edition: Checkout, film: Path, voice: Path, arguments: Sequence[str]) -> Timed:
    with TemporaryDirectory(prefix="musetalk-against-") as name:
        folder = Path(name)
        work = folder / "work"
        asked = ["dub", str(film), "--audio", str(voice), "-o", str(folder / f"out{film.suffix}"), "--work-dir", str(work), "-q"]
        with (folder / "log").open("w+b") as log:
            began = time.perf_counter()
            command = [sys.executable, "-m", "musetalk_cli", *asked, *edition.flags, *arguments]
            child = subprocess.Popen(command, env=_environment(edition.folder), cwd=folder, stdout=log, stderr=log)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            wall_s = time.perf_counter() - began
            if child.returncode:
                log.seek(0)
                said = " | ".join(log.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:])
                raise InternalError(
                    f"{edition.folder}: dub ended with {child.returncode}: {said}", "try the same dub by hand there"
                )
        return Timed(round(wall_s, 2), round(used.ru_utime + used.ru_stime, 2), _stages(work / "run.jsonl"))


def _stages(journal: Path) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for line in journal.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "stage.done":
            seconds[event["stage"]] = round(seconds.get(event["stage"], 0.0) + event["seconds"], 3)
    return seconds


def _python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=_environment(folder), cwd=folder, capture_output=True, text=True, check=False)


def _environment(folder: Path) -> dict[str, str]:
    """Modules of that folder before all others, and no settings of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MUSETALK_")}
    return {**kept, "PYTHONPATH": str(folder)}
