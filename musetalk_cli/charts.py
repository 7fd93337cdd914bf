"""Plots as SVG, for pages and as files. In: numbers. Out: one <svg> element, no scripts and nothing from outside.

As wide as there is room: curves are stretched, letters and lines are not. Colours are seen on white and on dark alike, letters take the
colour of the text around; no two lines differ by colour alone. Knows nothing of what the numbers mean, but for those of a training run.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

METRICS_FILE = "metrics.jsonl"  # of a training run
# Luminance 0.15 to 0.3: contrast of 3:1 or more with white and with #212121.
GREY, BLUE, ORANGE, GREEN, PURPLE, RED = "#808080", "#3b82c4", "#c8701a", "#2f9159", "#9b6bc9", "#d9534f"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
DASHES = ("", "6 4", "2 3", "8 3 2 3", "1 2", "12 4")
WIDE, HIGH = 1000, 100  # of a plot's own grid, before it is stretched
POINTS = 500  # of a line, at most two each: more than a screen shows
LINE_PX, FOOT_PX, TICK_PX = 18, 20, 12  # a line of the legend; room below for times; letters
LEGEND_LETTERS = 46  # in a line, for a window of 390 px
LOG_FROM = 30.0  # times the least: a loss that falls so far is read on a logarithmic scale
BAR_PX = 36
PANEL_PX, GAP_PX = 180, 14  # of a training run's figures
STEPS = (5, 2, 1)  # of a scale, times a power of ten

Values = Sequence[float | None]


class Line(NamedTuple):
    """A curve. y: None where there is nothing."""

    name: str
    x: Sequence[float]
    y: Values
    colour: str = BLUE
    dash: str = ""
    width: float = 1.6
    filled: bool = False  # down to the bottom, pale, and by its own scale: its most is the plot's top


class Bar(NamedTuple):
    """error: half of what the whisker spans."""

    name: str
    value: float
    error: float | None = None


class Scale(NamedTuple):
    """Values to 0..1."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        if self.log:
            return (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Two to five round numbers."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            within = [10.0**n for n in powers if self.low <= 10.0**n <= self.high]
            return within if len(within) > 1 else [self.low, self.high]
        reach = self.high - self.low
        power = 10.0 ** math.floor(math.log10(reach / 2))
        step = power * next(by for by in STEPS if reach / (power * by) >= 2 or by == STEPS[-1])
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]


def lines(
    curves: Sequence[Line],
    *,
    label: str,
    x_told: Callable[[float], str] = lambda x: f"{x:.4g}",
    height: int = 200,
    from_zero: bool = False,
    marked: Sequence[tuple[float, float]] = (),
    title: str = "",
) -> str:
    """Curves over one axis. label: of the picture, for those who do not see it. marked: stretches of x with a tint. height: px.

    A logarithmic scale where the values span a factor of 30 and more, unless `from_zero`."""
    across = _scale([x for curve in curves for x in curve.x])
    down = _scale([y for curve in curves if not curve.filled for y in _known(curve.y)], from_zero=from_zero, log=not from_zero)
    legend = _legend(curves)
    top = LINE_PX * (len(legend) + bool(title)) + 4
    inner = height - top - FOOT_PX
    drawn = [_tint(a, b, across) for a, b in marked]
    drawn += [_path(curve, across, _scale(_known(curve.y), from_zero=True) if curve.filled else down) for curve in curves]
    heads = ([f'<tspan font-weight="600">{escape(title)}</tspan>'] if title else []) + legend
    parts = [
        *(f'<text y="{13 + LINE_PX * n}" {TEXT}>{line}</text>' for n, line in enumerate(heads)),
        *_rules(down, top, inner),
        f'<svg y="{top}" width="100%" height="{inner}" viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none">',
        *drawn,
        "</svg>",
        *_numbers(down, top, inner),
        *_foot(across, height, x_told),
    ]
    return _svg("".join(parts), height, label)


def bars(rows: Sequence[Bar], *, label: str, told: Callable[[float], str] = lambda value: f"{value:.4g}") -> str:
    """A bar for each row under its name; from zero, to either side. Whiskers show `error`."""
    ends = [0.0, *(row.value + sign * (row.error or 0) for row in rows for sign in (-1, 1))]
    scale = _scale(ends, from_zero=True)
    drawn = [_bar(row, BAR_PX * number, scale, told) for number, row in enumerate(rows)]
    return _svg("".join(drawn), BAR_PX * max(len(rows), 1), label)


def loss_curves(metrics: Path) -> str:
    """What a training run logged, a plot for each figure, training and validation in one. metrics: metrics.jsonl, or the run's folder.

    A last line that is still being written is left out. Raises OSError where the file is not there."""
    path = metrics / METRICS_FILE if metrics.is_dir() else metrics
    plots = list(_panels(list(_records(path.read_text(encoding="utf-8").splitlines()))))
    placed = [f'<svg y="{n * (PANEL_PX + GAP_PX)}" width="100%" height="{PANEL_PX}">{plot}</svg>' for n, plot in enumerate(plots)]
    return _svg("".join(placed), max(len(plots) * (PANEL_PX + GAP_PX) - GAP_PX, 1), f"{len(plots)} figures of a training run")


TEXT = f'font-size="{TICK_PX}" fill="currentColor"'


def _svg(inside: str, height: int, label: str) -> str:
    head = f'class="plot" xmlns="http://www.w3.org/2000/svg" width="100%" height="{height}" font-family="system-ui, sans-serif"'
    return f'<svg {head} role="img" aria-label="{escape(label)}">{inside}</svg>'


def _records(logged: Iterable[str]) -> Iterator[dict[str, float | None]]:
    for line in logged:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _panels(records: Sequence[dict[str, float | None]]) -> Iterator[str]:
    """By figure: `loss/l1` and `val/l1` are two lines of one plot."""
    names = list(dict.fromkeys(name for record in records for name in record if name != "step"))
    for figure in dict.fromkeys(name.rpartition("/")[2] for name in names):
        alike = [name for name in names if name.rpartition("/")[2] == figure]
        curves = [_logged(records, name, COLOURS[n % len(COLOURS)], DASHES[n % len(DASHES)]) for n, name in enumerate(alike)]
        last = [f"{curve.name} {_known(curve.y)[-1]:.4g}" for curve in curves if _known(curve.y)]
        yield lines(curves, label=f"{figure} by step; at last {', '.join(last)}", height=PANEL_PX, title=figure)


def _logged(records: Sequence[dict[str, float | None]], name: str, colour: str, dash: str) -> Line:
    known = [(step, record[name]) for record in records if name in record and (step := record.get("step")) is not None]
    return Line(name, [step for step, _ in known], [value for _, value in known], colour, dash)


def _known(values: Values) -> list[float]:
    return [value for value in values if value is not None]


def _scale(values: Sequence[float], *, from_zero: bool = False, log: bool = False) -> Scale:
    """log: where the values ask for it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if not high > low:
        return Scale(low, low + 1)
    return Scale(low, high, log=log and low > 0 and high / low >= LOG_FROM)


def _path(curve: Line, across: Scale, down: Scale) -> str:
    pieces = list(_pieces(curve, across, down))
    if curve.filled:
        d = "".join(f"M{piece[0][0]:g} {HIGH}L{_points(piece)}L{piece[-1][0]:g} {HIGH}Z" for piece in pieces)
        return f'<path d="{d}" fill="{curve.colour}" fill-opacity=".3"/>'
    d = "".join(f"M{_points(piece)}" for piece in pieces)
    dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
    return (
        f'<path d="{d}" fill="none" stroke="{curve.colour}" stroke-width="{curve.width}"{dash} '
        'stroke-linejoin="round" stroke-linecap="round" vector-effect="non-scaling-stroke"/>'
    )


def _points(piece: Sequence[tuple[float, float]]) -> str:
    """A point alone is a line of no length, which round caps make a dot."""
    return " ".join(f"{x:g} {y:g}" for x, y in (piece if len(piece) > 1 else [*piece, *piece]))


def _pieces(curve: Line, across: Scale, down: Scale) -> Iterator[list[tuple[float, float]]]:
    """Points of the grid between gaps."""
    run: list[tuple[float, float]] = []
    for x, y in [*thinned(curve.x, curve.y, POINTS), (0.0, None)]:
        if y is not None:
            run.append((round(WIDE * across.share(x), 1), round(HIGH * (1 - down.share(y)), 1)))
        elif run:
            yield run
            run = []


def thinned(x: Sequence[float], y: Values, steps: int) -> list[tuple[float, float | None]]:
    """At most two points a step, its least and its most in their order, so that no peak is lost; a step without a value stays a gap."""
    if len(x) <= 2 * steps:
        return list(zip(x, y, strict=True))
    found: list[tuple[float, float | None]] = []
    for step in range(steps):
        part = range(step * len(x) // steps, (step + 1) * len(x) // steps)
        known = [(value, n) for n in part if (value := y[n]) is not None]
        places = sorted({min(known)[1], max(known)[1]}) if known else [part[0]]
        found += [(x[n], y[n]) for n in places]
    return found


def _legend(curves: Sequence[Line]) -> list[str]:
    """Lines of text; each name after a sample of its curve."""
    rows: list[tuple[int, str]] = []
    for curve in curves:
        sample = "■" if curve.filled else ("- -" if curve.dash else "—")
        part = f'<tspan fill="{curve.colour}" font-weight="700">{sample}</tspan> {escape(curve.name)}'
        letters = len(curve.name) + 6
        if rows and rows[-1][0] + letters <= LEGEND_LETTERS:
            rows[-1] = (rows[-1][0] + letters, f"{rows[-1][1]} &#160; {part}")
        else:
            rows.append((letters, part))
    return [text for _, text in rows]


def _rules(down: Scale, top: int, inner: int) -> Iterator[str]:
    for tick in down.ticks():
        y = top + inner * (1 - down.share(tick))
        yield f'<line x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" stroke-opacity=".18"/>'


def _numbers(down: Scale, top: int, inner: int) -> Iterator[str]:
    """Of the rules, within the plot: beside it their room would be as wide as the widest."""
    for tick in down.ticks():
        y = max(top + inner * (1 - down.share(tick)) - 3, top + 10)
        yield f'<text x="2" y="{y:.1f}" font-size="11" fill="currentColor" fill-opacity=".85">{tick:.4g}</text>'


def _foot(across: Scale, height: int, told: Callable[[float], str]) -> Iterator[str]:
    for n, anchor in enumerate(("start", "middle", "middle", "middle", "end")):
        text = escape(told(across.low + (across.high - across.low) * n / 4))
        yield f'<text x="{25 * n}%" y="{height - 5}" text-anchor="{anchor}" font-size="11" fill="currentColor">{text}</text>'


def _tint(start: float, stop: float, across: Scale) -> str:
    a, b = (WIDE * min(max(across.share(x), 0), 1) for x in (start, stop))
    return f'<rect x="{a:.1f}" width="{max(b - a, 2):.1f}" height="{HIGH}" fill="{RED}" fill-opacity=".16"/>'


def _bar(row: Bar, y: int, scale: Scale, told: Callable[[float], str]) -> str:
    zero, end = (100 * scale.share(value) for value in (0.0, row.value))
    left, width = min(zero, end), max(abs(end - zero), 0.3)
    spread, whisker = "", ""
    if row.error is not None:
        a, b = (100 * scale.share(row.value + sign * row.error) for sign in (-1, 1))
        spread = f" ± {told(row.error)}"
        whisker = f'<line x1="{a:.2f}%" x2="{b:.2f}%" y1="{y + 25}" y2="{y + 25}" stroke="currentColor" stroke-width="2"/>'
    return (
        f'<text y="{y + 14}" {TEXT}>{escape(row.name)}</text>'
        f'<text x="100%" y="{y + 14}" text-anchor="end" {TEXT}>{escape(told(row.value) + spread)}</text>'
        f'<rect x="{left:.2f}%" y="{y + 20}" width="{width:.2f}%" height="10" rx="2" fill="{BLUE}"/>{whisker}'
    )
