"""What a report makes of figures: rules as tables, the score, which seconds are measured, the files. No film is read here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from made_cast import ANNA, BERT, clock, faces_of, head_at
from made_cast import Seen as Track

from musetalk_cli.casting import cast_by_rule, choose_largest
from musetalk_cli.config import DecideConfig, ReportConfig
from musetalk_cli.errors import InputError, QualityGateError
from musetalk_cli.metrics.sync import LipSync
from musetalk_cli.people import find_persons
from musetalk_cli.report.known import Known, as_dubbed
from musetalk_cli.report.measure import dubbed_in
from musetalk_cli.report.pieces import Seen, curve_of, figures_of, generated, pieces_of, seen_in, summed
from musetalk_cli.report.records import (
    VERSION,
    Curve,
    Figures,
    FileFact,
    Finding,
    Pair,
    Report,
    ShotReport,
    TrackReport,
)
from musetalk_cli.report.rules import Heard, Piece, Rows, by_person, findings, score
from musetalk_cli.report.windows import Span, sampled
from musetalk_cli.stages.s8_measure import Measured, Window, Windows
from musetalk_cli.stages.s8_sounds import HOPS_PER_SECOND, Sounds, Wanted
from musetalk_cli.types import CLOSED, Line, Shot, Verdict, Voicing

CONFIG = ReportConfig()
GOOD = Piece(
    0,
    0,
    0,
    50,
    50,
    unchanged=0.0,
    own=0.0,
    movement=0.06,
    film_movement=0.05,
    jitter=12,
    film_jitter=15,
    sharpness=0.95,
    seam=1.0,
)
ORIGINAL = replace(GOOD, unchanged=1.0, own=1.0, lag_s=0.0, sharpness=1.0, jitter=15.0)
CURVE = np.ones(31)


def kinds(*pieces: Piece, heard: tuple[Heard, ...] = ()) -> list[str]:
    return [one.kind for one in findings(pieces, by_person(heard, [0] * len(heard)), [], CONFIG)]


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        (GOOD, None),
        (ORIGINAL, None),
        (replace(ORIGINAL, own=0.0, lag_s=None), "no-op"),
        (replace(ORIGINAL, own=0.3), "no-op"),  # mostly another voice
        (replace(ORIGINAL, lag_s=0.2), "shift"),
        (replace(ORIGINAL, lag_s=-0.2), "shift"),
        (replace(ORIGINAL, lag_s=0.06), None),  # nobody sees it
        (replace(GOOD, own=1.0, lag_s=0.2), None),  # a generated mouth follows the sound wherever it is
        (replace(ORIGINAL, movement=0.001, film_movement=0.001), None),  # the film's own mouth rests: a narrator
        (replace(GOOD, movement=0.003), "frozen mouth"),
        (replace(GOOD, movement=0.003, own=1.0, lag_s=0.0), "frozen mouth"),
        (replace(GOOD, movement=0.015, film_movement=0.07), "frozen mouth"),  # a pasted mouth trembles on a head that turns
        (replace(GOOD, movement=0.015, film_movement=0.03), None),  # somebody mumbles
        (replace(ORIGINAL, unchanged=0.0, lips=0.99, own=0.0), "no-op"),  # in another grade or size
        (replace(ORIGINAL, unchanged=0.0, lips=0.99, lag_s=-0.2), "shift"),
        (replace(GOOD, lips=0.9), None),  # the film's own voice once more
        (replace(GOOD, lips=0.99, movement=0.003), "frozen mouth"),  # what rests is not told by its lips
        (replace(GOOD, stir=0.01), "frozen mouth"),  # the landmarker sees movement in a still mouth of a small or dark face
        (replace(GOOD, stir=0.6), None),
        (replace(ORIGINAL, stir=0.0), None),
        (replace(GOOD, movement=None), None),  # too short to tell
        (replace(GOOD, jitter=40.0), "jitter"),
        (replace(GOOD, jitter=12.0, film_jitter=2.0), None),  # speech in a film whose own mouth rests
        (replace(GOOD, sharpness=0.6), "blurred"),
        (replace(GOOD, seam=2.6), "seam"),
        (replace(ORIGINAL, sharpness=0.6, seam=3.0, jitter=50.0), None),  # nobody touched it
    ],
)
def test_a_piece_is_reported_for_what_is_wrong_with_it(piece: Piece, kind: str | None) -> None:
    assert kinds(piece) == ([] if kind is None else [kind])


def test_a_shift_tells_which_way_to_move_the_sound() -> None:
    (late,) = findings([replace(ORIGINAL, lag_s=0.2)], [], [], CONFIG)
    assert late.value == pytest.approx(-200) and late.limit == pytest.approx(80)
    assert "200 ms before the voice" in late.text and "by -200 ms" in late.text


def test_neighbouring_pieces_become_one_finding_as_bad_as_the_worst() -> None:
    pieces = [
        replace(GOOD, start=50 * n, stop=50 * n + 50, movement=movement) for n, movement in enumerate((0.004, 0.002, 0.05, 0.003))
    ]
    found = findings(pieces, [], [], CONFIG)
    assert [(one.start, one.stop, one.value) for one in found] == [(0, 100, 0.002), (150, 200, 0.003)]


def test_pieces_of_two_tracks_stay_apart() -> None:
    frozen = replace(GOOD, movement=0.002)
    found = findings([frozen, replace(frozen, track=1)], [], [], CONFIG)
    assert [(one.track, one.start, one.stop) for one in found] == [(0, 0, 50), (1, 0, 50)]


def sync(offset_s: float = 0.0, *, confidence: float = 0.3, also_at: float | None = None, seconds: float = 8.0) -> LipSync:
    """With a curve that says the same: what many say together is judged by it. also_at: as good an offset."""
    moments = np.arange(15, -16, -1) / 25
    near = [np.clip(np.abs(moments - at) / 0.12, 0, 1) for at in (offset_s, also_at) if at is not None]
    curve = 1 - confidence * (1 - np.min(near, 0))
    rise = float(curve[np.abs(moments) < 0.081].min() - curve.min())
    return LipSync(1 - confidence, confidence, offset_s, 0.5, rise, seconds, 0.8, curve)


def heard(result: LipSync, film: LipSync | None = None, *, shot: int = 0, track: int = 0) -> Heard:
    return Heard(shot, track, 0, 200, 200, result, film)


@pytest.mark.parametrize(
    ("result", "film", "kind"),
    [
        (sync(), sync(), None),
        (sync(0.2), sync(), "shift"),
        (sync(-0.2), sync(), "shift"),
        (sync(0.2), None, "shift"),  # a film without sound
        (sync(0.2), sync(confidence=0.05), "shift"),  # one whose own voice is off-screen
        (sync(0.2), sync(0.2), None),  # off in the film already, or a judge that is late with this person
        (sync(0.04), sync(-0.07), None),  # only beside the film it is too late: a generated mouth has not the film's habits
        (sync(-0.16), sync(0.04), "shift"),
        (sync(0.2, also_at=0.0), sync(), None),  # as good without a shift
        (sync(confidence=0.03), sync(), "weak sync"),
        (sync(confidence=0.03), sync(confidence=0.03), None),  # as in the film: this judge cannot hear it
        (sync(confidence=0.03, seconds=2.0), sync(), None),  # too little to tell
    ],
)
def test_lips_and_voice_are_judged_by_the_clock_and_beside_the_film(
    result: LipSync, film: LipSync | None, kind: str | None
) -> None:
    assert kinds(heard=(heard(result, film),)) == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    ("movement", "confidence", "kind"),
    [(0.02, 0.1, "frozen mouth"), (0.02, 0.17, None), (0.06, 0.1, None), (0.06, 0.05, "weak sync"), (0.02, 0.05, "frozen mouth")],
)
def test_a_mouth_that_only_trembles_is_frozen_where_the_judge_hears_nothing_in_it(
    movement: float, confidence: float, kind: str | None
) -> None:
    one = replace(heard(sync(0.2, confidence=confidence, also_at=0.0), sync()), movement=movement, film_movement=0.08)
    assert kinds(heard=(one,)) == ([] if kind is None else [kind])


def test_shots_that_say_little_alone_are_judged_together() -> None:
    parts = tuple(
        replace(heard(sync(0.2, seconds=2.0), sync()), shot=shot, start=50 * shot, stop=50 * shot + 50) for shot in range(4)
    )
    (found,) = findings([], by_person(parts, [0] * 4), [], CONFIG)
    assert (found.kind, found.shot, found.track, found.start, found.stop) == ("shift", None, None, 0, 200)
    assert found.value == pytest.approx(200, abs=15)


def test_one_shot_that_is_off_is_found_among_many() -> None:
    parts = tuple(replace(heard(sync(0.24 if shot == 2 else 0.0), sync()), shot=shot) for shot in range(6))
    (found,) = findings([], by_person(parts, [0] * 6), [], CONFIG)
    assert (found.kind, found.shot, found.track) == ("shift", 2, 0)


def test_who_is_off_does_not_tell_on_others() -> None:
    parts = (heard(sync(0.2), sync(), track=0), heard(sync(), sync(), track=1))
    (found,) = findings([], by_person(parts, [0, 1]), [], CONFIG)
    assert (found.shot, found.track) == (0, 0)


def test_doubts_of_the_dub_are_told_and_cost_nothing() -> None:
    doubt = Verdict(0, 10, 40, "needs review", "turned 50 degrees")
    found = findings([GOOD], [], [(3, doubt), (3, doubt._replace(what="synced", why=""))], CONFIG)
    assert [(one.kind, one.shot, one.start, one.stop) for one in found] == [("needs review", 3, 10, 40)]
    assert score([Rows(3, 0, np.arange(50, dtype=np.int32))], found) == 100


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((), 100),
        (((0, 0, 0, 25),), 75),
        (((0, 0, 0, 25), (0, 0, 10, 25)), 75),  # two for the same frames count once
        (((None, None, 0, 1000),), 0),
        (((1, 0, 0, 1000),), 50),
        (((0, 1, 0, 1000),), 100),  # somebody else
    ],
)
def test_the_score_is_the_share_of_mouths_that_nothing_is_wrong_with(
    found: tuple[tuple[int | None, int | None, int, int], ...], expected: float
) -> None:
    rows = [Rows(0, 0, np.arange(50, dtype=np.int32)), Rows(1, 0, np.arange(50, 100, dtype=np.int32))]
    assert score(rows, [Finding("seam", shot, track, start, stop, 3, 2, "") for shot, track, start, stop in found]) == expected


def test_a_result_without_generated_mouths_is_perfect() -> None:
    assert score([], []) == 100


@pytest.mark.parametrize("seconds", [None, 100.0])
def test_everything_is_measured_where_there_is_time(seconds: float | None) -> None:
    spans = [Span(0, 0, 0, 100), Span(0, 1, 50, 100), Span(1, 0, 100, 2000)]
    assert sampled(spans, 25, seconds) == spans


def test_a_long_film_is_measured_evenly_in_windows_long_enough_for_speech() -> None:
    spans = [Span(shot, 0, 250 * shot, 250 * shot + (250 if shot % 2 else 40)) for shot in range(200)]
    windows = sampled(spans, 25, 60)
    seconds = sum(window.frames for window in windows) / 25
    assert 50 <= seconds <= 60
    assert all(any(s.start <= w.start and w.stop <= s.stop and s.shot == w.shot for s in spans) for w in windows)
    assert max(w.frames for w in windows) <= 10 * 25
    assert np.diff([window.start for window in windows]).max() < 3 * 200 * 250 / len(windows)  # no long stretch is left out
    assert sampled(spans, 25, 60) == windows


def test_something_is_measured_however_short_the_time() -> None:
    assert sampled([Span(0, 0, 0, 250), Span(1, 0, 250, 500)], 25, 1) == [Span(0, 0, 0, 125)]


def measured(frames: int = 100, *, now: float = 0.06, was: float = 0.06, change: float = 8.0, tracks: int = 1) -> Measured:
    """A mouth that opens and closes twice a second, in film and result by so much. At 25 a second."""
    wave = np.sin(np.arange(frames) / 25 * 2 * np.pi * 2)

    def lips(by: float) -> np.ndarray:
        return np.repeat([head_at(opening=0.1 + by * value) for value in wave], tracks, 0)

    rows = frames * tracks
    one, half = np.ones(rows, np.float32), np.full(rows, 0.7, np.float32)
    return Measured(
        np.repeat(np.arange(frames, dtype=np.int32), tracks),
        np.tile(np.arange(tracks, dtype=np.int16), frames),
        lips(was),
        lips(now),
        change * one,
        half,
        4 * one,
        4 * one,
        2 * one,
        1.8 * one,
        3 * one,
        3.3 * one,
    )


def seen(of: Measured, picture_s: float = 0.0) -> list[Seen]:
    times = of.frame / 25.0
    return seen_in(0, of, times, times + picture_s, CONFIG)


def sounds(seconds: int = 8, *, lag: float = 0.0, likeness: float = 0.05) -> Sounds:
    hops = HOPS_PER_SECOND * seconds
    return Sounds(np.full(hops, lag, np.float32), np.full(hops, likeness, np.float32))


SPOKEN = Voicing((Line(0, 0, 100, 0),))


def test_pieces_are_as_the_film_runs_and_only_where_a_voice_speaks() -> None:
    (track,) = seen(measured())
    voicing = Voicing((Line(0, 0, 50, 0), Line(0, 50, 60, CLOSED), Line(0, 60, 90, 0), Line(1, 0, 100, 0)))
    pieces = list(pieces_of(track, voicing, sounds(), CONFIG))
    assert [(piece.start, piece.stop, piece.rows) for piece in pieces] == [(0, 50, 50), (60, 90, 30)]
    assert generated(track, voicing).sum() == 90


def test_a_piece_tells_what_the_mouth_does() -> None:
    (track,) = seen(measured(now=0.02, was=0.06))
    piece = next(pieces_of(track, SPOKEN, sounds(), CONFIG))
    assert piece.movement == pytest.approx(piece.film_movement / 3, rel=0.05) and piece.unchanged == 0
    assert piece.sharpness == pytest.approx(0.9) and piece.seam == pytest.approx(1.1)
    assert piece.own == 0 and piece.lag_s is None


def test_a_mouth_that_only_the_codec_changed_is_unchanged() -> None:
    (track,) = seen(measured(change=1.4))
    assert next(pieces_of(track, SPOKEN, sounds(), CONFIG)).unchanged == 1


def test_frames_in_which_a_mouth_appears_do_not_count_as_unchanged() -> None:
    of = measured()
    fading = np.isin(of.frame, (0, 1, 2))
    (track,) = seen(replace(of, change=np.where(fading, 0, of.change)))
    piece = next(pieces_of(track, Voicing((Line(0, 0, 100, 0, fade_in=3),)), sounds(), CONFIG))
    assert piece.unchanged == 0 and piece.rows == 50


@pytest.mark.parametrize(("lag", "picture", "found"), [(0.2, 0.0, 0.2), (0.0, 0.2, -0.2), (0.2, 0.2, 0.0)])
def test_a_shift_is_of_sound_against_picture(lag: float, picture: float, found: float) -> None:
    """A container may begin either of them later."""
    (track,) = seen(measured(), picture)
    piece = next(pieces_of(track, SPOKEN, sounds(lag=lag, likeness=0.99), CONFIG))
    assert piece.own == 1 and piece.lag_s == pytest.approx(found, abs=1e-6)


def test_lips_are_judged_only_where_they_were_made_to_follow_the_voice() -> None:
    (track,) = seen(measured())
    voicing = Voicing((Line(0, 10, 100, 0),))
    dubbed, own = (
        replace(GOOD, start=start, stop=stop, unchanged=share) for start, stop, share in ((10, 50, 0.0), (50, 80, 1.0))
    )
    resting = replace(GOOD, start=80, stop=100, movement=0.001)
    judged = dubbed_in(track, voicing, [dubbed, own, resting], CONFIG)
    assert np.flatnonzero(judged).tolist() == list(range(10, 50))


class Kept(NamedTuple):
    """A result in a work folder."""

    record: object
    folder: Path

    def load(self) -> object:
        return self.record


@pytest.mark.parametrize(
    ("changed", "dubbed"),
    [
        ((), {(0, 0), (1, 0)}),  # the rule's choice: a film that nobody dubbed
        (((0, 0), (1, 0)), {(0, 0), (1, 0)}),
        (((0, 0),), {(0, 0), (1, 0)}),  # the same person is missed in the second shot
        (((0, 1),), {(0, 1)}),  # --face picture: Bert in the first shot, who is not in the second
        (((0, 0), (0, 1)), {(0, 0), (0, 1), (1, 0)}),  # --face all
    ],
)
def test_who_should_have_been_dubbed_is_seen_in_the_result(
    tmp_path: Path, changed: tuple[tuple[int, int], ...], dubbed: set[tuple[int, int]]
) -> None:
    """Anna, the larger face, is in both shots, Bert in the first one."""
    source = clock(100, 50)
    shots = [
        faces_of(source.shots[0], Track(range(50), width=90, who=ANNA), Track(range(50), x=600, who=BERT)),
        faces_of(source.shots[1], Track(range(50, 100), width=90, who=ANNA)),
    ]
    for shot in shots:
        told = {"shot": list(shot.shot), "still": shot.shot.start, "faceless": 0, "tracks": []}
        (tmp_path / str(shot.shot.index)).mkdir()
        (tmp_path / str(shot.shot.index) / "tracks.json").write_text(json.dumps(told))
    found = tuple(Kept(shot, tmp_path / str(shot.shot.index)) for shot in shots)
    rule = tuple(cast_by_rule(shot, choose_largest, "auto") for shot in shots)
    whole = Kept(source, tmp_path)
    known = Known(Path("f"), Path("r"), whole, whole, found, find_persons(shots), (), (), {}, (), rule)  # type: ignore[arg-type]
    speech = Wanted(np.zeros((160, 4), np.float32), np.ones(160, np.float32), np.ones(160, np.float32), 40)
    of = measured(50)
    parts = [
        replace(seen(of)[0], shot=shot, track=track, unchanged=np.full(50, (shot, track) not in changed))
        for shot, track in ((0, 0), (0, 1), (1, 0))
    ]
    decided = as_dubbed(known, parts, speech, DecideConfig()).decisions
    assert {(one.shot.index, line.track) for one in decided for line in one.voicing.lines} == dubbed


def small() -> Report:
    finding = Finding("seam", 0, 0, 5, 9, 2.5, 2.0, "look at it")
    pair = Pair(0, 0, 7, 0.28, "random", b"\xff\xd8film", b"\xff\xd8dubbed")
    curve = Curve(0, 0, (0.0, 0.04), (0.1, None), (0.2, 0.3), (None, 0.1), (1.0, 0.5))
    track = TrackReport(0, "A", 0, 50, "synced", "", Figures(50, 2.0, seam=2.5))
    shot = ShotReport(0, 0, 50, 0.0, 2.0, "synced", "", (track,))
    fact = FileFact("film.mp4", "film", 12, "00ff")
    return Report(
        VERSION, "musetalk 0", "2025-01-01T00:00:00+00:00", "film.mp4", "fr.mp4", 50, 2.0, 25.0, 92.0, (finding,),
        Figures(50, 2.0), (shot,), (curve,), (pair,), (fact,), {"model.name": "lite"}, {"blend": 1.5}, "LSE-C (lip judge)",
    )  # fmt: skip


def test_a_report_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from musetalk_cli.report import files

    monkeypatch.setattr(files, "page", lambda report: f"<title>{report.score}</title>")
    html, told = files.write(small(), tmp_path / "film.fr")
    assert (html.name, told.name) == ("film.fr.report.html", "film.fr.report.json")
    assert html.read_text() == "<title>92.0</title>" and files.read(told) == small()
    assert sorted(tmp_path.iterdir()) == [html, told]


def test_a_report_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from musetalk_cli.report import files

    def fails(report: Report) -> str:
        raise ZeroDivisionError

    html, told = files.paths(tmp_path / "film.fr")
    for path in (html, told):
        path.write_text("old")
    monkeypatch.setattr(files, "page", fails)
    with pytest.raises(ZeroDivisionError):
        files.write(small(), tmp_path / "film.fr")
    assert (html.read_text(), told.read_text()) == ("old", "old")


@pytest.mark.parametrize(("text", "fact"), [("{}", "no report"), ("", "no report"), ('{"version": 99}', "version 99")])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str, fact: str) -> None:
    from musetalk_cli.report import files

    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=fact):
        files.read(tmp_path / "x.json")


def test_the_gate_names_what_is_wrong() -> None:
    from musetalk_cli.report.command import Reported, Reports

    reported = Reported(small(), Path("film.fr.report.html"), Path("film.fr.report.json"))
    Reports([reported]).check(92)
    with pytest.raises(QualityGateError, match="score 92, --fail-under 95: seam") as refused:
        Reports([reported]).check(95)
    assert refused.value.exit_code == 7


def test_figures_are_of_the_generated_rows() -> None:
    (track,) = seen(measured())
    figures = figures_of(track, 140, Voicing((Line(0, 0, 50, 0),)), None)
    assert (figures.rows, figures.seconds) == (140, 2.0)
    assert figures.confidence is None and figures.movement == pytest.approx(figures.film_movement)
    assert figures.jitter == pytest.approx(figures.film_jitter)


def test_a_mouth_that_is_nowhere_seen_has_no_figures() -> None:
    of = measured()
    (track,) = seen(replace(of, landmarks=np.full_like(of.landmarks, np.nan), sharpness=np.full(100, np.nan, np.float32)))
    figures = figures_of(track, 100, SPOKEN, None)
    assert (figures.movement, figures.jitter, figures.sharpness) == (None, None, None)
    assert kinds(*pieces_of(track, SPOKEN, sounds(), CONFIG)) == []


def test_the_film_has_the_means_of_its_tracks_by_their_seconds() -> None:
    total = summed([Figures(100, 3.0, seam=1.0), Figures(50, 1.0, seam=2.0, lip_r=0.5), Figures(900, 0.0, seam=9.0)])
    assert (total.rows, total.seconds, total.seam, total.lip_r, total.jitter) == (1050, 4.0, 1.25, 0.5, None)


def test_a_plot_has_a_number_a_frame_and_none_where_nothing_is_known() -> None:
    of = measured()
    of.landmarks[3] = np.nan
    (track,) = seen(of)
    voice = np.sin(np.arange(400) / 40 * 2 * np.pi * 2).astype(np.float32)
    wanted = Wanted(np.repeat(voice[:, None], 4, 1), np.ones(400, np.float32), np.abs(voice), 40)
    curve = curve_of(track, SPOKEN, [wanted], track.film_s, 60)
    assert {len(part) for part in (curve.times_s, curve.film_opening, curve.opening, curve.asked, curve.voice)} == {60}
    assert curve.opening[3] is None and curve.film_opening[3] is not None
    assert max(curve.voice) == 1 and np.corrcoef(curve.asked, curve.film_opening)[0, 1] > 0.95


def test_windows_pick_rows_of_their_tracks() -> None:
    faces = faces_of(Shot(0, 0, 20), Track(range(20)), Track(range(5, 15)))
    rows = Windows((Window(0, 0, 3), Window(1, 8, 100))).rows(faces)
    assert [(int(faces.frame[row]), int(faces.track[row])) for row in rows] == [
        (0, 0),
        (1, 0),
        (2, 0),
        *((n, 1) for n in range(8, 15)),
    ]
