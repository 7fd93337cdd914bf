"""One training run from its recipe to a model folder. In: a Recipe, a folder, how. Out: RUN/model, with a card written from the run.

    RUN/config.json      the recipe                    RUN/metrics.jsonl, tensorboard/, strips/, curves.svg   what it told
    RUN/checkpoints/     the last few, whole           RUN/model/   what was trained, with README.md
    RUN/cache/           made of the samples once

Knows nothing of what a task is made of.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from musetalk_cli.errors import OutputExistsError, UsageError
from musetalk_cli.signals import Stop
from musetalk_cli.training.card import write_card
from musetalk_cli.training.checkpoint import fill_net, load_checkpoint, newest
from musetalk_cli.training.loop import CHECKPOINTS, Nets, train
from musetalk_cli.training.runs import Recipe, claim, read_recipe
from musetalk_cli.training.tasks import How, Task, build, fit_lips_of

MODEL = "model"


def run_training(
    recipe: Recipe, out: Path, how: How, stop: Stop, *, cpu: bool = False, fresh: bool = False, changed: bool = False
) -> Path:
    """Trains, or goes on, and exports; returns the model's folder. See `claim` for fresh and changed.

    Of several processes the first one claims and exports.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    if fresh and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--fresh with several processes", f"move {out} away first")
    if first:
        claim(out, recipe, fresh=fresh, changed=changed)
    if recipe.task == "lips":
        return _publish(out / MODEL, lambda folder: fit_lips_of(recipe, folder))
    task = build(recipe, out, how)
    trained = train(task.trainee, task.loop, out, stop=stop, cpu=cpu, quiet=how.quiet)
    return _export(task, trained.networks, recipe, out, out / MODEL) if first else out / MODEL


def export_run(out: Path, target: Path) -> Path:
    """The newest checkpoint of a run, finished or not, as a model folder. Raises UsageError without one, OutputExistsError."""
    if target.exists():
        raise OutputExistsError(f"{target}: is there already", "choose a folder that is not there yet")
    recipe, path = read_recipe(out), newest(out / CHECKPOINTS)
    if path is None:
        raise UsageError(f"{out}: has no checkpoint yet", "let it train for longer")
    task = build(recipe, out, How(minutes=1.0))
    tables = load_checkpoint(path).tables
    for name, net in task.trainee.networks.items():
        fill_net(net, tables.get(f"average.{name}", tables[f"network.{name}"]), path)
    return _export(task, task.trainee.networks, recipe, out, target)


def _export(task: Task, networks: Nets, recipe: Recipe, out: Path, target: Path) -> Path:
    def write(folder: Path) -> None:
        with torch.no_grad():
            task.write({name: net.to("cpu") for name, net in networks.items()}, folder)
        write_card(folder, recipe, out, task.samples, task.held)

    return _publish(target, write)


def _publish(target: Path, write: Callable[[Path], None]) -> Path:
    """Written beside, then renamed over what is there."""
    beside = target.with_name(f"part.{target.name}")
    shutil.rmtree(beside, ignore_errors=True)
    write(beside)
    if target.exists():
        shutil.rmtree(target)
    os.replace(beside, target)
    return target
