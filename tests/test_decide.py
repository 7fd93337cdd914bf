"""Promises of the decisions: a mouth is generated only where it is somebody's, seen, and speaks; what changes within a shot fades.

Made heads at 25 frames a second. In a picture of decisions a letter stands for a frame: `v` a voice, `c` a shut mouth, `.` the film's.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_cast import Seen, clock, faces_of

from musetalk_cli.config import DecideConfig, Runtime
from musetalk_cli.stages.s2_decide import ALWAYS, Pauses, decide, decisions_of, part_at, pauses_of
from musetalk_cli.types import CLOSED, PASS, Casting, Decisions, Line, Part, Shot, Source, Speech, Voicing

FRAMES = 60
CONFIG = DecideConfig()
FADE = 3  # frames: 0.12 s
CHATTER = (0.0, 0.2, 0.4, 0.2)  # how far lips that speak are open, frame by frame


def voice(*spoken: tuple[int, int]) -> Pauses:
    """Somebody who speaks in these frames."""
    return Pauses(tuple((Fraction(start, 25), Fraction(stop, 25)) for start, stop in spoken))


def chatter(*within: tuple[int, int], frames: int = FRAMES) -> list[float]:
    """Lips that move in these frames, and else rest."""
    return [CHATTER[n % 4] if any(start <= n < stop for start, stop in within) else 0.0 for n in range(frames)]


def over(frames: int, value: float, *stretches: tuple[int, int, float]) -> list[float]:
    """One value, another for some time."""
    values = [value] * frames
    for start, stop, other in stretches:
        values[start:stop] = [other] * (stop - start)
    return values


def decided(
    *seen: Seen,
    parts: Sequence[Part] | None = None,
    pauses: Sequence[Pauses] = (ALWAYS,),
    source: Source | None = None,
    shot: Shot | None = None,
    **config: Any,
) -> Decisions:
    source = source or clock(FRAMES)
    shot = shot or source.shots[0]
    asked = [Part(track, shot.start, shot.stop) for track in range(len(seen))] if parts is None else parts
    return decisions_of(source, faces_of(shot, *seen), Casting(tuple(asked)), pauses, replace(CONFIG, **config))


def drawn(found: Decisions, track: int = 0) -> str:
    """A letter a frame."""
    frames = np.arange(found.shot.start, found.shot.stop)
    told = found.voicing.voice(frames, np.full(len(frames), track))
    return "".join({PASS: ".", CLOSED: "c"}.get(int(one), "vwx"[max(int(one), 0)]) for one in told)


def told(found: Decisions, track: int = 0) -> list[tuple[int, int, str, str]]:
    return [(v.start, v.stop, v.what, v.why) for v in found.verdicts if v.track == track]


def head(**of: Any) -> Seen:
    return Seen(range(FRAMES), width=130, **of)


# whose mouth it is


def test_who_speaks_from_the_front_is_synced_from_his_first_frame_to_his_last() -> None:
    found = decided(head())
    assert told(found) == [(0, 60, "synced", "")]
    assert found.voicing.lines == (Line(0, 0, 60, 0),)


def test_who_is_outside_the_cast_stays_as_he_is_and_the_reason_is_the_casts() -> None:
    assert told(decided(head(), parts=[])) == [(0, 60, "passed through", "outside the cast")]
    because = decided(head(), parts=[Part(0, 0, 60, PASS, "bert has no voice")])
    assert told(because) == [(0, 60, "passed through", "bert has no voice")]
    assert because.voicing.lines == ()


def test_two_people_follow_two_voices() -> None:
    two = [head(), Seen(range(FRAMES), 400, width=100)]
    found = decided(*two, parts=[Part(0, 0, 60, 1), Part(1, 0, 60, 0)], pauses=[ALWAYS, voice((0, 30))], silence="closed")
    assert drawn(found, 0) == "w" * 30 + "c" * 30
    assert drawn(found, 1) == "v" * 60


def test_a_later_part_wins_over_an_earlier_one_and_only_its_own_frames() -> None:
    parts = [Part(0, 0, 60, 0), Part(0, 10, 40, PASS, "later"), Part(0, 20, 30, 1), Part(1, 0, 60, PASS)]
    assert drawn(decided(head(), parts=parts, pauses=[ALWAYS, ALWAYS])) == "v" * 10 + "." * 10 + "w" * 10 + "." * 10 + "v" * 20
    assert part_at(Casting(tuple(parts)), 0, 20) == parts[2]
    assert part_at(Casting(tuple(parts)), 2, 20) is None


# profile


@pytest.mark.parametrize(
    ("yaw", "what", "why"),
    [
        (0, "synced", ""),
        (-44, "synced", ""),
        (50, "needs review", "turned 50 degrees"),
        (-58, "needs review", "turned 58 degrees"),
        (75, "passed through", "profile: turned 75 degrees, limit 60"),
        (-75, "passed through", "profile: turned 75 degrees, limit 60"),
    ],
)
def test_a_head_is_dubbed_up_to_a_limit_of_yaw_and_doubted_before_it(yaw: float, what: str, why: str) -> None:
    assert told(decided(head(yaw=yaw))) == [(0, 60, what, why)]


def test_the_limit_can_be_another() -> None:
    assert told(decided(head(yaw=40), max_yaw=30))[0][2:] == ("passed through", "profile: turned 40 degrees, limit 30")
    assert told(decided(head(yaw=40), review_yaw=30))[0][2:] == ("needs review", "turned 40 degrees")


def test_who_turned_away_has_to_come_some_way_back() -> None:
    """Over 60 degrees, then 57, which is less than the limit and more than nine tenths of it; and the same in reverse."""
    there = over(FRAMES, 0, (20, 30, 66), (30, 40, 57))
    assert drawn(decided(head(yaw=there))) == "v" * 20 + "." * 20 + "v" * 20
    assert drawn(decided(head(yaw=there[::-1]))) == "v" * 20 + "." * 20 + "v" * 20
    assert "." not in drawn(decided(head(yaw=over(FRAMES, 0, (20, 40, 57)))))  # never over it


def test_about_the_limit_nothing_flickers() -> None:
    trembling = [57 if n % 6 < 3 else 63 for n in range(FRAMES)]
    assert drawn(decided(head(yaw=trembling))) == "." * FRAMES


@pytest.mark.parametrize("rows", [(30,), (30, 31), (30, 31, 33)])
def test_landmarks_that_lie_wrong_for_a_frame_or_two_are_no_profile(rows: tuple[int, ...]) -> None:
    found = decided(head(yaw=over(FRAMES, 0, *((row, row + 1, 85) for row in rows))))
    assert drawn(found) == "v" * FRAMES
    assert told(found)[0][2:] == ("needs review", "turned 85 degrees")


# occlusion


def test_a_hidden_mouth_stays_as_it_is_while_it_is_hidden() -> None:
    found = decided(head(hidden=over(FRAMES, 0.05, (20, 40, 0.8))))
    assert drawn(found) == "v" * 20 + "." * 20 + "v" * 20
    assert told(found)[1] == (20, 40, "passed through", "occluded mouth")
    assert drawn(decided(head(hidden=0.8), occlusion=0.9)) == "v" * FRAMES


def test_half_a_doubt_is_reviewed() -> None:
    assert told(decided(head(hidden=0.4))) == [(0, 60, "needs review", "40% of the lower face looks unlike itself")]
    assert told(decided(head(hidden=0.3)))[0][2] == "synced"


def test_one_frame_that_looks_odd_hides_nothing() -> None:
    assert drawn(decided(head(hidden=over(FRAMES, 0.0, (30, 31, 1.0))))) == "v" * FRAMES


# the picture's edge


@pytest.mark.parametrize(
    ("x", "what", "why"),
    [
        (200, "synced", ""),
        (45, "needs review", "the chin is beyond the picture's edge"),
        (10, "passed through", "cut by the picture's edge"),
        (990, "passed through", "cut by the picture's edge"),
    ],
)
def test_a_mouth_is_not_painted_where_its_chin_is_beyond_the_edge(x: float, what: str, why: str) -> None:
    assert told(decided(Seen(range(FRAMES), x=x, width=130))) == [(0, 60, what, why)]


def test_a_film_that_wants_it_gets_chins_beyond_the_edge() -> None:
    assert drawn(decided(Seen(range(FRAMES), x=10, width=130), outside=1.0)) == "v" * FRAMES


# review


def test_a_small_face_is_reviewed_and_every_doubt_is_told() -> None:
    small = Seen(range(FRAMES), width=50, yaw=50, hidden=0.4)
    assert told(decided(small)) == [
        (0, 60, "needs review", "turned 50 degrees; 40% of the lower face looks unlike itself; face only 33 px wide")
    ]
    assert told(decided(Seen(range(FRAMES), width=50), review_face=20))[0][2] == "synced"


def test_reasons_have_an_order() -> None:
    """Outside the cast before anything else, a profile before what hides it, both before silence."""
    silent = [voice()]
    all_of_it: dict[str, Any] = {"yaw": 80, "hidden": 0.9}
    assert told(decided(head(**all_of_it), parts=[], pauses=silent))[0][3] == "outside the cast"
    assert told(decided(head(**all_of_it), pauses=silent))[0][3].startswith("profile")
    assert told(decided(head(hidden=0.9), pauses=silent))[0][3] == "occluded mouth"
    assert told(decided(head(), pauses=silent))[0][3] == "silence"


# silence


@pytest.mark.parametrize(
    ("policy", "lips", "expected"),
    [
        ("original", "move", "v" * 30 + "." * 30),
        ("original", "rest", "v" * 30 + "." * 30),
        ("closed", "move", "v" * 30 + "c" * 30),
        ("closed", "rest", "v" * 30 + "c" * 30),
        ("auto", "move", "v" * 30 + "c" * 30),  # the film's lips would chatter over a pause
        ("auto", "rest", "v" * 30 + "." * 30),
    ],
)
def test_in_a_pause_the_mouth_is_the_films_or_shut_by_policy(policy: Any, lips: str, expected: str) -> None:
    opening = chatter((0, 60)) if lips == "move" else chatter((0, 30))
    assert drawn(decided(head(opening=opening), pauses=[voice((0, 30))], silence=policy)) == expected


def test_each_pause_is_judged_by_its_own_lips() -> None:
    found = decided(head(opening=chatter((0, 20))), pauses=[voice((20, 40))])
    assert drawn(found) == "c" * 20 + "v" * 20 + "." * 20
    assert told(found) == [(0, 40, "synced", ""), (40, 60, "passed through", "silence")]


def test_what_a_person_asks_for_goes_before_the_films_policy() -> None:
    asked = [Part(0, 0, 60, 0, silence="original"), Part(1, 0, 60, 0, silence="closed"), Part(2, 0, 60, 0)]
    three = [head(), Seen(range(FRAMES), 400, width=100), Seen(range(FRAMES), 700, width=100)]
    found = decided(*three, parts=asked, pauses=[voice()], silence="closed")
    assert [drawn(found, track)[0] for track in range(3)] == [".", "c", "c"]


def test_a_range_that_begins_within_a_pause_has_its_own_policy() -> None:
    parts = [Part(0, 0, 60, 0, silence="original"), Part(0, 25, 45, 0, silence="closed")]
    assert drawn(decided(head(), parts=parts, pauses=[voice((0, 10))])) == "v" * 10 + "." * 15 + "c" * 20 + "." * 15


# nothing flickers


def test_a_words_scrap_between_two_profiles_is_left_alone() -> None:
    found = decided(head(yaw=over(FRAMES, 0, (0, 28, 80), (32, 60, 80))))
    assert drawn(found) == "." * FRAMES
    assert (28, 32, "passed through", "too brief between others") in told(found)


def test_five_frames_are_no_scrap() -> None:
    assert drawn(decided(head(), pauses=[voice((28, 33))], silence="original")) == "." * 28 + "v" * 5 + "." * 27
    assert drawn(decided(head(), pauses=[voice((28, 32))], silence="original")) == "." * FRAMES


def test_a_face_seen_for_a_moment_only_is_dubbed() -> None:
    """It is nobody's neighbour: nothing of the film's own mouth is seen beside it."""
    assert drawn(decided(Seen(range(20, 24), width=100))) == "." * 20 + "vvvv" + "." * 36


def test_a_scrap_that_goes_on_in_the_next_chunk_of_the_take_is_no_scrap() -> None:
    """A word that begins two frames before a chunk ends: its mouth is there when the next chunk begins."""
    source = clock(120, 60, take=True)
    word = [voice((58, 90))]
    first = decided(head(), pauses=word, source=source, silence="original")
    second = decided(Seen(range(60, 120), width=100), pauses=word, source=source, shot=source.shots[1], silence="original")
    assert drawn(first) + drawn(second) == "." * 58 + "v" * 32 + "." * 30
    apart = clock(120, 60)
    assert drawn(decided(head(), pauses=word, source=apart, silence="original")) == "." * 60  # a cut: there it is one


# fades


def test_a_mouth_fades_where_the_decision_changes_within_a_shot() -> None:
    found = decided(head(opening=chatter((0, 60))), pauses=[voice((20, 40))], silence="original")
    assert found.voicing.lines == (Line(0, 20, 40, 0, FADE, FADE),)


def test_no_fade_at_the_ends_of_a_shot_nor_between_words_and_a_shut_mouth() -> None:
    found = decided(head(opening=chatter((0, 60))), pauses=[voice((20, 40))], silence="closed")
    assert found.voicing.lines == (Line(0, 0, 20, CLOSED), Line(0, 20, 40, 0), Line(0, 40, 60, CLOSED))


def test_no_fade_where_the_face_comes_and_goes() -> None:
    """Nothing of it is seen beside: there is nothing to fade from."""
    there = [*range(10, 30), *range(40, 60)]
    found = decided(Seen(there, width=100))
    assert found.voicing.lines == (Line(0, 10, 30, 0), Line(0, 40, 60, 0))
    assert told(found) == [(10, 30, "synced", ""), (40, 60, "synced", "")]


def test_a_fade_is_no_longer_than_half_its_line_and_lasts_as_long_at_any_rate() -> None:
    brief = decided(head(), pauses=[voice((20, 25))], silence="original", fade=1.0)
    assert brief.voicing.lines == (Line(0, 20, 25, 0, 2, 2),)
    fast = clock(FRAMES, fps=Fraction(60000, 1001))
    spoken = Pauses(((fast.time(20), fast.time(40)),))
    quick = decided(head(), source=fast, pauses=[spoken], silence="original")
    assert quick.voicing.lines == (Line(0, 20, 40, 0, 7, 7),)


@pytest.mark.parametrize(
    ("silence", "lips", "fades"),
    [("original", "rest", FADE), ("original", "move", FADE), ("auto", "rest", FADE), ("auto", "move", 0), ("closed", "rest", 0)],
)
def test_a_take_cut_into_chunks_fades_where_the_other_chunk_shows_the_films_mouth(silence: Any, lips: str, fades: int) -> None:
    """Words begin with the second chunk; what the first shows in its silence is not seen from here, but follows from the policy."""
    source = clock(120, 60, take=True)
    shot = source.shots[1]
    opening = chatter((0, 60)) if lips == "move" else [0.0] * 60
    seen = Seen(range(60, 120), width=100, opening=opening)
    found = decided(seen, pauses=[voice((60, 120))], source=source, shot=shot, silence=silence)
    assert found.voicing.lines == (Line(0, 60, 120, 0, fades, 0),)
    cut = clock(120, 60)
    assert decided(seen, pauses=[voice((60, 120))], source=cut, shot=cut.shots[1], silence=silence).voicing.lines[0].fade_in == 0


# when a voice speaks


def activity(*spoken: tuple[int, int], tokens: int = 150) -> np.ndarray[Any, np.dtype[np.float16]]:
    told = np.full(tokens, 0.1, np.float16)
    for start, stop in spoken:
        told[start:stop] = 0.9
    return told


@pytest.mark.parametrize(
    ("spoken", "seconds"),
    [
        ([], []),
        ([(50, 100)], [(0.85, 2.15)]),  # 0.15 s before and after
        ([(0, 50)], [(-0.15, 1.15)]),
        ([(0, 50), (74, 100)], [(-0.15, 2.15)]),  # 0.48 s: a breath
        ([(0, 50), (75, 100)], [(-0.15, 1.15), (1.35, 2.15)]),  # half a second: a pause
        ([(0, 40), (50, 60), (70, 90)], [(-0.15, 1.95)]),
        ([(100, 150)], [(1.85, 3.15)]),
    ],
)
def test_lips_belong_to_speech_a_little_around_it_and_over_a_breath(
    spoken: list[tuple[int, int]], seconds: list[tuple[float, float]]
) -> None:
    found = pauses_of(activity(*spoken), CONFIG).spoken
    assert [(float(start), float(stop)) for start, stop in found] == seconds


def test_a_pause_and_its_reach_can_be_others() -> None:
    told = activity((0, 50), (74, 100))
    assert len(pauses_of(told, replace(CONFIG, pause=0.3)).spoken) == 2
    assert pauses_of(told, replace(CONFIG, reach=0.0)).spoken == ((Fraction(0), Fraction(2)),)


def test_half_a_doubt_of_the_network_is_silence() -> None:
    assert pauses_of(np.full(50, 0.5, np.float16), CONFIG).spoken == ()


# the stage: voices as they were heard


def test_the_stage_hears_each_voice_in_the_order_of_the_cast(tmp_path: Path) -> None:
    source = clock(FRAMES)
    faces = faces_of(source.shots[0], head(), Seen(range(FRAMES), 400, width=100))
    speeches = [Speech(np.zeros((150, 5, 384), np.float16), activity(spoken)) for spoken in ((0, 150), (0, 50))]
    casting = Casting((Part(0, 0, 60, 1), Part(1, 0, 60, 0)))
    found = decide(source, faces, casting, speeches, config=replace(CONFIG, silence="original"), runtime=Runtime(), out=tmp_path)
    assert drawn(found, 0) == "w" * 29 + "." * 31  # 1 s and 0.15 s
    assert drawn(found, 1) == "v" * 60


def test_a_frames_time_counts_not_its_number() -> None:
    """A film of variable rate: frame 40 is shown at 3 s."""
    pts = [40 * n if n < 40 else 3000 + 40 * (n - 40) for n in range(FRAMES)]
    found = decided(head(), source=clock(FRAMES, pts=pts), pauses=[voice((0, 60))], silence="original")
    assert drawn(found) == "v" * 40 + "." * 20


def test_a_shot_without_faces_is_decided_at_once() -> None:
    found = decided()
    assert (found.voicing, found.verdicts) == (Voicing(), ())


def test_verdicts_tell_of_every_row_once() -> None:
    """Whatever is decided, and of nothing else."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        there = np.flatnonzero(rng.random(FRAMES) > 0.2)
        seen = Seen(
            there.tolist(), width=100, yaw=rng.uniform(-90, 90, len(there)).tolist(), hidden=rng.random(len(there)).tolist()
        )
        found = decided(seen, pauses=[voice((5, 20), (40, 50))])
        frames = [frame for start, stop, *_ in told(found) for frame in range(start, stop)]
        assert frames == there.tolist()
        lines = [frame for line in found.voicing.lines for frame in range(line.start, line.stop)]
        dubbed = [frame for start, stop, what, _ in told(found) for frame in range(start, stop) if what != "passed through"]
        assert lines == dubbed


# what the lines mean to those who paint


def test_opacity_rises_and_falls_and_is_never_nothing_within_a_line() -> None:
    frames = np.arange(12)
    shown = Voicing((Line(0, 2, 10, 0, FADE, FADE),)).opacity(frames, np.zeros(12, np.int16))
    assert (shown[2:10] > 0).all() and not shown[[0, 1, 10, 11]].any()
    np.testing.assert_allclose(shown[2:10], shown[2:10][::-1], atol=1e-6)
    assert (np.diff(shown[1:6]) > 0).all() and shown[5] == 1
    hard = Voicing((Line(0, 2, 10, 0),)).opacity(frames, np.zeros(12, np.int16))
    assert hard.tolist() == [0, 0, *[1] * 8, 0, 0]


def test_each_track_has_its_own_lines() -> None:
    voicing = Voicing((Line(0, 0, 2, 1), Line(1, 1, 3, CLOSED)))
    frame, track = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    assert voicing.voice(frame, track).tolist() == [1, PASS, 1, CLOSED, PASS, CLOSED]
    assert voicing.without_fades() == voicing
    assert Voicing((Line(0, 0, 2, 1, 1, 1),)).without_fades() == Voicing((Line(0, 0, 2, 1),))
