"""The published families from files in the published formats, against diffusers and transformers used directly and the formulas.

The weights are random: what is promised is that a file of these names and shapes goes through the same arithmetic. Small nets
always; the full size with MUSETALK_TEST_FULL=1 (4 GB of disk, minutes); the real whisper-tiny where MUSETALK_TEST_WEIGHTS names a
folder that has it.
"""

import json
import math
import os
import resource
import shutil
import time
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from musetalk_cli import weights
from musetalk_cli.errors import InternalError, MissingError, UsageError
from musetalk_cli.models import vae
from musetalk_cli.models.family import Numbers, windows_at
from musetalk_cli.models.published import PublishedModel, load_published
from musetalk_cli.models.unet import positional_encoding

CPU = torch.device("cpu")
MUSETALK_JSON: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 384,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 8,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SD_VAE_JSON: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.4.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
WHISPER_JSON = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536, "num_mel_bins": 80}
SMALL_UNET = {**MUSETALK_JSON, "block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
SMALL_VAE = {**SD_VAE_JSON, "block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 8}
SMALL_WHISPER = {**WHISPER_JSON, "encoder_ffn_dim": 64, "decoder_layers": 1, "decoder_ffn_dim": 16, "vocab_size": 64}
SMALL_WHISPER |= {
    "decoder_attention_heads": 6,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
}
TODAY_TO_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


class Sizes(NamedTuple):
    unet: dict[str, Any]
    vae: dict[str, Any]
    whisper: dict[str, Any]


SMALL = Sizes(SMALL_UNET, SMALL_VAE, SMALL_WHISPER)
FULL = Sizes(
    MUSETALK_JSON, SD_VAE_JSON, {**WHISPER_JSON, "decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536}
)


def write_published(root: Path, sizes: Sizes) -> None:
    """Random weights in the published layout and formats: pickles, the VAE with attention names of before diffusers 0.15, whisper
    with its decoder and the names of a whole model."""
    for folder in ("musetalkV15", "sd-vae", "whisper"):
        (root / folder).mkdir(parents=True)
    (root / "musetalkV15/musetalk.json").write_text(json.dumps(sizes.unet))
    (root / "sd-vae/config.json").write_text(json.dumps(sizes.vae))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(sizes.unet)
        vae = AutoencoderKL.from_config(sizes.vae)
        whisper = WhisperModel(WhisperConfig(**sizes.whisper))
    torch.save(_random(unet), root / "musetalkV15/unet.pth")
    torch.save(_in_old_names(_random(vae)), root / "sd-vae/diffusion_pytorch_model.bin")
    whisper.config.save_pretrained(root / "whisper")
    named = OrderedDict((f"model.{name}", tensor) for name, tensor in _random(whisper).items())
    torch.save(named, root / "whisper/pytorch_model.bin")


def _random(net: torch.nn.Module) -> OrderedDict[str, Tensor]:
    """Weights of about the spread that keeps activations of a trained net's size."""
    generator = torch.Generator().manual_seed(0)
    tensors = OrderedDict()
    for name, tensor in net.state_dict().items():
        fan_in = math.prod(tensor.shape[1:])
        spread = 0.05 if tensor.ndim == 1 else 0.5 / math.sqrt(fan_in)
        offset = 1.0 if tensor.ndim == 1 and "norm" in name and name.endswith("weight") else 0.0
        tensors[name] = torch.empty(tensor.shape).normal_(offset, spread, generator=generator)
    return tensors


def _in_old_names(tensors: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    old = OrderedDict()
    for name, tensor in tensors.items():
        for today, before in TODAY_TO_OLD.items():
            name = name.replace(f".{today}.", f".{before}.")
        old[name] = tensor
    return old


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_published(root, SMALL)
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> PublishedModel:
    return load_published("v15", folder, CPU)


class Rows(NamedTuple):
    crops_rgb: NDArray[np.uint8]
    masked: NDArray[np.float16]
    reference: NDArray[np.float16]
    windows: NDArray[np.float16]


@pytest.fixture(scope="module")
def rows() -> Rows:
    dice = np.random.default_rng(7)
    smooth = torch.from_numpy(dice.random((2, 3, 16, 16)).astype(np.float32))
    crops = torch.nn.functional.interpolate(smooth, (256, 256), mode="bicubic").clamp(0, 1).mul(255).byte()
    latents = [dice.standard_normal((2, 4, 32, 32)).astype(np.float16) for _ in range(2)]
    return Rows(
        crops.permute(0, 2, 3, 1).contiguous().numpy(), *latents, dice.standard_normal((2, 10, 5, 384)).astype(np.float16)
    )


def reference_vae(root: Path) -> AutoencoderKL:
    """diffusers' own loader, with its own renaming of old attention names."""
    return AutoencoderKL.from_pretrained(root / "sd-vae", use_safetensors=False, low_cpu_mem_usage=False).eval()


def expected_latents(vae: AutoencoderKL, crops_rgb: NDArray[np.uint8], *, masked: bool) -> NDArray[np.float16]:
    """In [0, 1], rows 128 to 255 times 0, then (x - 0.5) / 0.5; mode of the posterior times 0.18215."""
    image = torch.from_numpy(crops_rgb).permute(0, 3, 1, 2).contiguous() / 255.0
    if masked:
        image[:, :, 128:] *= 0
    with torch.no_grad():
        parts = [vae.encode((one[None] - 0.5) / 0.5).latent_dist.mode() for one in image]
    return (torch.cat(parts) * 0.18215).half().numpy()


def expected_positions() -> Tensor:
    """The table of Vaswani et al., number by number."""
    table = [[0.0] * 384 for _ in range(50)]
    for p in range(50):
        for k in range(192):
            table[p][2 * k] = math.sin(p / 10000 ** (2 * k / 384))
            table[p][2 * k + 1] = math.cos(p / 10000 ** (2 * k / 384))
    return torch.tensor(table)


def expected_answers(unet: UNet2DConditionModel, rows: Rows) -> NDArray[np.float32]:
    """[masked, reference] on channels, token = 5 * time + layer, positions added, timestep 0; the output is the answer."""
    tokens = torch.from_numpy(rows.windows).float().reshape(2, 50, 384) + expected_positions()
    both = torch.cat([torch.from_numpy(rows.masked).float(), torch.from_numpy(rows.reference).float()], dim=1)
    with torch.no_grad():
        parts = [unet(both[i : i + 1], torch.tensor([0]), encoder_hidden_states=tokens[i : i + 1]).sample for i in range(2)]
    return torch.cat(parts).numpy()


def expected_states(root: Path, speech: NDArray[np.float32]) -> NDArray[np.float16]:
    """Blocks of 30 s, transformers' extractor and encoder, all hidden states, trimmed to floor(samples / 16000 * 50)."""
    whisper, extract = WhisperModel.from_pretrained(root / "whisper").eval(), WhisperFeatureExtractor()
    blocks = []
    for first in range(0, len(speech), 480_000):
        mel = extract(speech[first : first + 480_000], sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            states = whisper.encoder(mel, output_hidden_states=True).hidden_states
        assert len(states) == 5
        blocks.append(torch.stack(states, dim=2)[0])  # (1500, 5, 384)
    return torch.cat(blocks)[: math.floor(len(speech) / 16_000 * 50)].half().numpy()


def test_latents_are_those_of_diffusers(model: PublishedModel, folder: Path, rows: Rows) -> None:
    vae = reference_vae(folder)
    masked, reference = model.encode(rows.crops_rgb)
    assert masked.dtype == np.float16
    assert (masked == expected_latents(vae, rows.crops_rgb, masked=True)).all()
    assert (reference == expected_latents(vae, rows.crops_rgb, masked=False)).all()
    assert (masked != reference).any()


def test_decoded_pixels_are_those_of_diffusers(model: PublishedModel, folder: Path, rows: Rows) -> None:
    with torch.no_grad():
        latents = torch.from_numpy(rows.reference).float()
        images = torch.cat([reference_vae(folder).decode(one[None] / 0.18215).sample for one in latents])
    wanted = ((images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    pixels = model.decode(rows.reference)
    assert pixels.shape == (2, 256, 256, 3)
    assert len(np.unique(pixels)) > 50
    assert (pixels == wanted).all()


def test_answer_is_one_step_of_diffusers_with_positions_added(model: PublishedModel, folder: Path, rows: Rows) -> None:
    unet = UNet2DConditionModel.from_config(SMALL_UNET).eval()
    unet.load_state_dict(torch.load(folder / "musetalkV15/unet.pth", weights_only=True))
    answer = model.infer(rows.masked, rows.reference, rows.windows)
    assert answer.shape == (2, 4, 32, 32)
    np.testing.assert_allclose(answer, expected_answers(unet, rows), rtol=2e-3, atol=1e-4)  # the answer is kept in half precision


def test_masked_latent_comes_first(model: PublishedModel, rows: Rows) -> None:
    right = model.infer(rows.masked, rows.reference, rows.windows)
    swapped = model.infer(rows.reference, rows.masked, rows.windows)
    assert np.abs(right.astype(np.float32) - swapped).max() > 0.01


def test_positions_are_sines_and_cosines_in_turn() -> None:
    positions = positional_encoding()
    assert positions.shape == (50, 384)
    assert positions[0].tolist() == [0.0, 1.0] * 192
    np.testing.assert_allclose(positions[:, 0], [math.sin(p) for p in range(50)], atol=1e-5)
    np.testing.assert_allclose(positions, expected_positions(), atol=1e-5)


@pytest.mark.parametrize("samples", [0, 319, 16_007])
def test_voice_is_heard_as_transformers_hears_it(model: PublishedModel, folder: Path, samples: int) -> None:
    speech = (np.random.default_rng(3).standard_normal(samples) * 0.1).astype(np.float32)
    states = model.listen(speech)
    assert states.dtype == np.float16
    assert states.shape == (samples // 320, 5, 384)
    if samples >= 320:
        assert (states == expected_states(folder, speech)).all()


def test_long_voice_is_heard_in_blocks_of_30_s(model: PublishedModel, folder: Path) -> None:
    speech = (np.random.default_rng(4).standard_normal(480_000 + 16_321) * 0.1).astype(np.float32)
    blocks = np.concatenate([model.listen(speech[:480_000]), model.listen(speech[480_000:])])
    assert blocks.shape == (1551, 5, 384)
    assert (blocks == expected_states(folder, speech)).all()
    assert (blocks[1500:] == model.listen(speech)[1500:]).all()


def test_windows_are_those_of_the_published_script_at_25_fps() -> None:
    features = np.random.default_rng(5).standard_normal((102, 5, 384)).astype(np.float16)
    padded = np.concatenate([np.zeros((4, 5, 384)), features, np.zeros((12, 5, 384))]).astype(
        np.float16
    )  # zeros before and behind, as it pads
    frames = range(51)
    wanted = np.stack([padded[2 * i : 2 * i + 10] for i in frames])
    assert (windows_at(features, [Fraction(i, 25) for i in frames]) == wanted).all()


def test_same_row_gives_the_same_bytes_in_any_batch(model: PublishedModel, rows: Rows) -> None:
    answer = model.infer(rows.masked, rows.reference, rows.windows)
    alone = model.infer(rows.masked[1:], rows.reference[1:], rows.windows[1:])
    assert (answer[1:] == alone).all()
    assert (model.encode(rows.crops_rgb)[0][1:] == model.encode(rows.crops_rgb[1:])[0]).all()
    assert (model.decode(rows.masked)[1:] == model.decode(rows.masked[1:])).all()


def test_no_rows_give_no_rows(model: PublishedModel) -> None:
    latents = np.zeros((0, 4, 32, 32), np.float16)
    assert model.infer(latents, latents, np.zeros((0, 10, 5, 384), np.float16)).shape == (0, 4, 32, 32)
    assert model.encode(np.zeros((0, 256, 256, 3), np.uint8))[0].shape == (0, 4, 32, 32)
    assert model.decode(latents).shape == (0, 256, 256, 3)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The folder again, to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "w"))


def test_safetensors_give_the_same_answers_and_are_preferred(model: PublishedModel, copy: Path, rows: Rows) -> None:
    for pickled in ("musetalkV15/unet.pth", "sd-vae/diffusion_pytorch_model.bin", "whisper/pytorch_model.bin"):
        plain = {"whisper/pytorch_model.bin": "whisper/model.safetensors"}.get(
            pickled, f"{pickled.rsplit('.', 1)[0]}.safetensors"
        )
        save_file(torch.load(copy / pickled, weights_only=True), copy / plain)
        (copy / pickled).write_bytes(b"damaged")
    again = load_published("v15", copy, CPU)
    _same(again.infer(*rows[1:]), model.infer(*rows[1:]))
    _same(again.encode(rows.crops_rgb)[0], model.encode(rows.crops_rgb)[0])
    speech = np.zeros(3200, np.float32)
    _same(again.listen(speech), model.listen(speech))


def _same(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    """But for the last bits: kernels take other paths for weights that lie elsewhere in memory."""
    np.testing.assert_allclose(found.astype(np.float32), wanted.astype(np.float32), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("convolution", [False, True], ids=["matrices", "1x1 convolutions"])
def test_vae_with_todays_attention_names_or_old_shapes_is_the_same(
    model: PublishedModel, copy: Path, rows: Rows, convolution: bool
) -> None:
    path = copy / "sd-vae/diffusion_pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    for name in [name for name in tensors if ".attentions." in name]:
        tensor, today = tensors.pop(name), name
        for now, before in TODAY_TO_OLD.items():
            today = today.replace(f".{before}.", f".{now}.")
        widened = tensor[:, :, None, None] if convolution and tensor.ndim == 2 else tensor
        tensors[name if convolution else today] = widened
    torch.save(tensors, path)
    again = load_published("v15", copy, CPU)
    assert np.abs(again.decode(rows.masked).astype(int) - model.decode(rows.masked)).max() <= 1


def test_old_pickle_format_is_read(copy: Path, model: PublishedModel, rows: Rows) -> None:
    path = copy / "musetalkV15/unet.pth"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    _same(load_published("v15", copy, CPU).infer(*rows[1:]), model.infer(*rows[1:]))


def test_v1_is_read_from_its_own_files(copy: Path, model: PublishedModel, rows: Rows) -> None:
    with pytest.raises(MissingError, match="musetalk weights pull v1`"):
        load_published("v1", copy, CPU)
    (copy / "musetalk").mkdir()
    (copy / "musetalkV15/musetalk.json").rename(copy / "musetalk/musetalk.json")
    (copy / "musetalkV15/unet.pth").rename(copy / "musetalk/pytorch_model.bin")
    v1 = load_published("v1", copy, CPU)
    assert v1.name == "v1"
    _same(v1.infer(*rows[1:]), model.infer(*rows[1:]))


def _without_a_tensor(tensors: dict[str, Tensor]) -> None:
    tensors.pop(next(iter(tensors)))


def _with_one_more(tensors: dict[str, Tensor]) -> None:
    tensors["encoder.extra.weight"] = torch.zeros(3)


def _with_another_shape(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if "decoder.layers" not in name)
    tensors[name] = torch.zeros(3, 3)


@pytest.mark.parametrize("spoil", [_without_a_tensor, _with_one_more, _with_another_shape])
@pytest.mark.parametrize("file", ["musetalkV15/unet.pth", "sd-vae/diffusion_pytorch_model.bin", "whisper/pytorch_model.bin"])
def test_file_that_is_not_exactly_the_net_is_refused(copy: Path, file: str, spoil: Any) -> None:
    tensors = torch.load(copy / file, weights_only=True)
    if file.startswith("whisper"):
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if ".decoder." not in name}
    spoil(tensors)
    torch.save(tensors, copy / file)
    with pytest.raises(MissingError, match=f"{file}: not this model's weights") as caught:
        load_published("v15", copy, CPU)
    assert "musetalk weights verify" in caught.value.cure


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo run > ran",)


@pytest.mark.parametrize("file", ["musetalkV15/unet.pth", "sd-vae/diffusion_pytorch_model.bin", "whisper/pytorch_model.bin"])
def test_pickle_that_runs_code_is_refused_and_not_run(copy: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    torch.save({"weight": torch.zeros(1), "evil": Evil()}, copy / file)
    with pytest.raises(MissingError, match=rf"{file}: refused.* asks for (posix|nt)\.system"):
        load_published("v15", copy, CPU)
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None], ids=["empty", "a web page", "cut short"])
def test_damaged_file_is_named_with_its_cure(copy: Path, content: bytes | None) -> None:
    path = copy / "musetalkV15/unet.pth"
    path.write_bytes(path.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(MissingError, match=r"musetalkV15/unet\.pth: .*weights pull"):
        load_published("v15", copy, CPU)


def test_config_of_another_net_is_refused(copy: Path) -> None:
    (copy / "musetalkV15/musetalk.json").write_text(json.dumps({**SMALL_UNET, "in_channels": 4}))
    with pytest.raises(MissingError, match="not MuseTalk's U-Net"):
        load_published("v15", copy, CPU)
    (copy / "musetalkV15/musetalk.json").write_text("{")
    with pytest.raises(MissingError, match="cannot be read"):
        load_published("v15", copy, CPU)


def test_larger_whisper_is_refused(copy: Path) -> None:
    (copy / "whisper/config.json").write_text(json.dumps({**SMALL_WHISPER, "encoder_layers": 6}))
    with pytest.raises(MissingError, match="not whisper-tiny"):
        load_published("v15", copy, CPU)


def test_half_precision_needs_a_gpu(folder: Path) -> None:
    with pytest.raises(UsageError, match="choose bf16 or fp32"):
        load_published("v15", folder, CPU, Numbers("fp16"))


def _halved(model: PublishedModel) -> PublishedModel:
    for net in model.nets:
        net.half()
    return model


def test_full_precision_can_be_asked_of_a_half_precision_model(folder: Path, model: PublishedModel, rows: Rows) -> None:
    half = _halved(load_published("v15", folder, CPU))
    rounded = load_published("v15", folder, CPU)
    rounded.nets.unet.half().float()
    assert (half.infer(*rows[1:], fp32=True) == rounded.infer(*rows[1:])).all()
    assert half.nets.unet.dtype == torch.float16
    np.testing.assert_allclose(half.infer(*rows[1:]), model.infer(*rows[1:]), atol=0.05)


def test_crop_that_overflows_in_half_precision_is_decoded_in_full(folder: Path, rows: Rows) -> None:
    half, full = _halved(load_published("v15", folder, CPU)), load_published("v15", folder, CPU)
    for model in (half, full):
        model.nets.vae.half().decoder.conv_in.weight.data.clamp_(-1, 1).mul_(40_000)
    full.nets.vae.float()
    assert not torch.isfinite(half.nets.vae.decode(torch.from_numpy(rows.masked[:1]) / 0.18215).sample).all()
    assert (half.decode(rows.masked[:1]) == full.decode(rows.masked[:1])).all()
    assert half.nets.vae.dtype == torch.float16


def test_nan_in_full_precision_is_an_error_never_a_black_mouth(
    model: PublishedModel, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(_: object, given: torch.Tensor) -> torch.Tensor:
        return torch.full((len(given), 3, 256, 256), float("nan"))

    spoiled.__name__ = "decode"
    monkeypatch.setattr(vae, "decode", spoiled)
    with pytest.raises(InternalError, match="decode of 1 crops: NaN in full precision"):
        model.decode(rows.masked[:1])


def test_full_gpu_is_a_memory_error(model: PublishedModel, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(model.nets.unet, "forward", out_of_memory)
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        model.infer(*rows[1:])


def test_published_config_is_686_tensors_of_849_947_844_numbers() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(MUSETALK_JSON)
    tensors = unet.state_dict()
    assert (len(tensors), sum(tensor.numel() for tensor in tensors.values())) == (686, 849_947_844)


@pytest.mark.skipif(os.environ.get("MUSETALK_TEST_FULL") != "1", reason="MUSETALK_TEST_FULL is not 1: writes 4 GB, takes minutes")
def test_full_size_is_written_loaded_and_answers_as_diffusers_and_transformers(tmp_path: Path, rows: Rows) -> None:
    began = time.monotonic()
    write_published(tmp_path, FULL)
    assert 0 <= (tmp_path / "musetalkV15/unet.pth").stat().st_size - 4 * 849_947_844 < 400_000
    written = time.monotonic()
    model = load_published("v15", tmp_path, CPU)
    loaded = time.monotonic()
    answer = model.infer(*rows[1:])
    answered = time.monotonic()
    masked, reference = model.encode(rows.crops_rgb)
    pixels = model.decode(rows.reference)
    speech = (np.random.default_rng(3).standard_normal(32_000) * 0.1).astype(np.float32)
    heard = model.listen(speech)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = f"written {written - began:.0f} s, loaded {loaded - written:.1f} s, 2 rows {answered - loaded:.1f} s"
    print(f"\n{seconds}, peak {peak_gb:.1f} GB")

    del model
    unet = UNet2DConditionModel.from_config(MUSETALK_JSON).eval()
    unet.load_state_dict(torch.load(tmp_path / "musetalkV15/unet.pth", weights_only=True, mmap=True))
    np.testing.assert_allclose(answer, expected_answers(unet, rows), rtol=2e-3, atol=1e-3)
    del unet
    vae = reference_vae(tmp_path)
    assert (masked == expected_latents(vae, rows.crops_rgb, masked=True)).all()
    assert (reference == expected_latents(vae, rows.crops_rgb, masked=False)).all()
    with torch.no_grad():
        images = torch.cat([vae.decode(one[None].float() / 0.18215).sample for one in torch.from_numpy(rows.reference)])
    assert (pixels == ((images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)).all()
    assert (heard == expected_states(tmp_path, speech)).all()


REAL = os.environ.get("MUSETALK_TEST_WEIGHTS")


@pytest.mark.skipif(not REAL, reason="MUSETALK_TEST_WEIGHTS names no folder with whisper-tiny")
def test_real_whisper_hears_as_transformers_does() -> None:
    from musetalk_cli.models.whisper import hidden_states, load_whisper

    root = Path(str(REAL))
    files = [weights.locate(need, root) for need in (weights.WHISPER_CONFIG, weights.WHISPER_TINY)]
    encoder = load_whisper(*files, CPU, torch.float32)
    time_s = np.arange(24_000) / 16_000
    speech = (0.2 * np.sin(2 * np.pi * (150 + 40 * np.sin(7 * time_s)) * time_s)).astype(np.float32)
    assert (hidden_states(encoder, speech) == expected_states(root, speech)).all()
