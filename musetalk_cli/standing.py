"""Where the work on a film stands. In: its work folder, and settings. Out: what is kept; what a run would make again, and why.

Nothing is computed and no lock is taken, so it may be asked while a run is at work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from musetalk_cli.config import Runtime
from musetalk_cli.progress import Events
from musetalk_cli.session import Place
from musetalk_cli.settings import Choices, choose_runtime, dub_config, for_job
from musetalk_cli.signals import Stop
from musetalk_cli.types import DubJob
from musetalk_cli.work import Ref, Work, kept_results

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """One result that a run would need."""

    stage: str
    unit: str
    kept: bool
    why: tuple[str, ...] = ()  # what differs from the nearest kept one


@dataclass(frozen=True, slots=True)
class Standing:
    folder: Path
    kept: dict[str, int]  # finished results by stage
    size_mb: float
    holder: str  # which process is at work there, if any
    steps: tuple[Step, ...] | None = None  # of the run that was asked about

    def as_json(self) -> dict[str, object]:
        about = {"work_dir": str(self.folder), "kept": self.kept, "size_mb": self.size_mb, "holder": self.holder}
        if self.steps is None:
            return about
        rows = [{"stage": s.stage, "unit": s.unit, "kept": s.kept, "why": list(s.why)} for s in self.steps]
        return {**about, "steps": rows}

    def lines(self) -> list[str]:
        kept = [f"  {stage:10} {count:6} kept" for stage, count in self.kept.items()] or ["  nothing kept"]
        busy = [f"  in use by {self.holder}"] if self.holder else []
        return [f"{self.folder}: {self.size_mb:.1f} MB", *busy, *kept, *_told(self.steps or ())]


def standing(film: Path, place: Place, choices: Choices | None, audio: Path | None = None) -> Standing:
    """What is kept for film; with choices also what a run with them would find and make.

    audio: without it, only what is of the film alone is asked about. Raises InputError where the film cannot be read.
    """
    folder = place.folder(film)
    kept: dict[str, int] = {}
    for result in kept_results(folder):
        kept[result["stage"]] = kept.get(result["stage"], 0) + 1
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    holder = folder / "holder"
    steps = None if choices is None else _rehearse(DubJob(film, audio or film, film), folder, choices, audio is not None)
    return Standing(folder, kept, round(size / 1e6, 1), holder.read_text() if holder.is_file() else "", steps)


class Rehearsal(Work):
    """A work folder in which nothing is done: every result is only named and looked up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Events(), Stop())
        self.steps: list[Step] = []

    def do(self, function: Callable[..., T], *inputs: Any, config: Any, runtime: Runtime, unit: str, frames: int = 0) -> Ref[T]:
        """The Ref that the real one would return, whether it is there or not."""
        ref = self.ref(function, *inputs, config=config, unit=unit)
        kept = self.has(function, *inputs, config=config, unit=unit)
        why = () if kept else tuple(self.why(function, *inputs, config=config, unit=unit))
        self.steps.append(Step(ref.stage, unit, kept, why))
        return ref


def _rehearse(job: DubJob, folder: Path, choices: Choices, voiced: bool) -> tuple[Step, ...]:
    """Through the pipeline's own order; without a Source nobody knows which shots there will be, so it ends there."""
    from musetalk_cli.pipeline import Run, dub_shot, find_faces
    from musetalk_cli.stages.s1_demux import demux
    from musetalk_cli.stages.s3_latents import listen

    work, runtime = Rehearsal(folder), choose_runtime(choices)
    config = for_job(dub_config(choices, runtime), job)
    source = work.do(demux, job.video, config=config.demux, runtime=runtime, unit="film")
    if work.steps[0].kept:
        run = Run(job.video, config, runtime, work, Events())
        found = find_faces(source, run)
        if voiced:
            speech = work.do(listen, job.audio, config=config.model, runtime=runtime, unit="film")
            for shot, faces in zip(source.load().shots, found, strict=True):
                dub_shot(shot, source, faces, speech, run)
    return tuple(work.steps)


def _told(steps: tuple[Step, ...]) -> list[str]:
    """A line for each stage and reason, not for each shot."""
    groups: dict[tuple[str, tuple[str, ...]], int] = {}
    for step in steps:
        key = (step.stage, () if step.kept else step.why)
        groups[key] = groups.get(key, 0) + 1
    return [
        f"  {stage:10} {count:6} {'found' if not why else 'to make: ' + '; '.join(why)}" for (stage, why), count in groups.items()
    ]
