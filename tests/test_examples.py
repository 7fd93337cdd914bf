"""The example is what its README says, and its script makes it."""

import importlib.util
import wave
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.media.audio import read_speech
from musetalk_cli.media.video import to_rgb
from musetalk_cli.models.analysis import EmbeddedAnalyser
from musetalk_cli.types import Colour

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_example", EXAMPLES / "make_example.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames(*numbers: int) -> dict[int, av.VideoFrame]:
    with av.open(str(EXAMPLES / "film.mp4")) as film:
        return {i: frame for i, frame in enumerate(film.decode(video=0)) if i in numbers}


def test_both_files_are_small_and_six_seconds_long() -> None:
    assert (EXAMPLES / "film.mp4").stat().st_size + (EXAMPLES / "fr.wav").stat().st_size < 2_000_000
    with av.open(str(EXAMPLES / "film.mp4")) as film:
        picture, sound = film.streams.video[0], film.streams.audio[0]
        assert (picture.width, picture.height, picture.frames, picture.average_rate) == (1280, 720, 150, 25)
        assert (picture.codec.name, sound.codec.canonical_name) == ("h264", "aac")
    with wave.open(str(EXAMPLES / "fr.wav")) as voice:
        assert (voice.getnframes(), voice.getframerate(), voice.getnchannels()) == (96_000, 16_000, 1)


def test_a_face_is_found_in_both_framings_and_none_in_between() -> None:
    with EmbeddedAnalyser() as analyser:
        found = {i: analyser.detect(f.to_ndarray(format="rgb24")) for i, f in frames(0, 59, 60, 84, 85, 149).items()}
    assert {i: len(faces) for i, faces in found.items()} == {0: 1, 59: 1, 60: 0, 84: 0, 85: 1, 149: 1}
    assert min(faces[0].box[2] - faces[0].box[0] for faces in found.values() if faces) >= 150


def test_script_makes_the_same_voice_and_the_same_picture(script: ModuleType) -> None:
    """Nearly: the synthesiser's noise depends on what memory held before, so the jaw follows the film's own sound here."""
    english = np.resize(read_speech(EXAMPLES / "film.mp4"), 96_000)
    opening = script.jaw((english * 32767).astype(np.int16))
    with wave.open(str(EXAMPLES / "fr.wav")) as voice:
        kept = np.frombuffer(voice.readframes(voice.getnframes()), np.int16)
    np.testing.assert_allclose(loudness(script.speak(script.FRENCH, "fr-FR", 6)), loudness(kept), atol=0.05)
    portrait = script.cv2.cvtColor(script.astronaut(), script.cv2.COLOR_RGB2BGR)
    for i, frame in frames(8, 70, 90).items():
        drawn = script.draw(portrait, i, opening[i])[..., ::-1].astype(float)
        error = np.mean((to_rgb(frame, Colour(matrix="bt709", range="tv")) - drawn) ** 2)
        assert 10 * np.log10(255**2 / error) > 27, f"frame {i}"  # another noise moves the jaw by a pixel or two: 29.6 dB seen


def loudness(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """(S,) -> RMS of every 100 ms, 0..1."""
    return np.sqrt(np.mean((samples.reshape(-1, 1600) / 32768) ** 2, axis=1))
