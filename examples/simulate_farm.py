"""What it costs to share a film among many workers, from 1 to 1000: `python examples/simulate_farm.py`.

The scheduler is the real one (musetalk_cli.sharing: dealing, claiming, stealing); what takes time is not: shots take their estimated
seconds, give or take a fifth, on a clock that only counts. What a claim and a look at the folder take is first measured on this disk with
the real ones (musetalk_cli.crew), and for a shared folder a round trip is added for each time a file server is asked.

Told: overhead, the seconds spent on claims, looks and reading the plan, or by the driver, as a share of the work; idle, what workers wait
for the driver, for the last shots and for what all of them need; and how much faster the farm is than one worker.
"""

import argparse
import json
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from pathlib import Path
from typing import NamedTuple

from musetalk_cli.crew import enter
from musetalk_cli.sharing import Unit, at_once, deal, to_make

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


TRIPS_A_CLAIM, TRIPS_A_RELEASE = 2, 1  # make it, write its name; remove it
DRIVER_S, LOOK_S = 0.00065, 0.0009  # of Ray's driver: a message there and back, a look at 1000 that are out (ray 2.60, measured)


def measured(units: int = 2000, times: int = 5) -> Costs:
    """On the disk of the temporary folder; the quickest of some, since others may be using this machine."""
    with tempfile.TemporaryDirectory() as folder, enter(Path(folder), "measure") as member:
        names = [f"dub-000-{number:05d}-0123456789abcdef" for number in range(units)]
        rows = json.dumps([[name, 1.234, [f"blend/{name}"]] for name in names])
        costs = [random.random() for _ in names]
        acts: tuple[Callable[[], object], ...] = (
            lambda: [member.claim(name) for name in names],
            lambda: set(names) - member.claimed(),
            lambda: list(map(member.release, names)),
            lambda: deal(costs, 1000),
            lambda: [Unit(name, cost) for name, cost, _ in json.loads(rows)],
        )
        rounds = [[_seconds(act) / units for act in acts] for _ in range(times)]
    claim, look, release, dealt, read = map(min, zip(*rounds, strict=True))
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
    shares = deal([unit.cost for unit in units], workers)
    crew = [Worker(to_make(units, shares, number, table)) for number in range(workers)]
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


def directed(units: Sequence[Unit], workers: int, rng: random.Random) -> Told:
    """The same by one who directs, as executor_ray does: whoever is free waits for the driver, and is handed some more. Overhead is what
    the driver does; that workers wait for it is idle."""
    takes = [unit.cost * rng.uniform(1 - ERROR, 1 + ERROR) for unit in units]
    todo = deque(sorted(range(len(units)), key=lambda number: -units[number].cost))
    free = [0.0] * workers  # when each is through
    now = overhead = ended = 0.0
    while todo:
        now = max(now, free[0]) + LOOK_S * workers / 1000
        overhead += LOOK_S * workers / 1000
        while todo and free[0] <= now:  # all that are through by this look
            now += DRIVER_S
            overhead += DRIVER_S
            begun = now
            for _ in range(min(at_once(len(todo), workers), len(todo))):
                begun += takes[todo.popleft()]
            ended = max(ended, begun)
            heapreplace(free, begun)
    return Told(ended, sum(takes), overhead)


def phases(shots: Sequence[int], languages: int, pace: Pace) -> list[list[Unit]]:
    """Faces, then what is decided of each language, then its shots; each needs the one before."""
    faces = [Unit(f"f{number}", frames * pace.faces) for number, frames in enumerate(shots)]
    settling = [Unit(f"s{number}", len(shots) * pace.settle) for number in range(languages)]
    dubs = [Unit(f"d{of}.{number}", frames * pace.dub) for of in range(languages) for number, frames in enumerate(shots)]
    return [faces, settling, dubs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--languages", type=int, default=20)
    parser.add_argument("--workers", default="1,10,100,1000")
    chosen = parser.parse_args()
    shots, costs = film(chosen.hours * 3600), measured()
    print(f"{len(shots)} shots, {chosen.languages} languages; on this disk:", end=" ")
    print(", ".join(f"{name.replace('_', ' ')} {1e6 * value:.1f} us" for name, value in costs._asdict().items()))
    for pace in PACES:
        units = phases(shots, chosen.languages, pace)
        for title, trip_s in (("shards, local disk", 0.0), ("shards, file server that answers in 1 ms", 0.001), ("Ray", None)):
            print(f"\n{pace.name}; {title}")
            print(
                f"{'workers':>8} {'work':>10} {'overhead':>9} {'wall':>10} {'settling':>9} {'idle':>6} {'faster':>8}", flush=True
            )
            for workers in map(int, chosen.workers.split(",")):
                rng = random.Random(workers)
                told = [
                    directed(some, workers, rng) if trip_s is None else phase(some, workers, costs, trip_s, rng) for some in units
                ]
                work, overhead, wall = (sum(getattr(one, name) for one in told) for name in ("work", "overhead", "ended"))
                idle = max(0.0, 1 - (work + overhead) / (workers * wall))
                row = f"{work:8.0f} s {overhead / work:9.3%} {wall:8.1f} s {told[1].ended:7.1f} s {idle:6.1%} {work / wall:7.1f}x"
                print(f"{workers:8} {row}", flush=True)


if __name__ == "__main__":
    main()
