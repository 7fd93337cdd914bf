"""One training loop for every net. In: a state, a function that gives named loss terms, their weights. Out: the trained state.

A run is bounded in minutes, not steps; the learning rate follows the share of the time spent, so that a run stopped and resumed
ends where it would have. Checkpoints hold the net, its moving average, the optimiser and the step, and are published whole.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

LossTerms = Callable[[nn.Module, int], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How long and how fast."""

    minutes: float = 20.0
    rate: float = 1e-3
    final_share: float = 0.03  # of the rate, at the end
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    average: float = 0.998  # of the moving average of the weights
    log_every: int = 50
    save_every_s: float = 180.0
    max_steps: int = 0  # 0: until the time is up
    bf16: bool = True


@dataclass(slots=True)
class State:
    """What a run is: everything that a checkpoint holds."""

    net: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    elapsed_s: float = 0.0


def new_state(net: nn.Module, config: LoopConfig) -> State:
    """A run that has not begun."""
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 leaves it out of the signature
    trained = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.rate, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    return State(net, deepcopy(net).eval().requires_grad_(False), optimiser)


def train(state: State, terms: LossTerms, weights: Mapping[str, float], config: LoopConfig, checkpoint: Path) -> State:
    """Trains until the time is up; goes on from `checkpoint` where it exists."""
    if checkpoint.exists():
        load_checkpoint(state, checkpoint)
    saved_s = state.elapsed_s
    seen: dict[str, list[float]] = {}
    while not _finished(state, config):
        begun = time.monotonic()
        found = step(state, terms, weights, config)
        state.elapsed_s += time.monotonic() - begun
        for name, value in found.items():
            seen.setdefault(name, []).append(value)
        if state.step % config.log_every == 0:
            _report(state, seen)
            seen = {}
        if state.elapsed_s - saved_s > config.save_every_s:
            save_checkpoint(state, checkpoint)
            saved_s = state.elapsed_s
    save_checkpoint(state, checkpoint)
    return state


def step(state: State, terms: LossTerms, weights: Mapping[str, float], config: LoopConfig) -> dict[str, float]:
    """One update; the loss is the sum of the terms that `weights` names."""
    for group in state.optimiser.param_groups:
        group["lr"] = config.rate * rate_share(state, config)
    state.net.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        found = terms(state.net, state.step)
    total = sum((weights[name] * value for name, value in found.items()), torch.zeros(()))
    state.optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.net.parameters(), config.clip)
    state.optimiser.step()
    state.step += 1
    update_average(state, config.average)
    return {name: float(value.detach()) for name, value in found.items()}


def rate_share(state: State, config: LoopConfig) -> float:
    """Warm-up by steps, then a cosine over the share of the time (or of the steps, where they are the bound)."""
    spent = state.step / config.max_steps if config.max_steps else state.elapsed_s / (60 * config.minutes)
    cosine = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * min(spent, 1.0)))
    return cosine * min(1.0, (state.step + 1) / max(config.warmup_steps, 1))


@torch.no_grad()
def update_average(state: State, keep: float) -> None:
    """Moving average of the weights; young runs forget faster."""
    keep = min(keep, (1 + state.step) / (10 + state.step))
    for mean, value in zip(state.average.parameters(), state.net.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)
    for kept, now in zip(state.average.buffers(), state.net.buffers(), strict=True):
        kept.copy_(now)


def save_checkpoint(state: State, path: Path) -> None:
    """The whole state, published at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"part.{path.name}")
    torch.save(
        {
            "net": state.net.state_dict(),
            "average": state.average.state_dict(),
            "optimiser": state.optimiser.state_dict(),
            "step": state.step,
            "elapsed_s": state.elapsed_s,
        },
        beside,
    )
    os.replace(beside, path)


def load_checkpoint(state: State, path: Path) -> None:
    """Sets the state to what `save_checkpoint` wrote."""
    kept = torch.load(path, map_location="cpu", weights_only=True)
    state.net.load_state_dict(kept["net"])
    state.average.load_state_dict(kept["average"])
    state.optimiser.load_state_dict(kept["optimiser"])
    state.step, state.elapsed_s = kept["step"], kept["elapsed_s"]


def _finished(state: State, config: LoopConfig) -> bool:
    return state.elapsed_s >= 60 * config.minutes or (0 < config.max_steps <= state.step)


def _report(state: State, seen: Mapping[str, list[float]]) -> None:
    terms = "  ".join(f"{name} {sum(values) / len(values):.4f}" for name, values in seen.items())
    print(f"step {state.step}  {state.elapsed_s / 60:.1f} min  {terms}", flush=True)
