"""How good answers are on people held out. In: painted and real pictures. Out: figures, and strips to look at.

    row of a strip: masked | reference | answer | truth, a person a row

L1 (0..1 of the full range), PSNR (dB) and SSIM of the rows below the mask's edge: above it a picture is given. Knows nothing of nets.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from musetalk_cli.crop import MASK_ROW
from musetalk_cli.training.windows import Window, WindowRows

PEOPLE = 8  # of the held-out split, that are looked at
SSIM_SIGMA, SSIM_PX = 1.5, 11  # Wang et al. 2004


class Shown(NamedTuple):
    """One window as a validation sees it; N frames, (N, 3, 256, 256) in [-1, 1] each."""

    masked: Tensor
    reference: Tensor
    answer: Tensor
    truth: Tensor


def held_windows(rows: WindowRows, seed: int, people: int = PEOPLE) -> list[Window]:
    """The same windows at every validation: the middle of up to `people` samples, one an identity as far as there are enough."""
    first: dict[str, int] = {}
    usable = [index for index in range(len(rows.samples)) if rows.chance[index]]
    for index in usable:
        first.setdefault(rows.samples[index].identity, index)
    others = [index for index in usable if index not in first.values()]
    chosen = [*first.values(), *others][:people]
    middles = [(rows.samples[index].frames - rows.frames) // 2 for index in chosen]
    generators = [np.random.default_rng((seed, index)) for index in chosen]
    return [rows.window(*where) for where in zip(chosen, middles, generators, strict=True)]


def picture_metrics(shown: Sequence[Shown]) -> dict[str, float]:
    """l1, psnr and ssim below the mask's edge, means over all frames."""
    answers = torch.cat([window.answer for window in shown]).float().clamp(-1, 1)[:, :, MASK_ROW:]
    truths = torch.cat([window.truth for window in shown]).float()[:, :, MASK_ROW:]
    error = (answers - truths) / 2
    psnr = -10 * error.square().mean((1, 2, 3)).clamp_min(1e-10).log10()
    with torch.autocast(answers.device.type, enabled=False):  # variances are differences of near equals
        alike = ssim(answers, truths)
    return {"l1": float(error.abs().mean()), "psnr": float(psnr.mean()), "ssim": float(alike)}


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean structural similarity of (N, C, H, W) in [-1, 1], 1 where equal; Gaussian windows of 11 px (Wang et al. 2004)."""
    offsets = torch.arange(SSIM_PX, device=one.device) - SSIM_PX // 2
    line = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum()).expand(one.shape[1], 1, -1, -1)

    def blurred(images: Tensor) -> Tensor:
        return functional.conv2d(images, kernel, groups=images.shape[1])

    mean_a, mean_b = blurred(one), blurred(other)
    var_a, var_b = blurred(one * one) - mean_a**2, blurred(other * other) - mean_b**2
    cov = blurred(one * other) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    return ((2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()


def strip(shown: Sequence[Shown]) -> NDArray[np.uint8]:
    """(256 * people, 1024, 3) RGB: the middle frame of each window."""
    rows = [torch.cat([part[len(part) // 2] for part in window], 2) for window in shown]
    levels = torch.cat(rows, 1).float().add(1).mul(127.5).round().clamp(0, 255)
    picture: NDArray[np.uint8] = levels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return picture


def area_under_curve(right: NDArray[np.floating], wrong: NDArray[np.floating]) -> float:
    """Chance that a right pair scores above a wrong one, ties counting half; nan where there is none of a kind."""
    if not len(right) or not len(wrong):
        return math.nan
    apart = right[:, None] - wrong[None]
    return float(((apart > 0) + 0.5 * (apart == 0)).mean())
