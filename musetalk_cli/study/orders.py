"""Who sees what in which order. In: how many sources and methods. Out: Orders, drawn by a seed. Knows nothing of files or pages.

The page may not know which clips are of one method, or a look into it would unblind the study; so orders are drawn here, before, and
the page takes one of them by the rater's name.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

Layout = Literal["side-by-side", "single"]


class Screen(NamedTuple):
    """What is rated at once: clips of one source. methods: by label, A first."""

    source: int
    methods: tuple[int, ...]


Order = tuple[Screen, ...]


def draw_orders(rng: random.Random, count: int, sources: int, methods: int, *, layout: Layout, per_rater: int) -> list[Order]:
    """`count` orders, each of `per_rater` sources with all methods; each source is in as many orders as any other, but for one.

    side-by-side: a screen has all methods, and from one screen to the next no label stays with its method. single: a screen has one
    method, never that of the screen before, and not its source either where that can be helped. With one method neither holds.
    """
    deck: list[int] = []
    arrange = _side_by_side if layout == "side-by-side" else _one_by_one
    return [arrange(rng, _deal(rng, deck, sources, per_rater), methods) for _ in range(count)]


def _deal(rng: random.Random, deck: list[int], sources: int, count: int) -> list[int]:
    """`count` different sources from the top of the deck; a new deck is shuffled under it where it runs short."""
    hand: list[int] = []
    while len(hand) < count:
        if not (fresh := [source for source in deck if source not in hand]):
            fresh = rng.sample(range(sources), sources)
            deck += fresh
            continue
        hand.append(fresh[0])
        deck.remove(fresh[0])
    rng.shuffle(hand)
    return hand


def _side_by_side(rng: random.Random, sources: Sequence[int], methods: int) -> Order:
    screens: list[Screen] = []
    for source in sources:
        before = screens[-1].methods if screens else ()
        drawn = _shuffled(rng, methods)
        while methods > 1 and any(one == other for one, other in zip(before, drawn, strict=False)):
            drawn = _shuffled(rng, methods)  # one in e, on average, meets nothing of the one before
        screens.append(Screen(source, drawn))
    return tuple(screens)


def _one_by_one(rng: random.Random, sources: Sequence[int], methods: int) -> Order:
    """Methods and sources with most clips left go first among those that may: so the last clips are never all of one."""
    left = [(source, method) for source in sources for method in range(methods)]
    screens: list[Screen] = []
    while left:
        last = screens[-1] if screens else Screen(-1, (-1,))
        free = _with_most([clip for clip in left if clip[1] != last.methods[0] or methods == 1], 1, left)
        source, method = rng.choice(_with_most([clip for clip in free if clip[0] != last.source] or free, 0, left))
        left.remove((source, method))
        screens.append(Screen(source, (method,)))
    return tuple(screens)


def _with_most(clips: Sequence[tuple[int, int]], of: int, left: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of `clips` whose source (of = 0) or method (1) has the most clips among `left`."""
    count = Counter(clip[of] for clip in left)
    most = max(count[clip[of]] for clip in clips)
    return [clip for clip in clips if count[clip[of]] == most]


def _shuffled(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.sample(range(count), count))
