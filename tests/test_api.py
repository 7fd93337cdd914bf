"""`from musetalk_cli import dub`: what a program that dubs relies on."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from made_films import SIZE, face

import musetalk_cli
from musetalk_cli import DubConfig, DubResult, Hands, MusetalkError, Place, Stop, dub, inspect, verify
from musetalk_cli.errors import InputError, InterruptedRun, OutputExistsError, QualityGateError, UsageError
from musetalk_cli.settings import Choices

FAST = DubConfig(model="lite", device="cpu", preset="ultrafast")
Record = Mapping[str, Any]


@dataclass
class Desk:
    """A film, a voice, a place, and a dub of them with all that was heard."""

    film: Path
    voice: Path
    place: Place
    result: DubResult
    events: list[Record]

    @property
    def output(self) -> Path:
        return self.film.with_name("film.fr.mp4")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, make_film: Callable[..., Path], make_speech: Callable[..., Path]) -> Desk:
    folder = tmp_path_factory.mktemp("api")
    film = make_film(folder / "film.mp4", frames=8, size=SIZE, audio="aac", picture=face)
    voice, place = make_speech(folder / "voice.wav", seconds=0.3), Place(folder / "work")
    events: list[Record] = []
    result = dub(str(film), {"fr": str(voice)}, config=FAST, place=place, on_event=events.append)
    return Desk(film, voice, place, result, events)


def test_a_dub_gives_the_film_its_shots_and_its_report(desk: Desk) -> None:
    assert desk.result.output == desk.output and desk.output.stat().st_size > 1000
    assert desk.result.outputs == (desk.output,)
    (film,) = desk.result.films
    assert len(film.shots) == 1
    (reported,) = desk.result.reported
    assert reported.html.is_file() and 0 <= reported.report.score <= 100
    assert list(desk.result.as_json()) == ["outputs", "films", "reports"]
    json.dumps(desk.result.as_json())


def test_a_listener_hears_what_the_journal_says_word_for_word(desk: Desk) -> None:
    """The format's version and time included."""
    assert desk.place.work_dir is not None
    journal = [json.loads(line) for line in (desk.place.work_dir / "run.jsonl").read_text().splitlines()]
    assert journal[: len(desk.events)] == desk.events
    assert {"run.start", "run.plan", "stage.done", "run.done", "report.done"} <= {one["event"] for one in desk.events}


def test_a_score_is_a_gate_where_it_is_asked_for(desk: Desk) -> None:
    desk.result.check(0.0)
    with pytest.raises(QualityGateError):
        desk.result.check(101.0)


def test_the_same_call_again_finds_its_film_done(desk: Desk) -> None:
    before, events = desk.output.stat().st_mtime_ns, list[Record]()
    again = dub(desk.film, {"fr": desk.voice}, config=FAST, place=desk.place, report=False, on_event=events.append)
    assert again.outputs == (desk.output,) and not again.reported
    assert [one["event"] for one in events] == ["run.kept"]
    assert desk.output.stat().st_mtime_ns == before


def test_another_films_output_is_refused_unless_told_otherwise(desk: Desk) -> None:
    other = desk.film.with_name("other.mp4")
    other.write_text("mine")
    with pytest.raises(OutputExistsError) as caught:
        dub(desk.film, desk.voice, other, config=FAST, place=desk.place)
    assert caught.value.exit_code == 6 and caught.value.cure
    assert dub(desk.film, desk.voice, other, config=FAST, place=desk.place, skip_existing=True).output == other
    assert other.read_text() == "mine"


def test_languages_are_a_mapping_over_one_analysis(desk: Desk, tmp_path: Path) -> None:
    events: list[Record] = []
    voices = {"fr": desk.voice, "pt-BR": desk.voice}
    made = dub(desk.film, voices, tmp_path, config=FAST, place=desk.place, report=False, on_event=events.append)
    assert [path.name for path in made.outputs] == ["film.fr.mp4", "film.pt-BR.mp4"]
    made_anew = {one["stage"] for one in events if one["event"] == "stage.done" and not one["reused"]}
    assert made_anew == {"remux"}  # of the picture nothing is new: it is the same voice


def test_processes_of_its_own_give_the_same_film(desk: Desk, tmp_path: Path) -> None:
    hands, place = Hands(workers=2), Place(tmp_path / "work")
    made = dub(desk.film, {"fr": desk.voice}, tmp_path / "two.mp4", config=FAST, place=place, hands=hands, report=False)
    assert made.output.read_bytes() == desk.output.read_bytes()


@pytest.mark.parametrize("when", ["stage.start", "run.done"])
def test_a_listeners_own_error_ends_the_run_and_reaches_the_caller(desk: Desk, tmp_path: Path, when: str) -> None:
    heard: list[str] = []

    def on_event(record: Record) -> None:
        heard.append(record["event"])
        if record["event"] == when:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        dub(desk.film, desk.voice, tmp_path / "x.mp4", config=FAST, place=desk.place, report=False, on_event=on_event)
    assert heard.count(when) == 1 and heard[-1] == when  # nothing is told to one who has failed


def test_a_stop_from_elsewhere_ends_the_run_in_order_also_in_a_thread(desk: Desk, tmp_path: Path) -> None:
    """And the next call goes on."""
    stop, raised, place = Stop(), list[BaseException](), Place(tmp_path / "work")

    def on_event(record: Record) -> None:
        if record["event"] == "stage.done" and record["stage"] == "faces":
            stop.request()

    def work() -> None:
        try:
            dub(desk.film, desk.voice, tmp_path / "x.mp4", config=FAST, place=place, report=False, on_event=on_event, stop=stop)
        except MusetalkError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(raised[0], InterruptedRun) and raised[0].exit_code == 130
    assert not (tmp_path / "x.mp4").exists()
    events: list[Record] = []
    made = dub(desk.film, desk.voice, tmp_path / "x.mp4", config=FAST, place=place, report=False, on_event=events.append)
    assert made.output.is_file()
    assert {one["stage"] for one in events if one["event"] == "stage.done" and one["reused"]} >= {"demux", "faces"}


def test_inspect_finds_the_shots_and_drafts_a_cast(desk: Desk, tmp_path: Path) -> None:
    found = inspect(desk.film, sheet=tmp_path, cast=tmp_path, config=FAST, place=desk.place)
    assert [shot.frames for shot in found.shots] == [8]
    assert found.cast.is_file() and found.sheets[0].is_file()
    found.cast.write_text(found.cast.read_text() + "\n# mine\n")
    events: list[Record] = []
    inspect(desk.film, sheet=tmp_path, config=FAST, place=desk.place, redraw=True, on_event=events.append)
    assert {one["event"] for one in events} >= {"stage.done"}


def test_verify_tells_a_dub_from_another_film(desk: Desk) -> None:
    assert verify(desk.film, desk.output).passed
    assert not verify(desk.film, desk.film).passed


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (InputError, lambda desk: dub("no film.mp4", desk.voice)),
        (InputError, lambda desk: dub(desk.film, "no voice.wav")),
        (UsageError, lambda desk: dub(desk.film)),
        (UsageError, lambda desk: dub(desk.film, "")),
        (UsageError, lambda desk: dub(desk.film, desk.voice, "")),
        (UsageError, lambda desk: dub(desk.film, {"klingon": desk.voice})),
        (UsageError, lambda desk: dub(desk.film, desk.voice, overwrite=True, skip_existing=True)),
        (UsageError, lambda desk: dub(desk.film, desk.voice, "x.mp4", config=DubConfig(codec="divx"))),
        (UsageError, lambda desk: dub(desk.film, desk.voice, "x.mp4", config=DubConfig(chunk=0))),
        (UsageError, lambda desk: dub(desk.film, desk.voice, "x.mp4", config=DubConfig(max_yaw=float("nan")))),
        (UsageError, lambda desk: dub(desk.film, desk.voice, "x.mp4", config=DubConfig(length="longer"))),  # type: ignore[arg-type]
        (InputError, lambda desk: inspect("no film.mp4")),
        (InputError, lambda desk: verify(desk.film, "no film.mp4")),
    ],
)
def test_what_the_command_refuses_is_raised_and_nothing_exits(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[MusetalkError], call: Callable[[Desk], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        call(desk)
    assert caught.value.cure
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed_unless_asked_for(desk: Desk, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dub(desk.film, desk.voice, tmp_path / "x.mp4", config=FAST, place=desk.place, report=False)
    assert capfd.readouterr() == ("", "")
    dub(desk.film, desk.voice, tmp_path / "y.mp4", config=FAST, place=desk.place, report=False, progress="plain")
    assert "y.mp4: 8 frames" in capfd.readouterr().err


def test_a_config_has_every_flag_that_shapes_a_dub() -> None:
    assert [one.name for one in fields(DubConfig)] == [one.name for one in fields(Choices)]
    assert DubConfig().model == "auto"


def test_everything_public_is_there_when_asked_for_and_not_before() -> None:
    assert {"dub", "DubConfig", "DubJob", "DubResult"} <= set(musetalk_cli.__all__) <= set(dir(musetalk_cli))
    for name in musetalk_cli.__all__:
        assert getattr(musetalk_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'dup'"):
        musetalk_cli.dup  # noqa: B018
    script = "import sys, musetalk_cli; print(any(name.startswith('musetalk_cli.') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
