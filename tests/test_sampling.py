"""Sampling rules as tables: which frame is referred to, how much chin is shown, where the lips are."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.training.sampling import (
    CHIN,
    INNER_LIPS,
    LIPS,
    draw_margins,
    draw_references,
    informative_frames,
    lip_region,
    released_lip_region,
)


def clip(pose: Sequence[float], lips: Sequence[float]) -> NDArray[np.float32]:
    """(K, 68, 2): chin `pose` px to the right, inner lips `lips` px down."""
    points = np.zeros((len(pose), 68, 2), np.float32)
    points[:, CHIN, 0] = np.array(pose)[:, None]
    points[:, INNER_LIPS, 1] = np.array(lips)[:, None]
    return points


@pytest.mark.parametrize(
    ("pose", "lips", "share", "expected"),
    [
        #  self    near+open  near+shut  far+open  far+shut
        ([0, 1, 2, 50, 60], [0, 9, 0.1, 9.5, 0.2], 0.5, [1]),
        ([0, 1, 2, 3, 50, 60, 70, 80], [0, 5, 9, 7, 0.1, 0.2, 0.3, 0.4], 0.5, [2, 3, 1]),  # least like lips first
        ([0, 1, 2, 3, 50, 60, 70, 80], [0, 5, 9, 7, 0.1, 0.2, 0.3, 0.4], 0.25, [2]),
        ([0, 1, 2, 3, 50, 60, 70, 80], [0, 5, 9, 7, 0.1, 0.2, 0.3, 0.4], 0.75, [2, 3, 1, 6, 5]),
        ([0, 1, 2, 3], [0, 1, 2, 3], 1.0, [3, 2, 1]),  # all but itself
        ([0, 1, 2, 3], [0, 1, 2, 3], 0.25, [2]),  # the sets do not meet at k = 1; at 2 they share the frame in between
        ([0, 5], [0, 5], 0.5, [1]),
        ([0, 0, 0], [0, 0, 0], 0.5, [1]),  # of equals the earlier frame
        ([0], [0], 0.5, []),
    ],
)
def test_informative_frames_are_near_in_pose_and_far_in_lips(
    pose: list[float], lips: list[float], share: float, expected: list[int]
) -> None:
    assert informative_frames(0, clip(pose, lips), share).tolist() == expected


@pytest.mark.parametrize(("point", "counts"), [(0, True), (8, True), (16, True), (17, False), (30, False), (60, False)])
def test_pose_is_that_of_the_seventeen_chin_points(point: int, counts: bool) -> None:
    points = clip([0, 3, 3], [0, 3, 4])  # frame 2 is as near as frame 1, and less like in the lips
    points[1, point] += (9, -0.1)
    assert informative_frames(0, points, 0.34).tolist() == ([2] if counts else [2, 1])


@pytest.mark.parametrize(("point", "counts"), [(60, True), (64, True), (67, True), (59, False), (48, False), (8, False)])
def test_lips_are_the_eight_inner_points(point: int, counts: bool) -> None:
    points = clip([0, 3, 4], [0, 3, 3])  # frame 1 is as unlike as frame 2, and nearer
    points[1, point, 1] *= 0.9
    assert informative_frames(0, points, 0.34).tolist() == ([2, 1] if counts else [1])


def test_references_of_many_targets_are_those_of_each() -> None:
    points = np.random.default_rng(0).normal(size=(40, 68, 2)).astype(np.float32)
    targets = np.arange(40)
    for seed in range(5):
        drawn = draw_references(targets, points, np.random.default_rng(seed), share=0.5)
        assert all(frame in informative_frames(target, points) for target, frame in zip(targets, drawn, strict=True))


def test_every_informative_frame_is_drawn() -> None:
    points = np.random.default_rng(1).normal(size=(16, 68, 2)).astype(np.float32)
    drawn = draw_references(np.full(400, 3), points, np.random.default_rng(0))
    assert set(drawn) == set(informative_frames(3, points))


@pytest.mark.parametrize("rule", ["informative", "random"])
@pytest.mark.parametrize("frames", [2, 3, 30])
def test_no_frame_refers_to_itself(rule: str, frames: int) -> None:
    points = np.random.default_rng(0).normal(size=(frames, 68, 2)).astype(np.float32)
    targets = np.repeat(np.arange(frames), 20)
    drawn = draw_references(targets, points, np.random.default_rng(0), rule=rule)  # type: ignore[arg-type]
    assert (drawn != targets).all() and drawn.min() >= 0 and drawn.max() < frames


@pytest.mark.parametrize("rule", ["informative", "random", "released"])
def test_clip_of_one_frame_refers_to_itself(rule: str) -> None:
    drawn = draw_references(np.array([0, 0]), clip([0], [0]), np.random.default_rng(0), rule=rule)  # type: ignore[arg-type]
    assert drawn.tolist() == [0, 0]


def test_random_reference_is_any_other_frame() -> None:
    drawn = draw_references(np.full(500, 2), clip([0] * 6, [0] * 6), np.random.default_rng(0), rule="random")
    assert set(drawn) == {0, 1, 3, 4, 5}


def test_released_reference_is_informative_and_five_frames_away() -> None:
    pose, lips = [0.0] + [50.0] * 19, [0.0] * 20
    pose[10], lips[10] = 1.0, 9.0
    drawn = draw_references(np.zeros(30, int), clip(pose, lips), np.random.default_rng(0), rule="released", share=0.1)
    assert (drawn == 10).all()


def test_released_reference_too_near_in_time_is_drawn_within_five_windows() -> None:
    pose, lips = [50.0] * 400, [0.0] * 400
    pose[200], pose[201], lips[201] = 0.0, 1.0, 9.0
    targets = np.full(16, 200)
    drawn = np.concatenate(
        [draw_references(targets, clip(pose, lips), np.random.default_rng(s), rule="released", share=0.0025) for s in range(40)]
    )
    assert np.abs(drawn - 200).min() >= 5 and 70 < np.abs(drawn - 200).max() <= 80


def test_released_reference_is_cut_to_the_clip() -> None:
    targets = np.zeros(16, int)
    drawn = draw_references(targets, clip([0, 1, 9], [0, 1, 9]), np.random.default_rng(0), rule="released", share=0.4)
    assert set(drawn) <= {0, 2}


def test_draws_repeat_with_the_generator() -> None:
    points = np.random.default_rng(0).normal(size=(30, 68, 2)).astype(np.float32)
    one, two = (draw_references(np.arange(30), points, np.random.default_rng(7)) for _ in range(2))
    assert (one == two).all()


@pytest.mark.parametrize(("mean", "std", "low", "high"), [(10, 10, 0, 20), (20, 20, 0, 40), (10, 0, 10, 10), (10, 4, 6, 14)])
def test_truncated_margins_reach_one_standard_deviation_and_no_further(mean: float, std: float, low: int, high: int) -> None:
    margins = draw_margins(4000, np.random.default_rng(0), mean_px=mean, std_px=std)
    assert margins.source.shape == (4000,) and margins.reference.shape == (4000, 1)
    assert margins.source.min() == low and margins.source.max() == high
    assert margins.source.mean() == pytest.approx(mean, abs=0.05 * std + 1e-9)


def test_truncated_margins_do_not_pile_up_at_the_bounds_and_clipped_ones_do() -> None:
    share = {
        rule: float(np.isin(draw_margins(20_000, np.random.default_rng(0), rule=rule).source, (0, 20)).mean())  # type: ignore[arg-type]
        for rule in ("truncated", "clipped")
    }
    assert share["truncated"] == pytest.approx(0.036, abs=0.005)  # half a pixel at either end
    assert share["clipped"] == pytest.approx(0.34, abs=0.02)  # 16 % at either end, and what is rounded down to 0


def test_margins_of_source_and_reference_are_independent_unless_shared() -> None:
    apart = draw_margins(5000, np.random.default_rng(0), references=3)
    assert apart.reference.shape == (5000, 3)
    both = np.concatenate([apart.source[:, None], apart.reference], axis=1)
    assert np.abs(np.corrcoef(both.T) - np.eye(4)).max() < 0.05
    shared = draw_margins(50, np.random.default_rng(0), references=3, shared=True)
    assert (shared.reference == shared.source[:, None]).all()


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (128, 190, (64, 158, 192, 222)),
        (20, 190, (0, 158, 128, 222)),  # at the left edge
        (240, 190, (128, 158, 256, 222)),
        (128, 250, (64, 192, 192, 256)),  # at the chin's edge
        (128, 5, (64, 0, 192, 64)),
    ],
)
def test_lip_region_is_about_the_mouth_and_inside_the_crop(x: float, y: float, expected: tuple[int, ...]) -> None:
    assert tuple(lip_region(mouth(x, y, 70, 30))) == expected


def test_lip_region_has_one_size_for_any_mouth() -> None:
    mouths = np.stack([mouth(128, 190, width, height) for width, height in ((20, 4), (90, 60), (180, 20))])
    regions = lip_region(mouths)
    assert regions.shape == (3, 4)
    assert (regions[:, 2:] - regions[:, :2] == (128, 64)).all()


@pytest.mark.parametrize(
    ("x", "y", "width", "expected"),
    [(128, 190, 80, (78, 165, 178, 215)), (30, 190, 80, (0, 165, 80, 215)), (128, 245, 80, (78, 220, 178, 256))],
)
def test_released_lip_region_follows_the_mouths_width(x: float, y: float, width: float, expected: tuple[int, ...]) -> None:
    assert tuple(released_lip_region(mouth(x, y, width, 30))) == expected


def mouth(x: float, y: float, width: float, height: float) -> NDArray[np.float32]:
    points = np.full((68, 2), 128, np.float32)
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    points[48:60] = np.stack([x + width / 2 * np.cos(angle), y + height / 2 * np.sin(angle)], 1)
    points[60:68] = (x, y)
    assert np.ptp(points[LIPS, 0]) == pytest.approx(width, abs=1e-3)
    return points
