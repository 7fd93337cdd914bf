"""Promises of listening: fifty tokens a second of one voice, block by block, of the channel that was asked for, and when it speaks."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FRENCH, make_speech, run_tool
from numpy.typing import NDArray

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.media.audio import ALL_CHANNELS, speech_blocks
from musetalk_cli.stages import s3_latents
from musetalk_cli.stages.s3_latents import listen
from musetalk_cli.types import Speech

TOKEN = 320  # samples


class Loudness:
    """A model that hears how loud each token is, and remembers the blocks that it was given."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def listen(self, speech: NDArray[np.float32]) -> NDArray[np.float16]:
        self.blocks.append(len(speech))
        loud = np.abs(speech[: len(speech) // TOKEN * TOKEN].reshape(-1, TOKEN)).mean(1)
        return np.broadcast_to(loud[:, None, None], (len(loud), 5, 384)).astype(np.float16)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Loudness:
    model = Loudness()
    monkeypatch.setattr(s3_latents, "load_family", lambda config, runtime: model)
    return model


def heard(voice: Path, out: Path, channel: int = ALL_CHANNELS) -> Speech:
    out.mkdir()
    return listen(voice, channel, config=ModelConfig("toy"), runtime=Runtime(), out=out)


def two_channels(folder: Path) -> Path:
    """Left speaks in the first second, right in the second."""
    make_speech(folder / "left.wav", seconds=1, after=1)
    make_speech(folder / "right.wav", seconds=1, before=1)
    run_tool(
        "-i",
        str(folder / "left.wav"),
        "-i",
        str(folder / "right.wav"),
        "-filter_complex",
        "join=inputs=2",
        str(folder / "both.wav"),
    )
    return folder / "both.wav"


def spoken(found: Speech) -> list[bool]:
    """Whether most of each second is spoken."""
    return [bool((second > 0.5).mean() > 0.6) for second in np.split(np.asarray(found.activity, np.float32), 2)]


@pytest.mark.parametrize("times", [1, 2])
def test_nan_is_heard_once_more_and_never_kept(
    model: Loudness, tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(speech: NDArray[np.float32], whole: Callable[..., NDArray[np.float16]] = model.listen) -> NDArray[np.float16]:
        return whole(speech) * np.float16(np.nan if len(model.blocks) <= times else 1)

    monkeypatch.setattr(model, "listen", spoiled)
    voice = make_speech(tmp_path / "voice.wav", seconds=1)
    if times > 1:
        with pytest.raises(InternalError, match="NaN twice"):
            heard(voice, tmp_path / "out")
    else:
        assert np.isfinite(heard(voice, tmp_path / "out").features).all()


@pytest.mark.parametrize(("channel", "expected"), [(0, [True, False]), (1, [False, True]), (ALL_CHANNELS, [True, True])])
def test_the_channel_that_was_asked_for_is_heard(model: Loudness, tmp_path: Path, channel: int, expected: list[bool]) -> None:
    found = heard(two_channels(tmp_path), tmp_path / "out", channel)
    assert len(found.features) == len(found.activity) == 100
    assert spoken(found) == expected
    loud = np.asarray(found.features[:, 0, 0], np.float32).reshape(2, 50).mean(1) > 0.01
    assert loud.tolist() == expected


def test_a_channel_is_as_it_is_in_the_file(tmp_path: Path) -> None:
    both = two_channels(tmp_path)
    for channel, name in ((0, "left"), (1, "right")):
        one, whole = (
            np.concatenate(list(speech_blocks(*given))) for given in ((both, 99_999, channel), (tmp_path / f"{name}.wav", 99_999))
        )
        np.testing.assert_allclose(one, whole, atol=1e-4)


@pytest.mark.parametrize("channel", [2, 17])
def test_a_channel_that_is_not_there_is_refused_with_how_they_are_counted(tmp_path: Path, channel: int) -> None:
    with pytest.raises(InputError, match=f"has 2 channels, none with number {channel}") as caught:
        next(speech_blocks(two_channels(tmp_path), 99, channel))
    assert caught.value.cure == "they are counted from 0"


def test_a_long_voice_is_heard_thirty_seconds_at_a_time_and_told_of_without_a_seam(model: Loudness, tmp_path: Path) -> None:
    with wave.open(str(FRENCH)) as voice:
        said = np.frombuffer(voice.readframes(voice.getnframes()), "<i2")
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.tile(said, 11).tobytes())  # 66 s
    found = heard(tmp_path / "long.wav", tmp_path / "out")
    assert model.blocks == [480_000, 480_000, 96_000]
    assert found.features.shape == (3300, 5, 384) and found.activity.shape == (3300,)
    told = np.asarray(found.activity, np.float32).reshape(11, 300) > 0.5
    np.testing.assert_allclose(told[1:].mean(1), told[1].mean(), atol=0.05)  # each time as the time before
    np.testing.assert_allclose(found.features[:, 0, 0].reshape(11, 300), np.tile(found.features[:300, 0, 0], (11, 1)), atol=1e-3)


def test_the_features_lie_in_a_file_and_not_in_memory(model: Loudness, tmp_path: Path) -> None:
    found: Any = heard(make_speech(tmp_path / "v.wav"), tmp_path / "out").features
    assert isinstance(found, np.memmap) and Path(str(found.filename)) == tmp_path / "out" / "features.npy"


def test_a_voice_of_less_than_a_token_is_silence(model: Loudness, tmp_path: Path) -> None:
    found = heard(make_speech(tmp_path / "v.wav", seconds=0.01), tmp_path / "out")
    assert found.features.shape == (0, 5, 384) and found.activity.shape == (0,)
