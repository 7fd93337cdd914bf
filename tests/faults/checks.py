"""What a run left behind. In: the folders of a case. Out: what is wrong with them, in words; nothing, where all is well.

It knows the work folder's format from its documentation, and uses none of its code.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EARLIER = b"the film of an earlier day"
ASIDE = {"run.jsonl", "lock", "holder", "tmp", "workers", "claims", "store.url", "plan.json"}  # in a work folder, beside stages


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of a case, all of them its own."""

    root: Path
    in_cache: bool

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def output(self) -> Path:
        return self.out / "film.fr.mp4"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def data(self) -> Path:
        """What outlives a run: who signs, and what was signed."""
        return self.root / "data"

    @property
    def works(self) -> list[Path]:
        """Work folders: one, or none."""
        if not self.in_cache:
            return [self.root / "work"] if (self.root / "work").is_dir() else []
        return sorted(path for path in self.cache.glob("musetalk/*") if path.is_dir() and not path.name.startswith("."))


def films(place: Place, whole: bytes, *, earlier: bool) -> Iterator[str]:
    """The output: absent or whole; or the earlier one, untouched."""
    if not place.output.exists():
        if earlier:
            yield "the earlier output is gone"
        return
    found = place.output.read_bytes()
    if found != whole and not (earlier and found == EARLIER):
        yield f"wrong film: {len(found)} bytes, should be {len(whole)}"


def reports(place: Place) -> Iterator[str]:
    for path in place.out.glob("*.report.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            yield f"{path.name} is half written"
    for path in place.out.glob("*.report.html"):
        if not path.read_text().rstrip().endswith("</html>"):
            yield f"{path.name} is half written"


def leaks(place: Place) -> Iterator[str]:
    """Files that nobody asked for: beside the output, in TMPDIR, at home, halves in the work folder."""
    kept = {"film.fr.mp4", "film.fr.report.html", "film.fr.report.json"}
    yield from (f"left beside the output: {path.name}" for path in place.out.iterdir() if path.name not in kept)
    yield from (f"left in TMPDIR: {path.name}" for path in place.tmp.iterdir())
    yield from (f"left at home: {path.relative_to(place.root)}" for path in (place.root / "home").rglob("*"))
    for path in place.data.rglob("*"):
        if path.name.startswith(".") and path.name != ".lock":
            yield f"left among the data: {path.relative_to(place.data)}"
    for work in place.works:
        halves = [path for path in (work / "tmp").rglob("*") if path.is_file()]
        yield from (f"left half: {path.relative_to(work)}" for path in halves)
        if (work / "holder").exists():
            yield "left in the work folder: holder"
    yield from (f"left in the cache: {path.name}" for path in place.cache.glob("musetalk/.*"))


def results(place: Place) -> Iterator[str]:
    """Every result in the work folder is whole, by the digests that it carries."""
    for work in place.works:
        for folder in (path for path in work.glob("*/*") if path.is_dir() and path.parent.name not in ASIDE):
            if not _is_whole(folder):
                yield f"half a result: {folder.relative_to(work)}"
        strange = [path.name for path in work.iterdir() if path.is_file() and path.name not in ASIDE]
        yield from (f"left in the work folder: {name}" for name in strange)


def _is_whole(folder: Path) -> bool:
    try:
        told = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return False
    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in told["files"].items()
    )


def made_twice(place: Place) -> Iterator[str]:
    """Results that the journal says were finished more than once."""
    for work in place.works:
        lines = (work / "run.jsonl").read_text().splitlines() if (work / "run.jsonl").exists() else []
        done = Counter(f"{event['stage']} {event['unit']}" + event["key"] for event in _events(lines))
        yield from (f"made {count} times: {name}" for name, count in done.items() if count > 1)


def _events(lines: list[str]) -> Iterator[dict[str, str]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut short
        if event["event"] == "stage.done" and not event["reused"]:
            yield event


def unflushed(log: str) -> Iterator[str]:
    """What a power cut could take after it had got its name: files that were renamed, alone or with their folder, with bytes written after
    the last fsync, and names whose folder was never flushed after. log: of shim.c, one call a line."""
    dirty: set[str] = set()
    names: dict[str, str] = {}  # folder -> name
    for call, path, to in (line.split("\t") for line in log.splitlines()):
        if call == "write":
            dirty.add(path)
        elif call == "fsync":
            dirty.discard(path)
            names.pop(path, None)
        elif call == "unlink":
            dirty.discard(path)
            names = {folder: name for folder, name in names.items() if name != path}
        else:
            moved = {name for name in dirty if name == path or name.startswith(f"{path}/")}
            yield from (f"renamed before it was flushed: {name}" for name in sorted(moved))
            dirty = {to + name.removeprefix(path) if name in moved else name for name in dirty}
            names[str(Path(to).parent)] = to
    yield from (f"its name was never flushed: {name}" for name in names.values())


def said(text: str, code: int, *, unheard: bool = False) -> Iterator[str]:
    """An error is told in words, once, and no program's insides are shown. unheard: stderr could not be written either."""
    if "Traceback" in text or "object address" in text:
        yield f"a traceback: {text.strip().splitlines()[-1][:200]}"
    if code > 0 and "musetalk:" not in text and not unheard:
        yield f"exit code {code} without a word"
