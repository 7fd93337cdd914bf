"""Promises of the embedded lip judge: it hears the same however a voice is cut or how loud it is, and lips that follow are found."""

import ast
import importlib.util
import json
import os
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import FRENCH
from made_lips import face_that_does
from made_set import make_set
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError
from musetalk_cli.media.audio import read_speech
from musetalk_cli.metrics.sync import NUMBERS, Asked, LipSync, judge_lips, shifted, sure
from musetalk_cli.models import lip_judge
from musetalk_cli.models.lip_judge import (
    BLOCK_COLUMNS,
    RATE_HZ,
    JudgeConfig,
    JudgeNet,
    LipJudge,
    embedded_judge,
    mel_blocks,
    save_judge,
)
from musetalk_cli.models.syncnet import mel_spectrogram

Sound = NDArray[np.float32]
HZ = 16_000
TEXT = (
    "The quick brown fox jumps over the lazy dog, and nobody knows why he would. Papa bought a big pumpkin, "
    "my mother made five apple pies of it, and we all ate them by the open fire.",
    "Please remember to water the flowers before you leave the house. Bob and Mary moved to a farm last summer, "
    "where they keep sheep, goats, bees, and one very old horse.",
)


def as_sound(pcm: bytes) -> Sound:
    return np.asarray(np.frombuffer(pcm, "<i2") / 32768, np.float32)


@pytest.fixture(scope="module")
def judge() -> LipJudge:
    return LipJudge()


@pytest.fixture(scope="module")
def french() -> Sound:
    """Six seconds, of which the last one is silent."""
    with wave.open(str(FRENCH)) as voice:
        return as_sound(voice.readframes(voice.getnframes()))


@pytest.fixture(scope="module")
def spoken(judge: LipJudge) -> tuple[Asked, Asked]:
    """Two texts of some ten seconds by the same synthetic voice."""
    from py_nanotts import NanoTTS

    one, other = (judge.asked([as_sound(NanoTTS().speak(text, voice="en-US"))]) for text in TEXT)
    return one, other


def cut(sound: Sound, block: int) -> Iterator[Sound]:
    yield from (sound[first : first + block] for first in range(0, len(sound), block))


def test_there_are_forty_answers_a_second(judge: LipJudge, french: Sound) -> None:
    told = judge.asked([french])
    assert told.rate_hz == RATE_HZ == 40
    assert told.numbers.shape == (240, NUMBERS) and told.numbers.dtype == np.float32
    assert told.voice.shape == (240,) and np.isfinite(told.numbers).all()


def test_a_voice_speaks_and_silence_does_not(judge: LipJudge, french: Sound) -> None:
    told = judge.asked([french])
    assert np.median(told.voice[20:180]) > 0.9 and told.voice[225:].max() < 0.5
    silent = judge.asked([np.zeros(3 * HZ, np.float32)])
    assert silent.voice.max() < 0.5 and np.isfinite(silent.numbers).all()


def test_cuts_do_not_tell(judge: LipJudge, french: Sound) -> None:
    """13 s, so that it is heard in two pieces."""
    sound = np.tile(french, 3)[: 13 * HZ + 123]
    whole = judge.asked([sound])
    for block in (377, HZ, 100_000):
        pieces = judge.asked(cut(sound, block))
        np.testing.assert_allclose(pieces.numbers, whole.numbers, atol=1e-5)
        np.testing.assert_array_equal(pieces.voice, whole.voice)


def test_joints_of_ten_seconds_are_not_heard(french: Sound) -> None:
    sound = np.tile(french, 5)[: 26 * HZ + 123]
    parts = list(mel_blocks(cut(sound, 5000)))
    assert [len(part) for part in parts] == [BLOCK_COLUMNS, BLOCK_COLUMNS, 6 * 80]
    np.testing.assert_allclose(np.concatenate(parts).T, mel_spectrogram(sound)[:, : 26 * 80], atol=1e-5)


def test_a_long_voice_is_never_held(french: Sound) -> None:
    """The first columns come when eleven seconds were heard, not at the end."""
    taken = 0

    def blocks() -> Iterator[Sound]:
        nonlocal taken
        for part in cut(np.tile(french, 10), HZ):
            taken += 1
            yield part

    next(mel_blocks(blocks()))
    assert taken == 11


def test_no_sound_asks_for_nothing(judge: LipJudge) -> None:
    for blocks in ([], [np.zeros(0, np.float32)], [np.zeros(150, np.float32)]):
        told = judge.asked(blocks)
        assert told.numbers.shape == (0, NUMBERS) and told.voice.shape == (0,)
    assert judge.asked([np.zeros(250, np.float32)]).numbers.shape == (1, NUMBERS)


@pytest.mark.parametrize("gain", [0.3, 2.0])
def test_loudness_does_not_tell(judge: LipJudge, french: Sound, gain: float) -> None:
    told, louder = judge.asked([french]), judge.asked([gain * french])
    assert min(np.corrcoef(told.numbers[:200, i], louder.numbers[:200, i])[0, 1] for i in range(NUMBERS)) > 0.95


def lips_of(voice: Asked, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Lips at 25 a second that do half of what is asked, and as much of their own."""
    times = np.arange(int(len(voice.numbers) / RATE_HZ * 25)) / 25
    random = np.random.default_rng(seed)
    whole = random.normal(size=(len(times) + 4, NUMBERS))
    own = np.stack([np.convolve(row, np.hanning(7)[1:-1], "valid") for row in whole.T], 1)
    return face_that_does(voice.at(times) + own / own.std(0)), times


@pytest.mark.parametrize("frames", [-7, 0, 5])
def test_lips_that_follow_are_found_at_any_shift(spoken: tuple[Asked, Asked], frames: int) -> None:
    points, times = lips_of(spoken[0])
    found = judge_lips(points, times + frames / 25, spoken[0])
    assert found is not None and sure(found)
    assert found.offset_s == pytest.approx(frames / 25, abs=0.02)
    assert shifted(found) is (frames != 0)


def test_lips_of_another_text_are_not_trusted(spoken: tuple[Asked, Asked]) -> None:
    points, times = lips_of(spoken[0])
    own, other = judge_lips(points, times, spoken[0]), judge_lips(points, times, spoken[1])
    assert own is not None and other is not None
    assert other.confidence < own.confidence / 2
    assert not sure(other) and not shifted(other)


def test_it_shares_no_ear_and_no_net_with_what_it_judges() -> None:
    names = {
        str(node.module) for node in ast.walk(ast.parse(Path(lip_judge.__file__).read_text())) if isinstance(node, ast.ImportFrom)
    }
    assert not names & {"musetalk_cli.models.lite", "musetalk_cli.models.whisper", "musetalk_cli.models.lip_codes"}


def test_it_is_small_and_comes_with_a_card() -> None:
    files = {path.name: path.stat().st_size for path in embedded_judge().iterdir()}
    assert set(files) == {"README.md", "config.json", "judge.safetensors"}
    assert files["judge.safetensors"] < 500_000


def test_what_was_saved_is_read_back(tmp_path: Path, french: Sound) -> None:
    torch.manual_seed(0)
    config = JudgeConfig(nets=2, width=8, hidden=8)
    nets = torch.nn.ModuleList(JudgeNet(config) for _ in range(2))
    save_judge(tmp_path, config, nets, np.ones(NUMBERS))
    one, again = LipJudge(tmp_path).asked([french]), LipJudge(tmp_path).asked([french])
    np.testing.assert_array_equal(one.numbers, again.numbers)
    assert one.numbers.std() > 0


def test_files_that_are_not_a_judge_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not the lip judge"):
        LipJudge(tmp_path)
    save_judge(tmp_path, JudgeConfig(nets=1), torch.nn.ModuleList([JudgeNet(JudgeConfig())]), np.ones(NUMBERS))
    (tmp_path / "config.json").write_text(json.dumps({"nets": 2, "width": 32, "hidden": 96, "numbers": 4}))
    with pytest.raises(MissingError, match="not the lip judge"):
        LipJudge(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"layers": 2}))
    with pytest.raises(MissingError, match="not the lip judge"):
        LipJudge(tmp_path)


def test_the_example_trains_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, french: Sound) -> None:
    spec = importlib.util.spec_from_file_location("train_judge", Path(__file__).parents[1] / "examples" / "train_judge.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "train_judge", script)
    spec.loader.exec_module(script)
    make_set(tmp_path / "set", people=5, frames=60)
    monkeypatch.setattr(
        "sys.argv", ["train_judge.py", str(tmp_path / "out"), str(tmp_path / "set"), "--epochs", "1", "--rounds", "1"]
    )
    script.main()
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["clips"] == 5
    assert LipJudge(tmp_path / "out").asked([french]).numbers.shape == (240, NUMBERS)


DATA = os.environ.get("MUSETALK_TEST_DATA")
WHO = ("id025", "id055")


@pytest.fixture(scope="module")
def clips(judge: LipJudge) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float64], Asked]]:
    """Landmarks, times and what is asked for of two people who were never trained on."""
    return {who: seen_and_asked(Path(str(DATA)) / "held_back" / f"{who}_1.mp4", judge) for who in WHO}


def seen_and_asked(film: Path, judge: LipJudge) -> tuple[NDArray[np.float32], NDArray[np.float64], Asked]:
    from musetalk_cli.models.analysis import EmbeddedAnalyser

    points, times = [], []
    with EmbeddedAnalyser() as analyser, av.open(str(film)) as container:
        for frame in container.decode(video=0):
            rgb = frame.to_ndarray(format="rgb24")
            if not points:
                box = analyser.detect(rgb)[0].box  # both sit still
            found = analyser.landmarks(rgb, box)
            points.append(np.full((68, 2), np.nan, np.float32) if found is None else found)
            times.append(frame.time)
    return np.array(points), np.array(times, np.float64), judge.asked([read_speech(film)])


def judged(points: NDArray[np.float32], times: NDArray[np.float64], asked: Asked) -> LipSync:
    found = judge_lips(points, times, asked)
    assert found is not None
    return found


@pytest.mark.skipif(DATA is None, reason="MUSETALK_TEST_DATA names no folder of clips")
@pytest.mark.parametrize("who", WHO)
def test_real_lips_are_in_time_and_a_planted_shift_is_told(
    who: str, clips: dict[str, tuple[NDArray[np.float32], NDArray[np.float64], Asked]]
) -> None:
    points, times, asked = clips[who]
    own = judged(points, times, asked)
    assert sure(own) and not shifted(own) and abs(own.offset_s) < 0.1
    for frames in (-5, 5):
        found = judged(points, times + frames / 25, asked)
        assert shifted(found) and shifted(found, own.offset_s)
        assert found.offset_s - own.offset_s == pytest.approx(frames / 25, abs=0.02)


@pytest.mark.skipif(DATA is None, reason="MUSETALK_TEST_DATA names no folder of clips")
def test_real_lips_with_a_strangers_voice_are_not_trusted(
    clips: dict[str, tuple[NDArray[np.float32], NDArray[np.float64], Asked]],
) -> None:
    for who, other in (WHO, WHO[::-1]):
        points, times, asked = clips[who]
        strange = judged(points, times, clips[other][2])
        assert strange.confidence < judged(points, times, asked).confidence
        assert not sure(strange) and not shifted(strange)
