"""Figures of a Bench as a picture. In: Benches. Out: one SVG file. Knows how nothing was measured."""

import re
from collections.abc import Sequence
from pathlib import Path

from musetalk_cli.bench.measure import Bench
from musetalk_cli.charts import Bar, bars

GAP_PX = 26
TITLE_PX = 20


def write_plot(path: Path, found: Sequence[Bench]) -> None:
    """Seconds of each stage, and of each kind of work where it was measured; each Bench under its name."""
    y, drawn = 0, list[str]()
    for one in found:
        about = f"{one.model}, {one.precision} on {one.device}: {one.times:.2f} times real time"
        charts = [(f"seconds of each stage, {about}", [Bar(stage.stage, stage.seconds) for stage in one.stages])]
        if one.shares is not None:
            kinds = [Bar(kind, seconds) for kind, seconds in one.shares.seconds.items()]
            charts.append((f"wall seconds by kind of work, {one.model}", kinds))
        for title, rows in charts:
            chart = bars(rows, label=title, told=lambda value: f"{value:.2f} s")
            height = _height(chart)
            drawn.append(f'<text y="{y + 14}" font-size="13" font-weight="600" fill="currentColor">{title}</text>')
            drawn.append(f'<svg y="{y + TITLE_PX}" width="100%" height="{height}">{chart}</svg>')
            y += TITLE_PX + height + GAP_PX
    head = f'xmlns="http://www.w3.org/2000/svg" width="100%" height="{y}" font-family="system-ui, sans-serif"'
    part = path.with_name(f"part.{path.name}")
    part.write_text(f"<svg {head}>{''.join(drawn)}</svg>\n", encoding="utf-8")
    part.replace(path)


def _height(chart: str) -> int:
    found = re.search(r'height="(\d+)"', chart)
    assert found is not None
    return int(found[1])
