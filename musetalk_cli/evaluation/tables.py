"""Figures as people and programs read them. In: what was measured of each pair by each system. Out: a table, JSON, CSV.

Knows nothing of how anything is measured. A figure that could not be measured is None, and a dash in a table; it is never 0.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

Better = Literal["higher", "lower", ""]  # "": neither, a control or a share


@dataclass(frozen=True, slots=True)
class Metric:
    """A column. name: the standard one only where the standard's own weights measured it."""

    name: str
    better: Better
    digits: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Row:
    """One result."""

    pair: str
    film: str
    voice: str
    seconds: float
    figures: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class System:
    """What one system made of all pairs. totals: means over the pairs, but for figures of a whole set, such as FID."""

    name: str
    rows: tuple[Row, ...]
    totals: dict[str, float | None]
    missing: tuple[str, ...] = ()  # pairs of which it has no result


@dataclass(frozen=True, slots=True)
class Weight:
    """A file that judged."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that one run of `musetalk evaluate` found."""

    protocol: str
    tool: str
    seed: int
    metrics: tuple[Metric, ...]
    systems: tuple[System, ...]
    weights: tuple[Weight, ...]
    versions: dict[str, str]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class Cited(NamedTuple):
    """A published row; not measured here."""

    method: str
    fid: float
    csim: float
    lse_c: float


CITATION = (
    "Zhang et al., MuseTalk, arXiv 2410.10122v3, Table 1: FID, CSIM, LSE-C by the standard weights; cited, not measured here"
)
CITED: Mapping[str, tuple[Cited, ...]] = {
    "HDTF": (
        Cited("Wav2Lip", 11.55, 0.84, 7.42),
        Cited("VideoReTalking", 11.29, 0.80, 7.59),
        Cited("DINet", 6.94, 0.80, 5.96),
        Cited("IP-LAP", 10.16, 0.86, 4.47),
        Cited("LatentSync", 8.41, 0.84, 7.90),
        Cited("SyncLab", 10.85, 0.86, 6.37),
        Cited("MuseTalk", 6.52, 0.86, 6.53),
        Cited("ground truth", 0.0, 1.0, 7.73),
    ),
    "VFHQ": (
        Cited("Wav2Lip", 14.99, 0.82, 5.84),
        Cited("VideoReTalking", 15.83, 0.79, 6.13),
        Cited("DINet", 15.03, 0.71, 3.37),
        Cited("IP-LAP", 10.95, 0.85, 3.88),
        Cited("LatentSync", 9.89, 0.82, 6.79),
        Cited("SyncLab", 9.85, 0.85, 5.22),
        Cited("MuseTalk", 7.07, 0.85, 4.77),
        Cited("ground truth", 0.0, 1.0, 6.93),
    ),
}


def mean_of(values: Sequence[float | None]) -> float | None:
    """Of those that were measured; None where none was."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def totals_of(rows: Sequence[Row], metrics: Sequence[Metric], whole: Mapping[str, float | None]) -> dict[str, float | None]:
    """whole: figures that are of the set and not means."""
    means = {metric.name: mean_of([row.figures.get(metric.name) for row in rows]) for metric in metrics}
    return means | dict(whole)


def table(found: Evaluation, *, per_pair: bool) -> list[str]:
    """Lines for a terminal, the systems one below the other."""
    heads = ["system", "pair", "n", *(f"{metric.name}{ARROW[metric.better]}" for metric in found.metrics)]
    lines = []
    for system in found.systems:
        if per_pair:
            lines += [[system.name, row.pair, "1", *_cells(row.figures, found.metrics)] for row in system.rows]
        lines.append([system.name, "all", str(len(system.rows)), *_cells(system.totals, found.metrics)])
    return [*_aligned([heads, *lines]), *_footnotes(found)]


def cited_lines() -> list[str]:
    """The paper's Table 1."""
    lines = [["data", "method", "FID↓", "CSIM↑", "LSE-C↑"]]
    lines += [
        [data, row.method, f"{row.fid:.2f}", f"{row.csim:.2f}", f"{row.lse_c:.2f}"]
        for data, rows in CITED.items()
        for row in rows
    ]
    return [CITATION, *_aligned(lines)]


def as_csv(found: Evaluation) -> str:
    """One line a system and pair, and one a system with `all` for a pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [metric.name for metric in found.metrics]
    writer.writerow(["system", "pair", "film", "voice", "seconds", *names])
    for system in found.systems:
        for row in system.rows:
            writer.writerow([system.name, row.pair, row.film, row.voice, row.seconds, *_raw(row.figures, names)])
        writer.writerow([system.name, "all", "", "", "", *_raw(system.totals, names)])
    return text.getvalue()


ARROW: Mapping[Better, str] = {"higher": "↑", "lower": "↓", "": ""}


def _raw(figures: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
    return ["" if (value := figures.get(name)) is None else repr(value) for name in names]


def _cells(figures: Mapping[str, float | None], metrics: Sequence[Metric]) -> list[str]:
    return ["-" if (value := figures.get(metric.name)) is None else f"{value:.{metric.digits}f}" for metric in metrics]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    words = {column for column in range(len(widths)) if not any(_is_number(line[column]) for line in lines[1:])}
    return [
        "  ".join(
            cell.ljust(width) if n in words else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _is_number(cell: str) -> bool:
    return cell.lstrip("-").replace(".", "", 1).isdigit()


def _footnotes(found: Evaluation) -> list[str]:
    notes = [f"{metric.name}: {metric.meaning}" for metric in found.metrics]
    notes += [f"{system.name}: no result for {', '.join(system.missing)}" for system in found.systems if system.missing]
    return ["", f"protocol {found.protocol}, seed {found.seed}, {found.tool}", *notes]
