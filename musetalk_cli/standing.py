"""Where the work on a film stands. In: its work folder, and settings. Out: what is kept; what a run would make again, and why.

Nothing is computed and no lock is kept, so it may be asked while a run is at work.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from musetalk_cli.config import DubConfig, Runtime
from musetalk_cli.progress import Events
from musetalk_cli.session import Place, check_ours
from musetalk_cli.settings import Choices, check_crf, choose_runtime, dub_config, for_job
from musetalk_cli.signals import Stop
from musetalk_cli.types import DubJob, Film
from musetalk_cli.work import Ref, Unmade, Work, holder_of, kept_results

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
    rest: str = ""  # why there are no more steps

    def as_json(self) -> dict[str, object]:
        about = {"work_dir": str(self.folder), "kept": self.kept, "size_mb": self.size_mb, "holder": self.holder}
        if self.steps is None:
            return about
        rows = [{"stage": s.stage, "unit": s.unit, "kept": s.kept, "why": list(s.why)} for s in self.steps]
        return {**about, "steps": rows}

    def lines(self) -> list[str]:
        kept = [f"  {stage:10} {count:6} kept" for stage, count in self.kept.items()] or ["  nothing kept"]
        busy = [f"  in use by {self.holder}"] if self.holder else []
        rest = [f"  {self.rest}"] if self.rest else []
        return [f"{self.folder}: {self.size_mb:.1f} MB", *busy, *kept, *_told(self.steps or ()), *rest]


def standing(film: Path, place: Place, choices: Choices | None, job: DubJob | None = None) -> Standing:
    """What is kept for film; with choices also what a run with them would find and make.

    job: without it, only what is of the film alone is asked about. Raises InputError where the film cannot be read, UsageError
    where the folder is no work folder.
    """
    folder = place.folder(film)
    check_ours(folder)
    kept: dict[str, int] = {}
    for result in kept_results(folder):
        kept[result["stage"]] = kept.get(result["stage"], 0) + 1
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    found = Standing(folder, kept, round(size / 1e6, 1), holder_of(folder))
    if choices is None:
        return found
    check_crf(choices, film.suffix)
    runtime = choose_runtime(choices)
    asked = job or DubJob(film, film, film)
    work = Rehearsal(folder)
    rest = _rehearse(asked, work, for_job(dub_config(choices, runtime), asked), runtime, voiced=job is not None)
    return replace(found, steps=tuple(work.steps), rest=rest)


def finished_film(job: DubJob, folder: Path, config: DubConfig, runtime: Runtime) -> Film | None:
    """The film that a run of this job would find finished in its work folder; None where it would have to make anything."""
    from musetalk_cli.pipeline import Run, make

    work = Rehearsal(folder)
    try:
        film, _ = make(job, Run(job.video, config, runtime, work, Events()))
    except Unmade:
        return None
    return film.load() if all(step.kept for step in work.steps) else None


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


UNLOCKS = {
    "demux": "demux finds the shots, and with them the rest",
    "lengthen": "lengthen adds the frames that the voice needs, and with them the rest",
    "faces": "faces finds who could be dubbed, and with them the rest",
    "listen": "listen hears when the voice speaks, and with it the rest",
    "decide": "decide says which mouths are touched, and with them the rest",
    "sound": "sound lays the voices together, and then only remux is left",
}


def _rehearse(job: DubJob, work: Rehearsal, config: DubConfig, runtime: Runtime, *, voiced: bool) -> str:
    """Through the pipeline's own order; what stands between here and the rest, if anything."""
    from musetalk_cli.pipeline import Run, find_faces, make
    from musetalk_cli.stages.s1_demux import demux

    run = Run(job.video, config, runtime, work, Events())
    try:
        if voiced:
            make(job, run)
            return ""
        find_faces(work.do(demux, job.video, config=config.demux, runtime=runtime, unit="film"), run)
        return "give --audio to see the rest"
    except Unmade as missing:
        return UNLOCKS[missing.stage]


def _told(steps: tuple[Step, ...]) -> list[str]:
    """A line for each stage and reason, not for each shot."""
    groups: dict[tuple[str, tuple[str, ...]], int] = {}
    for step in steps:
        key = (step.stage, () if step.kept else step.why)
        groups[key] = groups.get(key, 0) + 1
    return [
        f"  {stage:10} {count:6} {'found' if not why else 'to make: ' + '; '.join(why)}" for (stage, why), count in groups.items()
    ]
