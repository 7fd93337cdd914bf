"""`musetalk evaluate`: real dubs of small films, measured; stopped, gone on with, compared."""

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
from made_films import talking

COMMAND = [sys.executable, "-m", "musetalk_cli", "evaluate"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", name="films")
def _films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films in which lips move, with two voices, and one without a face."""
    folder = tmp_path_factory.mktemp("films")
    made = tmp_path_factory.mktemp("made")
    for name, pace in (("anna", 1.0), ("bert", 0.8)):
        (made / name).mkdir()
        shutil.copy(talking(made / name, make_speech(made / f"{name}.wav", seconds=2, pace=pace)), folder / f"{name}.mp4")
    return folder


@pytest.fixture(scope="module", name="done")
def _done(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("out")
    ran = evaluate(films, "-o", out, "--model", "lite", "--identity", "sface", "--json")
    assert ran.returncode == 0, ran.stderr
    return out, json.loads(ran.stdout), ran.stderr


def evaluate(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(system for system in found["systems"] if system["name"] == name)


def test_each_film_is_dubbed_with_the_others_voice_and_measured(done: tuple[Path, dict[str, Any], str]) -> None:
    out, found, _ = done
    assert sorted(path.name for path in (out / "results" / "lite").iterdir()) == ["anna__bert.mp4", "bert__anna.mp4"]
    for row in of(found, "lite")["rows"]:
        figures = row["figures"]
        assert 0.8 < figures["CSIM (SFace)"] < 0.9999
        assert 0 < figures["jitter"] < 100 and 0.3 < figures["sharpness"] < 2 and 0.3 < figures["seam"] < 3
    assert [system["name"] for system in found["systems"]] == ["lite", "film", "untouched"]


def test_stand_ins_do_not_have_the_standards_names(done: tuple[Path, dict[str, Any], str]) -> None:
    names = [metric["name"] for metric in done[1]["metrics"]]
    assert "CSIM (SFace)" in names and "LSE-C (lip judge)" in names and not {"CSIM", "LSE-C", "LSE-D"} & set(names)


def test_film_itself_is_its_own_likeness(done: tuple[Path, dict[str, Any], str]) -> None:
    totals = of(done[1], "film")["totals"]
    assert totals["CSIM (SFace)"] == pytest.approx(1) and totals["seam"] == totals["sharpness"] == 1
    assert totals["FID"] in (None, pytest.approx(0, abs=1e-6))  # without the extra there is no Inception


def test_table_csv_and_json_are_kept_with_every_judges_hash(done: tuple[Path, dict[str, Any], str]) -> None:
    out, found, told = done
    assert json.loads((out / "evaluation.json").read_text()) == found
    assert (out / "evaluation.csv").read_text().count("\n") == 1 + 3 * 3
    assert "lite" in (out / "evaluation.txt").read_text()
    assert all(len(weight["sha256"]) == 64 for weight in found["weights"]) and len(found["weights"]) >= 3
    assert "left" in told  # progress, with the time that is left


def test_killed_evaluation_goes_on_and_finds_the_same(
    films: Path, done: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    arguments = [str(films), "-o", str(tmp_path / "out"), "--model", "lite", "--identity", "sface", "--json"]
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as process:
        until = time.monotonic() + 120
        while not list((tmp_path / "out").glob("work/*/watch/*/result.json")):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("work/*/watch/*/result.json")}
    ran = evaluate(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert before and all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert json.loads(ran.stdout) == done[1]


def test_other_systems_are_laid_beside_and_what_they_lack_is_told(
    films: Path, done: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(films / "anna.mp4", other / "anna__bert.mp4")  # a system that does nothing
    given = ["--no-dub", "--no-controls", "--identity", "sface", "--compare", f"none={other}", "--compare", str(done[0])]
    ran = evaluate(films, "-o", tmp_path / "out", *given, "--json", "-q")
    assert ran.returncode == 8, ran.stderr
    found = json.loads(ran.stdout)
    assert [system["name"] for system in found["systems"]] == ["none", f"{done[0].name}/lite", "film", "untouched"]
    assert of(found, "none")["missing"] == ["bert__anna (not there)"]
    assert of(found, "none")["rows"][0]["figures"]["CSIM (SFace)"] == pytest.approx(1)
    assert of(found, f"{done[0].name}/lite") == {**of(done[1], "lite"), "name": f"{done[0].name}/lite"}


def test_film_that_cannot_be_read_stops_no_other(films: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(films, mixed)
    (mixed / "broken.mp4").write_bytes(b"no film")
    ran = evaluate(mixed, "-o", tmp_path / "out", "--no-dub", "--identity", "sface", "--seconds", "1", "--json")
    assert ran.returncode == 8, ran.stderr
    found = json.loads(ran.stdout)
    assert any("broken" in text for text in of(found, "film")["missing"]) and len(of(found, "film")["rows"]) == 2


def test_own_voice_gives_psnr_and_ssim(films: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(films / "anna.mp4", alone)
    ran = evaluate(alone, "-o", tmp_path / "out", "--own", "--identity", "sface", "--model", "lite", "--json", "-q")
    assert ran.returncode == 0, ran.stderr
    figures = of(json.loads(ran.stdout), "lite")["rows"][0]["figures"]
    assert 20 < figures["PSNR"] < 60 and 0.6 < figures["SSIM"] < 1


def test_nothing_to_measure_is_a_usage_error(tmp_path: Path) -> None:
    assert evaluate("-o", tmp_path / "out").returncode == 2
    assert evaluate(tmp_path, "-o", tmp_path / "out").returncode == 2
    assert evaluate("--compare", tmp_path, "-o", tmp_path / "out").returncode == 3
