"""Samples on disk: what is written is read back, in any order, without pickle; what is not whole is told."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.errors import InputError, MissingError
from musetalk_cli.training.dataset import (
    FRAMES,
    SAMPLE,
    SAMPLES_DIR,
    TRACK,
    About,
    FrameWriter,
    Track,
    iterate_frames,
    read_frames,
    read_sample,
    read_samples,
    write_sample,
)

SIZE = (80, 96)
COUNT = 40


def test_a_sample_comes_back_as_it_was_written(tmp_path: Path) -> None:
    track, pcm, features = _write(tmp_path, "a-0-0")
    sample = read_sample(tmp_path / SAMPLES_DIR / "a-0-0")
    assert (sample.name, sample.identity, sample.frames, sample.offset_frames, sample.split) == ("a-0-0", "a", COUNT, -2, "train")
    np.testing.assert_array_equal(sample.landmarks, track.landmarks)
    np.testing.assert_array_equal(sample.box, track.box)
    np.testing.assert_array_equal(sample.features(), features)
    np.testing.assert_array_equal(sample.speech(), pcm.astype(np.float32) / 32768)


def test_a_sample_without_speech_has_none(tmp_path: Path) -> None:
    _write(tmp_path, "a-0-0", speech=False)
    sample = read_samples([tmp_path])[0]
    assert sample.speech().shape == (0,) and sample.features().shape == (0, 5, 384)


@pytest.mark.parametrize("indices", [[0], [39], [5, 3, 5], [39, 0, 20], [1, 2, 3, 30, 31]])
def test_frames_are_read_in_the_order_asked_for(tmp_path: Path, indices: list[int]) -> None:
    _write(tmp_path, "a-0-0")
    frames = read_frames(read_samples([tmp_path])[0], indices)
    assert frames.shape == (len(indices), SIZE[1], SIZE[0], 3)
    assert [_number_of(frame) for frame in frames] == indices


def test_frames_keep_their_colours(tmp_path: Path) -> None:
    _write(tmp_path, "a-0-0")
    frame = read_frames(read_samples([tmp_path])[0], [7])[0]
    assert np.abs(frame.astype(int) - _picture(7)).max() <= 6


def test_all_frames_in_order(tmp_path: Path) -> None:
    _write(tmp_path, "a-0-0")
    assert [_number_of(frame) for frame in iterate_frames(read_samples([tmp_path])[0])] == list(range(COUNT))


def test_a_frame_that_is_not_there_is_named(tmp_path: Path) -> None:
    _write(tmp_path, "a-0-0")
    with pytest.raises(InputError, match="frame 40 is not there"):
        read_frames(read_samples([tmp_path])[0], [3, 40])


def test_margins_stay_inside_the_film(tmp_path: Path) -> None:
    _write(tmp_path, "a-0-0")
    sample = read_samples([tmp_path])[0]
    assert sample.boxes().tolist() == sample.box.tolist()
    assert sample.boxes(10)[:, 3].tolist() == [80] * COUNT
    assert sample.boxes(30)[:, 3].tolist() == [90] * COUNT  # the film ends there
    assert sample.boxes(np.arange(COUNT))[:3, 3].tolist() == [70, 71, 72]


def test_splits_are_told_apart_and_unfinished_samples_left_out(tmp_path: Path) -> None:
    _write(tmp_path, "a-0-0")
    _write(tmp_path, "b-0-0", split="val")
    _write(tmp_path, "part.c-0-0")
    assert [sample.name for sample in read_samples([tmp_path])] == ["a-0-0", "b-0-0"]
    assert [sample.name for sample in read_samples([tmp_path], "val")] == ["b-0-0"]


def test_a_folder_without_samples_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no prepared samples"):
        read_samples([tmp_path])


@pytest.mark.parametrize("damage", ["json", "npz", "pickle"])
def test_a_damaged_sample_is_told(tmp_path: Path, damage: str) -> None:
    _write(tmp_path, "a-0-0")
    folder = tmp_path / SAMPLES_DIR / "a-0-0"
    if damage == "json":
        (folder / SAMPLE).write_text(json.dumps({"name": "a"}))
    elif damage == "npz":
        (folder / TRACK).write_bytes(b"PK no zip")
    else:
        np.savez(folder / TRACK, landmarks=np.array([{"pickled": 1}]), box=np.zeros(1), film=np.zeros(1))
    with pytest.raises(InputError, match="not a whole sample"):
        read_sample(folder)


def _write(
    folder: Path, name: str, *, speech: bool = True, split: str = "train"
) -> tuple[Track, NDArray[np.int16], NDArray[np.float16]]:
    random = np.random.default_rng(0)
    path = folder / SAMPLES_DIR / name
    path.mkdir(parents=True)
    with FrameWriter(path / FRAMES, SIZE) as writer:
        for number in range(COUNT):
            writer.write(_picture(number))
    track = Track(
        random.uniform(10, 60, (COUNT, 68, 2)).astype(np.float32),
        np.tile(np.array([10, 20, 60, 70], np.int32), (COUNT, 1)),
        np.tile(np.array([0, 10, 80, 90], np.int32), (COUNT, 1)),
    )
    pcm = random.integers(-9000, 9000, 640 * COUNT * speech).astype(np.int16)
    features = random.normal(size=(2 * COUNT * speech, 5, 384)).astype(np.float16)
    about = About(name, name[0], "a.mp4", 1.5, 25, COUNT, 50.0, 1.0, -2, True, 0.4, split)  # type: ignore[arg-type]
    write_sample(path, about, track, pcm, features)
    return track, pcm, features


def _picture(number: int) -> NDArray[np.uint8]:
    """(H, W, 3) a soft gradient; six broad bars along the top count in binary."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    rgb = np.stack([x * 2, y * 2, np.full_like(x, 90)], 2).astype(np.uint8)
    for bit in range(6):
        rgb[:16, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return rgb


def _number_of(rgb: NDArray[np.uint8]) -> int:
    return sum(1 << bit for bit in range(6) if rgb[8, 8 * bit + 4].mean() > 127)
