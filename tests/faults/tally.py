"""Rows of cases as a table. In: rows. Out: Markdown."""

from collections.abc import Sequence
from typing import Any

HEAD = (
    "kind",
    "injected",
    "of them in the real command",
    "film right at once",
    "right exit code, then the film",
    "wrong films",
    "orphans",
    "leaks",
    "other",
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a kind, and the sum. Injected: the fault struck while the command ran."""
    struck = [row for row in rows if row["struck"]]
    kinds = list(dict.fromkeys(row["kind"] for row in sorted(struck, key=lambda row: str(row["kind"]))))
    lines = [_line(kind, [row for row in struck if row["kind"] == kind]) for kind in kinds]
    missed = len(rows) - len(struck)
    parts = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *lines, _line("**all**", struck)]
    return "\n".join([*parts, "", f"{missed} more faults came when the command was through, or at a call that it never made."])


def _line(kind: str, rows: Sequence[dict[str, Any]]) -> str:
    at_once = sum(row["code"] == 0 and not row["problems"] for row in rows)
    later = sum(row["code"] != 0 and not row["problems"] for row in rows)
    found = [" ".join(row["problems"]) for row in rows]
    wrong = sum("film" in problem for problem in found)
    orphans = sum("orphan" in problem for problem in found)
    leaks = sum("left " in problem or "half" in problem for problem in found)
    other = (
        len(rows)
        - at_once
        - later
        - sum(any(word in problem for word in ("film", "orphan", "left ", "half")) for problem in found)
    )
    counts = (len(rows), sum(row["cold"] for row in rows), at_once, later, wrong, orphans, leaks, other)
    return f"| {kind} | " + " | ".join(map(str, counts)) + " |"
