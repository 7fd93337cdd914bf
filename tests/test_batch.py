"""`musetalk batch`: many films, one bad one never stops the rest, what is done is not done again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import make_speech
from made_films import clip

from musetalk_cli.batch import Batch, Entry, Plan, Receipt, read_entries
from musetalk_cli.errors import InputError, UsageError

GOOD = ("anna", "bert", "carl", "don")


def run(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "musetalk_cli", "batch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)


@pytest.fixture(scope="module", name="seed")
def _seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four films with a voice each beside them, one of them with two; a broken one, an empty one, and one without a voice."""
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
    assert found["counts"] == {"done": 4, "done before": 0, "failed": 3}
    told = {Path(one["film"]).stem: (one["status"], one["exit_code"]) for one in found["films"]}
    assert told["broken"] == ("failed", 3) and told["empty"] == ("failed", 3) and told["mute"] == ("failed", 2)
    made = sorted(path.name for path in films.glob("*.*.mp4"))
    assert made == ["anna.de.mp4", "anna.fr.mp4", "bert.fr.mp4", "carl.fr.mp4", "don.fr.mp4"]
    assert all((films / f"{name}.receipt.json").exists() for name in made)

    before = {name: (films / name).stat().st_mtime_ns for name in made}
    (films / "carl.fr.mp4").unlink()
    for name in ("broken", "empty", "mute"):
        (films / f"{name}.mp4").unlink()
    again = run(films, "--model", "lite", "--work-dir", tmp_path / "work")
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "4 films: 1 done, 3 done before, 0 failed"
    after = {name: (films / name).stat().st_mtime_ns for name in made}
    assert {name for name in made if before[name] != after[name]} == {"carl.fr.mp4"}


def test_killed_batch_goes_on(seed: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    shutil.copytree(seed, films, ignore=shutil.ignore_patterns("broken*", "empty*", "mute*", "*.de.wav"))
    command = [sys.executable, "-m", "musetalk_cli", "batch", str(films), "--model", "lite", "-q"]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}) as process:
        until = time.monotonic() + 120
        while not list(films.glob("*.receipt.json")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    made = list(films.glob("*.receipt.json"))
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.splitlines()[-1] == f"4 films: {len(GOOD) - len(made)} done, {len(made)} done before, 0 failed"
    assert len(list(films.glob("*.fr.mp4"))) == len(GOOD) and not list(films.glob(".*.part"))


def test_file_that_is_not_the_batchs_own_is_not_replaced(seed: Path, tmp_path: Path) -> None:
    film = Path(shutil.copy(seed / "bert.mp4", tmp_path))
    shutil.copy(seed / "bert.fr.wav", tmp_path)
    (tmp_path / "bert.fr.mp4").write_bytes(b"somebody's")
    ran = run(film, "--model", "lite", "--json", "-q")
    assert ran.returncode == 8 and json.loads(ran.stdout)["films"][0]["exit_code"] == 6
    assert (tmp_path / "bert.fr.mp4").read_bytes() == b"somebody's"
    assert run(film, "--model", "lite", "-n", "-q").returncode == 0


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
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "crff": 3}', "'crff' is no setting"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "device": "cuda"}', "'device' is no setting"),
        ("a.jsonl", '{"film": "a.mp4", "audio": "v.wav", "copy": "yes"}', "wrong kind"),
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
    assert lines[0].split() == ["a.mp4", "done", "3.0", "s", "a.fr.mp4"]
    assert "cut short" in lines[1] and lines[2] == "2 films: 1 done, 0 done before, 1 failed"
