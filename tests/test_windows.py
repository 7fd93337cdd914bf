"""Windows as the stages train on them: which frames, which crops, and that only the generator decides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_set import make_set

from musetalk_cli.crop import crop_face
from musetalk_cli.errors import InputError
from musetalk_cli.models.syncnet import windows_of_features
from musetalk_cli.training.config import MarginConfig, ReferenceConfig
from musetalk_cli.training.dataset import Sample, read_frames, read_samples
from musetalk_cli.training.judges import cut_lips, lower_stacks
from musetalk_cli.training.lite_stage import FAR_FRAMES, like_lips, with_lips_of
from musetalk_cli.training.syncnet_stage import frames_of, near, shifted_nce
from musetalk_cli.training.validation import area_under_curve, ssim
from musetalk_cli.training.windows import Augment, WindowRows, hear_features, hear_speech, sampled_reference

PLAIN = MarginConfig(mean_px=10, std_px=0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    return tuple(read_samples([make_set(tmp_path_factory.mktemp("made") / "set", people=2, frames=40, held_out=0)]))


def _rows(samples: tuple[Sample, ...], frames: int = 4, **more: object) -> WindowRows:
    return WindowRows(samples, frames, (sampled_reference(ReferenceConfig()),), PLAIN, **more)  # type: ignore[arg-type]


def test_window_is_consecutive_frames_cut_as_dubbing_cuts_them(samples: tuple[Sample, ...]) -> None:
    window = _rows(samples).window(1, 7, np.random.default_rng(0))
    assert window.frames.tolist() == [7, 8, 9, 10] and window.sample == 1
    frames, boxes = read_frames(samples[1], range(7, 11)), samples[1].boxes(10)
    wanted = np.stack([crop_face(frame, box) for frame, box in zip(frames, boxes[7:11], strict=True)])
    np.testing.assert_array_equal(window.real.rgb, wanted)
    features = samples[1].features()
    np.testing.assert_array_equal(window.heard[0], features[10:20])


def test_same_generator_gives_the_same_window_and_another_one_another(samples: tuple[Sample, ...]) -> None:
    rows = _rows(samples, augment=Augment(0.5, 0.1, 3.0, 0.1))
    one, same, other = (rows.row(np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.real.rgb, same.real.rgb)
    np.testing.assert_array_equal(one.references[0].rgb, same.references[0].rgb)
    np.testing.assert_array_equal(one.heard, same.heard)
    assert not np.array_equal(one.real.rgb, other.real.rgb)


def test_mirrored_window_has_its_points_on_the_mirrored_face(samples: tuple[Sample, ...]) -> None:
    plain = _rows(samples).window(0, 3, np.random.default_rng(0))
    mirrored = _rows(samples, augment=Augment(flip=1.0)).window(0, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(mirrored.real.rgb, plain.real.rgb[:, :, ::-1])
    left, right = plain.real.points[0, 36], mirrored.real.points[0, 45]
    np.testing.assert_allclose([256 - left[0], left[1]], right, atol=1e-3)
    gaps = [np.linalg.norm(w.real.points[:, 62] - w.real.points[:, 66], axis=1) for w in (plain, mirrored)]
    np.testing.assert_allclose(*gaps, atol=1e-3)


def test_turned_window_keeps_the_mouth_in_place_of_its_points(samples: tuple[Sample, ...]) -> None:
    window = _rows(samples, augment=Augment(turn_deg=6.0)).window(0, 3, np.random.default_rng(0))
    inside = window.real.points[:, 60:68].mean(1).round().astype(int)
    dark = [int(crop[y, x].max()) for crop, (x, y) in zip(window.real.rgb, inside, strict=True)]
    assert max(dark) < 80  # the made mouth's inside is nearly black, skin and lips are not


def test_samples_too_short_or_without_a_voice_are_never_drawn(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    silent = tuple(read_samples([make_set(tmp_path / "silent", people=1, frames=40, held_out=0, speech=False)]))
    rows = _rows((*silent, *samples))
    assert {rows.row(np.random.default_rng(seed)).sample for seed in range(20)} == {1, 2}
    with pytest.raises(InputError, match="none of 2 samples has 41 frames"):
        _rows(samples, frames=41)
    assert _rows(silent, voiced=False).row(np.random.default_rng(0)).heard.max() == 0


@pytest.mark.parametrize("start", [-20, -3, 0, 5, 30, 39, 60])
def test_what_is_heard_of_a_window_is_what_a_syncnet_expects(samples: tuple[Sample, ...], start: int) -> None:
    wanted = windows_of_features(samples[0].features(), [start])[0].numpy()
    np.testing.assert_array_equal(hear_features(samples[0], start), wanted)
    assert hear_speech(samples[0], start).shape == (1, 80, 52)


def test_lenders_are_like_in_lips_and_far_in_time(samples: tuple[Sample, ...]) -> None:
    points = samples[0].landmarks
    gap = np.linalg.norm(points[:, 62] - points[:, 66], axis=1)
    lenders = np.stack([like_lips(np.arange(16), points, np.random.default_rng(seed)) for seed in range(8)])
    assert (np.abs(lenders - np.arange(16)) > FAR_FRAMES).all()
    apart = np.abs(gap[lenders] - gap[:16]).mean()
    assert apart < 0.5 * np.abs(gap[:, None] - gap).mean()
    assert len({tuple(row) for row in lenders.tolist()}) > 1


def test_clip_shorter_than_half_a_second_lends_to_itself_but_never_the_same_frame(samples: tuple[Sample, ...]) -> None:
    targets = np.arange(8)
    assert (like_lips(targets, samples[0].landmarks[:8], np.random.default_rng(0)) != targets).all()


def test_mixture_has_the_other_mouth_on_the_own_face(samples: tuple[Sample, ...]) -> None:
    gap = np.linalg.norm(samples[0].landmarks[:, 62] - samples[0].landmarks[:, 66], axis=1)
    closed, opened = (
        _rows(samples, frames=1).window(0, int(i), np.random.default_rng(0)).real for i in (gap.argmin(), gap.argmax())
    )
    mixed = with_lips_of(closed.rgb[0], closed.points[0], opened.rgb[0], opened.points[0])
    np.testing.assert_array_equal(mixed.rgb[:96], closed.rgb[0, :96])
    np.testing.assert_allclose(mixed.points[36:48], closed.points[0, 36:48])
    widths = [np.linalg.norm(points[62] - points[66]) for points in (closed.points[0], mixed.points, opened.points[0])]
    assert widths[0] < 0.5 * widths[1] and widths[1] == pytest.approx(widths[2], rel=0.2)


def test_lower_stacks_hold_the_colours_of_each_frame_in_a_row() -> None:
    images = torch.arange(32.0).view(32, 1, 1, 1).expand(32, 3, 256, 256).clone()
    images[:, 1] += 0.5
    stacks = lower_stacks(images)
    assert stacks.shape == (2, 48, 128, 256)
    assert stacks[1, :6, 0, 0].tolist() == [16, 16.5, 16, 17, 17.5, 17]


def test_lips_are_cut_undistorted_by_the_papers_rule_and_resized_by_the_released_one() -> None:
    images = torch.rand(2, 3, 256, 256)
    boxes = torch.tensor([[10, 20, 138, 84], [0, 100, 128, 164]])
    cut = cut_lips(images, boxes, "expand")
    torch.testing.assert_close(cut[0], images[0, :, 20:84, 10:138])
    assert cut_lips(images, boxes - torch.tensor([0, 0, 30, 3]), "released").shape == (2, 3, 256, 256)


def test_pictures_kept_small_are_what_the_net_would_have_averaged() -> None:
    small = torch.randint(0, 256, (1, 16, 64, 128, 3), dtype=torch.uint8)
    frames = frames_of(small, 2)
    assert frames.shape == (1, 48, 128, 256)
    averaged = torch.nn.functional.avg_pool2d(frames, 2)
    torch.testing.assert_close(averaged[0, 3:6], small[0, 1].permute(2, 0, 1).float() / 127.5 - 1)


def test_voices_of_overlapping_windows_are_no_wrong_answers() -> None:
    place = torch.tensor([[0, 10], [0, 20], [0, 40], [1, 10]])
    assert near(place).nonzero().tolist() == [[0, 1], [1, 0]]
    faces = torch.eye(4)
    heard = torch.stack([faces, faces.roll(1, 0)], 1)
    heard[1, 0] = faces[0]  # the neighbour's voice sounds like the own one
    judged, unjudged = shifted_nce(faces, heard, near(place)), shifted_nce(faces, heard, torch.zeros(4, 4, dtype=torch.bool))
    assert float(judged) < float(unjudged)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    values = [float(ssim(picture + level * torch.randn(1, 3, 32, 32), picture)) for level in (0.0, 0.1, 0.5)]
    assert values[0] == pytest.approx(1, abs=1e-4) and values[0] > values[1] > values[2]


@pytest.mark.parametrize(
    ("right", "wrong", "wanted"),
    [([1.0, 2.0], [0.0, 0.5], 1.0), ([0.0], [1.0], 0.0), ([1.0], [1.0], 0.5), ([1.0, 0.0], [0.5], 0.5)],
)
def test_area_under_curve_is_the_chance_of_the_right_order(right: list[float], wrong: list[float], wanted: float) -> None:
    assert area_under_curve(np.array(right), np.array(wrong)) == wanted


def test_margins_of_source_and_references_are_drawn_apart_unless_shared(samples: tuple[Sample, ...]) -> None:
    rows = _rows(samples, frames=8)
    apart = replace(rows, margin=MarginConfig())._margins(np.random.default_rng(0))
    shared = replace(rows, margin=MarginConfig(shared=True))._margins(np.random.default_rng(0))
    assert len(set(apart[0].tolist())) == 1 and len(set(apart[1].tolist())) > 2
    assert set(shared[0].tolist()) == set(shared[1].tolist())
