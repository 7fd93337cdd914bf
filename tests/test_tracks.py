"""Promises of faces over time: names are kept, movement comes out as it went in, nobody unfit is dubbed by accident."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from made_faces import landmarks_at
from numpy.typing import NDArray

from musetalk_cli.occlusion import LOOK_PX
from musetalk_cli.tracks import Person, Sighting, filled, follow, paired, smoothed, steady, unfit
from musetalk_cli.types import Shot

ANNA, BERT = np.eye(128, dtype=np.float32)[:2]


def seen(
    frame: int,
    x: float = 100.0,
    *,
    width: float = 60,
    score: float = 0.9,
    look: str = "front",
    who: NDArray[np.float32] | None = None,
) -> Sighting:
    points = landmarks_at(x, 100, width) if look == "front" else None
    box = np.array([x - width / 2, 100 - width / 2, x + width / 2, 100 + width], np.float32)
    return Sighting(frame, box, score, points, who)


def shot_of(*persons: Sequence[Sighting]) -> list[list[Sighting]]:
    """Sightings of persons -> sightings of frames."""
    last = max(sighting.frame for person in persons for sighting in person)
    return [[s for person in persons for s in person if s.frame == frame] for frame in range(last + 1)]


def frames_of(persons: Sequence[Person]) -> list[list[int]]:
    return [person.frames.tolist() for person in persons]


def test_a_face_that_moves_is_one_person() -> None:
    walk = [seen(i, 100 + 20 * i) for i in range(12)]  # a third of its width in each frame
    assert frames_of(follow(shot_of(walk), bridge=5)) == [list(range(12))]


def test_two_faces_side_by_side_keep_their_names_as_they_move_together() -> None:
    left, right = [seen(i, 100 + 8 * i) for i in range(12)], [seen(i, 165 + 8 * i) for i in range(12)]
    first, second = follow(shot_of(left, right), bridge=5)
    assert [s.box[0] for s in first.sightings] == [s.box[0] for s in left]
    assert [s.box[0] for s in second.sightings] == [s.box[0] for s in right]


@pytest.mark.parametrize(("gap", "persons"), [(5, 1), (6, 2)])
def test_a_face_keeps_its_name_over_gaps_up_to_bridge(gap: int, persons: int) -> None:
    blink = [seen(i) for i in (0, 1, 2, 3 + gap, 4 + gap)]
    assert len(follow(shot_of(blink), bridge=5)) == persons


def test_who_leaves_and_returns_elsewhere_is_the_same_person() -> None:
    here, there = [seen(i, who=ANNA) for i in range(6)], [seen(i, 400, who=ANNA) for i in range(20, 26)]
    assert frames_of(follow(shot_of(here, there), bridge=5)) == [[*range(6), *range(20, 26)]]


def test_a_cut_that_nobody_noticed_parts_two_people_in_the_same_place() -> None:
    """One looks ahead, the other to the side: the shape of the landmarks jumps, their place does not."""
    ahead, aside = [seen(i, who=ANNA) for i in range(8)], [seen(i, who=BERT) for i in range(8, 16)]
    squeezed = [
        s._replace(landmarks=s.landmarks * np.float32([0.3, 1]) + np.float32([70, 0])) for s in aside if s.landmarks is not None
    ]
    assert frames_of(follow(shot_of(ahead, squeezed), bridge=5)) == [list(range(8)), list(range(8, 16))]


def test_strangers_and_twins_in_one_frame_stay_apart() -> None:
    here, stranger = [seen(i, who=ANNA) for i in range(6)], [seen(i, 400, who=BERT) for i in range(20, 26)]
    assert len(follow(shot_of(here, stranger), bridge=5)) == 2
    twin = [seen(i, 400, who=ANNA) for i in range(3, 9)]
    assert len(follow(shot_of(here, twin), bridge=5)) == 2


def test_pairs_are_the_best_sum_and_never_far_apart() -> None:
    old = np.array([[0, 0, 10, 10], [6, 0, 16, 10]], np.float32)
    new = np.array([[5, 0, 15, 10], [-2, 0, 8, 10], [90, 90, 99, 99]], np.float32)
    assert paired(old, new, 0.2) == [(0, 1), (1, 0)]
    assert paired(old, new[2:], 0.2) == []
    assert paired(old[:0], new, 0.2) == []


def test_landmarks_are_filled_only_where_the_detector_saw_the_face() -> None:
    sightings = [seen(0, 100), seen(1, 102, look="away"), seen(3, 106)]  # frame 2: nothing was detected
    whole = filled(Person(tuple(sightings)), bridge=5)
    assert whole.frames.tolist() == [0, 1, 3]
    np.testing.assert_allclose(whole.landmarks[1], landmarks_at(102, 100, 60), atol=1e-3)


def test_long_gaps_and_open_ends_are_not_filled() -> None:
    turned = [seen(0, look="away"), seen(1), *(seen(i, look="away") for i in range(2, 9)), seen(9), seen(10, look="away")]
    assert filled(Person(tuple(turned)), bridge=5).frames.tolist() == [1, 9]


def test_a_mouth_does_not_twitch_for_a_frame_or_two() -> None:
    person = Person(tuple(seen(i) for i in [0, *range(10, 20), 30, 31, 49]))
    assert steady(person, Shot(0, 0, 50)).frames.tolist() == [0, *range(10, 20), 49]  # at the edges the take may go on


def test_steady_movement_comes_out_as_it_went_in() -> None:
    frames = np.arange(30)
    walk = np.stack([landmarks_at(100 + 3.0 * i, 80 + 1.5 * i, 60) for i in frames])
    np.testing.assert_allclose(smoothed(frames, walk, 1.5), walk, atol=1e-3)


def test_jitter_shrinks_and_the_middle_stays() -> None:
    frames = np.arange(200)
    still = np.broadcast_to(landmarks_at(100, 80, 60), (200, 68, 2))
    noisy = (still + np.random.default_rng(0).normal(0, 1, still.shape)).astype(np.float32)
    calm = smoothed(frames, noisy, 1.0)
    jerk = [np.abs(np.diff(points, 2, axis=0)).mean() for points in (noisy, calm)]
    assert jerk[1] < 0.35 * jerk[0]
    assert abs((calm - still).mean()) < 0.02


def test_nothing_is_smoothed_over_a_gap_or_a_jump() -> None:
    here, there = landmarks_at(100, 80, 60), landmarks_at(160, 80, 60)
    rows = np.stack([here] * 5 + [there] * 5)
    np.testing.assert_allclose(smoothed(np.arange(10), rows, 2.0), rows, atol=1e-4)  # a cut that nobody noticed
    near = np.stack([here] * 5 + [here + 4] * 5)
    with_gap = np.array([*range(5), *range(7, 12)])
    np.testing.assert_allclose(smoothed(with_gap, near, 2.0), near, atol=1e-4)
    assert np.abs(smoothed(np.arange(10), near, 2.0) - near).max() > 0.5


def test_smoothing_can_be_off_and_takes_any_number_of_rows() -> None:
    rows = np.stack([landmarks_at(100 + i % 2, 80, 60) for i in range(6)])
    assert smoothed(np.arange(6), rows, 0.0) is rows
    for count in range(3):
        assert smoothed(np.arange(count), rows[:count], 1.0).shape == (count, 68, 2)


def person(frames: range, **what: object) -> Person:
    return Person(tuple(map(partial(seen, **what), frames)))  # type: ignore[arg-type]


def test_one_blurred_frame_does_not_change_who_someone_is() -> None:
    anna = Person((*(seen(i, who=ANNA) for i in range(4)), seen(4, who=BERT)))
    assert anna.identity is not None and anna.identity @ ANNA == pytest.approx(1)


@pytest.mark.parametrize(
    ("someone", "why"),
    [
        (person(range(3), score=0.65), "seen too briefly: 3 frames, score 0.65"),
        (person(range(50), width=20), "too small: 20 px wide, needs 32"),
        (person(range(50), look="away"), "no landmarks: turned away, hidden or not a face"),
    ],
)
def test_who_cannot_be_dubbed_is_told_why(someone: Person, why: str) -> None:
    assert unfit(someone, 32) == why


def test_who_is_real_large_enough_and_seen_by_the_landmarker_can_be_dubbed() -> None:
    assert unfit(person(range(50)), 32) == ""
    assert unfit(person(range(3)), 32) == ""  # brief, and the detector is sure
    turning = Person((*(seen(i, look="away") for i in range(40)), *(seen(i) for i in range(40, 45))))
    assert unfit(turning, 32) == ""


def test_what_hides_a_mouth_between_two_looks_is_taken_to_lie_between() -> None:
    """A frame whose landmarks are filled has no look of its own."""
    plain, red = np.full((LOOK_PX, LOOK_PX, 3), 120, np.uint8), np.full((LOOK_PX, LOOK_PX, 3), 120, np.uint8)
    red[12:] = (255, 0, 0)
    looks = [plain] * 6 + [red, None, plain] + [plain] * 3
    hidden = Person(tuple(seen(i)._replace(look=look) for i, look in enumerate(looks))).hidden
    np.testing.assert_allclose(hidden, [0] * 6 + [1, 0.5] + [0] * 4, atol=1e-6)
    assert Person((seen(0), seen(1))).hidden.tolist() == [0, 0]  # nobody looked
