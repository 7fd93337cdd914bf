"""A real dub in a folder that is thrown away, measured. In: a film, a voice, choices. Out: Bench: stages, steps, kinds of work, memory.

dub -- run.jsonl -- seconds and frames of each stage --.
    '- Meter ------ CPU, GPU, memory, kinds of work ---|-- Bench
network steps alone -- rows a second, share of the matmul ceiling --'
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from musetalk_cli.bench.kinds import KINDS, OVERHEAD
from musetalk_cli.bench.machine import Ceiling, Machine, cores, machine, matmul_ceiling
from musetalk_cli.bench.meter import Meter, Sample, peak_resident, use_of
from musetalk_cli.bench.steps import Step, measure_steps, rows_of
from musetalk_cli.jobs import Existing, dub_film
from musetalk_cli.session import JOURNAL, Place, Voice
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.types import DubJob

MB = 1e6


@dataclass(frozen=True, slots=True)
class StageSpeed:
    """seconds: of all its calls together, which may overlap with other stages'. gpu_busy: None where it is not measured."""

    stage: str
    seconds: float
    fps: float  # frames of film a second
    cpu_busy: float = 0.0
    gpu_busy: float | None = None
    memory_mb: float = 0.0
    gpu_memory_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Shares:
    """Wall seconds by kind of work (see bench/kinds.py). overhead: blending, imports and Python over all of the wall time; of_work:
    over what was not spent waiting, the stricter figure where others use the machine."""

    seconds: dict[str, float]
    overhead: float
    of_work: float


@dataclass(frozen=True, slots=True)
class Bench:
    """times: film time over wall time, loading the model included. further: the same for a second voice over the same analysis."""

    film: Path
    model: str
    frames: int
    stages: tuple[StageSpeed, ...]
    film_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    times: float = 0.0
    device: str = "cpu"
    precision: str = "fp32"
    generated: bool = False
    random_weights: bool = False
    further_wall_s: float | None = None
    further_times: float | None = None
    peak_memory_mb: float = 0.0
    peak_gpu_memory_mb: float = 0.0
    steps: tuple[Step, ...] = ()
    ceiling: Ceiling | None = None
    shares: Shares | None = None
    machine: Machine | None = None
    note: str = ""

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def as_json(self) -> dict[str, object]:
        named = {name: value._asdict() for name in ("ceiling", "machine") if (value := getattr(self, name)) is not None}
        steps = [step._asdict() for step in self.steps]
        return {**asdict(self), **named, "film": str(self.film), "steps": steps, "seconds": self.seconds}

    def lines(self) -> list[str]:
        """A table for people."""
        weights = ", random weights" if self.random_weights else ""
        made = "generated " if self.generated else ""
        head = f"{made}{self.film}: {self.frames} frames, model {self.model}{weights}, {self.precision} on {self.device}"
        return [
            head,
            *_machine_lines(self),
            *_stage_lines(self),
            *_step_lines(self),
            *_share_lines(self),
            *filter(None, [self.note]),
        ]


class Options(NamedTuple):
    """What is measured beside the stages."""

    share: bool = False  # stacks, a hundred times a second
    further: Path | None = None  # a second voice
    generated: bool = False
    random_weights: bool = False
    steps: bool = True


def bench_film(film: Path, audio: Path, choices: Choices, *, quiet: bool, options: Options | None = None) -> Bench:
    """Dub film with audio from nothing. Raises what a dub raises."""
    options = options or Options()
    every_frame = replace(choices, silence="closed", copy=False)  # a voice that pauses would leave stages without work
    runtime = choose_runtime(choices)
    here = machine(runtime.device)
    with TemporaryDirectory(prefix="musetalk-bench-") as name:
        work = Path(name) / "work"
        wall_s, meter = _dubbed(film, audio, every_frame, work, runtime.device, quiet=quiet, stacks=options.share)
        with (work / JOURNAL).open(encoding="utf-8") as journal:
            found = measured(film, [json.loads(line) for line in journal], meter.samples)
        found = replace(
            found,
            **_whole(found, wall_s, meter),
            **_asked(options, runtime.device),
            machine=here,
            precision=dub_config(choices, runtime).model.precision,
            peak_memory_mb=round(peak_resident() / MB, 1),
            peak_gpu_memory_mb=round(meter.peak_gpu_memory() / MB, 1),
            shares=shares_of(meter, wall_s),
            note=meter.note,
        )
        if options.further is not None:
            again_s, _ = _dubbed(film, options.further, every_frame, work, runtime.device, quiet=quiet)
            found = replace(found, further_wall_s=round(again_s, 2), further_times=round(found.film_s / again_s, 3))
        return _with_steps(found, choices, work) if options.steps else found


def _dubbed(
    film: Path, audio: Path, choices: Choices, work: Path, device: str, *, quiet: bool, stacks: bool = False
) -> tuple[float, Meter]:
    """Wall seconds, and what they took."""
    output = work.parent / f"{audio.stem}{film.suffix}"
    with Meter(device, stacks=stacks) as meter:
        began = time.perf_counter()
        dub_film([DubJob(film, audio, output)], choices, Place(work), Voice(quiet=quiet), Existing(overwrite=True))
        wall_s = time.perf_counter() - began
    return wall_s, meter


def _whole(found: Bench, wall_s: float, meter: Meter) -> dict[str, Any]:
    cpu_s = meter.samples[-1].cpu_s - meter.samples[0].cpu_s
    return {"wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2), "times": round(found.film_s / wall_s, 3)}


def _asked(options: Options, device: str) -> dict[str, Any]:
    return {"device": device, "generated": options.generated, "random_weights": options.random_weights}


def _with_steps(found: Bench, choices: Choices, work: Path) -> Bench:
    """Where some shot has enough rows to fill a batch."""
    from musetalk_cli.models import free_batch, load_family

    runtime = choose_runtime(choices)
    config = dub_config(choices, runtime).model
    rows = rows_of(work, runtime.batch_size or free_batch(runtime))
    if rows is None:
        return replace(found, note="; ".join(filter(None, [found.note, "too few faces to measure the network's steps"])))
    ceiling = matmul_ceiling(runtime.device, config.precision)
    return replace(found, ceiling=ceiling, steps=measure_steps(load_family(config, runtime), config, rows, ceiling))


def shares_of(meter: Meter, wall_s: float) -> Shares | None:
    """None where nobody asked."""
    kinds = meter.kinds
    if kinds is None:
        return None
    over = sum(kinds[kind] for kind in OVERHEAD)
    whole = sum(kinds.values()) or wall_s
    work = max(whole - kinds["waiting"], 1e-9)
    return Shares({kind: round(kinds[kind], 3) for kind in KINDS}, round(over / whole, 4), round(over / work, 4))


def measured(film: Path, events: Iterable[dict[str, Any]], samples: Sequence[Sample] = ()) -> Bench:
    """From the events of one run; a stage of the whole film counts all its frames."""
    start: dict[str, Any] = {}
    begun: dict[tuple[str, str], float] = {}
    seconds: dict[str, float] = {}
    spans: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if event["event"] == "run.start":
            start = event
        elif event["event"] == "stage.start":
            begun[event["stage"], event["unit"]] = _epoch(event)
        elif event["event"] == "stage.done":
            name = event["stage"]
            seconds[name] = seconds.get(name, 0.0) + event["seconds"]
            if began := begun.get((name, event["unit"])):
                spans.setdefault(name, []).append((began, _epoch(event)))
    frames = int(start["frames"])
    stages = tuple(_stage(name, spent, frames, spans.get(name, []), samples) for name, spent in seconds.items())
    return Bench(film, str(start["model"]), frames, stages, film_s=round(float(start.get("seconds", 0)), 3))


def _stage(name: str, spent: float, frames: int, spans: Sequence[tuple[float, float]], samples: Sequence[Sample]) -> StageSpeed:
    speed = StageSpeed(name, round(spent, 3), round(frames / max(spent, 1e-9), 2))
    if not (samples and spans):
        return speed
    use = use_of(samples, spans, cores())
    memory, gpu_memory = round(use.memory / MB, 1), round(use.gpu_memory / MB, 1)
    return replace(speed, cpu_busy=use.cpu_busy, gpu_busy=use.gpu_busy, memory_mb=memory, gpu_memory_mb=gpu_memory)


def _epoch(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["t"]).timestamp() if "t" in event else 0.0


def _machine_lines(found: Bench) -> list[str]:
    here = found.machine
    if here is None:
        return []
    return [f"{here.gpu or here.cpu}, {here.cores} cores, torch {here.torch}, load {here.load:g}, {here.date}"]


def _stage_lines(found: Bench) -> list[str]:
    on_gpu = any(stage.gpu_busy is not None for stage in found.stages)
    rows = [f"{'stage':10} {'seconds':>8} {'fps':>8} {'CPU':>5} {'GPU' if on_gpu else '':>5} {'memory':>9}"]
    for one in found.stages:
        gpu = "" if one.gpu_busy is None else f"{one.gpu_busy:.0%}"
        rows.append(f"{one.stage:10} {one.seconds:8.2f} {one.fps:8.1f} {one.cpu_busy:5.0%} {gpu:>5} {one.memory_mb:6.0f} MB")
    rows.append(
        f"{'wall':10} {found.wall_s:8.2f} {found.frames / max(found.wall_s, 1e-9):8.1f}  {found.times:.2f} times real time"
    )
    if found.further_wall_s is not None:
        fps = found.frames / max(found.further_wall_s, 1e-9)
        rows.append(
            f"{'further':10} {found.further_wall_s:8.2f} {fps:8.1f}  {found.further_times:.2f} times real time, a second voice"
        )
    rows.append(
        f"{found.cpu_s:.1f} s of CPU time; at most {found.peak_memory_mb:.0f} MB of memory, {found.peak_gpu_memory_mb:.0f} of a GPU's"
    )
    return rows


def _step_lines(found: Bench) -> list[str]:
    if found.ceiling is None:
        return []
    shape = "x".join(map(str, found.ceiling.shape))
    rows = [f"ceiling: {found.ceiling.gflops:.0f} GFLOP/s of {found.ceiling.precision} matmul ({shape})"]
    for step in found.steps:
        share = "" if step.share is None else f"{step.share:.0%} of the ceiling"
        rows.append(f"{step.name:14} {step.rows_a_second:8.2f} faces/s {step.gflop_a_row:8.1f} GFLOP each {share}".rstrip())
    return rows


def _share_lines(found: Bench) -> list[str]:
    if found.shares is None:
        return []
    rows = [f"{kind:10} {seconds:8.2f} s" for kind, seconds in found.shares.seconds.items()]
    told = f"blending and Python: {found.shares.overhead:.1%} of the wall time, {found.shares.of_work:.1%} without waiting"
    return [*rows, told]
