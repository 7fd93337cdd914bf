"""VGG-19's features: layers and shapes, torchvision's file, and the perceptual loss on them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.errors import MissingError
from musetalk_cli.models.vgg import Vgg19Features, load_vgg19
from musetalk_cli.training.config import PerceptualConfig
from musetalk_cli.training.losses import load_perceptual

POOLED_AFTER = (2, 7, 16, 25, 34)  # indices of torchvision's convolutions before a pooling
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 256, *[512] * 8)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in torchvision's layout, of random numbers; its classifier is toy."""
    torch.manual_seed(0)
    tensors, width_in = {}, 3
    for index, width in zip(CONVOLUTIONS, WIDTHS, strict=True):
        tensors[f"features.{index}.weight"] = torch.randn(width, width_in, 3, 3) * (2 / (9 * width_in)) ** 0.5
        tensors[f"features.{index}.bias"] = 0.1 * torch.randn(width)
        width_in = width
    for index in (0, 3, 6):
        tensors[f"classifier.{index}.weight"], tensors[f"classifier.{index}.bias"] = torch.zeros(2, 2), torch.zeros(2)
    path = tmp_path_factory.mktemp("vgg") / "vgg19-dcbb9e9d.pth"
    torch.save(tensors, path)
    return path


def test_features_are_relu1_1_to_relu5_1_of_torchvisions_order(published: Path) -> None:
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    found = load_vgg19(published)(picture)
    assert [tuple(feature.shape[1:]) for feature in found] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    for got, wanted in zip(found, by_torchvisions_list(published, picture), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_released_normalisation_feeds_the_picture_as_it_is(published: Path) -> None:
    picture = torch.rand(1, 3, 16, 16)
    raw, mapped = load_vgg19(published, remap=False), load_vgg19(published)
    torch.testing.assert_close(raw(picture)[0], mapped(2 * picture - 1)[0])


def test_file_with_a_layer_missing_or_of_another_net_is_refused(published: Path, tmp_path: Path) -> None:
    tensors = torch.load(published, weights_only=True)
    other = tmp_path / "other.pth"
    torch.save({name: value for name, value in tensors.items() if name != "features.28.bias"}, other)
    with pytest.raises(MissingError, match=r"features\.28\.bias"):
        load_vgg19(other)
    torch.save({**tensors, "features.3.running_mean": torch.zeros(64)}, other)
    with pytest.raises(MissingError, match="running_mean"):
        load_vgg19(other)


@pytest.mark.parametrize(
    "config",
    [PerceptualConfig(), PerceptualConfig(distance="l1", pyramid=(1.0, 0.5), side_px=32, remap=False)],
    ids=["paper", "released"],
)
def test_perceptual_loss_is_nothing_for_the_same_picture_and_descends_towards_it(
    config: PerceptualConfig, published: Path
) -> None:
    perceptual = load_perceptual(config, published)
    assert perceptual is not None and not any(p.requires_grad for p in perceptual.parameters())
    torch.manual_seed(0)
    target = torch.rand(1, 3, 32, 32) * 2 - 1
    assert float(perceptual(target, target)) == 0
    answer = (target + 0.3 * torch.randn_like(target)).requires_grad_()
    before = perceptual(answer, target)
    before.backward()
    assert answer.grad is not None
    step = 0.02 * answer.grad / answer.grad.norm()
    assert float(perceptual(answer.detach() - step, target)) < float(before.detach())


def test_perceptual_loss_is_the_mean_over_layers_summed_over_scales(published: Path) -> None:
    answer, target = torch.rand(2, 1, 3, 32, 32)
    net = load_vgg19(published)
    pairs = list(zip(net(answer), net(target), strict=True))
    squares, absolutes = (torch.stack([f(a - b).mean() for a, b in pairs]).mean() for f in (torch.square, torch.abs))
    for config, wanted in (
        (PerceptualConfig(), squares),
        (PerceptualConfig(distance="l1"), absolutes),
        (PerceptualConfig(distance="l1", pyramid=(1.0, 1.0)), 2 * absolutes),
    ):
        perceptual = load_perceptual(config, published)
        assert perceptual is not None
        torch.testing.assert_close(perceptual(answer, target), wanted)


def test_sizes_are_those_of_vgg19_up_to_relu5_1() -> None:
    assert sum(p.numel() for p in Vgg19Features().parameters()) == 20_024_384 - 3 * (512 * 512 * 9 + 512)


def by_torchvisions_list(path: Path, picture: Tensor) -> list[Tensor]:
    """torchvision's `features` as a list of layers, looked at after layers 1, 6, 11, 20 and 29."""
    tensors = torch.load(path, weights_only=True)
    layers: list[nn.Module] = []
    for index in CONVOLUTIONS:
        weight = tensors[f"features.{index}.weight"]
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        conv.load_state_dict({"weight": weight, "bias": tensors[f"features.{index}.bias"]})
        assert len(layers) == index
        layers += [conv, nn.ReLU(), *([nn.MaxPool2d(2)] if index in POOLED_AFTER else [])]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, found = ((picture + 1) / 2 - mean) / std, []
    with torch.no_grad():
        for index, layer in enumerate(layers[:30]):
            x = layer(x)
            if index in (1, 6, 11, 20, 29):
                found.append(functional.relu(x))
    return found
