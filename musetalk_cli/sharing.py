"""Who makes which unit, without anybody who directs. In: units with their costs, a shard. Out: the units to make, one after another.

Shards may run at once, one after the other, or never: each makes its own share, dealt by cost, and then what is left of the others', so
that any of them finish the work. Knows nothing of files, films or clocks: a Board tells what is made and claimed.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain, zip_longest
from typing import NamedTuple, Protocol

ASKED_AFTER = 8  # claimed units whose claimants are asked after at one look


class Unit(NamedTuple):
    """What one worker makes at one go."""

    name: str
    cost: float  # estimated seconds


class Shard(NamedTuple):
    """Share `number` of `of`, from 0."""

    number: int = 0
    of: int = 1


class Board(Protocol):
    """What the workers know of each other."""

    def made(self) -> set[str]:
        """Units that are there."""
        ...

    def claimed(self) -> set[str]:
        """Units that somebody has claimed, who may have died."""
        ...

    def claim(self, unit: str) -> bool:
        """Whether it is now this worker's to make: nobody who lives has it, and it is not there."""
        ...


def deal(costs: Sequence[float], count: int) -> list[list[int]]:
    """Numbers of units for each shard, dearest first: each to the shard that has least. The same for everyone who deals."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, shard) for shard in range(count)]
    heapify(loads)
    for number in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        load, shard = heappop(loads)
        shares[shard].append(number)
        heappush(loads, (load + costs[number], shard))
    return shares


def to_make(units: Sequence[Unit], shard: Shard, board: Board, *, steal: bool = True) -> Iterator[Unit | None]:
    """Claimed units, to be made before the next is asked for. None: others are at the rest; wait a little, then ask again.

    Ends when every unit is made; without `steal` when every unit of the own share is.
    """
    shares = deal([unit.cost for unit in units], shard.of)
    own = [units[number] for number in shares[shard.number]]
    made = board.made()
    for unit in own:
        if unit.name not in made and board.claim(unit.name):
            yield unit
    left = own + ([units[number] for number in _others(shares, shard)] if steal else [])
    while left := _without(left, board.made()):
        yield _next(left, board)


def _next(left: Sequence[Unit], board: Board) -> Unit | None:
    claimed = board.claimed()
    free = (unit for unit in left if unit.name not in claimed)
    of_the_dead = [unit for unit in left if unit.name in claimed][:ASKED_AFTER]
    return next((unit for unit in chain(free, of_the_dead) if board.claim(unit.name)), None)


def _without(units: Sequence[Unit], made: set[str]) -> list[Unit]:
    return [unit for unit in units if unit.name not in made]


def _others(shares: Sequence[Sequence[int]], shard: Shard) -> list[int]:
    """What others were dealt, from the end of each share, where they come last; each thief begins with another shard."""
    turned = [shares[(shard.number + step) % shard.of] for step in range(1, shard.of)]
    return [number for row in zip_longest(*(share[::-1] for share in turned)) for number in row if number is not None]
