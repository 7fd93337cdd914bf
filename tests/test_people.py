"""Promises of persons: the same one across shots, never two who are in one frame, and the same numbers every time."""

import numpy as np
import pytest
from made_cast import ANNA, BERT, CARL, WHO, Seen, faces_of
from numpy.typing import NDArray

from musetalk_cli.people import Candidate, Persons, TrackOf, candidates, find_persons
from musetalk_cli.types import Faces, Shot

Vector = NDArray[np.float32]


def like(one: Vector, other: Vector, cosine: float) -> Vector:
    """(128,) of length 1 that is so much like `one`, the rest of it like `other`."""
    return np.asarray(cosine * one + np.sqrt(1 - cosine**2) * other, np.float32)


def shots(*who: tuple[Seen, ...], frames: int = 20) -> list[Faces]:
    """A shot for each, one after another; frames of a Seen count from its shot's start."""
    made = []
    for number, seen in enumerate(who):
        start = number * frames
        moved = [one._replace(frames=[start + frame for frame in one.frames]) for one in seen]
        made.append(faces_of(Shot(number, start, start + frames), *moved))
    return made


def whole(who: Vector | None, *, x: float = 100, width: float = 60, frames: range = range(20)) -> Seen:
    return Seen(frames, x, width, who)


def groups(persons: Persons) -> list[list[tuple[int, int]]]:
    return [[(track.shot, track.track) for track in tracks] for tracks in persons.tracks]


def test_the_same_person_across_shots_is_one() -> None:
    found = find_persons(shots((whole(ANNA),), (whole(BERT),), (whole(like(ANNA, CARL, 0.6)),)))
    assert groups(found) == [[(0, 0), (2, 0)], [(1, 0)]]


@pytest.mark.parametrize(("cosine", "persons"), [(0.9, 1), (0.45, 1), (0.40, 2), (0.0, 2), (-0.5, 2)])
def test_likeness_has_a_limit(cosine: float, persons: int) -> None:
    assert len(find_persons(shots((whole(ANNA),), (whole(like(ANNA, BERT, cosine)),))).tracks) == persons


def test_the_limit_can_be_another() -> None:
    two = shots((whole(ANNA),), (whole(like(ANNA, BERT, 0.6)),))
    assert [len(find_persons(two, same).tracks) for same in (0.5, 0.7)] == [1, 2]


def test_a_chain_of_likenesses_is_not_one_person() -> None:
    """Each is like the next, the first nothing like the last: it is the mean that counts."""
    angles = np.radians([0, 50, 100])
    chain = [np.asarray(np.cos(a) * ANNA + np.sin(a) * BERT, np.float32) for a in angles]
    assert len(find_persons(shots(*((whole(who),) for who in chain))).tracks) == 2


def test_twins_in_one_frame_are_two() -> None:
    found = find_persons(shots((whole(ANNA), whole(ANNA, x=300, width=40))))
    assert groups(found) == [[(0, 0)], [(0, 1)]]


@pytest.mark.parametrize("count", [3, 40])
def test_twins_who_meet_once_stay_two_however_often_each_is_alone(count: int) -> None:
    first = [(whole(ANNA),)] * count
    second = [(whole(like(ANNA, BERT, 0.99)),)] * count
    together = (whole(ANNA), whole(like(ANNA, BERT, 0.99), x=300))
    found = find_persons(shots(*first, *second, together))
    assert found.of[TrackOf(2 * count, 0)] != found.of[TrackOf(2 * count, 1)]
    assert len(found.tracks) == 2


def test_who_leaves_and_returns_within_a_shot_is_one() -> None:
    found = find_persons(shots((whole(ANNA, frames=range(8)), whole(ANNA, x=400, frames=range(12, 20)))))
    assert groups(found) == [[(0, 0), (0, 1)]]


def test_whom_the_identity_network_never_saw_is_somebody_else() -> None:
    found = find_persons(shots((whole(None),), (whole(None, width=50),), (whole(ANNA, width=40),)))
    assert groups(found) == [[(0, 0)], [(1, 0)], [(2, 0)]]


def test_a_track_without_a_row_is_nobody() -> None:
    found = find_persons(shots((Seen([], who=ANNA), whole(BERT))))
    assert groups(found) == [[(0, 1)]]


def test_the_first_is_seen_most_and_of_equals_the_earlier() -> None:
    small_long, large_brief = whole(ANNA, width=40), whole(BERT, width=60, frames=range(5))
    found = find_persons(shots((small_long, large_brief._replace(x=300)), (small_long,)))
    assert groups(found) == [[(0, 0), (1, 0)], [(0, 1)]]
    equals = find_persons(shots((whole(CARL),), (whole(BERT),), (whole(ANNA),)))
    assert groups(equals) == [[(0, 0)], [(1, 0)], [(2, 0)]]


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the four largest tracks are compared with each other."""
    monkeypatch.setattr("musetalk_cli.people.MOST_LINKED", 4)


LARGE = ((whole(ANNA, width=90),), (whole(BERT, width=90),), (whole(ANNA, width=80),), (whole(BERT, width=80),))


def test_in_a_crowd_the_small_join_whom_they_are_like(crowd: None) -> None:
    small = ((whole(like(ANNA, CARL, 0.6)),), (whole(like(BERT, CARL, 0.7), width=50),), (whole(CARL, width=40),))
    assert groups(find_persons(shots(*LARGE, *small))) == [[(0, 0), (2, 0), (4, 0)], [(1, 0), (3, 0), (5, 0)], [(6, 0)]]


def test_in_a_crowd_too_nobody_is_twice_in_a_frame(crowd: None) -> None:
    """Three like Anna at once, of whom the largest is her: neither the small one beside it nor the next join her."""
    together = (whole(ANNA, width=85), whole(ANNA, x=300, width=40), whole(like(ANNA, BERT, 0.95), x=600, width=30))
    found = find_persons(shots(*LARGE[:3], together))
    assert groups(found)[0] == [(0, 0), (2, 0), (3, 0)]
    twins = find_persons(shots(*LARGE, together[1:]))
    assert twins.of[TrackOf(4, 0)] == twins.of[TrackOf(0, 0)] != twins.of[TrackOf(4, 1)]
    assert len({found.of[TrackOf(3, track)] for track in range(3)}) == 3


def test_the_same_shots_give_the_same_persons() -> None:
    rng = np.random.default_rng(0)
    many = [(whole(like((ANNA, BERT, CARL)[i % 3], WHO[9], 0.8), width=30 + float(rng.integers(40))),) for i in range(30)]
    first = find_persons(shots(*many))
    assert len(first.tracks) == 3
    assert first.of == find_persons(shots(*many)).of


def test_a_film_without_faces_has_no_persons() -> None:
    assert find_persons(shots((), ())).tracks == ()
    assert find_persons([]).tracks == ()


def test_a_candidate_weighs_what_could_be_dubbed_of_it() -> None:
    """Ten times as long with half the width is more."""
    (brief, long) = candidates(faces_of(Shot(0, 0, 100), Seen(range(90, 100), width=120), Seen(range(100), x=300)))
    assert isinstance(brief, Candidate)
    assert long.weight / brief.weight == pytest.approx(10 / 4, rel=0.1)
    assert brief.frames.tolist() == list(range(90, 100))


def test_an_identity_is_known_or_none() -> None:
    known, unknown = candidates(faces_of(Shot(0, 0, 5), Seen(range(5), who=ANNA), Seen(range(5), x=300)))
    assert known.identity is not None
    np.testing.assert_array_equal(known.identity, ANNA)
    assert unknown.identity is None
