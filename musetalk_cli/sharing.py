"""Who makes which unit, without anybody who directs. In: units with their costs, a shard. Out: the units to make, one after another.

Shards may run at once, one after the other, or never: each makes its own share, dealt by cost, and then what is left of the others', so
that any of them finish the work. Knows nothing of files, films or clocks: a Board tells what is made and claimed.
"""

from collections.abc import Iterator, Sequence
from heapq import heapreplace
from itertools import chain, zip_longest
from typing import NamedTuple, Protocol

BUNDLES = 4  # in which each gets its share where somebody directs; a thousand would wait for one who hands out single units
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
    loads = [(0.0, shard) for shard in range(count)]  # sorted, so a heap
    for number in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        load, shard = loads[0]
        shares[shard].append(number)
        heapreplace(loads, (load + costs[number], shard))
    return shares


def to_make(
    units: Sequence[Unit], shares: Sequence[Sequence[int]], number: int, board: Board, *, steal: bool = True
) -> Iterator[Unit | None]:
    """Claimed units, to be made before the next is asked for: those of share `number` of the dealt, then others'. None: others are at
    the rest; wait a little, then ask again.

    Ends when every unit is made; without `steal` when every unit of the own share is.
    """
    own = [units[of] for of in shares[number]]
    made = board.made()
    for unit in own:
        if unit.name not in made and board.claim(unit.name):
            yield unit
    left = own + ([units[of] for of in _others(shares, number)] if steal else [])
    while left := _without(left, board.made()):
        yield _next(left, board)


def at_once(left: int, workers: int) -> int:
    """How many units somebody who directs hands to the next of `workers`: an even part of its share at first, one at the end."""
    return max(1, left // (BUNDLES * workers))


def _next(left: Sequence[Unit], board: Board) -> Unit | None:
    claimed = board.claimed()
    free = (unit for unit in left if unit.name not in claimed)
    of_the_dead = [unit for unit in left if unit.name in claimed][:ASKED_AFTER]
    return next((unit for unit in chain(free, of_the_dead) if board.claim(unit.name)), None)


def _without(units: Sequence[Unit], made: set[str]) -> list[Unit]:
    return [unit for unit in units if unit.name not in made]


def _others(shares: Sequence[Sequence[int]], number: int) -> list[int]:
    """What others were dealt, from the end of each share, where they come last; each thief begins with another one."""
    turned = [*shares[number + 1 :], *shares[:number]]
    return [of for row in zip_longest(*(share[::-1] for share in turned)) for of in row if of is not None]
