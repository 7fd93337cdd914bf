"""Which seconds of a film are measured. In: the stretches in which mouths are generated, and how many seconds may be. Out: Spans.

Evenly over the film, in windows that are long enough for lips and voice to be compared. Rules over numbers; knows nothing of films.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

LEAST_S = 5.0  # of a window where the stretch has as much: in less, lips and voice agree by chance


class Span(NamedTuple):
    """Frames [start, stop) of a track of a shot."""

    shot: int
    track: int
    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


def sampled(spans: Sequence[Span], fps: float, seconds: float | None) -> list[Span]:
    """All of them where they are not longer than that together, or None; else windows of LEAST_S and more, evenly over all there is.

    At least one is taken. The same spans give the same windows.
    """
    if seconds is None or sum(span.frames for span in spans) <= seconds * fps:
        return list(spans)
    windows = [window for span in spans for window in _cut(span, round(LEAST_S * fps))]
    total, wanted = sum(window.frames for window in windows), seconds * fps
    taken: list[Span] = []
    measured = passed = 0
    for window in windows:
        due = wanted * (passed + window.frames / 2) / total  # frames that should have been measured by the middle of this one
        if measured <= due and measured + window.frames <= max(wanted, windows[0].frames):
            taken.append(window)
            measured += window.frames
        passed += window.frames
    return taken or windows[:1]


def _cut(span: Span, least: int) -> Iterator[Span]:
    """As many windows as fit, each at least that long; a shorter span is one."""
    parts = max(span.frames // max(least, 1), 1)
    edges = [span.start + span.frames * part // parts for part in range(parts + 1)]
    for start, stop in pairwise(edges):
        yield span._replace(start=start, stop=stop)
