"""Nets written for speed against diffusers' own, and what becomes of batches, of what overflows and of what does not compile."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from test_published import CPU, SMALL, SMALL_UNET, SMALL_VAE, Rows, _random, rows, write_published
from torch import Tensor, nn

from musetalk_cli.models.compiled import Compiled
from musetalk_cli.models.family import Numbers
from musetalk_cli.models.fast import FastDecoder, FastEncoder, FastUnet
from musetalk_cli.models.feed import Made, answers, filled, size_for
from musetalk_cli.models.published import PublishedModel, load_published

__all__ = ["rows"]  # a fixture
TIMESTEP = torch.zeros(1, dtype=torch.int64)
# bfloat16 keeps 8 bits; both ways of computing in it are this far from fp32, so from each other at most the sum
NEAR = {torch.float32: 1e-4, torch.bfloat16: 0.08}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_published(root, SMALL)
    return root


@pytest.fixture(scope="module")
def exact(folder: Path) -> PublishedModel:
    return load_published("v15", folder, CPU)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    net = UNet2DConditionModel.from_config(SMALL_UNET).eval()
    net.load_state_dict(_random(net))
    return net


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    net = AutoencoderKL.from_config(SMALL_VAE).eval()
    net.load_state_dict(_random(net))
    return net


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """By the root of the mean square, over the spread of what is wanted."""
    off = (found.float() - wanted.float()).square().mean().sqrt() / wanted.float().std()
    assert off < NEAR[dtype], float(off)


def of_type(net: Any, dtype: torch.dtype) -> Any:
    """A copy of these numbers."""
    made = copy.deepcopy(net)
    for weight in made.parameters():
        weight.data = weight.data.to(dtype)
    return made


@pytest.mark.parametrize("dtype", NEAR)
def test_unet_answers_as_diffusers_does(unet: UNet2DConditionModel, dtype: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(1)
    latents, tokens = torch.randn(3, 8, 32, 32, generator=noise), torch.randn(3, 50, 384, generator=noise)
    with torch.inference_mode():
        wanted = unet(latents, TIMESTEP, tokens).sample
        near(FastUnet(of_type(unet, dtype))(latents.to(dtype), tokens.to(dtype)), wanted, dtype)


@pytest.mark.parametrize("dtype", NEAR)
def test_autoencoder_answers_as_diffusers_does(vae: AutoencoderKL, dtype: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(2)
    images, latents = torch.rand(2, 3, 256, 256, generator=noise) * 2 - 1, torch.randn(2, 4, 32, 32, generator=noise)
    with torch.inference_mode():
        net = of_type(vae, dtype)
        near(FastEncoder(net)(images.to(dtype)), vae.encode(images).latent_dist.mode(), dtype)
        near(FastDecoder(net)(latents.to(dtype)), vae.decode(latents).sample, dtype)


def test_size_may_change_from_call_to_call(unet: UNet2DConditionModel) -> None:
    fast = FastUnet(unet)  # packs its weights for the first size it meets
    noise = torch.Generator().manual_seed(3)
    latents, tokens = torch.randn(5, 8, 32, 32, generator=noise), torch.randn(5, 50, 384, generator=noise)
    with torch.inference_mode():
        for count in (2, 5, 1):
            near(fast(latents[:count], tokens[:count]), unet(latents[:count], TIMESTEP, tokens[:count]).sample, torch.float32)


@pytest.mark.parametrize(("numbers", "levels"), [(Numbers("fp32", exact=False), 1), (Numbers("bf16", exact=False), 16)])
def test_fast_model_makes_the_exact_ones_pictures(
    folder: Path, exact: PublishedModel, rows: Rows, numbers: Numbers, levels: int
) -> None:
    fast = load_published("v15", folder, CPU, numbers)
    off = np.abs(fast.decode(rows.reference).astype(int) - exact.decode(rows.reference))
    assert off.max() <= levels
    assert off.mean() <= levels / 10
    for found, wanted in zip(fast.encode(rows.crops_rgb), exact.encode(rows.crops_rgb), strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, wanted, atol=0.001 * levels)
    answer, wanted = fast.infer(*rows[1:]), exact.infer(*rows[1:])
    np.testing.assert_allclose(answer, wanted, atol=0.01 * levels)


def test_no_rows_give_no_rows_in_fast_mode_either(folder: Path) -> None:
    fast, latents = load_published("v15", folder, CPU, Numbers(exact=False)), np.zeros((0, 4, 32, 32), np.float16)
    assert fast.infer(latents, latents, np.zeros((0, 10, 5, 384), np.float16)).shape == (0, 4, 32, 32)
    assert fast.encode(np.zeros((0, 256, 256, 3), np.uint8))[1].shape == (0, 4, 32, 32)
    assert fast.decode(latents).shape == (0, 256, 256, 3)


def test_what_overflows_in_fast_mode_is_done_again_in_full_precision(folder: Path, exact: PublishedModel, rows: Rows) -> None:
    fast = load_published("v15", folder, CPU, Numbers(exact=False))
    assert fast.fast is not None
    overflowing = Made(torch.zeros(1, 256, 256, 3, dtype=torch.uint8), torch.tensor(False))
    fast.fast.pixels = lambda latents: overflowing  # type: ignore[method-assign]
    assert (fast.decode(rows.masked) == exact.decode(rows.masked)).all()
    nowhere = Made(torch.full((1, 4, 32, 32), torch.nan), torch.tensor(False))
    fast.fast.latents = lambda crops_rgb: nowhere  # type: ignore[method-assign]
    assert (fast.encode(rows.crops_rgb)[1] == exact.encode(rows.crops_rgb)[1]).all()


def test_full_precision_can_be_asked_of_a_fast_model(folder: Path, rows: Rows) -> None:
    fast = load_published("v15", folder, CPU, Numbers("bf16", exact=False))
    rounded = load_published("v15", folder, CPU)
    rounded.nets.unet.bfloat16().float()
    before = fast.infer(*rows[1:])
    assert (fast.infer(*rows[1:], fp32=True) == rounded.infer(*rows[1:])).all()
    assert (fast.infer(*rows[1:]) == before).all()


def test_rows_come_back_in_order_whatever_the_batch() -> None:
    given = torch.arange(7)[:, None]
    for at_once in (1, 3, 7, 9):
        made = list(answers(lambda part: Made(part * 2, torch.tensor(True)), [given], CPU, at_once))
        assert torch.cat([part.made for part in made]).tolist() == (given * 2).tolist()
        assert all(part.rows.stop - part.rows.start == len(part.made) for part in made)


def test_batch_is_filled_up_with_its_last_row() -> None:
    part = torch.tensor([[1], [2]])
    assert filled(part, 4).tolist() == [[1], [2], [2], [2]]
    assert filled(part, 2) is part


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (9, 12), (12, 12)])
def test_batches_come_in_few_sizes_and_never_more_than_fit(rows: int, size: int) -> None:
    assert size_for(rows, at_once=12) == size


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_net_is_compiled_once_after_many_rows_and_for_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    through: list[int] = []

    def compiling(net: nn.Module, **_: Any) -> Any:
        def run(x: Tensor) -> Any:
            through.append(len(x))
            return net(x)

        made.append(net)
        return run

    monkeypatch.setattr(torch, "compile", compiling)
    net = Compiled(Doubled(), after=10)
    for _ in range(5):
        assert net(torch.ones(4)).tolist() == [2] * 4
    assert net(torch.ones(3)).tolist() == [2] * 3
    assert len(made) == 1
    assert through == [4, 4, 4]  # rows 9 to 12 and on; three rows were not what it was compiled for
    assert Compiled(Doubled(), after=None)(torch.ones(99)).sum() == 198


def test_net_that_does_not_compile_goes_on_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("no Triton\nand a long trace")

    monkeypatch.setattr(torch, "compile", failing)
    net = Compiled(Doubled(), after=0)
    with pytest.warns(RuntimeWarning, match="torch.compile failed, going on without: no Triton$"):
        assert net(torch.ones(2)).tolist() == [2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert net(torch.ones(2)).tolist() == [2, 2]


def test_full_gpu_while_compiling_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(torch.OutOfMemoryError):
        Compiled(Doubled(), after=0)(torch.ones(2))
