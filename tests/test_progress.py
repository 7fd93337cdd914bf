"""What a run tells: the journal, the faces on stderr, and the figures in them."""

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from musetalk_cli.errors import InterruptedRun
from musetalk_cli.progress import (
    AROUND_LINE,
    BAR_COLUMNS,
    Events,
    JsonLines,
    Live,
    Plain,
    Tally,
    choose_face,
    clock,
    open_events,
    sentence,
)
from musetalk_cli.signals import stop_on_signals

START = {"film": "a.mp4", "audio": "fr.wav", "output": "a.fr.mp4", "frames": 100, "seconds": 4.0, "shots": 2, "model": "lite"}


def done(stage: str, unit: str, frames: int = 50, seconds: float = 1.0, *, reused: bool = False) -> dict[str, Any]:
    return {
        "event": "stage.done",
        "stage": stage,
        "unit": unit,
        "key": "k",
        "frames": frames,
        "seconds": seconds,
        "reused": reused,
    }


def tally_after(*records: dict[str, Any]) -> Tally:
    tally = Tally()
    for record in ({"event": "run.start", **START}, *records):
        tally.take(record)
    return tally


def test_journal_keeps_earlier_runs_and_starts_on_a_whole_line_after_a_kill(tmp_path: Path) -> None:
    journal = tmp_path / "work" / "run.jsonl"
    with open_events(journal, "none") as events:
        events.emit("run.start", **START)
    with journal.open("a") as torn:
        torn.write('{"v":1,"event":"stage.st')
    with open_events(journal, "none") as events:
        events.emit("run.done", output=Path("a b\nç.mp4"), seconds=1.0, frames=100)
    lines = journal.read_text(encoding="utf-8").splitlines()
    assert [json.loads(lines[i])["event"] for i in (0, 2)] == ["run.start", "run.done"]
    last = json.loads(lines[2])
    assert last["v"] == 1 and last["output"] == "a b\nç.mp4" and last["t"].startswith("20")


@pytest.mark.parametrize(
    ("mode", "terminal", "environ", "face"),
    [
        ("auto", True, {"TERM": "xterm"}, "rich"),
        ("auto", True, {"TERM": "dumb"}, "plain"),
        ("auto", True, {"TERM": "xterm", "CI": "true"}, "plain"),
        ("auto", False, {"TERM": "xterm"}, "plain"),
        ("rich", False, {}, "plain"),
        ("rich", False, {"FORCE_COLOR": "1"}, "rich"),
        ("jsonl", True, {}, "jsonl"),
        ("none", True, {}, "none"),
    ],
)
def test_face_suits_the_terminal(mode: Any, terminal: bool, environ: dict[str, str], face: str) -> None:
    assert choose_face(mode, terminal=terminal, environ=environ) == face


def test_plain_lines_say_what_is_done_and_what_was_kept() -> None:
    out = io.StringIO()
    with Events([Plain(out, every=0)]) as events:
        events.emit("run.start", **START)
        for record in (done("faces", "0000", reused=True), done("latents", "0000")):
            events.emit(**record)
        events.emit("warning", message="12 frames show no face", hint="they stay as they are")
        events.emit("run.done", output="a.fr.mp4", frames=100, seconds=61.2)
    lines = out.getvalue().splitlines()
    assert lines[0] == "a.mp4 with fr.wav: 100 frames, 2 shots, 0:04, model lite"
    assert "0/100 frames" in lines[2] and "11% from an earlier run" in lines[2] and "left" in lines[2]
    assert lines[3] == "warning: 12 frames show no face; they stay as they are"
    assert lines[4] == "a.fr.mp4: 100 frames in 1:01"


def test_plain_says_at_most_a_line_every_few_seconds() -> None:
    out = io.StringIO()
    with Events([Plain(out, every=60)]) as events:
        events.emit("run.start", **START)
        for _ in range(50):
            events.emit(**done("faces", "0000", frames=1))
    assert len(out.getvalue().splitlines()) == 1


def test_time_left_follows_what_was_measured_not_what_was_reused() -> None:
    stages = ("faces", "latents", "masks", "inference", "blend")
    half = tally_after(*(done(stage, "0000", seconds=5.0) for stage in stages))
    assert half.share == pytest.approx(0.5)
    assert half.seconds_left == pytest.approx(25.0)
    assert half.fps == pytest.approx(2.0)
    kept = tally_after(*(done(stage, "0000", seconds=5.0, reused=True) for stage in stages))
    assert kept.share == pytest.approx(0.5) and kept.reused_share == pytest.approx(0.5)
    assert kept.seconds_left is None and kept.fps == 0


def test_what_was_reused_is_never_more_than_what_is_done() -> None:
    """A frame of each stage costs another time; both figures of a line are of the same whole."""
    cheap = tally_after(done("latents", "0000", reused=True), done("masks", "0000", reused=True))
    assert cheap.reused_share == cheap.share == pytest.approx((20 + 10) / 190 / 2)
    more = tally_after(done("latents", "0000", reused=True), done("inference", "0000"))
    assert 0 < more.reused_share < more.share


def test_a_second_language_counts_from_zero() -> None:
    remuxed = {"event": "stage.start", "stage": "remux", "unit": "film"}
    tally = tally_after(done("faces", "0000", reused=True), remuxed, {"event": "run.start", **START})
    assert tally.share == 0 and not tally.reused and tally.frames == 100
    assert "remux" not in tally.line()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_line_fits_its_room_and_keeps_the_stage_and_the_time_left(columns: int) -> None:
    tally = Tally()
    start = {"event": "run.start", **START, "frames": 172_800, "shots": 1234}
    step = {"event": "stage.start", "stage": "inference", "unit": "01230"}
    for record in (start, done("faces", "0000", reused=True), done("latents", "0000", seconds=0.5), step):
        tally.take(record)
    room = columns - BAR_COLUMNS - AROUND_LINE
    line = tally.line(room)
    assert len(line) <= room
    assert "inference shot 1231/1234" in line and line.endswith("left") == (columns == 80)
    assert len(tally.line()) > room


def test_one_shot_is_one_shot() -> None:
    assert "1 shot," in sentence({"event": "run.start", **START, "shots": 1})


def test_a_film_that_is_there_is_told() -> None:
    assert sentence({"event": "run.kept", "output": "a.fr.mp4"}) == "a.fr.mp4: is done already"


def test_live_bar_shows_the_stage_and_leaves_warnings_above(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with Events([Live()]) as events:
        events.emit("run.start", **START)
        events.emit("stage.start", stage="faces", unit="0000", frames=50, key="k")
        events.emit(**done("faces", "0000"))
        events.emit("warning", message="[bold]no markup[/bold]", hint="")
        events.emit("run.done", output="a.fr.mp4", frames=100, seconds=2)
    shown = capsys.readouterr().err
    assert "faces shot 1/2" in shown and "[bold]no markup[/bold]" in shown and shown.endswith("a.fr.mp4: 100 frames in 0:02\n")


def test_json_lines_are_one_object_a_line() -> None:
    out = io.StringIO()
    with Events([JsonLines(out, owned=False)]) as events:
        events.emit("error", code="input", message="two\nlines", hint="")
    assert json.loads(out.getvalue())["message"] == "two\nlines" and out.getvalue().count("\n") == 1


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3661, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_waits_for_the_step_and_the_second_does_not(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals(quiet=True) as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested  # and still running
        with pytest.raises(InterruptedRun):
            os.kill(os.getpid(), number)
        with pytest.raises(InterruptedRun) as caught:
            stop.check()
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
