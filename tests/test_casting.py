"""Promises of casting: one mouth a frame by rule, everyone as the cast map says, a later entry over an earlier one."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_cast import ANNA, BERT, CARL, Seen, clock, faces_of
from numpy.typing import NDArray

from musetalk_cli.cast_map import CastMap, CastPerson, CastRange, VoiceFile
from musetalk_cli.casting import (
    Choice,
    ShotCast,
    cast_by_map,
    cast_by_rule,
    choose_all,
    choose_largest,
    choose_like,
    frame_at,
    name_persons,
)
from musetalk_cli.errors import UsageError
from musetalk_cli.people import Candidate, candidates, find_persons
from musetalk_cli.stages.s2_decide import part_at
from musetalk_cli.types import PASS, Casting, Faces, Part, Shot, Source

SHOT = Shot(0, 0, 100)
A, B, C = (VoiceFile(Path(f"{name}.wav")) for name in "abc")


def people(*seen: Seen) -> list[Candidate]:
    return candidates(faces_of(SHOT, *seen))


def chosen(choices: Sequence[Choice]) -> list[bool]:
    return [choice.chosen for choice in choices]


# by rule


def test_all_is_everyone() -> None:
    assert choose_all(people(Seen(range(9)), Seen(range(9), 400))) == [Choice(True, "every face")] * 2


def test_largest_is_one_person_for_the_whole_shot() -> None:
    """Though for a while another face is larger: nothing flickers."""
    passer_by, steady_one = Seen(range(40, 60), 400, width=90), Seen(range(100), width=60)
    choices = choose_largest(people(passer_by, steady_one))
    assert chosen(choices) == [False, True]
    assert [choice.why for choice in choices] == ["in the picture with a larger face", "largest face"]


def test_after_a_cut_that_nobody_noticed_the_next_face_is_dubbed_too() -> None:
    before, after, beside = Seen(range(60), width=80), Seen(range(60, 100), 400), Seen(range(50, 100), 700, width=40)
    choices = choose_largest(people(before, after, beside))
    assert chosen(choices) == [True, True, False]
    assert choices[1].why == "only face while the largest is away"


def test_someone_turned_away_is_not_the_largest() -> None:
    """He has rows in ten frames only, those that the landmarker saw."""
    away = Seen(range(90, 100), 400, width=120)
    assert chosen(choose_largest(people(away, Seen(range(100))))) == [False, True]


def test_a_picture_chooses_by_likeness_and_one_of_two_likenesses() -> None:
    near = (0.9 * ANNA + 0.436 * BERT).astype(np.float32)
    persons = people(
        Seen(range(30), who=ANNA), Seen(range(30), 300, who=BERT), Seen(range(30), 500, who=near), Seen(range(30), 700)
    )
    choices = choose_like(ANNA, 0.363, "anna.jpg")(persons)
    assert chosen(choices) == [True, False, False, False]
    assert [choice.why for choice in choices] == [
        "like anna.jpg",
        "not the person in anna.jpg",
        "in the picture with one more like anna.jpg",
        "not the person in anna.jpg",
    ]
    assert choices[1].similarity == pytest.approx(0, abs=1e-6)


def test_two_likenesses_that_never_meet_are_both_dubbed() -> None:
    persons = people(Seen(range(30), who=ANNA), Seen(range(60, 90), 300, who=ANNA))
    assert chosen(choose_like(ANNA, 0.363, "anna.jpg")(persons)) == [True, True]


def test_nobody_to_choose_from_is_nobody_chosen() -> None:
    assert choose_largest([]) == choose_all([]) == choose_like(ANNA, 0.3, "x")([]) == []


def test_by_rule_everyone_chosen_follows_the_one_voice_and_the_others_say_why() -> None:
    cast = cast_by_rule(faces_of(SHOT, Seen(range(100)), Seen(range(50), 400, width=40)), choose_largest, "closed")
    assert cast.voices == (0,)
    assert cast.casting.parts == (
        Part(0, 0, 100, 0, "", "closed"),
        Part(1, 0, 100, PASS, "in the picture with a larger face", "closed"),
    )


def test_a_shot_in_which_nobody_is_chosen_hears_no_voice() -> None:
    nobody = choose_like(CARL, 0.363, "carl.jpg")
    assert cast_by_rule(faces_of(SHOT, Seen(range(9), who=ANNA)), nobody, "auto").voices == ()
    assert cast_by_rule(faces_of(SHOT), choose_all, "auto") == ShotCast(Casting(), ())


# by map


def cast_map(*persons: CastPerson, ranges: Sequence[CastRange] = ()) -> CastMap:
    return CastMap(Path("cast.toml"), "", persons, tuple(ranges))


def film(*shots: tuple[Seen, ...], frames: int = 100) -> tuple[Source, list[Faces]]:
    """Shots of 100 frames at 25 a second; frames of a Seen count from its shot's start."""
    source = clock(frames * len(shots), *range(frames, frames * len(shots), frames))
    moved = [
        [one._replace(frames=[shot.start + f for f in one.frames]) for one in seen]
        for shot, seen in zip(source.shots, shots, strict=True)
    ]
    return source, [faces_of(shot, *seen) for shot, seen in zip(source.shots, moved, strict=True)]


TWO = (Seen(range(100), width=120, who=ANNA), Seen(range(100), 400, who=BERT))


def cast_of(source: Source, faces: list[Faces], cast: CastMap, number: int = 0) -> Any:
    persons = find_persons(faces)
    return cast_by_map(faces[number], source, persons, cast, name_persons(persons, cast, {}, faces))


def test_everyone_follows_his_own_voice() -> None:
    cast = cast_of(
        *film(TWO), cast_map(CastPerson("anna", ("A",), voice=A), CastPerson("bert", ("B",), voice=B, silence="closed"))
    )
    assert cast.voices == (0, 1)
    assert cast.casting.parts == (Part(0, 0, 100, 0), Part(1, 0, 100, 1, "", "closed"))


def test_in_either_order_of_the_map() -> None:
    bert, anna = CastPerson("bert", ("B",), voice=B), CastPerson("anna", ("A",), voice=A)
    cast = cast_of(*film(TWO), cast_map(bert, anna))
    assert [part.voice for part in cast.casting.parts] == [1, 0]  # of the map's voices: bert's, then anna's


def test_who_has_no_voice_and_who_is_in_no_cast_stay_as_they_are() -> None:
    three = (*TWO, Seen(range(100), 700, width=30, who=CARL))
    cast = cast_of(*film(three), cast_map(CastPerson("anna", ("A",), voice=A), CastPerson("bert", ("B",))))
    assert cast.casting.parts[1:] == (
        Part(1, 0, 100, PASS, "bert has no voice"),
        Part(2, 0, 100, PASS, "outside the cast"),
    )


def test_a_shot_numbers_only_the_voices_that_it_hears() -> None:
    """So that another voice elsewhere makes nothing of this shot again."""
    source, faces = film(TWO, (Seen(range(100), who=BERT),))
    cast = cast_map(CastPerson("anna", ("A",), voice=A), CastPerson("bert", ("B",), voice=B))
    second = cast_of(source, faces, cast, 1)
    assert second.voices == (1,)
    assert [part.voice for part in second.casting.parts] == [0]
    assert cast_of(source, faces, cast_map(CastPerson("anna", ("A",), voice=C), CastPerson("bert", ("B",), voice=B)), 1) == second


def voices_over_time(parts: Sequence[Part], frames: Sequence[int], track: int = 0) -> list[int | None]:
    found = [part_at(Casting(tuple(parts)), track, frame) for frame in frames]
    return [None if part is None else part.voice for part in found]


@pytest.mark.parametrize(
    ("stretch", "expected"),
    [
        (CastRange(Fraction(1), Fraction(2), "anna", passes=True), [0, PASS, PASS, 0, 0]),
        (CastRange(Fraction(1), Fraction(2), None, passes=True), [0, PASS, PASS, 0, 0]),
        (CastRange(Fraction(1), Fraction(2), "bert", passes=True), [0, 0, 0, 0, 0]),
        (CastRange(Fraction(1), Fraction(2), "anna", voice=C), [0, 1, 1, 0, 0]),
        (CastRange(Fraction(3), Fraction(99), "anna", passes=True), [0, 0, 0, 0, PASS]),  # to the end
        (CastRange(Fraction(50), Fraction(99), "anna", passes=True), [0, 0, 0, 0, 0]),  # after it
    ],
)
def test_a_range_changes_what_is_asked_for_its_time_alone(stretch: CastRange, expected: list[int]) -> None:
    cast = cast_of(*film(TWO[:1]), cast_map(CastPerson("anna", ("A",), voice=A), CastPerson("bert"), ranges=[stretch]))
    assert voices_over_time(cast.casting.parts, (0, 25, 49, 50, 99)) == expected


def test_a_range_in_another_shot_asks_nothing_of_this_one() -> None:
    """So that an edit makes only the shots again that it touches."""
    source, faces = film(TWO, (Seen(range(100), who=BERT),))
    anna, bert = CastPerson("anna", ("A",), voice=A), CastPerson("bert", ("B",), voice=B)
    edited = cast_map(anna, bert, ranges=[CastRange(Fraction(4), Fraction(5), passes=True)])
    assert cast_of(source, faces, edited, 0) == cast_of(source, faces, cast_map(anna, bert), 0)
    assert cast_of(source, faces, edited, 1) != cast_of(source, faces, cast_map(anna, bert), 1)


def test_a_later_range_wins() -> None:
    ranges = [
        CastRange(Fraction(0), Fraction(4), "anna", passes=True),
        CastRange(Fraction(1), Fraction(2), "anna"),  # as she is
        CastRange(Fraction(1), Fraction(3, 2), "anna", voice=C),
    ]
    cast = cast_of(*film(TWO[:1]), cast_map(CastPerson("anna", ("A",), voice=A), ranges=ranges))
    assert voices_over_time(cast.casting.parts, (0, 25, 37, 38, 49, 50)) == [PASS, 1, 1, 0, 0, PASS]


def test_a_range_gives_a_voice_to_who_has_none_and_to_nobody_outside_the_cast() -> None:
    stretch = CastRange(Fraction(1), Fraction(2), voice=C)
    cast = cast_of(*film(TWO), cast_map(CastPerson("anna", ("A",)), ranges=[stretch]))
    assert [voices_over_time(cast.casting.parts, (0, 25), track) for track in (0, 1)] == [[PASS, 0], [PASS, PASS]]


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [("auto", "closed", "closed"), ("original", "auto", "original"), ("closed", "original", "original")],
)
def test_silence_is_the_ranges_where_it_says_so_else_the_persons(own: Any, asked: Any, expected: str) -> None:
    anna = CastPerson("anna", ("A",), voice=A, silence=own)
    cast = cast_of(*film(TWO[:1]), cast_map(anna, ranges=[CastRange(Fraction(1), Fraction(2), "anna", silence=asked)]))
    found = [part_at(cast.casting, 0, frame) for frame in (0, 30)]
    assert [part.silence for part in found if part] == [own, expected]


def test_a_range_lies_on_the_films_clock() -> None:
    """Film frames at 24000/1001, the first of them ten seconds after zero: a range begins with the first frame at or after its time."""
    fps = Fraction(24000, 1001)
    source = clock(100, fps=fps, start=240 / fps)
    assert [frame_at(source, n / fps) for n in (0, 1, 50, 99)] == [0, 1, 50, 99]
    assert frame_at(source, Fraction(50) / fps + Fraction(1, 10**9)) == 51
    assert frame_at(source, Fraction(1000)) == 100  # none
    uneven = clock(5, pts=[0, 30, 80, 81, 300])
    assert [frame_at(uneven, Fraction(ms, 1000)) for ms in (0, 1, 30, 80, 82, 300, 301)] == [0, 1, 1, 2, 4, 4, 5]


# who is who


def named(cast: CastMap, pictures: dict[str, NDArray[np.float32]], *shots: tuple[Seen, ...]) -> dict[int, str]:
    _, faces = film(*shots)
    return name_persons(find_persons(faces), cast, pictures, faces)


def test_two_letters_under_one_name_are_one_person() -> None:
    cast = cast_map(CastPerson("anna", ("A", "B"), voice=A))
    assert named(cast, {}, TWO) == {0: "anna", 1: "anna"}


def test_a_letter_that_nobody_has_is_refused_with_the_last_there_is() -> None:
    for shots, last in (((TWO,), "letters go to B"), (((),), "letters go to none")):
        with pytest.raises(UsageError, match="anna: nobody in the film is face 'Q'") as caught:
            named(cast_map(CastPerson("anna", ("Q",), voice=A)), {}, *shots)
        assert caught.value.cure == last


def test_a_picture_names_who_is_most_like_it() -> None:
    between = np.asarray(0.6 * ANNA + 0.8 * BERT, np.float32)
    stranger = np.asarray(0.3 * ANNA + np.sqrt(1 - 0.09) * CARL, np.float32)
    shot = (
        Seen(range(100), width=80, who=between),
        Seen(range(100), 400, width=60, who=ANNA),
        Seen(range(100), 700, 40, stranger),
    )
    cast = cast_map(CastPerson("anna", still=Path("a.jpg")), CastPerson("bert", still=Path("b.jpg")))
    assert named(cast, {"anna": ANNA, "bert": BERT}, shot) == {0: "bert", 1: "anna"}


def test_a_letter_is_surer_than_a_picture() -> None:
    cast = cast_map(CastPerson("bert", ("A",)), CastPerson("anna", still=Path("a.jpg")))
    assert named(cast, {"anna": ANNA}, TWO) == {0: "bert"}


def test_a_picture_names_nobody_whom_the_identity_network_never_saw() -> None:
    assert named(cast_map(CastPerson("anna", still=Path("a.jpg"))), {"anna": ANNA}, (Seen(range(9)),)) == {}


def test_a_person_is_compared_by_all_that_is_seen_of_him() -> None:
    """One shot of three is blurred: the median is still Anna."""
    blurred = np.asarray(0.5 * ANNA + np.sqrt(0.75) * CARL, np.float32)
    shots = [(Seen(range(50), who=ANNA),), (Seen(range(50), who=blurred),), (Seen(range(50), who=ANNA),)]
    pictures = {"anna": ANNA, "carl": np.asarray(0.75 * CARL + np.sqrt(1 - 0.75**2) * BERT, np.float32)}
    cast = cast_map(CastPerson("anna", still=Path("a.jpg")), CastPerson("carl", still=Path("c.jpg")))
    assert named(cast, pictures, *shots)[0] == "anna"
