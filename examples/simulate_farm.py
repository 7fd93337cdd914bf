"""What it costs to share a film among many workers, from 1 to 1000: `python examples/simulate_farm.py`.

The scheduler is the real one (musetalk_cli.sharing: dealing, claiming, stealing); what takes time is not: shots take their estimated
seconds, give or take a fifth, on a clock that only counts. What a claim and a look at the folder take is first measured on this disk with
the real ones (musetalk_cli.crew), and for a shared folder a round trip is added for each time a file server is asked.

Told: overhead, the seconds that workers spend on claims, looks and reading the plan, as a share of the work; idle, what they wait for the
last shots and for what all of them need; and how much faster the farm is than one worker.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple

from musetalk_cli.crew import enter
from musetalk_cli.sharing import Shard, Unit, deal, to_make

FPS = 25
NAMES_A_TRIP = 1000  # of a folder that a file server tells at one go
WAITS_S = (0.05, 2.0)  # as in musetalk_cli.shards
ERROR = 0.2  # of an estimate


class Pace(NamedTuple):
    """Seconds a frame takes one worker. settle: seconds a shot, to decide about it."""

    name: str
    faces: float
    dub: float
    settle: float


PACES = (
    Pace("lite on a CPU core", faces=0.043, dub=0.125, settle=0.015),  # measured, 256 px film, 1 core
    Pace("v15 on a GPU, 10 times real time", faces=0.004, dub=0.004, settle=0.015),  # what the project asks for
)


class Costs(NamedTuple):
    """Seconds of one act on this disk, and how often each asks a file server."""

    claim: float
    release: float
    look_a_name: float  # of a folder, a unit
    deal_a_unit: float
    read_a_unit: float  # of the plan


TRIPS_A_CLAIM, TRIPS_A_RELEASE = 3, 1  # make, write and close it, look for the result; remove it


def measured(units: int = 2000) -> Costs:
    """On the disk of the temporary folder."""
    with tempfile.TemporaryDirectory() as folder, enter(Path(folder), "measure") as member:
        names = [f"dub-000-{number:05d}-0123456789abcdef" for number in range(units)]
        claim = _seconds(lambda: [member.claim(name) for name in names]) / units
        look = _seconds(lambda: set(names) - member.claimed()) / units
        release = _seconds(lambda: [member.release(name) for name in names]) / units
        rows = json.dumps([[name, 1.234, [f"blend/{name}"]] for name in names])
        read = _seconds(lambda: [Unit(name, cost) for name, cost, _ in json.loads(rows)]) / units
        dealt = _seconds(lambda: deal([random.random() for _ in names], 1000)) / units
    return Costs(claim, release, look, dealt, read)


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def film(seconds: float, seed: int = 0) -> list[int]:
    """Frames of each shot: cuts every 5 s on average, none longer than 10 s."""
    rng, shots, left = random.Random(seed), [], round(seconds * FPS)
    while left > 0:
        shots.append(min(max(round(rng.expovariate(1 / 5) * FPS), 8), 10 * FPS, left))
        left -= shots[-1]
    return shots


class Table:
    """A Board on a clock that only counts: what everyone has made and claimed, and what it costs to look."""

    def __init__(self, costs: Costs, trip_s: float) -> None:
        self.there: set[str] = set()
        self._claims: set[str] = set()
        self._costs, self._trip_s = costs, trip_s
        self.spent = 0.0  # by the worker that is at it

    def made(self) -> set[str]:
        self._look(len(self.there))
        return self.there

    def claimed(self) -> set[str]:
        self._look(len(self._claims))
        return self._claims

    def claim(self, unit: str) -> bool:
        self.spent += self._costs.claim + TRIPS_A_CLAIM * self._trip_s
        if unit in self._claims or unit in self.there:
            return False
        self._claims.add(unit)
        return True

    def done(self, unit: str) -> None:
        self.there.add(unit)
        self._claims.discard(unit)

    def _look(self, names: int) -> None:
        self.spent += names * self._costs.look_a_name + (1 + names / NAMES_A_TRIP) * self._trip_s


@dataclass
class Worker:
    asks: Iterator[Unit | None]
    wait_s: float = WAITS_S[0]


class Told(NamedTuple):
    ended: float
    work: float
    overhead: float


def phase(units: Sequence[Unit], workers: int, costs: Costs, trip_s: float, rng: random.Random) -> Told:
    """All units by so many workers, who start at once, by the real scheduler."""
    table = Table(costs, trip_s)
    takes = {unit.name: unit.cost * rng.uniform(1 - ERROR, 1 + ERROR) for unit in units}
    crew = [Worker(to_make(units, Shard(number, workers), table)) for number in range(workers)]
    begin_s = len(units) * (costs.read_a_unit + costs.deal_a_unit) + 2 * trip_s
    clock = [(begin_s, number, "") for number in range(workers)]
    heapify(clock)
    overhead, ended = workers * begin_s, 0.0
    while clock:
        now, number, done = heappop(clock)
        if done:
            table.done(done)
            ended = max(ended, now)
        worker, table.spent, began = crew[number], 0.0, time.thread_time()
        try:
            unit = next(worker.asks)
        except StopIteration:
            continue
        table.spent += time.thread_time() - began  # the scheduler's own thinking
        if unit is None:  # nothing else to do: idle
            heappush(clock, (now + table.spent + worker.wait_s, number, ""))
            worker.wait_s = min(2 * worker.wait_s, WAITS_S[1])
            continue
        overhead += table.spent
        worker.wait_s = WAITS_S[0]
        released = costs.release + TRIPS_A_RELEASE * trip_s
        overhead += released
        heappush(clock, (now + table.spent + takes[unit.name] + released, number, unit.name))
    return Told(ended, sum(takes.values()), overhead)


def farm(shots: Sequence[int], languages: int, pace: Pace, workers: int, costs: Costs, trip_s: float) -> list[Told]:
    """Faces, then what is decided of each language, then its shots; each phase needs the one before."""
    rng = random.Random(workers)
    faces = [Unit(f"f{number}", frames * pace.faces) for number, frames in enumerate(shots)]
    settling = [Unit(f"s{number}", len(shots) * pace.settle) for number in range(languages)]
    dubs = [Unit(f"d{of}.{number}", frames * pace.dub) for of in range(languages) for number, frames in enumerate(shots)]
    return [phase(units, workers, costs, trip_s, rng) for units in (faces, settling, dubs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--languages", type=int, default=20)
    parser.add_argument("--workers", default="1,10,100,1000")
    parser.add_argument("--trips-ms", default="0,1", help="what a question to the file server takes")
    chosen = parser.parse_args()
    shots, costs = film(chosen.hours * 3600), measured()
    print(f"{len(shots)} shots, {chosen.languages} languages; on this disk:", end=" ")
    print(", ".join(f"{name.replace('_', ' ')} {1e6 * value:.0f} us" for name, value in costs._asdict().items()))
    for pace in PACES:
        for trip_ms in map(float, chosen.trips_ms.split(",")):
            print(f"\n{pace.name}; a question to the file server takes {trip_ms:g} ms")
            print(f"{'workers':>8} {'work':>10} {'overhead':>9} {'wall':>9} {'settling':>9} {'idle':>7} {'faster':>8}")
            for workers in map(int, chosen.workers.split(",")):
                told = farm(shots, chosen.languages, pace, workers, costs, trip_ms / 1000)
                work, overhead, wall = (sum(getattr(one, name) for one in told) for name in ("work", "overhead", "ended"))
                idle = 1 - (work + overhead) / (workers * wall)
                row = f"{work:8.0f} s {overhead / work:9.3%} {wall:7.1f} s {told[1].ended:7.1f} s {idle:7.1%} {work / wall:7.1f}x"
                print(f"{workers:8} {row}")


if __name__ == "__main__":
    main()
