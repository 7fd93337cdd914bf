"""Promises of voice activity: speech is speech and nothing else is, wherever the blocks are cut."""

import wave

import numpy as np
import pytest
from conftest import FRENCH
from numpy.typing import NDArray

from musetalk_cli.models.voice_activity import CHUNK, HZ, VoiceActivity

TOKEN = HZ // 50
Sound = NDArray[np.float32]


def as_sound(pcm: bytes) -> Sound:
    return np.asarray(np.frombuffer(pcm, "<i2") / 32768, np.float32)


@pytest.fixture(scope="module")
def french() -> Sound:
    """Six seconds, of which the last one is silent."""
    with wave.open(str(FRENCH)) as voice:
        return as_sound(voice.readframes(voice.getnframes()))


@pytest.fixture(scope="module")
def synthetic() -> Sound:
    from py_nanotts import NanoTTS

    return as_sound(NanoTTS().speak("The quick brown fox jumps over the lazy dog", voice="en-US"))


def heard(sound: Sound, *, block: int = 30 * HZ) -> NDArray[np.float64]:
    """(T,) as `listen` asks for it: each block with as many tokens as it holds."""
    activity = VoiceActivity()
    blocks = [sound[start : start + block] for start in range(0, len(sound), block)]
    return np.concatenate([activity.hear(part, len(part) // TOKEN) for part in blocks]).astype(np.float64)


def test_there_are_fifty_a_second_between_nought_and_one(french: Sound) -> None:
    told = heard(french)
    assert len(told) == 300
    assert told.min() >= 0 and told.max() <= 1


def test_a_spoken_voice_speaks_and_its_pauses_do_not(french: Sound) -> None:
    told = heard(french) > 0.5
    assert told[15:70].all()
    assert not told[275:].any()  # the last half second
    assert not told[:5].any()


def test_a_synthetic_voice_speaks(synthetic: Sound) -> None:
    loud = np.sqrt(np.mean(synthetic[: len(synthetic) // TOKEN * TOKEN].reshape(-1, TOKEN) ** 2, 1)) > 0.05
    assert (heard(synthetic) > 0.5)[loud].mean() > 0.9


@pytest.mark.parametrize("gain", [0.05, 4.0])  # whispered; and clipped, as no decoder should hand it over
def test_loudness_makes_no_speech_and_takes_none_away(french: Sound, gain: float) -> None:
    assert (heard(french * gain) > 0.5)[15:60].mean() > 0.9


def no_voice(kind: str) -> Sound:
    rng, time = np.random.default_rng(0), np.arange(3 * HZ) / HZ
    sounds = {
        "silence": np.zeros(3 * HZ),
        "noise": rng.normal(0, 0.1, 3 * HZ),
        "bursts of noise": rng.normal(0, 0.2, 3 * HZ) * (time % 1 < 0.5),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "a hum": 0.3 * np.sign(np.sin(2 * np.pi * 50 * time)),
    }
    return sounds[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["silence", "noise", "bursts of noise", "a tone", "a hum"])
def test_what_is_no_voice_does_not_speak(kind: str) -> None:
    assert (heard(no_voice(kind)) > 0.5).mean() < 0.05


@pytest.mark.parametrize("block", [HZ, 7 * TOKEN, 3 * HZ])
def test_blocks_are_cut_anywhere(french: Sound, block: int) -> None:
    """Whole tokens, as the voice comes. A token that ends a block may be told by the 32 ms before it, and no more than that."""
    whole, pieces = heard(french), heard(french, block=block)
    assert len(whole) == len(pieces)
    assert ((whole > 0.5) != (pieces > 0.5)).mean() < 0.02
    np.testing.assert_allclose(pieces[: block // TOKEN - 2], whole[: block // TOKEN - 2])


def test_thirty_seconds_are_no_seam(french: Sound) -> None:
    """As long as a block of `listen`: where one ends, the voice goes on as it was."""
    said = french[4000:26_400]  # 1.4 s without a pause
    before = np.zeros(30 * HZ - 11_200, np.float32)
    told = heard(np.concatenate([before, said, np.zeros(HZ, np.float32)])) > 0.5
    first = 30 * 50 - 35
    assert told[first + 5 : first + 65].all()
    assert not told[first + 90 :].any()


@pytest.mark.parametrize("samples", [1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_a_voice_of_next_to_nothing_is_silent(samples: int) -> None:
    told = heard(np.zeros(samples, np.float32))
    assert len(told) == samples // TOKEN
    assert not (told > 0.5).any()


def test_each_voice_is_heard_by_itself(french: Sound) -> None:
    first = heard(french[:HZ])
    heard(french)
    np.testing.assert_array_equal(heard(french[:HZ]), first)
