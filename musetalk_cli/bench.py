"""How fast each stage is here. In: a film and a voice. Out: frames a second, by a real dub in a folder that is thrown away."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from musetalk_cli.jobs import Existing, dub_film
from musetalk_cli.session import JOURNAL, Place, Voice
from musetalk_cli.settings import Choices
from musetalk_cli.types import DubJob


@dataclass(frozen=True, slots=True)
class StageSpeed:
    stage: str
    seconds: float
    fps: float  # frames of film a second


@dataclass(frozen=True, slots=True)
class Bench:
    film: Path
    model: str
    frames: int
    stages: tuple[StageSpeed, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def as_json(self) -> dict[str, object]:
        stages = [asdict(stage) for stage in self.stages]
        return {"film": str(self.film), "model": self.model, "frames": self.frames, "seconds": self.seconds, "stages": stages}

    def lines(self) -> list[str]:
        rows = [f"{s.stage:10} {s.seconds:8.2f} s {s.fps:8.1f} fps" for s in self.stages]
        whole = f"{'all':10} {self.seconds:8.2f} s {self.frames / self.seconds:8.1f} fps"
        return [f"{self.film}: {self.frames} frames, model {self.model}; loading the model is in `listen`", *rows, whole]


def bench_film(film: Path, audio: Path, choices: Choices, *, quiet: bool) -> Bench:
    """Dub film with audio from nothing. Raises what a dub raises."""
    with TemporaryDirectory(prefix="musetalk-bench-") as name:
        folder = Path(name)
        job = DubJob(film, audio, folder / f"film{film.suffix}")
        every_frame = replace(choices, silence="closed", copy=False)  # a voice that pauses would leave stages without work
        dub_film([job], every_frame, Place(folder / "work"), Voice(quiet=quiet), Existing())
        with (folder / "work" / JOURNAL).open(encoding="utf-8") as journal:
            return measured(film, [json.loads(line) for line in journal])


def measured(film: Path, events: Iterable[dict[str, Any]]) -> Bench:
    """From the events of one run; a stage of the whole film counts all its frames."""
    start: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for event in events:
        if event["event"] == "run.start":
            start = event
        elif event["event"] == "stage.done":
            seconds[event["stage"]] = seconds.get(event["stage"], 0.0) + event["seconds"]
    frames = int(start["frames"])
    stages = tuple(StageSpeed(name, round(spent, 3), round(frames / max(spent, 1e-9), 2)) for name, spent in seconds.items())
    return Bench(film, str(start["model"]), frames, stages)
