"""What a training run tells. In: numbers and pictures by step. Out: metrics.jsonl, TensorBoard, PNG strips, a line on stderr.

metrics.jsonl holds one object a log point: {"step": ..., "loss/l1": ..., ...}, or {"step": ..., "val/l1": ...} after a validation. What
was logged past the checkpoint that a run goes on from is dropped, so that no step stands there twice. Knows nothing of nets.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from musetalk_cli.progress import clock

METRICS_FILE = "metrics.jsonl"
STRIPS_FOLDER = "strips"
SPOKEN = ("loss/", "val/")  # what the line on stderr shows, apart from how far and how fast


class Validation(NamedTuple):
    """What a trainee shows on people that it was not trained on."""

    metrics: Mapping[str, float]
    strips: Mapping[str, NDArray[np.uint8]] = {}  # name -> (H, W, 3) RGB


class Pace(NamedTuple):
    """How far and how fast a run is."""

    share: float  # 0..1 of the steps, or of the minutes where they end it sooner
    samples_per_s: float
    left_s: float  # nan where unknown


class Report:
    """Writes beside one run; use `with`, or close it."""

    def __init__(self, out: Path, step: int, *, quiet: bool = False) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._quiet = out, quiet
        self._lines = _reopen(out / METRICS_FILE, step)
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, float], pace: Pace) -> None:
        """One log point: file, TensorBoard, and a line."""
        self._write(step, {**values, "samples_per_s": round(pace.samples_per_s, 3)})
        left = "" if math.isnan(pace.left_s) else f"  {clock(pace.left_s)} left"
        self._say(f"step {step}  {100 * pace.share:.1f} %  {pace.samples_per_s:.1f} samples/s{left}", values)

    def validation(self, step: int, found: Validation) -> None:
        """Figures and pictures of people that were not trained on."""
        values = {f"val/{name}": value for name, value in found.metrics.items()}
        self._write(step, values)
        self._say(f"step {step}  validation", values)
        for name, strip in found.strips.items():
            self._show(step, name, strip)

    def warn(self, step: int, text: str) -> None:
        """A line that people should read."""
        print(f"step {step}  warning: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._lines.close()
        self._board.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        plain = {name: (value if math.isfinite(value) else None) for name, value in values.items()}  # JSON has no NaN
        self._lines.write(json.dumps({"step": step, **plain}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def _say(self, head: str, values: Mapping[str, float]) -> None:
        parts = [f"{name.split('/', 1)[1]} {value:.4g}" for name, value in values.items() if name.startswith(SPOKEN)]
        if not self._quiet:
            print("  ".join([head, *parts]), file=sys.stderr, flush=True)

    def _show(self, step: int, name: str, strip: NDArray[np.uint8]) -> None:
        folder = self._out / STRIPS_FOLDER
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}-{step:08}.png"
        beside = path.with_name(f"part.{path.name}")
        Image.fromarray(strip).save(beside, format="PNG")
        os.replace(beside, path)
        self._board.add_image(name, strip, step, dataformats="HWC")


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The log points of a run, in order."""
    path = out / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _reopen(path: Path, step: int) -> IO[str]:
    """metrics.jsonl for appending, without what lies beyond `step` and without a line that a kill cut short."""
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["step"] <= step:
                kept.append(line + "\n")
    beside = path.with_name(f"part.{path.name}")
    beside.write_text("".join(kept))
    os.replace(beside, path)
    return path.open("a", encoding="utf-8")
