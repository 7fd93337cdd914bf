"""`musetalk batch`: many films, one bad one never stops the rest, what is done is not done again."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import make_speech
from made_films import clip

from musetalk_cli import batch as batch_module
from musetalk_cli import cli, models, session
from musetalk_cli.batch import Batch, Entry, Plan, Receipt, read_entries, receipt_of, run_batch
from musetalk_cli.errors import InputError, RetryableError, UsageError
from musetalk_cli.jobs import Existing
from musetalk_cli.session import Place, Voice, open_session
from musetalk_cli.settings import Choices
from musetalk_cli.types import DubJob, sidecar_of

QUIET = Voice(quiet=True)
GOOD = ("anna", "bert", "carl")


def run(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "musetalk_cli", "batch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)


def receipt(output: Path) -> dict[str, Any]:
    return dict(json.loads(receipt_of(output).read_text()))


def done(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.receipt.json") if json.loads(path.read_text())["status"] == "done"]


@pytest.fixture(scope="module", name="seed")
def _seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films with a voice each beside them, one of them with two; a broken one, an empty one, and one without a voice."""
    folder = tmp_path_factory.mktemp("seed")
    film, voice = clip(folder), make_speech(folder / "voice.wav", seconds=0.5)
    for number, name in enumerate(GOOD):
        shutil.copy(film, folder / f"{name}.mp4")
        with (folder / f"{name}.mp4").open("ab") as file:  # films of their own, by content
            file.write(b"\0\0\0\x09free" + bytes([number]))
        shutil.copy(voice, folder / f"{name}.fr.wav")
    shutil.copy(voice, folder / "anna.de.wav")
    (folder / "broken.mp4").write_bytes(b"no film at all")
    shutil.copy(voice, folder / "broken.fr.wav")
    (folder / "empty.mp4").touch()
    shutil.copy(voice, folder / "empty.fr.wav")
    shutil.move(film, folder / "mute.mp4")
    (folder / "voice.wav").unlink()
    return folder


def test_bad_films_stop_no_other_and_a_second_run_makes_only_what_is_missing(seed: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    shutil.copytree(seed, films)
    ran = run(films, "--model", "lite", "--work-dir", tmp_path / "work", "--json", "-q")
    assert ran.returncode == 8, ran.stderr
    found = json.loads(ran.stdout)
    assert found["counts"] == {"done": 3, "done before": 0, "failed": 3, "put off": 0}
    told = {Path(one["film"]).stem: (one["status"], one["exit_code"]) for one in found["films"]}
    assert told["broken"] == ("failed", 3) and told["empty"] == ("failed", 3) and told["mute"] == ("failed", 2)
    made = sorted(path.name for path in films.glob("*.*.mp4"))
    assert made == ["anna.de.mp4", "anna.fr.mp4", "bert.fr.mp4", "carl.fr.mp4"]
    assert all(receipt(films / name)["status"] == "done" for name in made)
    assert receipt(films / "broken.fr.mp4")["status"] == "failed" and receipt(films / "broken.fr.mp4")["exit_code"] == 3

    before = {name: (films / name).stat().st_mtime_ns for name in made}
    (films / "carl.fr.mp4").unlink()
    for name in ("broken", "empty", "mute"):
        (films / f"{name}.mp4").unlink()
    again = run(films, "--model", "lite", "--work-dir", tmp_path / "work")
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "3 films: 1 done, 2 done before, 0 failed"
    after = {name: (films / name).stat().st_mtime_ns for name in made}
    assert {name for name in made if before[name] != after[name]} == {"carl.fr.mp4"}


def test_killed_batch_goes_on(seed: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    shutil.copytree(seed, films, ignore=shutil.ignore_patterns("broken*", "empty*", "mute*", "*.de.wav"))
    command = [sys.executable, "-m", "musetalk_cli", "batch", str(films), "--model", "lite", "-q"]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}) as process:
        until = time.monotonic() + 120
        while not done(films):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    made = done(films)
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.splitlines()[-1] == f"{len(GOOD)} films: {len(GOOD) - len(made)} done, {len(made)} done before, 0 failed"
    assert len(list(films.glob("*.fr.mp4"))) == len(GOOD) and not list(films.glob(".*.part"))


def test_file_that_is_not_the_batchs_own_is_not_replaced(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (films / "b.fr.mp4").write_bytes(b"somebody's")
    dubs = Dubs()
    plan = Plan((films / "a.mp4", films / "b.mp4"))
    found = batch_of(monkeypatch, plan, dubs)
    assert [one.exit_code for one in found.receipts] == [0, 6] and dubs.made == ["a.fr.mp4"]
    assert (films / "b.fr.mp4").read_bytes() == b"somebody's" and not receipt_of(films / "b.fr.mp4").exists()
    skipping = batch_of(monkeypatch, plan._replace(existing=Existing(skip=True)), dubs)
    assert [one.status for one in skipping.receipts] == ["done before"] * 2


def test_manifest_names_voices_outputs_and_settings(tmp_path: Path) -> None:
    manifest = tmp_path / "jobs.toml"
    manifest.write_text(
        '[defaults]\ncrf = 12\n[[film]]\nfilm = "a.mp4"\naudio = {fr = "fr.wav", de = "de.wav"}\n'
        '[[film]]\nfilm = "b.mp4"\naudio = "v.wav"\noutput = "out.mp4"\nsilence = "closed"\ncrf = 9\n'
    )
    first, second = read_entries(Plan((manifest,)))
    assert first == Entry(tmp_path / "a.mp4", (f"fr={tmp_path}/fr.wav", f"de={tmp_path}/de.wav"), settings=(("crf", 12),))
    assert second.output == tmp_path / "out.mp4" and dict(second.settings) == {"silence": "closed", "crf": 9}
    lines = tmp_path / "jobs.jsonl"
    lines.write_text('{"film": "a.mp4", "audio": {"fr": "fr.wav", "de": "de.wav"}, "crf": 12}\n')
    assert read_entries(Plan((lines,))) == [first]


def test_patterns_find_each_films_voice(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (entry,) = read_entries(Plan((tmp_path,), audio=("fr={folder}/voices/{stem}.wav",)))
    assert entry.audio == (f"fr={tmp_path}/voices/a.wav",)


def test_folder_leaves_out_what_a_batch_has_made(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.fr.mp4", "a.fr.mp4.receipt.json", "a.fr.wav", "a.txt.wav", ".b.mp4", "notes.txt"):
        (tmp_path / name).touch()
    (entry,) = read_entries(Plan((tmp_path,)))
    assert entry == Entry(tmp_path / "a.mp4", (f"fr={tmp_path}/a.fr.wav",))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", "{", "no manifest"),
        ("a.jsonl", "[1]", "names no film"),
        ("a.jsonl", '{"audio": "v.wav"}', "names no film"),
        ("a.jsonl", '{"film": "a.mp4", "audio": 3}', "names no voice"),
        ("a.jsonl", '{"film": "a.mp4", "audio": {"fr": "v.wav", "de": 3}}', "names no voice"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "crff": 3}', "'crff' is no setting"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "device": "cuda"}', "'device' is no setting"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "copy": "yes"}', "wrong kind"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "crf": "x"}', "wrong kind"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "sign_cert": 3}', "wrong kind"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "cast": 1}', "are paths"),
        ("a.toml", "[[films]]\nfilm = 'a.mp4'", r"\[\[film\]\]"),
        ("a.toml", "film = 3", r"\[\[film\]\]"),
        ("a.toml", "film =", "no manifest"),
    ],
)
def test_bad_manifest_is_refused_with_its_film(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        read_entries(Plan((tmp_path / name,)))


def test_a_studios_certificate_in_a_manifest_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_text(
        '[defaults]\nsign-cert = "studio.pem"\n[[film]]\nfilm = "a.mp4"\naudio = {fr = "a.wav"}\n'
    )
    (entry,) = read_entries(Plan((tmp_path / "jobs.toml",)))
    assert dict(entry.settings) == {"sign_cert": tmp_path / "studio.pem"}


def test_a_face_and_a_model_are_beside_the_manifest_unless_they_are_words(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"film": "a.mp4", "audio": "v.wav", "face": "anna.jpg", "model": "mine"}\n'
        '{"film": "b.mp4", "audio": "v.wav", "face": "all", "model": "lite"}\n'
    )
    own, usual = read_entries(Plan((tmp_path / "a.jsonl",)))
    assert dict(own.settings) == {"face": str(tmp_path / "anna.jpg"), "model": str(tmp_path / "mine")}
    assert dict(usual.settings) == {"face": "all", "model": "lite"}


def test_nothing_to_dub_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no film"):
        read_entries(Plan((tmp_path,)))
    with pytest.raises(InputError, match="no such"):
        read_entries(Plan((tmp_path / "none",)))


def test_summary_has_a_line_a_film_and_their_sum() -> None:
    given: Any = [
        Receipt("x/a.mp4", "done", ("x/a.fr.mp4",), 3.0),
        Receipt("b.mp4", "failed", exit_code=3, message="b.mp4: cut short"),
    ]
    lines = Batch(tuple(given)).lines()
    assert lines[0].split() == ["x/a.mp4", "done", "3.0", "s", "a.fr.mp4"]
    assert lines[1].split()[:3] == ["b.mp4", "failed", "(3)"] and "cut short" in lines[1]
    assert lines[2] == "2 films: 1 done, 0 done before, 1 failed"


LITE = Choices(model="lite", device="cpu", preset="ultrafast")


def events_of(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in work.glob("*/run.jsonl") for line in path.read_text().splitlines()]


def test_models_are_loaded_once_and_languages_share_the_films_analysis(
    seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from musetalk_cli.models import lite

    loaded = []
    load = lite.load_lite
    monkeypatch.setattr(lite, "load_lite", lambda *given: loaded.append(given) or load(*given))
    models._load.cache_clear()
    films = tmp_path / "films"
    shutil.copytree(seed, films, ignore=shutil.ignore_patterns("broken*", "empty*", "mute*", "carl*"))
    found = run_batch(Plan((films,), work_dir=tmp_path / "work"), LITE, QUIET, told=lambda line: None)
    assert [one.status for one in found.receipts] == ["done", "done"] and len(found.receipts[0].outputs) == 2
    assert len(loaded) == 1
    made = [event["stage"] for event in events_of(tmp_path / "work") if event["event"] == "stage.done" and not event["reused"]]
    assert (made.count("faces"), made.count("latents"), made.count("remux")) == (2, 2, 3)


def test_entries_of_one_film_share_its_analysis_even_in_the_cache(
    seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = tmp_path / "jobs.jsonl"
    lines = [
        {"film": str(seed / film), "audio": {language: str(seed / f"anna.{language}.wav")}, "output": str(tmp_path / f"{n}.mp4")}
        for n, (film, language) in enumerate([("anna.mp4", "fr"), ("bert.mp4", "fr"), ("anna.mp4", "de")])
    ]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    seen: list[tuple[str, bool]] = []

    def look(job: DubJob, session: Any, *_: Any) -> None:
        journal = [json.loads(line) for line in session.journal.read_text().splitlines()]
        seen.extend(
            (job.output.name, event["reused"]) for event in journal if event.get("stage") == "faces" and "reused" in event
        )

    run_batch(Plan((manifest,)), LITE, QUIET, look, told=lambda line: None)
    assert [reused for name, reused in seen if name == "2.mp4"] == [False, True]
    assert list((tmp_path / "cache" / "musetalk").iterdir()) == []  # and nothing of it stays


class Dubs:
    """In place of `dub_film`: notes what it is given and writes what it should, with the hooks of the real one."""

    def __init__(self, busy: Sequence[str] = (), broken: Sequence[str] = ()) -> None:
        self.made: list[str] = []
        self.places: list[Place] = []
        self.busy, self.broken = list(busy), set(broken)

    def __call__(
        self, jobs: Sequence[DubJob], choices: Any, place: Place, voice: Any, existing: Existing, *more: Any, wanted: Any
    ) -> None:
        self.places.append(place)
        for job in jobs:
            if job.video.stem in self.busy:
                self.busy.remove(job.video.stem)
                raise RetryableError(f"{job.video}: in use")
            if not wanted(job):
                continue
            if job.video.stem in self.broken:
                raise InputError(f"{job.video}: broken")
            job.output.write_bytes(b"dubbed " + job.audio.name.encode())
            self.made.append(job.output.name)
            more[0](job, None, None, None)


@pytest.fixture(name="films")
def _films(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / "films").mkdir(exist_ok=True)
        (tmp_path / "films" / f"{name}.mp4").write_text(name)
        (tmp_path / "films" / f"{name}.fr.wav").write_text(f"voice of {name}")
    return tmp_path / "films"


def batch_of(monkeypatch: pytest.MonkeyPatch, plan: Plan, dubs: Dubs, after: Any = None) -> Batch:
    monkeypatch.setattr(batch_module, "dub_film", dubs)
    return run_batch(plan, LITE, QUIET, after, told=lambda line: None)


def test_film_in_use_is_tried_again_at_the_end(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dubs = Dubs(busy=["a"])
    found = batch_of(monkeypatch, Plan((films,)), dubs)
    assert dubs.made == ["b.fr.mp4", "c.fr.mp4", "a.fr.mp4"] and [one.status for one in found.receipts] == ["done"] * 3


def test_store_and_work_folder_of_a_batch_are_those_of_its_films(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dubs = Dubs()
    batch_of(monkeypatch, Plan((films,), work_dir=tmp_path / "desks", store="memory://x", keep=True), dubs)
    assert {(place.store, place.keep) for place in dubs.places} == {("memory://x", True)}
    assert {place.work_dir and place.work_dir.parent for place in dubs.places} == {tmp_path / "desks"}
    assert len({place.work_dir for place in dubs.places}) == 3


def test_film_that_stays_in_use_is_put_off_and_no_failure(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = batch_of(monkeypatch, Plan((films,)), Dubs(busy=["a", "a"]))
    assert [one.status for one in found.receipts] == ["put off", "done", "done"]
    assert (found.failed, found.put_off, found.receipts[0].exit_code) == (0, 1, 75)
    assert found.lines()[-1] == "3 films: 2 done, 0 done before, 0 failed, 1 put off"
    assert not receipt_of(films / "a.fr.mp4").exists()


def test_film_that_another_run_holds_exits_75(seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with open_session(seed / "bert.mp4", Place(), QUIET):
        assert cli.run(["batch", str(seed / "bert.mp4"), "--model", "lite", "-q", "-o", str(tmp_path)]) == 75


def test_what_another_batch_has_made_meanwhile_is_left_alone(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was looked for before the work folder was held, and is looked for again then."""
    first, second = Dubs(), Dubs()

    def both(*given: Any, **more: Any) -> None:
        if not first.made:
            batch_of(monkeypatch, Plan((films / "a.mp4",)), first)
            monkeypatch.setattr(batch_module, "dub_film", both)
        second(*given, **more)

    monkeypatch.setattr(batch_module, "dub_film", both)
    found = run_batch(Plan((films / "a.mp4",)), LITE, QUIET, told=lambda line: None)
    assert first.made == ["a.fr.mp4"] and second.made == [] and found.receipts[0].status == "done before"


def test_two_batches_at_once_dub_every_film_once(seed: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    shutil.copytree(seed, films, ignore=shutil.ignore_patterns("broken*", "empty*", "mute*", "carl*", "*.de.wav"))
    command = [sys.executable, "-m", "musetalk_cli", "batch", str(films), "--model", "lite", "-q", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(process.communicate(timeout=200)[0]) for process in both]
    told = [one["counts"] for one in found]
    assert sum(counts["done"] for counts in told) == 2 == len(done(films)), told
    assert all(counts["failed"] == 0 for counts in told), found
    assert [process.returncode for process in both] == [75 if counts["put off"] else 0 for counts in told]


def test_folder_that_is_cleared_away_while_one_waits_for_it_is_begun_anew(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run delivers between this one's finding the folder and holding it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Place().folder(films / "a.mp4")
    opened = session.open_events

    @contextmanager
    def cleared(*given: Any, **more: Any) -> Iterator[Any]:
        with opened(*given, **more) as events:
            shutil.rmtree(folder)
            yield events

    monkeypatch.setattr(session, "open_events", cleared)
    with pytest.raises(RetryableError, match="cleared it away"), open_session(films / "a.mp4", Place(), QUIET):
        pass
    monkeypatch.setattr(session, "open_events", opened)
    with open_session(films / "a.mp4", Place(), QUIET):
        pass
    assert list(folder.parent.iterdir()) == []


def test_batch_killed_before_the_receipt_makes_that_film_again(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(job: DubJob, *_: Any) -> None:
        if job.video.stem == "b":
            raise Killed

    with pytest.raises(Killed):
        batch_of(monkeypatch, Plan((films,)), Dubs(), kill)
    assert (films / "b.fr.mp4").exists() and receipt(films / "b.fr.mp4")["status"] == "begun"
    dubs = Dubs()
    found = batch_of(monkeypatch, Plan((films,)), dubs)
    assert dubs.made == ["c.fr.mp4", "b.fr.mp4"]  # last what may have been the killer
    assert [one.status for one in found.receipts] == ["done before", "done", "done"]


def test_a_result_that_lost_its_manifest_is_made_again(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(job: DubJob, *_: Any) -> None:
        sidecar_of(job.output).write_text(f"of {job.output.name}")

    batch_of(monkeypatch, Plan((films,)), Dubs(), sign)
    sidecar_of(films / "a.fr.mp4").unlink()
    sidecar_of(films / "b.fr.mp4").write_text("another one")
    dubs = Dubs()
    batch_of(monkeypatch, Plan((films,)), dubs, sign)
    assert dubs.made == ["a.fr.mp4", "b.fr.mp4"]


def test_changed_setting_is_told_and_overwrite_makes_it_again(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_of(monkeypatch, Plan((films,)), Dubs())
    monkeypatch.setattr(batch_module, "dub_film", dubs := Dubs())
    other = Choices(model="lite", device="cpu", crf=9.0)
    found = run_batch(Plan((films,)), other, QUIET, told=lambda line: None)
    assert [one.exit_code for one in found.receipts] == [6, 6, 6] and dubs.made == []
    run_batch(Plan((films,), existing=Existing(overwrite=True)), other, QUIET, told=lambda line: None)
    assert len(dubs.made) == 3


def test_fresh_makes_all_again_and_forgets_each_films_work_once(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = films / "jobs.jsonl"
    lines = [{"film": f"{name}.mp4", "audio": f"{name}.fr.wav", "output": f"{name}.{n}.mp4"} for n, name in enumerate("aab")]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    batch_of(monkeypatch, Plan((manifest,)), Dubs())
    dubs = Dubs()
    batch_of(monkeypatch, Plan((manifest,), fresh=True), dubs)
    assert dubs.made == ["a.0.mp4", "a.1.mp4", "b.2.mp4"]
    assert [(place.fresh, place.keep) for place in dubs.places] == [(True, True), (False, False), (True, False)]


def test_failed_film_has_a_receipt_that_says_why_until_it_is_done(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = batch_of(monkeypatch, Plan((films,)), Dubs(broken=["b"]))
    assert [one.status for one in found.receipts] == ["done", "failed", "done"]
    assert receipt(films / "b.fr.mp4")["status"] == "failed" and "broken" in receipt(films / "b.fr.mp4")["message"]
    assert batch_of(monkeypatch, Plan((films,)), Dubs()).receipts[1].status == "done"
    assert receipt(films / "b.fr.mp4")["status"] == "done"


def test_two_films_for_one_place_do_not_replace_each_other(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = Path(shutil.copytree(films, tmp_path / "more"))
    (more / "a.mp4").write_text("another a")
    (tmp_path / "out").mkdir()
    plan = Plan((films, more / "a.mp4"), output=tmp_path / "out", existing=Existing(overwrite=True))
    found = batch_of(monkeypatch, plan, Dubs())
    assert [one.status for one in found.receipts] == ["done", "done", "done", "failed"]
    assert found.receipts[3].exit_code == 2 and f"this batch puts {films / 'a.mp4'} there" in found.receipts[3].message


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.mp4", ["a.mp4", "b.mp4"]),
        ("**/*.mp4", ["a.mp4", "b.mp4", "deep/c.mp4"]),
        ("**", ["a.mp4", "b.mp4", "deep/c.mp4"]),
        ("[b-z].*", ["b.mp4"]),
        ("dee?/*", ["deep/c.mp4"]),
    ],
)
def test_quoted_patterns_find_films_and_leave_out_results(tmp_path: Path, pattern: str, found: list[str]) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.mp4", "b.mp4", "b.fr.wav", "a.fr.mp4", "a.fr.mp4.receipt.json", "deep/c.mp4", ".hidden.mp4"):
        (tmp_path / name).touch()
    assert [str(entry.film.relative_to(tmp_path)) for entry in read_entries(Plan((tmp_path / pattern,)))] == found


def test_film_whose_name_looks_like_a_pattern_is_a_film(tmp_path: Path) -> None:
    film = tmp_path / "a[1]*.mp4"
    film.touch()
    assert [entry.film for entry in read_entries(Plan((film,)))] == [film]


def test_what_the_shell_expands_is_cleared_of_results_and_of_twins(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.fr.mp4", "a.fr.mp4.receipt.json"):
        (tmp_path / name).touch()
    plan = Plan((tmp_path / "a.fr.mp4", tmp_path / "a.mp4", tmp_path))
    assert [entry.film for entry in read_entries(plan)] == [tmp_path / "a.mp4"]


def test_film_that_is_gone_fails_in_its_turn(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = batch_of(monkeypatch, Plan((films / "gone.mp4", films / "a.mp4")), Dubs())
    assert [(one.status, one.exit_code) for one in found.receipts] == [("failed", 3), ("done", 0)]


def test_pattern_without_a_match_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing matches"):
        read_entries(Plan((tmp_path / "*.mp4",)))


def test_url_of_a_film_is_told_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"film": "s3://bucket/a.mp4", "audio": "v.wav"}')
    with pytest.raises(InputError, match="is a URL"):
        read_entries(Plan((tmp_path / "a.jsonl",)))
    assert cli.run(["batch", "s3://bucket/a.mp4"]) == 2


def test_batch_takes_every_flag_of_dub_that_fits_many_films() -> None:
    """A cast map and music are of one film: a manifest names them."""
    flags = {name: set(inspect.signature(getattr(cli, name)).parameters) for name in ("dub", "batch")}
    assert flags["dub"] - flags["batch"] <= {"film", "cast", "mix", "dry_run"}
    assert flags["batch"] - flags["dub"] == {"paths"}


def test_every_choice_of_a_batch_reaches_its_films(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(batch_module, "run_batch", lambda plan, choices, *more: seen.append((plan, choices)) or Batch(()))
    told = [
        "--max-yaw",
        "30",
        "--occlusion",
        "0.2",
        "--fade",
        "0.3",
        "--min-face",
        "40",
        "--steady",
        "2",
        "--parsing-mode",
        "raw",
    ]
    assert cli.run(["batch", str(films), *told, "--keep", "--fresh", "--store", "memory://x", "--lang", "fr", "-q"]) == 0
    (plan, choices) = seen[0]
    assert (choices.max_yaw, choices.occlusion, choices.fade, choices.min_face, choices.steady) == (30, 0.2, 0.3, 40, 2)
    assert cli.run(["batch", str(films), "--store", "kept", "-q"]) == 0 and seen[1][0].store == str(Path("kept").absolute())
    assert choices.parsing_mode == "raw" and (plan.keep, plan.fresh, plan.store, plan.lang) == (True, True, "memory://x", "fr")
