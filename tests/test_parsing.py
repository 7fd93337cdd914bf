"""Face parsing: the mask's rules from labels alone, the net by its file format, and the real file where it is at hand."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli import weights
from musetalk_cli.config import MaskMode
from musetalk_cli.errors import MissingError
from musetalk_cli.models.parsing import BiSeNet, FaceParser, jaw_kernel, load_parser, mask_of

SKIN, NOSE, MOUTH, UPPER_LIP, LOWER_LIP, NECK, HAIR = 1, 10, 11, 12, 13, 14, 17
REAL = os.environ.get("MUSETALK_TEST_WEIGHTS")


def _labels(*marks: tuple[int, slice | int, slice | int]) -> NDArray[np.uint8]:
    """(512, 512) background with (class, rows, columns) drawn in."""
    labels = np.zeros((512, 512), np.uint8)
    for kind, rows, columns in marks:
        labels[rows, columns] = kind
    return labels


@pytest.mark.parametrize(
    ("mode", "shown"),
    [("raw", {1, 11, 12, 13}), ("neck", {1, 11, 12, 13, 14}), ("jaw", {1, 11, 12, 13})],
    ids=["raw", "neck", "jaw"],
)
def test_each_mode_shows_its_classes_and_no_other(mode: MaskMode, shown: set[int]) -> None:
    for kind in range(19):
        mask = mask_of(np.full((512, 512), kind, np.uint8), mode)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {255 if kind in shown else 0}, kind


def test_jaw_kernel_is_eleven_rows_of_triangle_on_twelve_of_block() -> None:
    kernel = jaw_kernel()
    assert kernel.shape == (33, 33)
    assert [int(row.sum()) for row in kernel] == [0] * 10 + list(range(1, 22, 2)) + [21] * 12
    assert (kernel == kernel[:, ::-1]).all()


def test_jaw_lets_skin_grow_16_up_10_aside_and_6_down() -> None:
    grown = np.argwhere(mask_of(_labels((SKIN, 250, 256)), "jaw"))
    (top, left), (bottom, right) = grown.min(0), grown.max(0)
    assert (250 - top, bottom - 250) == (16, 6)
    assert (256 - left, right - 256) == (10, 10)


def test_jaw_never_shows_the_nose_and_always_the_lips() -> None:
    labels = _labels((SKIN, slice(100, 400), slice(100, 400)), (NOSE, slice(180, 260), slice(230, 280)))
    labels[330:350, 200:300], labels[350:360, 200:300], labels[360:380, 200:300] = UPPER_LIP, MOUTH, LOWER_LIP
    mask = mask_of(labels, "jaw")
    assert (mask[labels == NOSE] == 0).all()
    assert (mask[330:380, 200:300] == 255).all()


def test_jaw_does_not_grow_from_hair_or_neck() -> None:
    assert not mask_of(_labels((HAIR, slice(0, 200), slice(None)), (NECK, slice(400, 512), slice(None))), "jaw").any()


@pytest.mark.parametrize("cheek", [20, 80, 90, 160])
def test_jaw_wears_the_cheeks_down_and_leaves_the_middle(cheek: int) -> None:
    labels = _labels()
    cv2.ellipse(labels, (256, 270), (170, 210), 0, 0, 360, SKIN, -1)
    skin = (labels == SKIN).astype(np.uint8)
    dilated = cv2.dilate(skin, jaw_kernel())
    flat = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (35, 3))
    eroded = cv2.erode(cv2.erode(dilated, flat), flat)
    wanted = dilated.copy()
    wanted[:, 0 : 256 - cheek + 1] = eroded[:, 0 : 256 - cheek + 1]  # both ends belong to the cheeks
    wanted[:, 256 + cheek : 512] = eroded[:, 256 + cheek : 512]
    assert (mask_of(labels, "jaw", cheek) == wanted * 255).all()


def test_wider_cheek_setting_shows_more() -> None:
    labels = _labels((SKIN, slice(100, 400), slice(120, 392)))
    shown = [int((mask_of(labels, "jaw", cheek) > 0).sum()) for cheek in (40, 90, 140)]
    assert shown[0] <= shown[1] <= shown[2]
    assert shown[0] < shown[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with random numbers under the published names, in the published file's old format."""
    root = tmp_path_factory.mktemp("weights")
    (root / "face-parse-bisent").mkdir()
    torch.manual_seed(0)
    path = root / "face-parse-bisent/79999_iter.pth"
    torch.save(BiSeNet().state_dict(), path, _use_new_zipfile_serialization=False)
    return root


@pytest.fixture(scope="module")
def parser(folder: Path) -> FaceParser:
    return load_parser(folder, torch.device("cpu"))


def test_net_has_the_tensors_of_the_published_file() -> None:
    tensors = BiSeNet().state_dict()
    assert (len(tensors), sum(tensor.numel() for tensor in tensors.values())) == (191, 13_313_119)
    assert {"cp.resnet.layer4.0.downsample.1.running_var", "cp.arm16.bn_atten.weight", "conv_out32.conv_out.weight"} <= set(
        tensors
    )


def test_parse_is_resize_normalise_first_head_argmax(parser: FaceParser, folder: Path) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    net = BiSeNet().eval()
    net.load_state_dict(torch.load(folder / "face-parse-bisent/79999_iter.pth", weights_only=True))
    large = np.asarray(Image.fromarray(crop).resize((512, 512), Image.Resampling.BILINEAR), np.float32) / 255
    image = torch.from_numpy((large - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        head = net.conv_out(net.ffm(*net.cp(image)))  # (1, 19, 64, 64)
    scores = torch.nn.functional.interpolate(head, (512, 512), mode="bilinear", align_corners=True)
    labels = parser.parse(crop[None])
    assert labels.shape == (1, 512, 512)
    assert labels.dtype == np.uint8
    assert (labels[0] != scores.argmax(1)[0].numpy()).mean() < 1e-4  # the last bit of a sum decides a tie


def test_same_crop_gives_the_same_labels_in_any_batch(parser: FaceParser) -> None:
    crops = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    assert (parser.parse(crops)[1] == parser.parse(crops[1:])[0]).all()


def test_no_crops_give_no_labels(parser: FaceParser) -> None:
    assert parser.parse(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 512, 512)


def test_absent_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="musetalk weights pull v15"):
        load_parser(tmp_path, torch.device("cpu"))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo run > ran",)


def test_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "face-parse-bisent/79999_iter.pth"
    path.parent.mkdir()
    torch.save({"cp": Evil()}, path)
    with pytest.raises(MissingError, match=r"79999_iter\.pth: refused.* asks for (posix|nt)\.system"):
        load_parser(tmp_path, torch.device("cpu"))
    assert not Path("ran").exists()


@pytest.mark.skipif(not REAL, reason="MUSETALK_TEST_WEIGHTS names no folder with the published 79999_iter.pth")
def test_real_file_knows_a_face() -> None:
    from skimage.data import astronaut

    assert weights.verify("parsing", Path(str(REAL)))[0].fact == "sha256 fits"
    crop = astronaut()[0:260, 95:355]
    labels = load_parser(Path(str(REAL)), torch.device("cpu")).parse(crop[None])[0]
    points = {
        "nose": (235, 256),
        "teeth": (286, 252),
        "chin": (330, 252),
        "neck": (350, 245),
        "hair": (100, 260),
        "sky": (60, 460),
    }
    found = {name: int(labels[row, column]) for name, (row, column) in points.items()}
    assert found == {"nose": NOSE, "teeth": MOUTH, "chin": SKIN, "neck": NECK, "hair": HAIR, "sky": 0}
