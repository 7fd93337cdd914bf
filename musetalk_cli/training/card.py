"""The model card of a run. In: its recipe, its log, its samples. Out: README.md and figures of the losses, beside the weights.

Says what was measured and on what; whoever publishes a model adds what they saw.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli import __version__
from musetalk_cli.training.dataset import FPS, Sample
from musetalk_cli.training.report import read_metrics
from musetalk_cli.training.runs import Recipe, plain

CARD = "README.md"
CURVES = "losses.png"
PLOT = (360, 200)  # px of one curve
SMOOTH = 0.9  # share kept by the running mean that is drawn over the log points
POINTS = 12  # rows of the table of losses


def write_card(folder: Path, recipe: Recipe, out: Path, samples: Sequence[Sample], held: Sequence[Sample]) -> None:
    """README.md and losses.png into a model folder that is otherwise whole."""
    records = read_metrics(out)
    training = [record for record in records if "samples_per_s" in record]
    validations = [record for record in records if any(name.startswith("val/") for name in record)]
    names = [name for name in (training[0] if training else {}) if name.startswith("loss/")]
    parts = [_head(recipe, training), _data(samples, held)]
    if training:
        Image.fromarray(curves(training, names)).save(folder / CURVES)
        parts.append(f"## Losses\n\n![losses by step]({CURVES})\n\n{_table(training, names)}")
    if validations:
        columns = [name for name in validations[-1] if name.startswith("val/")]
        parts.append(f"## On people held out\n\n{_table(validations, columns)}")
    parts += [_files(folder), f"## Settings\n\n```json\n{json.dumps(plain(recipe), indent=1)}\n```"]
    (folder / CARD).write_text("\n\n".join(parts) + "\n")


def curves(records: Sequence[dict[str, Any]], names: Sequence[str]) -> NDArray[np.uint8]:
    """(200 * rows, 720, 3) RGB: each term over the steps, log points in grey and their running mean in blue."""
    tiles = [_curve(name, records) for name in names]
    tiles += [np.full_like(tiles[0], 255)] * (len(tiles) % 2)
    return np.concatenate([np.concatenate(tiles[i : i + 2], 1) for i in range(0, len(tiles), 2)], 0)


def _curve(name: str, records: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    width, height = PLOT
    known = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    steps, values = np.array(known, np.float64).T
    smooth = np.array(_running_mean(values))
    low, high = float(values.min()), float(values.max())
    x = 8 + (steps - steps[0]) / max(steps[-1] - steps[0], 1) * (width - 16)
    tile = np.full((height, width, 3), 255, np.uint8)
    for series, colour in ((values, (190, 190, 190)), (smooth, (30, 80, 200))):
        y = height - 8 - (series - low) / max(high - low, 1e-12) * (height - 36)
        cv2.polylines(tile, [np.rint(np.stack([x, y], 1)).astype(np.int32)], False, colour, 1, cv2.LINE_AA)
    text = f"{name.removeprefix('loss/')}  {smooth[0]:.4g} to {smooth[-1]:.4g}"
    cv2.putText(tile, text, (8, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def _running_mean(values: NDArray[np.float64]) -> list[float]:
    means, weight, mean = [], 0.0, 0.0
    for value in values:
        mean, weight = SMOOTH * mean + (1 - SMOOTH) * float(value), SMOOTH * weight + 1 - SMOOTH
        means.append(mean / weight)
    return means


def _head(recipe: Recipe, training: Sequence[dict[str, Any]]) -> str:
    last = training[-1] if training else {}
    pace = [record["samples_per_s"] for record in training]
    done = f"{last.get('step', 0)} steps, {last.get('skipped', 0)} of them left out as not finite" if training else "not trained"
    speed = f", {np.median(pace):.1f} samples a second" if pace else ""
    begun = recipe.init or "scratch"
    return (
        f"# Model card: {recipe.model}, {recipe.task}\n\nTrained by musetalk {__version__}: {done}{speed}. "
        f"Preset {recipe.preset or 'none'}; begun from {Path(begun).name}.\n\n"
        "Use it only on people who have agreed to be dubbed, and say that the result is synthetic."
    )


def _data(samples: Sequence[Sample], held: Sequence[Sample]) -> str:
    rows = [
        f"| {name} | {len(some)} | {len({s.identity for s in some})} | {sum(s.frames for s in some) / FPS / 60:.1f} |"
        for name, some in (("trained on", samples), ("held out, whole people", held))
    ]
    return "## Data\n\n| | samples | people | minutes |\n|---|---|---|---|\n" + "\n".join(rows)


def _table(records: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Up to POINTS of the records, evenly spread, the last one among them."""
    chosen = sorted({round(i) for i in np.linspace(0, len(records) - 1, min(POINTS, len(records)))})
    heads = [name.split("/", 1)[1] for name in names]
    lines = [f"| step | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for index in chosen:
        cells = ["" if records[index].get(name) is None else f"{records[index][name]:.4g}" for name in names]
        lines.append(f"| {records[index]['step']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _files(folder: Path) -> str:
    rows = [
        f"| {path.relative_to(folder)} | {path.stat().st_size:,} | `{_sha256(path)}` |"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".safetensors", ".json")
    ]
    return "## Files\n\n| file | bytes | sha256 |\n|---|---|---|\n" + "\n".join(rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
