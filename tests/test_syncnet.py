"""SyncNet: the published file's layout, shapes and sizes, the mel spectrogram against its formula, windows in time, and learning."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers.audio_utils import mel_filter_bank

from musetalk_cli.errors import MissingError
from musetalk_cli.models.syncnet import (
    SyncNet,
    SyncNetConfig,
    load_syncnet,
    mel_columns,
    mel_filters,
    mel_spectrogram,
    save_syncnet,
    windows_of_features,
    windows_of_speech,
)
from musetalk_cli.training.losses import cosines, info_nce

PUBLISHED_PARAMETERS = 371_766_496  # 1,487,065,984 bytes of the file's 1,488,019,828
TOY = SyncNetConfig(
    audio="mel",
    visual_widths=(4, 4, 8, 8, 8, 8, 8, 8),
    visual_factors=SyncNetConfig.published().visual_factors,
    audio_widths=(4, 4, 8, 8, 8, 8, 8),
    audio_factors=SyncNetConfig.published().audio_factors,
    groups=2,
)
TOY_TOKENS = replace(TOY, audio="whisper", audio_widths=(4, 8), audio_factors=((1, 2), (1, 2)))


def published_layout(config: SyncNetConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of LatentSync's StableSyncNet without attention, written down from its source."""
    layout: dict[str, tuple[int, ...]] = {}
    for encoder, seen, widths, factors in (
        ("audio_encoder", 1, config.audio_widths, config.audio_factors),
        ("visual_encoder", 48, config.visual_widths, config.visual_factors),
    ):
        layout |= conv(f"{encoder}.conv_in", widths[0], seen, 3)
        width_in = widths[0]
        for index, (width, factor) in enumerate(zip(widths, factors, strict=True)):
            block = f"{encoder}.down_blocks.{index}"
            layout |= norm(f"{block}.norm1", width_in) | conv(f"{block}.conv1", width, width_in, 3)
            layout |= norm(f"{block}.norm2", width) | conv(f"{block}.conv2", width, width, 3)
            if width != width_in:
                layout |= conv(f"{block}.conv_shortcut", width, width_in, 1)
            if factor != (1, 1):
                layout |= conv(f"{block}.downsample_conv", width, width, 3)
            width_in = width
        layout |= norm(f"{encoder}.norm_out", width_in)
    return layout


def conv(name: str, width: int, width_in: int, side: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width, width_in, side, side), f"{name}.bias": (width,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def test_published_config_has_the_published_names_shapes_and_size() -> None:
    with torch.device("meta"):
        net = SyncNet(SyncNetConfig.published())
    assert {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()} == published_layout(net.config)
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED_PARAMETERS


def test_published_config_gives_vectors_of_2048() -> None:
    with torch.device("meta"):
        net = SyncNet(SyncNetConfig.published())
        frames, audio = net(torch.empty(2, 48, 128, 256), torch.empty(2, 1, 80, 52))
    assert frames.shape == audio.shape == (2, 2048)


def test_file_in_the_published_layout_loads_strictly(tmp_path: Path) -> None:
    path, tensors = published_file(tmp_path / "latentsync_syncnet.pt")
    net = load_syncnet(path, config=TOY)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in net.state_dict().items())
    assert not net.training and not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "flat"])
def test_file_that_is_not_quite_it_is_refused(change: str, tmp_path: Path) -> None:
    path, tensors = published_file(tmp_path / "net.pt")
    if change == "missing":
        del tensors["visual_encoder.down_blocks.3.conv2.bias"]
    elif change == "surplus":
        tensors["visual_encoder.down_blocks.8.norm1.weight"] = torch.zeros(8)
    elif change == "shape":
        tensors["audio_encoder.norm_out.weight"] = torch.zeros(16)
    torch.save(tensors if change == "flat" else {"state_dict": tensors}, path)
    with pytest.raises(MissingError):
        load_syncnet(path, config=TOY)


def test_forward_is_that_of_the_published_code(tmp_path: Path) -> None:
    path, tensors = published_file(tmp_path / "net.pt")
    net = load_syncnet(path, config=TOY)
    frames, audio = torch.rand(2, 48, 128, 256) * 2 - 1, torch.rand(2, 1, 80, 52)
    seen = as_published(tensors, "visual_encoder", frames, TOY.visual_factors)
    heard = as_published(tensors, "audio_encoder", audio, TOY.audio_factors)
    torch.testing.assert_close(net.embed_frames(frames), seen)
    torch.testing.assert_close(net.embed_audio(audio), heard)


@pytest.mark.parametrize("audio", ["mel", "whisper"])
def test_small_net_fits_a_cpu(audio: str) -> None:
    config = SyncNetConfig.small(audio)  # type: ignore[arg-type]
    net = SyncNet(config).eval()
    assert 3e6 < sum(p.numel() for p in net.parameters()) < 6e6
    sound = torch.rand(1, 1, 80, 52) if audio == "mel" else torch.rand(1, 40, 384)
    with FlopCounterMode(display=False) as counter:
        frames, heard = net(torch.rand(1, 48, 128, 256), sound)
    assert frames.shape == heard.shape == (1, 256)
    assert counter.get_total_flops() < 0.45e9


@pytest.mark.parametrize("config", [TOY, TOY_TOKENS], ids=["mel", "whisper"])
def test_vectors_have_length_one_and_no_negative_number(config: SyncNetConfig) -> None:
    torch.manual_seed(0)
    net = SyncNet(config)
    for vectors in net(torch.rand(3, 48, 128, 256), torch.rand(*((3, 1, 80, 52) if config.audio == "mel" else (3, 40, 384)))):
        assert vectors.min() >= 0
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_own_file_carries_its_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = SyncNet(TOY_TOKENS).eval()
    save_syncnet(net, tmp_path / "syncnet.safetensors")
    found = load_syncnet(tmp_path / "syncnet.safetensors")
    assert found.config == TOY_TOKENS
    tokens = torch.rand(2, 40, 384)
    assert torch.equal(found.embed_audio(tokens), net.embed_audio(tokens))
    assert [path.name for path in tmp_path.iterdir()] == ["syncnet.safetensors"]


def test_converted_published_file_needs_no_config_of_its_own(tmp_path: Path) -> None:
    _, tensors = published_file(tmp_path / "net.pt")
    save_file(tensors, tmp_path / "net.safetensors")
    assert load_syncnet(tmp_path / "net.safetensors", config=TOY).config == TOY


def test_grey_and_pooled_net_sees_the_mean_of_neighbours_in_grey() -> None:
    torch.manual_seed(0)
    net = SyncNet(replace(TOY, grey=True, pool=2, visual_factors=((1, 2), *[(2, 2)] * 6, (1, 1)))).eval()
    frames = torch.rand(1, 48, 128, 256)
    grey = torch.einsum("nfchw,c->nfhw", frames.view(1, 16, 3, 128, 256), torch.tensor([0.299, 0.587, 0.114]))
    same = grey.repeat_interleave(3, dim=1)
    same = functional.avg_pool2d(same, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(net.embed_frames(same), net.embed_frames(frames), atol=1e-4, rtol=1e-4)


def test_small_net_learns_which_sound_goes_with_which_lips() -> None:
    torch.manual_seed(0)
    net = SyncNet(replace(TOY_TOKENS, pool=8, grey=True, visual_widths=(8,) * 3, visual_factors=((4, 4), (4, 4), (1, 2))))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    frames, tokens = torch.randn(6, 48, 8, 16).repeat_interleave(16, 2).repeat_interleave(16, 3), torch.randn(6, 40, 384)
    for _ in range(25):
        loss = info_nce(*net(frames, tokens))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    seen, heard = net.eval()(frames, tokens)
    assert float((cosines(seen, heard).mean() - cosines(seen, heard.roll(1, 0)).mean()).detach()) > 0.2


def test_mel_filters_are_slaneys() -> None:
    wanted = mel_filter_bank(401, 80, 55.0, 7600.0, 16_000, norm="slaney", mel_scale="slaney").T
    np.testing.assert_allclose(mel_filters(), wanted, atol=1e-9)


def test_mel_is_wav2lips_formula() -> None:
    speech = voice(3.0)
    emphasised = speech.astype(np.float64) - 0.97 * np.concatenate([[0.0], speech[:-1]])
    window = torch.hann_window(800, periodic=True, dtype=torch.float64)
    spectrum = torch.stft(
        torch.from_numpy(emphasised), 800, 200, 800, window, center=True, pad_mode="constant", return_complex=True
    ).abs()
    mels = mel_filter_bank(401, 80, 55.0, 7600.0, 16_000, norm="slaney", mel_scale="slaney").T @ spectrum.numpy()
    decibels = 20 * np.log10(np.maximum(1e-5, mels)) - 20
    wanted = np.clip(8 * (decibels + 100) / 100 - 4, -4, 4)
    found = mel_spectrogram(speech)
    assert found.shape == (80, 241) and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("first", "stop"), [(0, 241), (100, 152), (-20, 32), (1, 3), (230, 282), (400, 452), (-60, -8)])
def test_columns_are_those_of_the_whole_and_silence_outside(first: int, stop: int) -> None:
    speech = voice(3.0)
    padded = np.pad(mel_spectrogram(speech), ((0, 0), (100, 300)), constant_values=-4)
    np.testing.assert_allclose(mel_columns(speech, first, stop), padded[:, first + 100 : stop + 100], atol=1e-5)


def test_silence_and_no_speech_at_all_are_the_floor() -> None:
    assert (mel_spectrogram(np.zeros(16_000, np.float32)) == -4).all()
    assert mel_spectrogram(np.zeros(0, np.float32)).shape == (80, 1)


@pytest.mark.parametrize(("frame", "column"), [(0, 0), (1, 3), (5, 16), (24, 76), (25, 80), (700, 2240), (780, 2496), (-1, -4)])
def test_window_of_speech_starts_at_its_own_frame_however_late(frame: int, column: int) -> None:
    speech = voice(34.0)
    window = windows_of_speech(speech, [frame])
    assert window.shape == (1, 1, 80, 52)
    np.testing.assert_array_equal(window[0, 0], mel_columns(speech, column, column + 52))


@pytest.mark.parametrize(("frame", "first"), [(0, -4), (2, 0), (10, 16), (40, 76)])
def test_window_of_features_holds_sixteen_frames_and_four_tokens_around(frame: int, first: int) -> None:
    features = np.zeros((100, 5, 384), np.float16)
    features[:, 4] = np.arange(1, 101)[:, None]
    window = windows_of_features(features, [frame])
    wanted = [token + 1 if 0 <= token < 100 else 0 for token in range(first, first + 40)]
    assert window.dtype == torch.float32 and window.shape == (1, 40, 384)
    np.testing.assert_array_equal(window[0, :, 7], wanted)


def test_window_of_no_features_is_silence() -> None:
    assert windows_of_features(np.zeros((0, 5, 384), np.float16), [0, 3]).abs().max() == 0


def voice(seconds: float) -> np.ndarray:
    time = np.arange(int(16_000 * seconds)) / 16_000
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)
    return (0.3 * loud * np.sin(2 * np.pi * (200 + 900 * time / seconds) * time)).astype(np.float32)


def published_file(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint as LatentSync saves it, of random numbers and toy width."""
    torch.manual_seed(0)
    tensors = {name: 0.3 * torch.randn(shape) for name, shape in published_layout(TOY).items()}
    torch.save({"global_step": 7, "state_dict": tensors, "train_loss_list": [0.7, 0.6]}, path)
    return path, tensors


def as_published(tensors: dict[str, Tensor], encoder: str, x: Tensor, factors: tuple[tuple[int, int], ...]) -> Tensor:
    """DownEncoder2D of the published code, in its own steps."""
    x = functional.conv2d(x, *of(tensors, f"{encoder}.conv_in"), padding=1)
    for index, factor in enumerate(factors):
        block = f"{encoder}.down_blocks.{index}"
        h = functional.silu(functional.group_norm(x, TOY.groups, *of(tensors, f"{block}.norm1"), eps=1e-6))
        h = functional.conv2d(h, *of(tensors, f"{block}.conv1"), padding=1)
        h = functional.silu(functional.group_norm(h, TOY.groups, *of(tensors, f"{block}.norm2"), eps=1e-6))
        h = functional.conv2d(h, *of(tensors, f"{block}.conv2"), padding=1)
        if f"{block}.conv_shortcut.weight" in tensors:
            x = functional.conv2d(x, *of(tensors, f"{block}.conv_shortcut"))
        x = x + h
        pad = {(1, 2): (0, 1, 1, 1), (2, 1): (1, 1, 0, 1)}.get(factor, (0, 1, 0, 1))
        if factor != (1, 1):
            x = functional.conv2d(functional.pad(x, pad), *of(tensors, f"{block}.downsample_conv"), stride=factor)
    x = functional.relu(functional.group_norm(x, TOY.groups, *of(tensors, f"{encoder}.norm_out"), eps=1e-6))
    return functional.normalize(x.reshape(len(x), -1), dim=1)


def of(tensors: dict[str, Tensor], name: str) -> Iterator[Tensor]:
    return iter((tensors[f"{name}.weight"], tensors[f"{name}.bias"]))
