"""What the raters said. In: their files and the study's key. Out: the paper's Table 2, with intervals and comparisons.

Raters differ in how they use a scale, and one rater's answers are no independent draws; so the rater is the unit everywhere. A
method's figure is the mean over raters of each rater's own mean (the plain mean where all rate the same number of clips); its 95 %
interval is Student's t over these means, which stays honest with the handful of raters that a study has, where a bootstrap of so few
is too narrow. It tells how sure the figure is for other raters of these clips, not for other clips.

Two methods are compared within each rater, on sources of which the rater saw both: Wilcoxon's signed-rank test over raters, with
Holm's correction over all pairs and questions. Knows nothing of pages or films.
"""

import csv
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.reading import parse_json, read_text
from musetalk_cli.study import FORMAT, QUESTIONS

LEVEL = 0.95
MOST_METHODS = 100  # all pairs of them are compared; raters bear a handful
SCALE = (1, 5)
KEY_CURE = "give the key.json that was written with the study's page"
RESULT_CURE = "give the files that the page saved, unchanged"


@dataclass(frozen=True, slots=True)
class Mean:
    """low, high: 95 % interval within the scale; None with fewer than two raters."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A method in Table 2."""

    method: str
    raters: int
    ratings: int  # clips rated, each on all three questions
    vq: Mean
    ic: Mean
    lsq: Mean


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods on one question."""

    question: str
    method: str
    other: str
    raters: int  # who rated both
    difference: float  # mean over raters of (method - other), in points of the scale
    preferred: float  # share of (rater, source) in which `method` got more, ties as halves
    p: float | None  # Wilcoxon's, two-sided; None with fewer than two raters
    p_holm: float | None  # the same, corrected for the number of comparisons


@dataclass(frozen=True, slots=True)
class Table:
    study: str
    raters: int
    ratings: int
    rows: tuple[Row, ...]  # best lip-sync first
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class Rating(NamedTuple):
    """A clip by a rater. scores: in the order of QUESTIONS."""

    rater: str
    method: str
    source: str
    scores: tuple[int, ...]


class Result(NamedTuple):
    """A rater's file."""

    path: Path
    rater: str
    saved: str  # ISO 8601, UTC
    asked: int
    ratings: tuple[Rating, ...]


class Key(NamedTuple):
    study: str
    methods: tuple[str, ...]
    clips: Mapping[str, tuple[str, str]]  # blind name -> method, source


def tally(results: Sequence[Path], key: Path) -> Table:
    """Table 2 of the raters' files. A rater who saved more than once counts once, by the last file; an unfinished file counts for what
    is in it; both with a warning. Raises UsageError for files of another study and where there is none, InputError for damaged ones.
    """
    known = _read_key(key)
    if not results:
        raise UsageError("no results", "give the files that the raters saved")
    files, warnings = _one_a_rater([_read_result(path, known) for path in results])
    warnings += [
        f"{one.path}: unfinished, {len(one.ratings)} of {one.asked} clips" for one in files if len(one.ratings) < one.asked
    ]
    ratings = [rating for file in files for rating in file.ratings]
    rows = [_row(method, [rating for rating in ratings if rating.method == method]) for method in known.methods]
    warnings += [f"{row.method}: nobody rated it" for row in rows if not row.ratings]
    rated = sorted((row for row in rows if row.ratings), key=lambda row: -row.lsq.mean)
    pairs = itertools.combinations([row.method for row in rated], 2)
    compared = [found for pair in pairs for found in _compared(ratings, *pair)]
    compared = [replace(one, p_holm=p) for one, p in zip(compared, holm([one.p for one in compared]), strict=True)]
    return Table(
        known.study,
        len({one.rater for one in files if one.ratings}),
        len(ratings),
        tuple(rated),
        tuple(compared),
        tuple(warnings),
    )


def table_lines(table: Table) -> list[str]:
    """For a terminal: Table 2, the comparisons, what the intervals are."""
    heads = ["method", *(f"{question}↑" for question in QUESTIONS), "ratings", "raters"]
    lines = [
        [row.method, *(_interval(mean) for mean in (row.vq, row.ic, row.lsq)), str(row.ratings), str(row.raters)]
        for row in table.rows
    ]
    notes = ["", "mean over raters [95 % interval, Student's t over raters], 1 bad to 5 excellent"]
    return [
        *_aligned([heads, *lines], words=1),
        *notes,
        *_comparison_lines(table),
        *(f"warning: {text}" for text in table.warnings),
    ]


def as_csv(table: Table) -> str:
    """A line a method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *(f"{q}{end}" for q in QUESTIONS for end in ("", "_low", "_high")), "ratings", "raters"])
    for row in table.rows:
        figures = [value for mean in (row.vq, row.ic, row.lsq) for value in (mean.mean, mean.low, mean.high)]
        writer.writerow([row.method, *("" if value is None else repr(value) for value in figures), row.ratings, row.raters])
    return text.getvalue()


def _read_key(path: Path) -> Key:
    told = _object(path, KEY_CURE)
    try:
        _check_format(path, told)
        clips = {name: (clip["method"], clip["source"]) for name, clip in told["clips"].items()}
        if not all(type(one) is str for one in itertools.chain(*clips.values(), told["methods"])):
            raise TypeError("a name is no text")
        if len(told["methods"]) > MOST_METHODS or len(set(told["methods"])) < len(told["methods"]):
            raise TypeError("methods come twice, or are too many")
        return Key(told["study"], tuple(told["methods"]), clips)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no key of a study", KEY_CURE) from error


def _read_result(path: Path, key: Key) -> Result:
    """A clip of which one of the three answers is missing is not counted."""
    told = _object(path, RESULT_CURE)
    try:
        _check_format(path, told)
        if told["study"] != key.study:
            raise UsageError(
                f"{path}: of study {told['study']}, and the key is of {key.study}", "give files and key of one study"
            )
        rater = " ".join(str(told["rater"]).split()).casefold()
        ratings = [_rating(rater, given, key) for given in told["ratings"] if all(question in given for question in QUESTIONS)]
        result = Result(path, rater, str(told["saved"]), int(told["asked"]), tuple(ratings))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: no ratings of a study ({error})", RESULT_CURE) from error
    if len({(rating.method, rating.source) for rating in ratings}) < len(ratings):
        raise InputError(f"{path}: a clip is rated twice", RESULT_CURE)
    return result


def _rating(rater: str, given: Mapping[str, Any], key: Key) -> Rating:
    if given["clip"] not in key.clips:
        raise ValueError(f"no clip {given['clip']} in the key")
    scores = tuple(given[question] for question in QUESTIONS)
    if not all(type(score) is int and SCALE[0] <= score <= SCALE[1] for score in scores):
        raise ValueError(f"scores {scores}")
    return Rating(rater, *key.clips[given["clip"]], scores)


def _object(path: Path, cure: str) -> dict[str, Any]:
    try:
        told = parse_json(read_text(path, encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file", cure) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON", cure) from error
    if not isinstance(told, dict):
        raise InputError(f"{path}: no object", cure)
    return told


def _check_format(path: Path, told: Mapping[str, Any]) -> None:
    if told["format"] != FORMAT:
        raise InputError(
            f"{path}: format {told['format']}, and this version reads {FORMAT}", "use the version that made the study"
        )


def _one_a_rater(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    by_rater: dict[str, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.saved):
        by_rater[result.rater].append(result)
    warnings = [
        f"{old.path}: {same[-1].path.name} is of the same rater and later; this one is not counted"
        for same in by_rater.values()
        for old in same[:-1]
    ]
    return [same[-1] for same in by_rater.values()], warnings


def _row(method: str, ratings: Sequence[Rating]) -> Row:
    by_rater: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for rating in ratings:
        by_rater[rating.rater].append(rating.scores)
    means = [np.mean(scores, axis=0) for scores in by_rater.values()]
    vq, ic, lsq = (_mean([float(mean[number]) for mean in means]) for number in range(len(QUESTIONS)))
    return Row(method, len(means), len(ratings), vq, ic, lsq)


def _mean(values: Sequence[float]) -> Mean:
    """Of one figure a rater."""
    if len(values) < 2:
        return Mean(values[0] if values else math.nan, None, None)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return Mean(mean, max(mean - reach, SCALE[0]), min(mean + reach, SCALE[1]))


def _compared(ratings: Sequence[Rating], method: str, other: str) -> list[Comparison]:
    """Each question, over the sources of which a rater saw both; none where nobody saw both of one."""
    scores = {(rating.rater, rating.source, rating.method): np.asarray(rating.scores) for rating in ratings}
    apart: dict[str, list[Any]] = defaultdict(list)
    for rater, source, shown in scores:
        if shown == method and (rater, source, other) in scores:
            apart[rater].append(scores[rater, source, method] - scores[rater, source, other])
    if not apart:
        return []
    a_rater = np.stack([np.mean(found, axis=0) for found in apart.values()])  # (raters, questions)
    a_source = np.concatenate([np.stack(found) for found in apart.values()])  # (rater and source, questions)
    preferred = ((np.sign(a_source) + 1) / 2).mean(0)
    return [
        Comparison(
            question,
            method,
            other,
            len(a_rater),
            float(a_rater[:, n].mean()),
            float(preferred[n]),
            _wilcoxon(a_rater[:, n]),
            None,
        )
        for n, question in enumerate(QUESTIONS)
    ]


def _wilcoxon(differences: Any) -> float | None:
    """Two-sided p. Raters without a difference do not count, as Wilcoxon had it; where nobody has one, 1."""
    if len(differences) < 2:
        return None
    some = differences[differences != 0]
    return float(stats.wilcoxon(some).pvalue) if len(some) else 1.0


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm 1979: the k-th smallest of m is multiplied by m - k + 1, and none falls below the one before. None stays and is no test."""
    ranked = sorted((value, n) for n, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    least = 0.0
    for rank, (value, n) in enumerate(ranked):
        corrected[n] = least = max(least, min(value * (len(ranked) - rank), 1.0))
    return corrected


def _comparison_lines(table: Table) -> list[str]:
    if not table.comparisons:
        return []
    heads = ["", "method", "against", "difference", "preferred", "p (Holm)", "raters"]
    lines = [
        [
            one.question,
            one.method,
            one.other,
            f"{one.difference:+.2f}",
            f"{one.preferred:.0%}",
            "-" if one.p_holm is None else f"{one.p_holm:.3f}",
            str(one.raters),
        ]
        for one in table.comparisons
    ]
    note = "within raters; preferred: share of scenes, ties as halves; p: Wilcoxon's signed ranks over raters, Holm-corrected"
    return ["", *_aligned([heads, *lines], words=3), "", note]


def _interval(mean: Mean) -> str:
    around = "" if mean.low is None or mean.high is None else f" [{mean.low:.2f}, {mean.high:.2f}]"
    return f"{mean.mean:.2f}{around}"


def _aligned(lines: Sequence[Sequence[str]], *, words: int) -> list[str]:
    """words: columns from the left that are set left; the others are figures."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if n < words else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
