"""How fast the network's own steps are, beside what the machine can multiply. In: a model, rows. Out: rows a second, share of the ceiling.

FLOPs, two a multiply-add: of v15 and v1 counted by torch on the published architecture without numbers, convolutions and matrix
products; of lite on the model itself at work, convolutions and linear layers. Knows no stages.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.bench.machine import Ceiling
from musetalk_cli.bench.random_weights import published_nets
from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.landmarks import in_crop
from musetalk_cli.models.family import Family, Lent

LEAST_S = 1.5  # of each step, after one round that does not count
LONG_S = 10.0
MOST_ROUNDS = 50
CROP_PX = 256


class Step(NamedTuple):
    """One of encode, infer, decode. share: of the ceiling; None where torch counts nothing (another backend)."""

    name: str
    rows_a_second: float
    gflop_a_row: float
    share: float | None


class Rows(NamedTuple):
    """What the steps are fed with, N of each."""

    crops: NDArray[np.uint8]  # (N, 256, 256, 3)
    masked: NDArray[np.float16]  # (N, C, 32, 32)
    reference: NDArray[np.float16]
    windows: NDArray[np.float16]  # (N, 10, 5, 384)
    points: NDArray[np.float32]  # (N, 68, 2) in the crop

    def first(self, count: int) -> "Rows":
        """So many of each; the same again and again where there are fewer."""
        rows = np.arange(count) % len(self.masked)
        return Rows(self.crops[rows], self.masked[rows], self.reference[rows], self.windows[rows], self.points[rows])


def rows_of(work: Path, count: int) -> Rows | None:
    """From a finished run's work folder: the first shot that has so many rows. None where none has."""
    rng = np.random.default_rng(0)
    for latents in sorted(work.glob("latents/*/masked.npy")):
        masked = np.load(latents)
        if len(masked) < count:
            continue
        unit = latents.parent.name.partition("-")[0]
        picked = next(path for path in work.glob(f"pick/{unit}-*/landmarks.npy")).parent
        box, landmarks, roll = (np.load(picked / f"{name}.npy")[:count] for name in ("box", "landmarks", "roll"))
        return Rows(
            rng.integers(0, 256, (count, CROP_PX, CROP_PX, 3), np.uint8),
            masked[:count],
            np.load(latents.with_name("reference.npy"))[:count],
            rng.standard_normal((count, 10, 5, 384)).astype(np.float16),
            in_crop(landmarks, box, roll),
        )
    return None


def noise(count: int, channels: int) -> Rows:
    """For networks whose speed does not depend on what they see."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, count, channels, 32, 32)).astype(np.float16)
    crops = rng.integers(0, 256, (count, CROP_PX, CROP_PX, 3), np.uint8)
    windows = rng.standard_normal((count, 10, 5, 384)).astype(np.float16)
    return Rows(crops, latents[0], latents[1], windows, rng.uniform(0, CROP_PX, (count, 68, 2)).astype(np.float32))


def measure_steps(family: Family, config: ModelConfig, rows: Rows, ceiling: Ceiling) -> tuple[Step, ...]:
    """Encode, infer, decode, and infer and decode together, which is what the paper's frames a second count."""
    calls = calls_of(family, rows)
    seconds = {name: timed(call) / len(rows.masked) for name, call in calls.items()}
    counted = gflop_a_row(config, rows)
    seconds["infer + decode"] = seconds["infer"] + seconds["decode"]
    counted["infer + decode"] = counted["infer"] + counted["decode"]
    return tuple(
        Step(name, round(1 / spent, 3), round(counted[name], 2), share_of(counted[name] / spent, ceiling))
        for name, spent in seconds.items()
    )


def calls_of(family: Family, rows: Rows) -> dict[str, Callable[[], Any]]:
    """Each step over all rows, as the stages call it: with faces that it has not seen, since lite remembers some."""
    plan = family.plan(rows.points, rows.windows, np.zeros(len(rows.points), np.int16))
    number = count()

    def infer() -> NDArray[np.float16]:
        reference = rows.reference + np.float16(next(number) % 100 / 128)
        lent = Lent(rows.points, plan.wanted, reference[plan.lenders], rows.points[plan.lenders])
        return family.infer(rows.masked, reference, rows.windows, lent)

    return {"encode": lambda: family.encode(rows.crops), "infer": infer, "decode": lambda: family.decode(rows.reference)}


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call: the median of those after the first, or the first where it is so long that its beginning does not count."""
    began = time.perf_counter()
    call()
    first = time.perf_counter() - began
    if first > LONG_S:
        return first
    spent: list[float] = []
    while not spent or (sum(spent) < LEAST_S and len(spent) < MOST_ROUNDS):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return float(np.median(spent))


def share_of(gflops: float, ceiling: Ceiling) -> float | None:
    """Of the ceiling; None where nothing was counted."""
    return round(gflops / ceiling.gflops, 4) if gflops else None


def gflop_a_row(config: ModelConfig, rows: Rows) -> dict[str, float]:
    """Of encode (masked and reference), infer and decode."""
    return _published_gflop() if config.name != "lite" else _lite_gflop(config, rows)


def _published_gflop() -> dict[str, float]:
    import torch

    unet, vae = published_nets()
    picture, latent = torch.empty(1, 3, CROP_PX, CROP_PX, device="meta"), torch.empty(1, 4, 32, 32, device="meta")
    tokens, step = torch.empty(1, 50, 384, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
    return {
        "encode": 2 * _counted(lambda: vae.encode(picture)),
        "infer": _counted(lambda: unet(torch.cat([latent, latent], 1), step, tokens)),
        "decode": _counted(lambda: vae.decode(latent)),
    }


def _lite_gflop(config: ModelConfig, rows: Rows) -> dict[str, float]:
    """In full precision on the CPU, where nothing stands in for its layers; from hooks, since its rows run in threads."""
    from musetalk_cli.models import load_family

    family: Any = load_family(replace(config, precision="fp32", exact=True), Runtime())
    return {name: _layers(family.nets, call) for name, call in calls_of(family, rows.first(1)).items()}


def _layers(nets: Sequence[Any], call: Callable[[], Any]) -> float:
    """GFLOP of the layers that a call goes through. nets: those of them that are torch's are looked at."""
    from torch import Tensor, nn

    done: list[int] = []

    def conv(layer: nn.Conv2d, given: tuple[Tensor, ...], made: Tensor) -> None:
        done.append(2 * made.numel() * (layer.in_channels // layer.groups) * layer.kernel_size[0] * layer.kernel_size[1])

    def linear(layer: nn.Linear, given: tuple[Tensor, ...], made: Tensor) -> None:
        done.append(2 * made.numel() * layer.in_features)

    modules = [module for net in nets if isinstance(net, nn.Module) for module in net.modules()]
    hooks = [module.register_forward_hook(conv) for module in modules if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_hook(linear) for module in modules if isinstance(module, nn.Linear)]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(done) / 1e9


def _counted(call: Callable[[], Any]) -> float:
    """GFLOP."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        call()
    return float(counter.get_total_flops()) / 1e9
