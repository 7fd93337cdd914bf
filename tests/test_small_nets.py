"""The small U-Net and whisper's encoder, written out, against the libraries they stand in for."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Published

from musetalk_cli.models.small_unet import SmallUnet
from musetalk_cli.models.whisper_encoder import BLOCK_SAMPLES, WhisperEncoder, log_mel, sinusoids
from musetalk_cli.weights import embedded_lite


def diffusers_unet(widths: tuple[int, ...]) -> UNet2DConditionModel:
    plain = len(widths) - 1
    return UNet2DConditionModel(
        in_channels=20,
        out_channels=12,
        down_block_types=(*["DownBlock2D"] * plain, "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", *["UpBlock2D"] * plain),
        norm_num_groups=16,
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=4,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=40,
        resnet_time_scale_shift="scale_shift",
    )


def draw(net: nn.Module) -> None:
    """Every parameter, also those that begin at zero or one."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)


@pytest.mark.parametrize("widths", [(32, 48), (16, 32, 64), (32,)])
def test_small_unet_answers_as_diffusers_with_the_same_parameters(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = diffusers_unet(widths).eval()
    draw(theirs)
    ours = SmallUnet(20, 12, widths, heads=4, token_width=24, beside=40).eval()
    ours.load_state_dict(theirs.state_dict())
    cells, tokens, beside = torch.randn(1, 20, 16, 16), torch.randn(1, 5, 24), torch.randn(1, 40)
    with torch.inference_mode():
        expected = theirs(cells, torch.zeros(1, dtype=torch.long), tokens, class_labels=beside, return_dict=False)[0]
        answer = ours(cells, tokens, beside)
    assert answer.shape == (1, 12, 16, 16) and answer.std() > 0.1
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)


def test_small_unet_learns_as_diffusers() -> None:
    torch.manual_seed(0)
    theirs = diffusers_unet((32, 48))
    draw(theirs)
    ours = SmallUnet(20, 12, (32, 48), heads=4, token_width=24, beside=40)
    ours.load_state_dict(theirs.state_dict())
    cells, tokens, beside = torch.randn(2, 20, 8, 8), torch.randn(2, 5, 24), torch.randn(2, 40)
    theirs(cells, torch.zeros(2, dtype=torch.long), tokens, class_labels=beside, return_dict=False)[0].square().mean().backward()
    ours(cells, tokens, beside).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """(S,) 7.3 s of rising and falling noise."""
    count = int(7.3 * 16_000)
    noise = np.random.default_rng(0).standard_normal(count) * np.abs(np.sin(np.arange(count) / 9000)) * 0.1
    return np.asarray(noise, np.float32)


@pytest.mark.parametrize("samples", [1, 16_000, BLOCK_SAMPLES])
def test_log_mel_is_that_of_transformers_to_the_last_bit(samples: int, voice: np.ndarray) -> None:
    heard = np.resize(voice, samples).astype(np.float32)
    expected = WhisperFeatureExtractor()(heard, sampling_rate=16_000, return_tensors="pt").input_features
    assert torch.equal(log_mel(heard), expected)


def test_hidden_states_are_those_of_transformers_to_the_last_bit(voice: np.ndarray) -> None:
    torch.manual_seed(0)
    sizes = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=512, num_mel_bins=80)
    theirs, ours = Published(sizes).eval(), WhisperEncoder(inner=512).eval()
    ours.load_state_dict(theirs.state_dict())
    mel = log_mel(voice)
    with torch.inference_mode():
        heard = theirs(mel, output_hidden_states=True)
        found = ours(mel)
    expected: list[Tensor] = [*heard.hidden_states[:4], heard.last_hidden_state]
    assert [torch.equal(one, other) for one, other in zip(found, expected, strict=True)] == [True] * 5


def test_positions_are_those_that_whisper_begins_with() -> None:
    sizes = WhisperConfig(d_model=384, encoder_layers=1, encoder_attention_heads=6, encoder_ffn_dim=8, num_mel_bins=80)
    assert torch.equal(sinusoids(), Published(sizes).embed_positions.weight)


def test_embedded_model_loads_without_diffusers_and_transformers() -> None:
    """They take three seconds to import, a fifth of a dub of six seconds of film."""
    asks = (
        "import sys, pathlib, torch; from musetalk_cli.models.lite import load_lite; "
        f"load_lite(pathlib.Path({str(embedded_lite())!r}), torch.device('cpu')); "
        "print([name for name in ('diffusers', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True).stdout.strip() == "[]"
