"""`python -m tests.faults`: a campaign of injected faults over a small film, each case of it repeatable by its seed and number."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.campaign import Campaign, Starts
from faults.cases import KINDS
from faults.tally import table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, default=None, help="this one alone, and its folders are kept under --folder")
    parser.add_argument("--each", type=int, default=0, help="so many of each kind, instead of --count by their weights")
    parser.add_argument("--kind", action="append", default=[], help=f"of this kind alone; may be repeated: {', '.join(KINDS)}")
    parser.add_argument("--warm", action="store_true", help="no run as a user starts it, which takes four seconds more")
    parser.add_argument("--cold", action="store_true", help="every run with a fault as a user starts it, where its kind allows")
    parser.add_argument("--folder", type=Path, default=None, help="where the cases are played; default: a temporary one")
    parser.add_argument("--rows", type=Path, default=None, help="JSON lines, appended to; cases that are there are not run again")
    parser.add_argument("--table", action="store_true", help="only print the table of --rows")
    asked = parser.parse_args()
    if asked.table:
        print(table([json.loads(line) for line in asked.rows.read_text().splitlines()]))
        return 0
    with TemporaryDirectory(prefix="faults-") as name:
        starts: Starts = "warm" if asked.warm else "cold" if asked.cold else "mixed"
        campaign = Campaign(
            (asked.folder or Path(name)).absolute(), asked.seed, asked.kind or list(KINDS), asked.each, starts=starts
        )
        rows = campaign.run(
            [asked.case] if asked.case is not None else range(asked.count), asked.rows, keep=asked.case is not None
        )
    print(table(rows))
    return 1 if any(row["problems"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
