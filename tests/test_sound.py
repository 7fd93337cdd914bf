"""Promises of the new soundtrack: a sum to the sample, in the layout of the film's, never clipped, and from the film's start on."""

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import make_film, run_tool
from numpy.typing import NDArray

from musetalk_cli.config import Runtime
from musetalk_cli.errors import InputError
from musetalk_cli.media.audio import ALL_CHANNELS, read_speech
from musetalk_cli.stages.s5_sound import CEILING, MIX_HZ, Channels, sound

Samples = NDArray[np.float64]
STEP = 2.0**-15  # of 16 bits
LAYOUT = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def write(path: Path, samples: Samples, rate_hz: int = MIX_HZ) -> Path:
    """(S,) or (S, channels) in [-1, 1) -> a WAV of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32768).clip(-32768, 32767).astype("<i2").tobytes())
    return path


def steps(seed: int, count: int, *, loud: float = 0.4, channels: int = 1) -> Samples:
    """Noise in steps of 16 bits, so that a file holds it exactly."""
    noise = np.random.default_rng(seed).uniform(-loud, loud, (count, channels))
    return np.asarray(np.round((noise if channels > 1 else noise[:, 0]) / STEP) * STEP)


def clicks(count: int, *at: int, height: float = 0.5) -> Samples:
    samples = np.zeros(count)
    samples[list(at)] = height
    return samples


class Mixed:
    """What came out."""

    def __init__(
        self, out: Path, voices: Sequence[Path], channels: Sequence[int] | None = None, beds: Sequence[Path] = ()
    ) -> None:
        out.mkdir()
        told = Channels(tuple(channels or [ALL_CHANNELS] * len(voices)))
        made = sound(voices, told, beds, config=None, runtime=Runtime(), out=out)
        assert [path.name for path in out.iterdir()] == ["sound.flac"]
        self.path, self.gain_db = made.path, made.gain_db
        with av.open(str(made.path)) as file:
            stream = file.streams.audio[0]
            self.layout, self.rate_hz, self.bits = stream.layout.name, stream.rate, stream.codec_context.format.bits
            frames = [frame.to_ndarray().reshape(-1, stream.channels) for frame in file.decode(stream)]
        self.samples = np.concatenate(frames).astype(np.float64) / 2**31


def mixed(folder: Path, *voices: Path, **more: Any) -> Mixed:
    return Mixed(folder / f"out{len(list(folder.iterdir()))}", voices, **more)


# the sum


def test_voices_are_added_sample_by_sample_from_the_first(tmp_path: Path) -> None:
    a, b = steps(0, 30_000), steps(1, 50_000)
    found = mixed(tmp_path, write(tmp_path / "a.wav", a), write(tmp_path / "b.wav", b))
    expected = b.copy()
    expected[:30_000] += a
    assert (found.rate_hz, found.layout, found.gain_db) == (MIX_HZ, "mono", 0)
    assert len(found.samples) == 50_000  # as long as the longest
    np.testing.assert_allclose(found.samples[:, 0], expected, atol=2**-23)


def test_a_single_voice_over_a_bed_is_their_sum_and_neither_is_quieter(tmp_path: Path) -> None:
    voice, bed = steps(0, 20_000), steps(1, 48_000)
    found = mixed(tmp_path, write(tmp_path / "v.wav", voice), beds=[write(tmp_path / "m.wav", bed)])
    expected = bed.copy()
    expected[:20_000] += voice
    np.testing.assert_allclose(found.samples[:, 0], expected, atol=2**-23)


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 96_000])
def test_a_voice_of_another_rate_is_heard_when_it_was_spoken(tmp_path: Path, rate_hz: int) -> None:
    seconds = (0.25, 1.5)
    voice = clicks(2 * rate_hz, *(round(second * rate_hz) for second in seconds))
    found = mixed(tmp_path, write(tmp_path / "v.wav", voice, rate_hz), write(tmp_path / "silence.wav", np.zeros(MIX_HZ)))
    heard = np.abs(found.samples[:, 0])
    at = [int(heard[MIX_HZ * i : MIX_HZ * (i + 1)].argmax()) + MIX_HZ * i for i in range(2)]
    for sample, second in zip(at, seconds, strict=True):
        assert abs(sample - second * MIX_HZ) <= MIX_HZ / rate_hz
    assert abs(len(found.samples) - 2 * MIX_HZ) <= MIX_HZ / rate_hz + 1


def test_the_same_voices_give_the_same_bytes(tmp_path: Path) -> None:
    voices = [write(tmp_path / f"{i}.wav", steps(i, 9000)) for i in range(2)]
    assert mixed(tmp_path, *voices).path.read_bytes() == mixed(tmp_path, *voices).path.read_bytes()


def test_three_voices_at_once_are_three(tmp_path: Path) -> None:
    parts = [steps(i, 5000, loud=0.3) for i in range(3)]
    found = mixed(tmp_path, *(write(tmp_path / f"{i}.wav", part) for i, part in enumerate(parts)))
    np.testing.assert_allclose(found.samples[:, 0], sum(parts), atol=2**-23)


# channels and layouts


@pytest.mark.parametrize("channel", [0, 1])
def test_one_channel_of_a_voice_is_taken(tmp_path: Path, channel: int) -> None:
    both = steps(0, 9000, channels=2)
    found = mixed(tmp_path, write(tmp_path / "v.wav", both), channels=[channel])
    assert found.layout == "mono"
    np.testing.assert_allclose(found.samples[:, 0], both[:, channel], atol=2**-23)


def test_two_people_on_the_channels_of_one_file_are_both_heard(tmp_path: Path) -> None:
    both = steps(0, 9000, channels=2)
    path = write(tmp_path / "v.wav", both)
    found = mixed(tmp_path, path, path, channels=[0, 1])
    np.testing.assert_allclose(found.samples[:, 0], both.sum(1), atol=2**-23)


def test_a_stereo_voice_stays_stereo(tmp_path: Path) -> None:
    both = steps(0, 9000, channels=2)
    found = mixed(tmp_path, write(tmp_path / "v.wav", both))
    assert found.layout == "stereo"
    np.testing.assert_allclose(found.samples, both, atol=2**-23)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_the_beds_layout_and_its_channels_are_kept(tmp_path: Path, channels: int) -> None:
    bed = steps(1, 9000, channels=channels).reshape(9000, channels)
    path = write(tmp_path / "bed.wav", bed)
    if channels > 2:
        run_tool("-channel_layout", LAYOUT[channels], "-i", str(path), "-c:a", "flac", str(tmp_path / "bed.flac"))
        path = tmp_path / "bed.flac"
    found = mixed(tmp_path, write(tmp_path / "silence.wav", np.zeros(100)), beds=[path])
    assert found.layout == LAYOUT[channels]
    np.testing.assert_allclose(found.samples, bed, atol=2**-23)


def test_a_voice_over_a_stereo_bed_is_in_the_middle_and_as_loud_as_it_was(tmp_path: Path) -> None:
    voice, bed = steps(0, 9000), steps(1, 9000, channels=2)
    found = mixed(tmp_path, write(tmp_path / "v.wav", voice), beds=[write(tmp_path / "bed.wav", bed)])
    left, right = (found.samples - bed).T
    np.testing.assert_allclose(left, right, atol=2**-22)
    gain = float(left @ voice / (voice @ voice))
    np.testing.assert_allclose(left, gain * voice, atol=2**-20)
    assert 0.7 <= gain <= 1.0


# nothing clips


def test_what_is_over_full_scale_is_lowered_as_a_whole(tmp_path: Path) -> None:
    a, b = clicks(9000, 100, 5000, height=0.75), clicks(9000, 100, height=0.75)
    found = mixed(tmp_path, write(tmp_path / "a.wav", a), write(tmp_path / "b.wav", b))
    gain = CEILING / 1.5
    np.testing.assert_allclose(found.samples[:, 0], (a + b) * gain, atol=2**-22)
    assert found.gain_db == pytest.approx(20 * np.log10(gain), abs=0.01)


def test_what_just_fits_is_left_as_it_is(tmp_path: Path) -> None:
    a, b = clicks(9000, 100, height=0.75), clicks(9000, 100, height=0.2)
    assert mixed(tmp_path, write(tmp_path / "a.wav", a), write(tmp_path / "b.wav", b)).gain_db == 0


def test_voices_that_cancel_are_not_lowered_on_the_way(tmp_path: Path) -> None:
    """Three of which two are over full scale together: it is the sum that counts."""
    a, b, c = (clicks(9000, 100, height=height) for height in (0.9, 0.9, -0.9))
    found = mixed(tmp_path, *(write(tmp_path / f"{i}.wav", part) for i, part in enumerate((a, b, c))))
    assert found.gain_db == 0
    assert found.samples[100, 0] == pytest.approx(0.9, abs=2**-14)


# clocks


def test_a_voice_that_starts_later_than_its_file_is_heard_later(tmp_path: Path) -> None:
    """The sound of a film whose picture begins half a second before it: the film's start is the beginning, as the ear has it."""
    film = make_film(tmp_path / "film.mp4", frames=25)
    spoken = write(tmp_path / "v.wav", clicks(MIX_HZ, 12_000))
    late = tmp_path / "late.mkv"
    run_tool(
        "-i",
        str(film),
        "-itsoffset",
        "0.5",
        "-i",
        str(spoken),
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "copy",
        "-c:a",
        "flac",
        str(late),
    )
    found = mixed(tmp_path, late, write(tmp_path / "silence.wav", np.zeros(100)))
    assert int(np.abs(found.samples[:, 0]).argmax()) == 36_000
    assert int(np.abs(read_speech(late)).argmax()) == 12_000  # at 16 kHz: the same moment


def test_a_voice_with_a_hole_in_it_goes_on_at_its_time(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{i}.wav", clicks(MIX_HZ // 2, 4800)) for i in range(2)]
    holed = tmp_path / "holed.mkv"
    run_tool("-i", str(parts[0]), "-c:a", "flac", str(tmp_path / "0.mkv"))
    run_tool("-itsoffset", "1.5", "-i", str(parts[1]), "-c:a", "flac", "-copyts", str(tmp_path / "1.mkv"))
    (tmp_path / "list.txt").write_text(f"file '{tmp_path}/0.mkv'\nduration 1.5\nfile '{tmp_path}/1.mkv'\ninpoint 1.5\n")
    run_tool("-f", "concat", "-safe", "0", "-i", str(tmp_path / "list.txt"), "-c", "copy", str(holed))
    found = mixed(tmp_path, holed, write(tmp_path / "silence.wav", np.zeros(100)))
    heard = np.flatnonzero(np.abs(found.samples[:, 0]) > 0.25)
    assert heard.tolist() == [4800, round(1.5 * MIX_HZ) + 4800]


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "libopus"])
def test_an_encoders_delay_is_not_heard(tmp_path: Path, codec: str) -> None:
    """A burst of noise, as a click does not survive; correlated with itself as it was."""
    burst = np.zeros(MIX_HZ)
    burst[20_000:24_000] = steps(3, 4000)
    spoken = write(tmp_path / "v.wav", burst)
    coded = tmp_path / {"aac": "v.m4a", "libmp3lame": "v.mp3", "libopus": "v.opus"}[codec]
    run_tool("-i", str(spoken), "-c:a", codec, "-b:a", "192k", str(coded))
    found = mixed(tmp_path, coded, write(tmp_path / "silence.wav", np.zeros(100))).samples[:, 0]
    at = [float(found[20_000 + by : 24_000 + by] @ burst[20_000:24_000]) for by in range(-2000, 2000)]
    assert abs(int(np.argmax(at)) - 2000) <= 1


def test_a_file_that_begins_late_by_its_own_clock_is_heard_from_its_beginning(tmp_path: Path) -> None:
    """A transport stream's clock starts at 1.4 s."""
    spoken = write(tmp_path / "v.wav", np.concatenate([np.zeros(12_000), steps(3, 4000), np.zeros(12_000)]))
    run_tool("-i", str(spoken), "-c:a", "mp2", str(tmp_path / "v.ts"))
    found = np.abs(mixed(tmp_path, tmp_path / "v.ts", write(tmp_path / "silence.wav", np.zeros(100))).samples[:, 0])
    heard = np.abs(read_speech(tmp_path / "v.ts"))
    at = [int(np.flatnonzero(samples > 0.1)[0]) / rate for samples, rate in ((found, MIX_HZ), (heard, 16_000))]
    assert at[0] == pytest.approx(at[1], abs=0.001) == pytest.approx(0.25, abs=0.02)


# refusals


def test_a_file_without_sound_is_refused(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", frames=3)
    voice = write(tmp_path / "v.wav", np.zeros(100))
    with pytest.raises(InputError, match="there is no sound in it"):
        mixed(tmp_path, voice, beds=[film])
    with pytest.raises(InputError, match="there is no sound in it"):
        mixed(tmp_path, film, voice)
