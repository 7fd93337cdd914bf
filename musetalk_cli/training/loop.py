"""One training loop for every net. In: a Trainee, which knows nets, data and losses, and a LoopConfig. Out: trained nets.

    for each update:
        for each micro-batch:   rows -> generator_terms -> sum of weight * term -> backward
                                pairs (fake, real) -> discriminator_terms -> backward
        all gradients finite? -> clip, step, moving average; else the update is left out, counted, and N in a row end the run

A step is an update of the optimisers, whatever the accumulation. Everything random follows from (seed, step, row): row p of step n is
the same whether one process draws it or two, in one micro-batch or in several, in a run that was killed or in one that was not. So
a checkpoint holds no random state, and a resumed run on a CPU equals an unbroken one bit for bit. HF accelerate spreads the work
(processes, mixed precision, when to synchronise); the optimisers are stepped here, since two of them share fp16's loss scale.
Knows nothing of faces.
"""

import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType, GradientState
from accelerate.utils import InitProcessGroupKwargs, send_to_device
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, Dataset

from musetalk_cli.errors import InternalError, InterruptedRun, UsageError
from musetalk_cli.signals import Stop
from musetalk_cli.training.checkpoint import (
    fill_net,
    fill_optimiser,
    load_checkpoint,
    newest,
    optimiser_table,
    save_checkpoint,
)
from musetalk_cli.training.config import Schedule
from musetalk_cli.training.report import Pace, Report, Validation

CHECKPOINTS = "checkpoints"
Precision = Literal["no", "bf16", "fp16"]
Nets = Mapping[str, nn.Module]


class Pair(NamedTuple):
    """What a discriminator tells apart: (M, 3, H, W) each, in [-1, 1]."""

    fake: Tensor
    real: Tensor


class Answer(NamedTuple):
    """The generator's part of a micro-batch: its terms by name, each a scalar, and what the discriminators should look at."""

    terms: Mapping[str, Tensor]
    pairs: Mapping[str, Pair] = {}  # discriminator -> pictures, the fake one with its graph


class Rows(Protocol):
    """Where training rows come from. A row is a NamedTuple of arrays; rows of one batch have the same shapes."""

    def row(self, random: np.random.Generator) -> Any: ...


class Trainee(Protocol):
    """What is trained, on what, and what is wrong with its answers. Terms follow from nets and batch alone."""

    @property
    def networks(self) -> Nets:
        """The nets that the generator's optimiser changes."""
        ...

    @property
    def discriminators(self) -> Nets:
        """Their adversaries; none in most stages."""
        ...

    @property
    def rows(self) -> Rows: ...

    def weights(self, step: int) -> Mapping[str, float]:
        """The factor of each term that counts at this step; a term that is not in it is not to be computed."""
        ...

    def to(self, device: torch.device) -> None:
        """Moves what is not trained; the loop moves the rest."""
        ...

    def generator_terms(self, networks: Nets, discriminators: Nets, batch: Any, weights: Mapping[str, float]) -> Answer:
        """Terms for exactly the names in `weights`. batch: rows stacked, on the device. Discriminators are frozen here."""
        ...

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        """One scalar a pair; all count alike. Each discriminator must be called, forward, for its own pair and for no other."""
        ...

    def validate(self, networks: Nets) -> Validation | None:
        """Figures and pictures on people held out, by the averaged nets. None where there is nothing to validate on."""
        ...


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How long, how fast, and what is kept. Steps are updates."""

    steps: int = 0  # 0: until the minutes are up
    minutes: float = 0.0  # of training proper, without validation and checkpoints, over all resumes; 0: no bound
    batch: int = 8  # rows a process and micro-batch
    accumulate: int = 1  # micro-batches an update
    rate: float = 1e-3
    final_rate: float = 0.0
    warmup: int = 100
    schedule: Schedule = "cosine"  # over the share of the steps; of the minutes, where they are the only bound
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0  # norm of the gradient of each net on its own
    ema: float = 0.998  # share that the moving average of the weights keeps an update; 0: no average
    discriminator_rate: float = 0.0
    discriminator_final_rate: float = 0.0
    discriminator_schedule: Schedule = "cosine"
    seed: int = 0
    workers: int = 0  # processes that make rows; 0: in the loop itself
    precision: Precision = "no"
    log_every: int = 50
    validate_every: int = 0  # 0: never
    checkpoint_every: int = 1000
    checkpoint_minutes: float = 5.0  # of training proper, whichever comes first
    keep: int = 3
    bad_in_a_row: int = 20  # fp16's loss scale may need 16 to find itself

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.minutes <= 0:
            raise UsageError("a run without an end", "give a number of steps, or of minutes")
        if min(self.batch, self.accumulate) < 1:
            raise UsageError(f"batch {self.batch}, accumulate {self.accumulate}", "give each at least 1")


class Trained(NamedTuple):
    """What a run ends with, and how long it was."""

    networks: Nets  # the moving averages, or the nets themselves where there is none
    step: int
    elapsed_s: float


def train(
    trainee: Trainee, config: LoopConfig, out: Path, *, stop: Stop | None = None, cpu: bool = False, quiet: bool = False
) -> Trained:
    """Trains, or goes on from the newest checkpoint in `out`. Checkpoints, and raises InterruptedRun, once `stop` is requested.

    Raises UsageError after too many updates in a row without a finite gradient.
    """
    run = open_run(trainee, config, out, cpu=cpu)
    number = 0
    with _reporting(run, quiet) as report:
        while not (number := _agree(run, stop)) and not _finished(run):
            update(run, report)
            _log(run, report)
            _validate(run, report)
            _checkpoint(run)
        if run.step > run.saved_step:
            _save(run)
    if number:
        raise InterruptedRun(number)
    return Trained(_averages(run), run.step, run.elapsed_s)


@dataclass(slots=True)
class Run:
    """A run under way. What changes is saved in checkpoints; the rest follows from the config."""

    trainee: Trainee
    config: LoopConfig
    out: Path
    accelerator: Accelerator
    networks: dict[str, nn.Module]  # wrapped
    discriminators: dict[str, nn.Module]  # wrapped
    averages: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    names: Mapping[nn.Parameter, str]  # of all trained parameters
    batches: Iterator[Any] = field(default_factory=lambda: iter(()))
    step: int = 0
    elapsed_s: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    saved_step: int = 0
    saved_s: float = 0.0
    logged_step: int = 0
    logged_s: float = 0.0
    seen: dict[str, list[Tensor]] = field(default_factory=dict)  # terms and norms since the last log

    @property
    def share(self) -> float:
        """0..1 of the run: of its steps, or of its minutes, where they are the only bound."""
        spent = self.step / self.config.steps if self.config.steps else self.elapsed_s / (60 * self.config.minutes)
        return min(spent, 1.0)


def open_run(trainee: Trainee, config: LoopConfig, out: Path, *, cpu: bool = False) -> Run:
    """A run at its newest checkpoint, or at its beginning: nets on their devices, wrapped, with their optimisers."""
    accelerator = _accelerator(config, cpu)
    trainee.to(accelerator.device)
    for net in (*trainee.networks.values(), *trainee.discriminators.values()):
        net.to(accelerator.device)
    averages = {name: deepcopy(net).eval().requires_grad_(False) for name, net in trainee.networks.items()} if config.ema else {}
    names = {
        parameter: f"{name}.{path}"
        for name, net in (*trainee.networks.items(), *trainee.discriminators.items())
        for path, parameter in net.named_parameters()
        if parameter.requires_grad
    }
    optimisers = {"networks": _optimiser(trainee.networks, config, config.rate)}
    if trainee.discriminators:
        optimisers["discriminators"] = _optimiser(trainee.discriminators, config, config.discriminator_rate)
    run = Run(
        trainee,
        config,
        out,
        accelerator,
        {name: accelerator.prepare(net) for name, net in trainee.networks.items()},
        {name: accelerator.prepare(net) for name, net in trainee.discriminators.items()},
        averages,
        optimisers,
        names,
    )
    _resume(run)
    run.batches = _batches(run)
    return run


def rate_at(share: float, step: int, config: LoopConfig) -> float:
    """The generator's rate: a linear warm-up by steps, then the schedule over `share` of the run, 0..1."""
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    return warm * _scheduled(config.schedule, share, config.rate, config.final_rate)


def discriminator_rate_at(share: float, config: LoopConfig) -> float:
    """The discriminators' rate: no warm-up."""
    return _scheduled(config.discriminator_schedule, share, config.discriminator_rate, config.discriminator_final_rate)


def _scheduled(schedule: Schedule, share: float, first: float, last: float) -> float:
    left = {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}[schedule]
    return last + (first - last) * left


def generator_of(seed: int, step: int, row: int) -> np.random.Generator:
    """Where everything random about one row of one step comes from."""
    return np.random.default_rng((seed, step, row))


def update(run: Run, report: Report | None = None) -> None:
    """One step of every optimiser, or none of any where a loss or gradient is not finite."""
    begun = time.monotonic()
    terms = gradients(run)
    norms = _clipped_norms(run)
    if bool(torch.stack([*terms.values(), *norms.values()]).isfinite().all()):
        _apply(run)
        for name, value in (*terms.items(), *norms.items()):
            run.seen.setdefault(name, []).append(value)
    else:
        _skip(run, {**terms, **norms}, report)
    for optimiser in run.optimisers.values():
        optimiser.zero_grad(set_to_none=True)
    run.step += 1
    run.elapsed_s += time.monotonic() - begun


def gradients(run: Run) -> dict[str, Tensor]:
    """Backward through all micro-batches of one step. Out: the mean of each term over all processes; gradients lie on the nets."""
    weights = run.trainee.weights(run.step)
    for net in run.networks.values():
        net.train()
    _settle(run.trainee.discriminators)
    parts = [_micro_batch(run, micro, weights) for micro in range(run.config.accumulate)]
    means = torch.stack([torch.stack(list(part.values())) for part in parts]).mean(0)
    return dict(zip(parts[0], run.accelerator.reduce(means, reduction="mean"), strict=True))


def _micro_batch(run: Run, micro: int, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Generator, then discriminators; both against what the last step left. Terms are detached."""
    accelerator, trainee = run.accelerator, run.trainee
    batch = send_to_device(next(run.batches), accelerator.device)
    _seed_all(run.config.seed, run.step, micro, accelerator.process_index)
    with accelerator.accumulate(*run.networks.values(), *run.discriminators.values()):
        with _frozen(trainee.discriminators), accelerator.autocast():
            answer = trainee.generator_terms(run.networks, trainee.discriminators, batch, weights)
        accelerator.backward(_weighted(answer.terms, weights))
        found = {f"loss/{name}": value.detach().float() for name, value in answer.terms.items()}
        if answer.pairs:
            pairs = {name: Pair(pair.fake.detach(), pair.real.detach()) for name, pair in answer.pairs.items()}
            with accelerator.autocast():
                against = trainee.discriminator_terms(run.discriminators, pairs)
            accelerator.backward(_weighted(against, dict.fromkeys(against, 1.0)))
            found |= {f"loss/{name}": value.detach().float() for name, value in against.items()}
    return found


def _weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    if terms.keys() != weights.keys():
        raise InternalError(f"terms {sorted(terms)} for weights {sorted(weights)}")
    return torch.stack([weights[name] * value.float() for name, value in terms.items()]).sum()


def _settle(discriminators: Nets) -> None:
    """One power iteration of spectral norm an update, however many micro-batches look; then nothing in them moves by itself."""
    for net in discriminators.values():
        net.train()
        with torch.no_grad():
            for module in net.modules():
                if parametrize.is_parametrized(module):
                    for name in module.parametrizations:  # type: ignore[union-attr]
                        getattr(module, name)
        net.eval()


@contextmanager
def _frozen(nets: Nets) -> Iterator[None]:
    """The generator's loss reaches through the discriminators, not into them: only their own pass is synchronised."""
    for net in nets.values():
        net.requires_grad_(False)
    try:
        yield
    finally:
        for net in nets.values():
            net.requires_grad_(True)


def _seed_all(seed: int, step: int, micro: int, rank: int) -> None:
    """Python's, numpy's and torch's generators, for whatever a net draws itself, such as dropout."""
    number = int(np.random.default_rng((seed, step, micro, rank, 1)).integers(2**32))
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 the global one is the one to set
    torch.manual_seed(number)


def _clipped_norms(run: Run) -> dict[str, Tensor]:
    """Norm of each net's gradient before clipping; nets that this step did not touch are left out."""
    for optimiser in _active(run).values():
        if run.accelerator.scaler is not None:
            run.accelerator.scaler.unscale_(optimiser)
    norms = {}
    for name, net in (*run.trainee.networks.items(), *run.trainee.discriminators.items()):
        touched = [parameter for parameter in net.parameters() if parameter.grad is not None]
        if touched:
            norms[f"grad/{name}"] = nn.utils.clip_grad_norm_(touched, run.config.clip or math.inf)
    return norms


def _active(run: Run) -> dict[str, torch.optim.Optimizer]:
    """The optimisers that have a gradient this step."""
    return {
        name: optimiser
        for name, optimiser in run.optimisers.items()
        if any(parameter.grad is not None for group in optimiser.param_groups for parameter in group["params"])
    }


def _apply(run: Run) -> None:
    rates = {
        "networks": rate_at(run.share, run.step, run.config),
        "discriminators": discriminator_rate_at(run.share, run.config),
    }
    scaler = run.accelerator.scaler
    for name, optimiser in _active(run).items():
        for group in optimiser.param_groups:
            group["lr"] = rates[name]
        if scaler is None:
            optimiser.step()
        else:
            scaler.step(optimiser)
    if scaler is not None:
        scaler.update()
    run.skipped_in_a_row = 0
    _update_averages(run)


def _skip(run: Run, values: Mapping[str, Tensor], report: Report | None) -> None:
    """Counts an update that is left out. Every process sees the same means and norms, so all leave it out."""
    bad = ", ".join(name for name, value in values.items() if not bool(value.isfinite()))
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.update()
    run.skipped += 1
    run.skipped_in_a_row += 1
    if report is not None:
        report.warn(run.step, f"not finite: {bad}; update left out, {run.skipped} so far")
    if run.skipped_in_a_row >= run.config.bad_in_a_row:
        fact = f"step {run.step}: {run.skipped_in_a_row} updates in a row without a finite gradient, the last for {bad}"
        raise UsageError(fact, "lower the rate, or choose bf16 or no mixed precision; the newest checkpoint is from before")


@torch.no_grad()
def _update_averages(run: Run) -> None:
    """Moving average of the weights; young runs forget faster."""
    keep = min(run.config.ema, (1 + run.step) / (10 + run.step))
    for name, average in run.averages.items():
        net = run.trainee.networks[name]
        for mean, value in zip(average.parameters(), net.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)
        for kept, now in zip(average.buffers(), net.buffers(), strict=True):
            kept.copy_(now)


# What surrounds the updates


def _accelerator(config: LoopConfig, cpu: bool) -> Accelerator:
    """Raises UsageError for half precision on a CPU, and for engines that cannot train two nets against each other."""
    if AcceleratorState._shared_state:  # a second run in one process may have other settings
        AcceleratorState._reset_state()
        GradientState._reset_state()
    handlers = [InitProcessGroupKwargs(timeout=timedelta(hours=2))]  # others wait while the first validates
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        kwargs_handlers=handlers,
    )
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("fp16 on the CPU", "choose bf16 or no mixed precision: a CPU has no use for fp16")
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        fact = f"{accelerator.distributed_type.value}: not an engine that steps two optimisers apart"
        raise UsageError(fact, "launch with plain multi-GPU or multi-CPU settings")
    return accelerator


def _optimiser(nets: Nets, config: LoopConfig, rate: float) -> torch.optim.Optimizer:
    trained = [parameter for net in nets.values() for parameter in net.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=rate, betas=config.betas, weight_decay=config.weight_decay)


class _Draws(Dataset[Any]):
    """Row p of step n, drawn where it is asked for."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows, self.seed = rows, seed

    def __getitem__(self, where: tuple[int, int]) -> Any:
        return self.rows.row(generator_of(self.seed, *where))


class _Places:
    """Which rows this process draws, micro-batch by micro-batch, without end: those of all processes together are one batch."""

    def __init__(self, config: LoopConfig, step: int, process: int, processes: int) -> None:
        self.config, self.step, self.process, self.processes = config, step, process, processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch, step = self.config.batch, self.step
        while True:
            for micro in range(self.config.accumulate):
                first = (micro * self.processes + self.process) * batch
                yield [(step, first + row) for row in range(batch)]
            step += 1


def _batches(run: Run) -> Iterator[Any]:
    places = _Places(run.config, run.step, run.accelerator.process_index, run.accelerator.num_processes)
    draws = _Draws(run.trainee.rows, run.config.seed)
    return iter(DataLoader(draws, batch_sampler=places, num_workers=run.config.workers))


def _agree(run: Run, stop: Stop | None) -> int:
    """The signal that any process was sent, 0 where none; the clock of the slowest is everyone's."""
    heard = torch.tensor([float(stop.number if stop else 0), run.elapsed_s], dtype=torch.float64, device=run.accelerator.device)
    number, run.elapsed_s = (float(value) for value in run.accelerator.gather(heard).view(-1, 2).amax(0))
    return int(number)


def _finished(run: Run) -> bool:
    config = run.config
    return 0 < config.steps <= run.step or 0 < 60 * config.minutes <= run.elapsed_s


@contextmanager
def _reporting(run: Run, quiet: bool) -> Iterator[Report | None]:
    """The first process speaks."""
    if not run.accelerator.is_main_process:
        yield None
        return
    with Report(run.out, run.step, quiet=quiet) as report:
        yield report


def _log(run: Run, report: Report | None) -> None:
    if run.step % run.config.log_every:
        return
    if report is not None:
        values = {name: float(torch.stack(found).mean()) for name, found in run.seen.items()}
        values["rate"] = float(run.optimisers["networks"].param_groups[0]["lr"])
        report.log(run.step, {**values, "skipped": run.skipped}, _pace(run))
    run.seen, run.logged_step, run.logged_s = {}, run.step, run.elapsed_s


def _pace(run: Run) -> Pace:
    config, seconds = run.config, max(run.elapsed_s - run.logged_s, 1e-9)
    steps = run.step - run.logged_step
    samples = steps * config.batch * config.accumulate * run.accelerator.num_processes
    bounds = [(config.steps - run.step) * seconds / steps] if config.steps else []
    bounds += [60 * config.minutes - run.elapsed_s] if config.minutes else []
    return Pace(run.share, samples / seconds, max(min(bounds), 0.0))


def _validate(run: Run, report: Report | None) -> None:
    """By the first process alone, while the others wait at the next step."""
    every = run.config.validate_every
    if report is None or not every or (run.step % every and not _finished(run)):
        return
    nets = _averages(run)
    for net in nets.values():
        net.eval()
    with torch.no_grad(), run.accelerator.autocast():
        found = run.trainee.validate(nets)
    if found is not None:
        report.validation(run.step, found)


def _averages(run: Run) -> Nets:
    return run.averages or run.trainee.networks


def _checkpoint(run: Run) -> None:
    config = run.config
    if run.step % config.checkpoint_every == 0 or run.elapsed_s - run.saved_s > 60 * config.checkpoint_minutes:
        _save(run)


def _save(run: Run) -> None:
    """By the first process alone: every process holds the same."""
    run.saved_step, run.saved_s = run.step, run.elapsed_s
    if not run.accelerator.is_main_process:
        return
    trainee, scaler = run.trainee, run.accelerator.scaler
    tables: dict[str, Mapping[str, Tensor]] = {}
    for kind, nets in (("network", trainee.networks), ("discriminator", trainee.discriminators), ("average", run.averages)):
        tables |= {f"{kind}.{name}": net.state_dict() for name, net in nets.items()}
    tables |= {f"optimiser.{name}": optimiser_table(held, run.names) for name, held in run.optimisers.items()}
    facts = {
        "elapsed_s": run.elapsed_s,
        "skipped": run.skipped,
        "skipped_in_a_row": run.skipped_in_a_row,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    save_checkpoint(run.out / CHECKPOINTS, run.step, tables, facts, run.config.keep)


def _resume(run: Run) -> None:
    """Everything of the newest checkpoint, where there is one."""
    path = newest(run.out / CHECKPOINTS)
    if path is None:
        return
    tables, facts = load_checkpoint(path)
    trainee = run.trainee
    for kind, nets in (("network", trainee.networks), ("discriminator", trainee.discriminators), ("average", run.averages)):
        for name, net in nets.items():
            fill_net(net, tables[f"{kind}.{name}"], path)
    for name, held in run.optimisers.items():
        fill_optimiser(held, run.names, tables[f"optimiser.{name}"])
    if run.accelerator.scaler is not None and facts["scaler"]:
        run.accelerator.scaler.load_state_dict(facts["scaler"])
    run.step = run.saved_step = run.logged_step = facts["step"]
    run.elapsed_s = run.saved_s = run.logged_s = facts["elapsed_s"]
    run.skipped, run.skipped_in_a_row = facts["skipped"], facts["skipped_in_a_row"]
