"""Checkpoints of a run. In: named tables of tensors and a few numbers. Out: a folder a checkpoint, published whole, the last few kept.

    RUN/checkpoints/step-00002000/
        network.generator.safetensors   average.generator.safetensors   optimiser.generator.safetensors   ...
        state.json                      step, time spent, counts, and which tables there are

No pickle anywhere. Random states are not here because there are none: all that is drawn follows from (seed, step, row), so the step
is the sampler's position and the generator's state in one. Knows nothing of nets or losses.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from musetalk_cli.errors import MissingError
from musetalk_cli.reading import is_plain_name, read_json
from musetalk_cli.work import sync

STATE_FILE = "state.json"
NAME = re.compile(r"step-(\d{8,})")
CURE = "remove that folder to go on from the checkpoint before it"

Tables = Mapping[str, Mapping[str, Tensor]]


class Checkpoint(NamedTuple):
    """What was saved: tables of tensors on the CPU by name, and the numbers beside them."""

    tables: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tables: Tables, facts: Mapping[str, Any], keep: int) -> Path:
    """Writes `folder`/step-N beside, then renames; removes all but the last `keep`, and what earlier kills left half done."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("part.*"):
        shutil.rmtree(left)
    beside, path = folder / f"part.step-{step:08}", folder / f"step-{step:08}"
    beside.mkdir()
    for name, tensors in tables.items():
        save_file({key: _plain(value) for key, value in tensors.items()}, beside / f"{name}.safetensors")
    (beside / STATE_FILE).write_text(json.dumps({**facts, "step": step, "tables": sorted(tables)}, indent=2) + "\n")
    for file in (*beside.iterdir(), beside):
        sync(file)
    if path.exists():  # an earlier run of the same step: what was resumed from an older one wins
        shutil.rmtree(path)
    os.replace(beside, path)
    sync(folder)
    for old in checkpoints(folder)[: -max(keep, 1)]:
        shutil.rmtree(old)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """What `save_checkpoint` wrote. Raises MissingError where a file is gone or damaged."""
    try:
        facts: dict[str, Any] = read_json(path / STATE_FILE)
        if not all(is_plain_name(name) for name in facts["tables"]):
            raise ValueError("a table's name is a path")
        tables = {name: load_file(path / f"{name}.safetensors") for name in facts["tables"]}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise MissingError(f"{path}: a checkpoint that cannot be read: {error}", CURE) from error
    return Checkpoint(tables, facts)


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, the oldest first."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def newest(folder: Path) -> Path | None:
    """The checkpoint to go on from; None where there is none."""
    found = checkpoints(folder)
    return found[-1] if found else None


def step_of(path: Path) -> int:
    """Updates that a checkpoint's folder name says."""
    found = NAME.fullmatch(path.name)
    assert found
    return int(found[1])


def optimiser_table(optimiser: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """What the optimiser remembers: {"parameter/key": tensor}. Settings are not in it: they come from the run's config."""
    return {
        f"{name}/{key}": value
        for parameter, name in names.items()
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def fill_optimiser(optimiser: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], table: Mapping[str, Tensor]) -> None:
    """Sets what the optimiser remembers to `table`, on each parameter's device and in its memory layout.

    The layout matters: elementwise kernels take other paths over mixed layouts, and a resumed run would differ in the last bits.
    """
    named = {name: parameter for parameter, name in names.items()}
    optimiser.state.clear()
    for path, value in table.items():
        name, key = path.rsplit("/", 1)
        parameter = named[name]
        if value.shape == parameter.shape and value.ndim:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimiser.state[parameter][key] = value.clone()


def fill_net(net: nn.Module, table: Mapping[str, Tensor], path: Path) -> None:
    """Copies `table` into `net`, strictly. Raises MissingError where names or shapes differ."""
    try:
        net.load_state_dict(dict(table))
    except RuntimeError as error:
        fact = " ".join(str(error).split("\n", 1)[-1].split())[:300]
        raise MissingError(f"{path}: of another net: {fact}", "use the settings it was trained with, or --fresh") from error


def _plain(value: Tensor) -> Tensor:
    """Own, row-major memory on the CPU: safetensors takes neither shared nor strided tensors."""
    return value.detach().to("cpu").contiguous().clone()
