"""A few frames of a very film, really dubbed: what a dub of all of it is predicted from. In: excerpts, choices. Out: Probe, as JSON.

python -m musetalk_cli.bench.probe GIVEN.json FOUND.json      in a process of its own, so that starting and loading are measured too

cold   FEW frames, nothing loaded
warm   the same again
long   as many as SECONDS allow, warm: what is more than in `warm` is what frames cost
plain  the same frames decoded and encoded alone: what frames without a face cost
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from musetalk_cli.bench.meter import merge
from musetalk_cli.errors import MusetalkError
from musetalk_cli.jobs import Existing, dub_film
from musetalk_cli.models import free_workers
from musetalk_cli.progress import SHOT_STAGES
from musetalk_cli.report.command import Reports
from musetalk_cli.session import JOURNAL, Place, Voice, as_faults
from musetalk_cli.settings import Choices, choose_runtime, dub_config, for_job
from musetalk_cli.types import DubJob

FEW = 10  # frames of the first two runs
SECONDS = 8.0  # of the long one, about
LONG_S = 12.0  # a run that is not made twice
LEAST, MOST = 20, 75  # frames of it
AT_ONCE = (*SHOT_STAGES, "pick")  # stages that several shots go through at once


@dataclass(frozen=True, slots=True)
class Given:
    """film: excerpts by their frames, each in a file `{frames}{suffix}` of the folder."""

    folder: Path
    suffix: str
    fps: float
    voice: Path
    choices: Choices
    report: bool


class StageCost(NamedTuple):
    """Of one stage in one run: its seconds, the bytes it left; of_shots: it is done shot by shot."""

    seconds: float
    of_shots: bool
    size: int


class Ran(NamedTuple):
    """One run. outside_s: of its wall time in no stage; shots_s: in any that shots go through at once. rows: faces; spoken: those with
    a new mouth."""

    frames: int
    rows: int
    spoken: int
    wall_s: float
    cpu_s: float
    outside_s: float
    shots_s: float
    shots: int
    stages: dict[str, StageCost]


class Probe(NamedTuple):
    """start_s: from the command to its first own line, and from its last to its end. plain_s: to decode and encode one frame. workers:
    shots that a dub works on at once; crowd: of so many, where they are more than one."""

    start_s: float
    cold: Ran
    warm: Ran
    long: Ran
    plain_s: float
    workers: int
    crowd: Ran | None


def main(given: Path, found: Path) -> None:
    """Measure and write, or write what went wrong."""
    entered = time.time()
    told: dict[str, Any]
    try:
        with as_faults():
            told = {"entered": entered, **_measured(_read(json.loads(given.read_text(encoding="utf-8"))))}
    except MusetalkError as error:
        told = {"error": {"exit_code": error.exit_code, "fact": error.fact, "cure": error.cure}}
    found.write_text(json.dumps({**told, "left": time.time()}), encoding="utf-8")


def as_given(given: Given) -> str:
    """For `main`."""
    return json.dumps(asdict(given), default=str)


def ran_of(read: dict[str, Any]) -> Ran:
    """From its JSON."""
    return Ran(**{**read, "stages": {name: StageCost(*cost) for name, cost in read["stages"].items()}})


def _read(read: dict[str, Any]) -> Given:
    chosen = read["choices"]
    choices = Choices(**{**chosen, "weights": None if chosen["weights"] is None else Path(chosen["weights"])})
    return Given(Path(read["folder"]), read["suffix"], read["fps"], Path(read["voice"]), choices, read["report"])


def _measured(given: Given) -> dict[str, Any]:
    every_frame = replace(given, choices=replace(given.choices, silence="closed", copy=False))
    cold = _run(every_frame, FEW)
    warm = _best(every_frame, FEW)
    fitting = sorted(int(path.stem) for path in given.folder.glob(f"*{given.suffix}"))
    wanted = min(max(int(SECONDS * FEW / max(warm.wall_s, 1e-9)), LEAST), MOST)
    frames = max((count for count in fitting if count <= wanted), default=fitting[0])
    found = {"cold": cold, "warm": warm, "long": _best(every_frame, frames)}
    runtime = choose_runtime(given.choices)
    workers = free_workers(dub_config(given.choices, runtime).model, runtime)
    if workers > 1:
        chunk = (ceil(frames / workers) + 0.5) / given.fps
        found["crowd"] = _best(replace(every_frame, choices=replace(every_frame.choices, chunk=chunk)), frames)
    return {**{name: run._asdict() for name, run in found.items()}, "workers": workers, "plain_s": _plain(every_frame, frames)}


def _best(given: Given, frames: int) -> Ran:
    """Of two runs the lesser figures; of one alone where it is long."""
    one = _run(given, frames)
    if one.wall_s > LONG_S:
        return one
    other = _run(given, frames)
    stages = {
        name: cost._replace(seconds=min(cost.seconds, other.stages[name].seconds))
        for name, cost in one.stages.items()
        if name in other.stages
    }
    quick = {name: min(getattr(one, name), getattr(other, name)) for name in ("wall_s", "cpu_s", "outside_s", "shots_s")}
    return one._replace(stages=stages, **quick)


def _run(given: Given, frames: int) -> Ran:
    film = given.folder / f"{frames}{given.suffix}"
    if not film.exists():  # shorter than that: all of it
        film = min(given.folder.glob(f"*{given.suffix}"), key=lambda path: int(path.stem))
    with TemporaryDirectory(prefix="musetalk-probe-") as name:
        work, output = Path(name) / "work", Path(name) / f"out{given.suffix}"
        after = Reports().add if given.report else None
        began, cpu = time.perf_counter(), time.process_time()
        job = DubJob(film, given.voice, output)
        dub_film([job], given.choices, Place(work), Voice(quiet=True), Existing(overwrite=True), after)
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        return _told(work, wall_s, cpu_s)


def _told(work: Path, wall_s: float, cpu_s: float) -> Ran:
    events = [json.loads(line) for line in (work / JOURNAL).read_text(encoding="utf-8").splitlines()]
    begun: dict[tuple[str, str], float] = {}
    spent: dict[str, float] = {}
    spans: dict[str, list[tuple[float, float]]] = {}
    of_shots: set[str] = set()
    for event in events:
        at = datetime.fromisoformat(event["t"]).timestamp()
        if event["event"] == "stage.start":
            begun[event["stage"], event["unit"]] = at
        elif event["event"] == "stage.done" and not event["reused"]:
            spent[event["stage"]] = spent.get(event["stage"], 0.0) + event["seconds"]
            spans.setdefault(event["stage"], []).append((begun[event["stage"], event["unit"]], at))
            if event["unit"][:1].isdigit():
                of_shots.add(event["stage"])
    inside, at_once = (
        sum(stop - start for start, stop in merge([span for name in names for span in spans.get(name, [])]))
        for names in (spans, AT_ONCE)
    )
    start = next(event for event in events if event["event"] == "run.start")
    spoken = next(int(event["faces"]) for event in events if event["event"] == "run.done")
    rows = sum(len(np.load(path, mmap_mode="r")) for path in work.glob("latents/*/masked.npy"))
    stages = {name: StageCost(seconds, name in of_shots, _size(work / name)) for name, seconds in spent.items()}
    outside = max(wall_s - inside, 0.0)
    return Ran(start["frames"], rows, spoken, wall_s, cpu_s, outside, at_once, start["shots"], stages)


def _plain(given: Given, frames: int) -> float:
    from musetalk_cli.media.video import SegmentWriter, read_frames, segment_name
    from musetalk_cli.stages.s1_demux import demux

    film = given.folder / f"{frames}{given.suffix}"
    runtime = choose_runtime(given.choices)
    with TemporaryDirectory(prefix="musetalk-probe-") as name:
        folder = Path(name)
        config = for_job(dub_config(given.choices, runtime), DubJob(film, given.voice, folder / f"out{given.suffix}"))
        source = demux(film, config=config.demux, runtime=runtime, out=folder)
        began = time.perf_counter()
        with SegmentWriter(folder / segment_name(source, config.blend), source, config.blend) as writer:
            for frame in read_frames(film, source, 0, source.frames):
                writer.write(frame)
        return (time.perf_counter() - began) / source.frames


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
