"""`python -m tests.fuzz parsers|media`: broken and hostile files, each repeatable by its seed and number."""

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests name each other without their folder

STEP = 5_000  # cases between two lines of progress


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=("parsers", "media"))
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=1, help="media: children at once")
    parser.add_argument("--save", type=Path, default=None, help="findings go there, and how far it got: the same command goes on")
    parser.add_argument("--target", action="append", default=[], help="parsers: this one alone; may be repeated")
    asked = parser.parse_args()
    found = parsers(asked) if asked.what == "parsers" else media(asked)
    return 1 if found else 0


def parsers(asked: argparse.Namespace) -> int:
    """How many findings."""
    from fuzz.parsers import targets
    from fuzz.run_parsers import cases

    with TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        chosen = [target for target in targets(Path(name)) if not asked.target or target.name in asked.target]
        saved, kinds, began = _Saved(asked.save, f"parsers-{asked.seed}"), Counter[str](), time.monotonic()
        start = first = max(asked.start, saved.reached)
        while start < asked.start + asked.cases:
            stop = min(start + STEP, asked.start + asked.cases)
            for one in cases(chosen, asked.seed, start, stop):
                kinds[f"{one.target}: {one.what.split(':')[0]} at {one.where}"] += 1
                saved.keep(one.number, one.data, {**one._asdict(), "data": len(one.data)})
            saved.reach(stop)
            rate = (stop - first) / (time.monotonic() - began)
            print(f"{stop} cases, {rate:.0f} a second, {kinds.total()} findings of {len(kinds)} kinds", flush=True)
            start = stop
    return _summed(asked, kinds)


def media(asked: argparse.Namespace) -> int:
    """How many findings."""
    from fuzz.media import corpus
    from fuzz.run_media import cases

    with TemporaryDirectory(prefix="fuzz-") as name:
        seeds = corpus(Path(name))
        saved, kinds, began = _Saved(asked.save, f"media-{asked.seed}"), Counter[str](), time.monotonic()
        first = max(asked.start, saved.reached)
        for done, one in cases(seeds, asked.seed, first, asked.start + asked.cases, asked.jobs, Path(name)):
            if one is not None:
                kinds[one.what[:90]] += 1
                saved.keep(one.number, one.data, {**one._asdict(), "data": len(one.data)})
                print(f"finding: {one.number} {one.name}: {one.what}", flush=True)
            saved.reach(done)
            if done % 100 == 0:
                rate = (done - first) / (time.monotonic() - began)
                print(f"{done} cases, {rate:.1f} a second, {kinds.total()} findings of {len(kinds)} kinds", flush=True)
    return _summed(asked, kinds)


def _summed(asked: argparse.Namespace, kinds: Counter[str]) -> int:
    """How many findings of this run; those of earlier ones lie saved."""
    for kind, count in kinds.most_common():
        print(f"{count:6} {kind}")
    print(f"all {asked.cases} cases are through: {kinds.total()} findings of {len(kinds)} kinds")
    return kinds.total()


class _Saved:
    """Findings as files, and a number: what is behind us."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder, self._name = folder, name
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def reached(self) -> int:
        path = self._folder / f"{self._name}.reached" if self._folder else None
        return int(path.read_text()) if path is not None and path.exists() else 0

    def reach(self, number: int) -> None:
        if self._folder is not None:
            part = self._folder / f"{self._name}.part"
            part.write_text(str(number))
            part.replace(self._folder / f"{self._name}.reached")

    def keep(self, number: int, data: bytes, told: dict[str, object]) -> None:
        digest = hashlib.sha256(data).hexdigest()[:12]
        if self._folder is None:
            print(json.dumps(told), flush=True)
            return
        (self._folder / f"{self._name}-{number}-{digest}.bin").write_bytes(data)
        with (self._folder / f"{self._name}.findings.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
