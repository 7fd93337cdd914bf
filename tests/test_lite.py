"""The embedded model: what it promises to the stages, and what the package promises about its files."""

import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from musetalk_cli.crop import MASK_ROW, hide_mouth
from musetalk_cli.errors import InternalError, MissingError
from musetalk_cli.models.family import Lent, Numbers
from musetalk_cli.models.lip_codes import wanted_landmarks
from musetalk_cli.models.lite import (
    Autoencoder,
    LipUNet,
    LiteModel,
    interpolate,
    lend_lips,
    lip_flow,
    lip_maps,
    load_lite,
    load_lite_whisper,
    read_basis,
    similarity,
    warp,
)

WEIGHTS = Path(__file__).parents[1] / "weights" / "lite"
LARGEST_FILE, LARGEST_FOLDER = 16_000_000, 48_000_000


@pytest.fixture(scope="module")
def model() -> LiteModel:
    return load_lite(WEIGHTS, torch.device("cpu"))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Two soft pictures in the colours of skin, no faces: enough for shapes and sameness."""
    rows, columns = np.mgrid[0:256, 0:256] / 256
    light = 0.4 + 0.3 * np.sin(5 * rows) * np.cos(4 * columns)
    one = light[..., None] * np.array([1.0, 0.75, 0.65])
    return (255 * np.stack([one, 1.2 * one[:, ::-1]])).astype(np.uint8)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (2, 10, 5, 384)).astype(np.float16)


def answered(model: LiteModel, crops: np.ndarray, windows: np.ndarray, lenders: list[int] | None = None) -> np.ndarray:
    """Latents of faces that lend each other their mouths; without `lenders` each its own."""
    masked, reference = model.encode(crops)
    rows = list(range(len(crops))) if lenders is None else lenders
    points = np.concatenate([_mouth(opened_px=10).numpy()] * len(crops)) if len(crops) else np.zeros((0, 68, 2), np.float32)
    return model.infer(masked, reference, windows, Lent(points, points, reference[rows], points[rows]))


def test_every_stage_has_the_shape_that_families_share(model: LiteModel, crops: np.ndarray, windows: np.ndarray) -> None:
    masked, reference = model.encode(crops)
    latents = answered(model, crops, windows)
    assert masked.shape == reference.shape == latents.shape == (2, model.latent_channels, 32, 32)
    assert masked.dtype == reference.dtype == latents.dtype == np.float16
    images = model.decode(latents)
    assert images.shape == (2, 256, 256, 3) and images.dtype == np.uint8


def test_no_rows_give_no_rows(model: LiteModel) -> None:
    latents = answered(model, np.zeros((0, 256, 256, 3), np.uint8), np.zeros((0, 10, 5, 384), np.float16))
    assert latents.shape == (0, model.latent_channels, 32, 32)
    assert model.decode(latents).shape == (0, 256, 256, 3)


def test_same_rows_give_same_pixels_whatever_the_batch(model: LiteModel, crops: np.ndarray, windows: np.ndarray) -> None:
    together = model.decode(answered(model, crops, windows))
    for row in (0, 1):
        alone = model.decode(answered(model, crops[row : row + 1], windows[row : row + 1]))
        np.testing.assert_array_equal(alone[0], together[row])


def test_a_hidden_mouth_is_encoded_about_its_edge_alone_to_the_last_bit(model: LiteModel) -> None:
    busy = np.random.default_rng(1).integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    np.testing.assert_array_equal(model.encode(busy)[0], model.encode(hide_mouth(busy))[1])


def test_bfloat16_paints_the_same_mouth(model: LiteModel, crops: np.ndarray, windows: np.ndarray) -> None:
    quick = load_lite(WEIGHTS, torch.device("cpu"), Numbers("bf16", exact=False))
    apart = np.abs(quick.decode(answered(quick, crops, windows)).astype(int) - model.decode(answered(model, crops, windows)))
    assert apart.mean() < 0.5 and apart.max() <= 6
    np.testing.assert_allclose(quick.lip_codes(windows), model.lip_codes(windows), atol=1e-5)  # what is said stays in fp32


def test_results_depend_on_no_number_of_threads(model: LiteModel, crops: np.ndarray, windows: np.ndarray) -> None:
    quick = load_lite(WEIGHTS, torch.device("cpu"), Numbers("fp32", exact=False))
    made = []
    for threads in (1, 3):
        torch.set_num_threads(threads)  # conftest sets it back
        made.append(quick.decode(answered(quick, crops, windows)))
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("step", ["encode", "decode"])
def test_nan_is_asked_again_and_never_a_black_mouth(
    model: LiteModel, crops: np.ndarray, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = model.encode(crops)[1]
    run = (lambda: model.encode(crops)[1]) if step == "encode" else (lambda: model.decode(latents))
    whole, right, spoiled = getattr(Autoencoder, step), run(), [1]

    def with_nan(self: Autoencoder, given: torch.Tensor) -> torch.Tensor:
        spoiled[0] -= 1
        return whole(self, given) * (float("nan") if spoiled[0] >= 0 else 1)

    monkeypatch.setattr(Autoencoder, step, with_nan)
    assert (run() == right).all()
    spoiled[0] = 99
    with pytest.raises(InternalError, match="NaN twice"):
        run()


@pytest.mark.parametrize(("net", "name"), [(Autoencoder, "encode"), (Autoencoder, "decode"), (LipUNet, "forward")])
def test_full_gpu_is_a_memory_error(
    model: LiteModel, crops: np.ndarray, windows: np.ndarray, net: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = model.encode(crops)[1]

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(net, name, out_of_memory)
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        if (net, name) == (Autoencoder, "decode"):
            model.decode(latents)
        answered(model, crops, windows)


def test_hidden_mouth_leaves_the_upper_half_as_it_is(model: LiteModel, crops: np.ndarray) -> None:
    masked, reference = model.encode(crops)
    np.testing.assert_array_equal(masked[:, :, :8], reference[:, :, :8])
    changed = crops.copy()
    changed[:, MASK_ROW:] = 255 - changed[:, MASK_ROW:]
    np.testing.assert_array_equal(model.encode(changed)[0], masked)


def test_decoder_gives_back_what_the_encoder_saw(model: LiteModel, crops: np.ndarray) -> None:
    rebuilt = model.decode(model.encode(crops)[1])
    assert np.abs(rebuilt.astype(int) - crops).mean() < 4


def test_a_second_of_sound_is_fifty_tokens(model: LiteModel) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_100).astype(np.float32)
    tokens = model.listen(noise)
    assert tokens.shape == (50, 5, 384) and tokens.dtype == np.float16
    assert model.listen(noise[:0]).shape == (0, 5, 384)


def test_lips_close_in_silence_and_open_on_a_vowel(model: LiteModel) -> None:
    silent, vowel = (_opening(model, sound) for sound in (np.zeros(16_000, np.float32), _vowel()))
    assert silent < 0.35, f"opening {silent:.2f} in silence"
    assert vowel > silent + 0.3, f"opening {vowel:.2f} on a vowel, {silent:.2f} in silence"
    outside = model.lip_codes(np.zeros((1, 10, 5, 384), np.float16))
    assert outside[0, 0] < 0.35


def test_missing_file_is_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="install"):
        load_lite(tmp_path, torch.device("cpu"))


def test_files_of_another_version_are_refused(tmp_path: Path) -> None:
    for path in WEIGHTS.iterdir():
        (tmp_path / path.name).symlink_to(path)
    sizes = json.loads((WEIGHTS / "config.json").read_text()) | {"code_size": 9}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    with pytest.raises(MissingError, match="not of this version"):
        load_lite(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("change", ["absent", "longer"])
def test_basis_of_other_tensors_is_refused(tmp_path: Path, change: str) -> None:
    tensors = load_file(WEIGHTS / "basis.safetensors")
    slope = tensors.pop("slope")
    if change == "longer":
        tensors["slope"] = torch.cat([slope, slope])
    save_file(tensors, tmp_path / "basis.safetensors")
    with pytest.raises(MissingError, match="not of this version"):
        read_basis(tmp_path)


def test_files_are_small_and_those_of_the_manifest() -> None:
    rows = json.loads((WEIGHTS / "manifest.json").read_text())["files"]
    shipped = {path.name for path in WEIGHTS.glob("*.safetensors")}
    assert shipped <= {row["name"] for row in rows}
    for row in rows:
        content = (WEIGHTS / row["name"]).read_bytes()
        assert len(content) == row["bytes"] <= LARGEST_FILE
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= LARGEST_FOLDER


@pytest.mark.parametrize(("value", "wanted"), [(-5.0, 10.0), (0.0, 10.0), (0.25, 15.0), (0.75, 22.5), (9.0, 25.0)])
def test_interpolation_is_linear_between_knots_and_flat_beyond(value: float, wanted: float) -> None:
    xs, ys = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[10.0, 20.0, 25.0]])
    assert float(interpolate(torch.tensor([[value]]), xs, ys)) == pytest.approx(wanted)


def test_lips_that_stay_do_not_move_the_picture() -> None:
    points = _mouth(opened_px=10)
    assert float(lip_flow(points, points).abs().max()) == 0
    flow = lip_flow(_mouth(opened_px=30), points)
    assert float(flow[0, 1, 52, 32]) < -5, "below an opened mouth the picture comes from higher up"
    assert float(flow[0].abs()[:, :20].max()) < 1, "the upper half stays"


def test_similarity_finds_the_turn_that_was_made() -> None:
    points = _mouth(opened_px=10)
    turned = points @ torch.tensor([[0.0, 1.1], [-1.1, 0.0]]) + torch.tensor([5.0, -7.0])
    turn, shift = similarity(points, turned)
    torch.testing.assert_close(points @ turn.mT + shift[:, None], turned, atol=1e-3, rtol=0)


def test_a_face_that_lends_itself_its_own_lips_stays_as_it_is(model: LiteModel, crops: np.ndarray) -> None:
    own, points = torch.from_numpy(model.encode(crops[:1])[1]).float(), _mouth(opened_px=10)
    with torch.inference_mode():
        lent = lend_lips(model.nets.autoencoder, own, own, points, points, points)
        alone = model.nets.autoencoder.decode(own)[:, :, 80:]
    assert float((lent.picture - alone)[:, :, 24:].abs().max()) < 0.02  # above, a decoder that begins at row 10 differs
    assert float((lent.latents - own)[:, :, :14].abs().max()) == 0


def test_lent_mouth_comes_to_lie_where_the_face_has_its_own(model: LiteModel) -> None:
    """The lender stands 20 px further left; its blue mouth shows at the face's own place, and nowhere else."""
    face, lender = np.full((2, 256, 256, 3), 120, np.uint8)
    lender[180:200, 90:130] = (60, 60, 220)
    points = _mouth(opened_px=10)
    aside = points - torch.tensor([20.0, 0.0])
    own, other = (torch.from_numpy(latents[None]).float() for latents in model.encode(np.stack([face, lender]))[1])
    with torch.inference_mode():
        picture = lend_lips(model.nets.autoencoder, own, other, points, aside, points).picture
    blue = ((picture[0].permute(1, 2, 0).numpy() + 1) * 127.5).astype(int)
    blueness = blue[..., 2] - blue[..., 0]
    assert blueness[105:118, 115:145].min() > 60
    assert blueness[105:118, 85:95].max() < 30 and blueness[:80].max() < 30


def test_map_is_one_inside_an_open_mouth_and_zero_where_closed() -> None:
    assert float(lip_maps(_mouth(opened_px=30))[0, 0, 47, 32]) > 0.9
    assert float(lip_maps(_mouth(opened_px=0))[0, 0].max()) < 0.5


def test_warp_takes_each_pixel_from_where_the_flow_says() -> None:
    picture = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    right = torch.zeros(1, 2, 4, 4)
    right[:, 0] = 1
    torch.testing.assert_close(warp(picture, right)[0, 0, :, :3], picture[0, 0, :, 1:])


def test_code_of_a_closed_mouth_closes_it(model: LiteModel) -> None:
    points, closed = _mouth(opened_px=30).numpy(), np.zeros((1, 8), np.float32)
    wanted = wanted_landmarks(points, closed, np.zeros(1, np.int16), model.nets.basis)
    gap = wanted[0, 66, 1] - wanted[0, 62, 1]
    assert abs(float(gap)) < 4, f"inner lips {float(gap):.1f} px apart"


def _mouth(opened_px: float) -> torch.Tensor:
    """(1, 68, 2): a plain face in the crop, mouth about (128, 190)."""
    points = torch.zeros(1, 68, 2)
    angle = torch.linspace(torch.pi, 0, 17)
    points[0, :17] = torch.stack([128 + 115 * torch.cos(angle), 100 + 140 * torch.sin(angle)], 1)
    points[0, 27:31] = torch.stack([torch.full((4,), 128.0), torch.linspace(80, 135, 4)], 1)
    points[0, 31:36] = torch.stack([torch.linspace(110, 146, 5), torch.full((5,), 148.0)], 1)
    for start, middle in ((36, 78.0), (42, 178.0)):
        around = torch.linspace(torch.pi, -torch.pi, 7)[:6]
        points[0, start : start + 6] = torch.stack([middle + 20 * torch.cos(around), 80 + 6 * torch.sin(around)], 1)
    outer, inner = torch.linspace(torch.pi, 3 * torch.pi, 13)[:12], torch.linspace(torch.pi, 3 * torch.pi, 9)[:8]
    points[0, 48:60] = torch.stack([128 + 40 * torch.cos(outer), 190 + 14 * torch.sin(outer)], 1)
    points[0, 60:68] = torch.stack([128 + 32 * torch.cos(inner), torch.full((8,), 190.0)], 1)
    points[0, [49, 50, 51, 52, 53, 61, 62, 63], 1] -= opened_px / 2
    points[0, [55, 56, 57, 58, 59, 65, 66, 67], 1] += opened_px / 2
    return points


def _opening(model: LiteModel, sound: np.ndarray) -> float:
    tokens = model.listen(sound)
    windows = np.stack([tokens[i : i + 10] for i in range(10, 36, 2)])
    return float(model.lip_codes(windows)[:, 0].mean())


def _vowel() -> np.ndarray:
    """A second of /a/: harmonics of 120 Hz under the formants of an open mouth, in syllables of a fifth of a second."""
    seconds = np.arange(16_000) / 16_000
    pitches = 120 * np.arange(1, 40)
    loudness = sum(np.exp(-(((pitches - formant) / width) ** 2)) for formant, width in ((800, 150), (1200, 150), (2600, 250)))
    tone = (loudness[:, None] * np.sin(2 * np.pi * pitches[:, None] * seconds)).sum(0)
    return (0.2 * tone / np.abs(tone).max() * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * seconds))).astype(np.float32)


@pytest.mark.parametrize(
    "header", [b"", b"{}", b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}']
)
@pytest.mark.parametrize("name", ["unet.safetensors", "basis.safetensors", "whisper.safetensors"])
def test_a_net_whose_header_lies_is_named(tmp_path: Path, name: str, header: bytes) -> None:
    folder = Path(shutil.copytree(WEIGHTS, tmp_path / "model"))
    (folder / name).write_bytes(struct.pack("<Q", len(header) or 1 << 40) + header)
    with pytest.raises(MissingError, match=name):
        load_lite_whisper(folder) if name.startswith("whisper") else load_lite(folder, torch.device("cpu"))
