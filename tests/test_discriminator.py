"""The patch discriminator: its shapes and sizes, its slope, and that it learns what is real."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from musetalk_cli.models.discriminator import SMALL, DiscriminatorConfig, PatchDiscriminator
from musetalk_cli.training.losses import adversarial_discriminator

TOY = DiscriminatorConfig(widths=(4, 8, 8, 8))


@pytest.mark.parametrize(
    ("size", "scores", "features"),
    [
        ((256, 256), (26, 26), [(126, 126), (61, 61), (29, 29), (26, 26)]),  # face
        ((64, 128), (2, 10), [(30, 62), (13, 29), (5, 13), (2, 10)]),  # lips
        ((64, 64), (2, 2), [(30, 30), (13, 13), (5, 5), (2, 2)]),
    ],
)
def test_scores_and_features_have_the_released_shapes(
    size: tuple[int, int], scores: tuple[int, int], features: list[tuple[int, int]]
) -> None:
    found = PatchDiscriminator(TOY)(torch.zeros(2, 3, *size))
    assert found.scores.shape == (2, 1, *scores)
    expected = [(2, width, *shape) for width, shape in zip(TOY.widths, features, strict=True)]
    assert [tuple(feature.shape) for feature in found.features] == expected


def test_default_is_the_released_size_and_small_is_a_sixteenth() -> None:
    counts = [sum(p.numel() for p in PatchDiscriminator(config).parameters()) for config in (None, SMALL)]
    # 16 * width_in * width + width a block, 2 * width where there is a norm, 513 for the score
    assert counts[0] == (16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 960) + 2 * (128 + 256 + 512) + 513
    assert counts[1] < counts[0] / 15


def test_first_block_has_no_norm_and_the_last_keeps_its_size() -> None:
    net = PatchDiscriminator(TOY)
    norms = [type(block.norm) for block in net.blocks]
    assert norms == [nn.Identity, nn.InstanceNorm2d, nn.InstanceNorm2d, nn.InstanceNorm2d]
    assert [type(block.norm) for block in PatchDiscriminator(replace(TOY, normed=False)).blocks] == 4 * [nn.Identity]
    assert [block.halved for block in net.blocks] == [True, True, True, False]


def test_every_convolution_is_spectrally_normalised() -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator(TOY)
    with torch.no_grad():
        for conv in (*(block.conv for block in net.blocks), net.score):
            conv.parametrizations.weight.original.mul_(50)
            for _ in range(30):
                _ = conv.weight  # each look is one power iteration
            assert float(torch.linalg.matrix_norm(conv.weight.flatten(1), 2)) == pytest.approx(1, abs=0.02)


def test_eval_mode_changes_no_buffer() -> None:
    net = PatchDiscriminator(TOY).eval()
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(torch.randn(1, 3, 64, 128))
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


@pytest.mark.parametrize(("kind", "least"), [("wgan", 5), ("lsgan", 0.5)])
def test_without_norms_it_learns_to_score_the_real_above_the_painted(kind: str, least: float) -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator(replace(TOY, normed=False))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, betas=(0.5, 0.999))
    smooth = torch.linspace(-1, 1, 128).expand(2, 3, 64, 128)
    for _ in range(60):
        real, painted = net(torch.cat([smooth + 0.5 * torch.randn(2, 3, 64, 128), smooth])).scores.chunk(2)
        loss = adversarial_discriminator(real, painted, kind)  # type: ignore[arg-type]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float((real.mean() - painted.mean()).detach()) > least
