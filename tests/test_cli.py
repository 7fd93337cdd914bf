"""The command as a user meets it: every exit code by the real program in a process of its own; its streams, files, settings."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from musetalk_cli import cli

SIZE = (192, 192)
SLOW = 500  # seconds that a busy machine may take


@pytest.fixture(scope="session")
def portrait() -> NDArray[np.uint8]:
    """(192, 192, 3) RGB, a face about 60 px wide."""
    import cv2
    from skimage.data import astronaut

    return np.asarray(cv2.resize(astronaut()[16:240, 112:336], SIZE, interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory, make_film: Callable[..., Path], portrait: NDArray[np.uint8]) -> Path:
    """12 frames of a face that drifts, with sound."""

    def picture(number: int) -> NDArray[np.uint8]:
        return np.roll(portrait, number // 2, axis=1)

    return make_film(tmp_path_factory.mktemp("film") / "film.mp4", frames=12, size=SIZE, audio="aac", picture=picture)


@pytest.fixture(scope="session")
def wall(tmp_path_factory: pytest.TempPathFactory, make_film: Callable[..., Path]) -> Path:
    """8 frames in which nobody is."""
    return make_film(tmp_path_factory.mktemp("wall") / "wall.mp4", frames=8, size=SIZE)


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory, make_voice: Callable[..., Path]) -> Path:
    return make_voice(tmp_path_factory.mktemp("voice") / "fr.wav", seconds=0.5)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A user without weights, settings or cache; every command here runs in this folder."""
    home = tmp_path / "home"
    home.mkdir()
    return home


def environment(home: Path, **more: str) -> dict[str, str]:
    """matplotlib, which mediapipe imports, looks through all fonts once: not once a test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MUSETALK_", "XDG_"))}
    fonts = str(home.parent.parent / "matplotlib")
    return {
        **kept,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "MPLCONFIGDIR": fonts,
        "OMP_NUM_THREADS": "1",
        **more,
    }


def musetalk(home: Path, *arguments: object, env: Mapping[str, str] = {}, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "musetalk_cli", *map(str, arguments)]
    return subprocess.run(command, cwd=home, env=environment(home, **env), capture_output=True, text=True, timeout=SLOW, **more)


def dub(home: Path, film: Path, voice: object, output: Path, *flags: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return musetalk(home, "dub", film, "--audio", voice, "-o", output, "--device", "cpu", *flags, **more)


def three_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The thing, the fact, the cure."""
    lines = done.stderr.splitlines()[-3:]
    assert lines[0].startswith("musetalk: ")
    assert all(line.startswith("  ") for line in lines[1:])
    return lines


# exit codes, each by the real command


def test_0_a_dub_replaces_the_output_when_told_so_and_leaves_no_work_folder(home: Path, film: Path, voice: Path) -> None:
    output = home / "out.mp4"
    output.write_text("an older one")
    done = dub(home, film, f"fr={voice}", output, "-y", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(output)
    assert output.stat().st_size > 1000
    assert "12 frames" in done.stderr
    assert "musetalk weights pull v15" in done.stderr  # that it was the small model, and how to get the other
    assert list((home / "cache" / "musetalk").rglob("*")) == []
    assert [path.name for path in home.glob(".*.part")] == []


@pytest.mark.parametrize("arguments", [["dub"], ["dub", "x.mp4"], ["frob"], ["dub", "x.mp4", "--audio", "y", "--chunk", "no"]])
def test_2_for_flags_that_make_no_sense(home: Path, arguments: list[str]) -> None:
    done = musetalk(home, *arguments)
    assert done.returncode == 2
    three_lines(done)


def test_2_for_an_output_that_is_the_film(home: Path, film: Path, voice: Path) -> None:
    before = film.read_bytes()
    done = dub(home, film, voice, film, "-y")
    assert done.returncode == 2
    assert "is itself an input" in three_lines(done)[1]
    assert film.read_bytes() == before


def test_2_for_a_work_folder_that_holds_other_things(home: Path, film: Path, voice: Path) -> None:
    (home / "documents" / "tmp").mkdir(parents=True)
    (home / "documents" / "tmp" / "letter.txt").write_text("dear")
    done = dub(home, film, voice, home / "out.mp4", "--work-dir", home / "documents", "--fresh")
    assert done.returncode == 2
    assert (home / "documents" / "tmp" / "letter.txt").read_text() == "dear"


def test_3_for_a_text_file_that_calls_itself_a_film(home: Path, voice: Path) -> None:
    (home / "film.mp4").write_text("not a film\n" * 100)
    done = dub(home, home / "film.mp4", voice, home / "out.mp4")
    assert done.returncode == 3
    assert "film.mp4" in three_lines(done)[0]


def test_3_for_a_film_that_breaks_off(home: Path, film: Path, voice: Path) -> None:
    whole = film.read_bytes()
    (home / "film.mp4").write_bytes(whole[: len(whole) // 2])
    assert dub(home, home / "film.mp4", voice, home / "out.mp4").returncode == 3
    assert not (home / "out.mp4").exists()


def test_3_for_a_film_that_is_not_there(home: Path, voice: Path) -> None:
    assert "No such file" in three_lines(dub(home, home / "nothing.mp4", voice, home / "out.mp4"))[1]


def test_3_for_a_voice_without_sound_before_any_work(home: Path, film: Path) -> None:
    (home / "voice.wav").write_text("silence")
    assert dub(home, film, home / "voice.wav", home / "out.mp4", "--work-dir", home / "work").returncode == 3
    assert not (home / "work").exists()


def test_3_for_a_container_that_cannot_be_written_before_the_faces(home: Path, film: Path, voice: Path) -> None:
    done = dub(home, film, voice, home / "out.xyz", "--work-dir", home / "work")
    assert done.returncode == 3
    assert ".mp4" in three_lines(done)[2]
    assert not (home / "work" / "faces").exists()


def test_4_for_a_model_whose_weights_were_not_pulled(home: Path, film: Path, voice: Path) -> None:
    done = dub(home, film, voice, home / "out.mp4", "--model", "v15", "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "missing"
    assert "musetalk weights pull v15" in error["hint"]


def test_4_for_weights_that_do_not_verify(home: Path) -> None:
    assert musetalk(home, "weights", "verify", "parsing").returncode == 4


def test_5_for_a_film_without_any_face(home: Path, wall: Path, voice: Path) -> None:
    done = dub(home, wall, voice, home / "out.mp4", "--progress", "jsonl")
    assert done.returncode == 5
    events = [json.loads(line) for line in done.stderr.splitlines()]  # nothing but JSON, the error too
    assert events[-1]["event"] == "error"
    assert events[-1]["code"] == "no_face"
    assert not (home / "out.mp4").exists()


def test_6_for_an_output_that_is_there_and_0_to_skip_it(home: Path, film: Path, voice: Path) -> None:
    output = home / "out.mp4"
    output.write_text("precious")
    assert dub(home, film, voice, output).returncode == 6
    skipped = dub(home, film, voice, output, "-n")
    assert (skipped.returncode, skipped.stdout.strip()) == (0, str(output))
    assert output.read_text() == "precious"


def test_9_for_a_disk_that_takes_no_more(home: Path, film: Path, voice: Path) -> None:
    """A limit on the size of files: the kernel refuses to write as it does on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = dub(home, film, voice, home / "out.mp4", preexec_fn=limit)
    assert done.returncode == 9, done.stderr
    assert "full" in three_lines(done)[1]
    assert not (home / "out.mp4").exists()


def test_75_for_a_work_folder_in_use(home: Path, film: Path, voice: Path) -> None:
    work = home / "work"
    work.mkdir()
    (work / "run.jsonl").touch()
    with FileLock(work / "lock"):
        assert dub(home, film, voice, home / "out.mp4", "--work-dir", work).returncode == 75


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_130_and_143_keep_what_is_finished(home: Path, film: Path, voice: Path, number: signal.Signals, code: int) -> None:
    work = home / "work"
    flags = ["--audio", voice, "-o", home / "out.mp4", "--device", "cpu", "--work-dir", work, "--chunk", "0.16"]
    command = [sys.executable, "-m", "musetalk_cli", "dub", film, *flags]
    with subprocess.Popen(command, cwd=home, env=environment(home), stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_for(lambda: '"stage.start","faces"' in told(work), process)
        process.send_signal(number)
        assert process.wait(SLOW) == code
    finished = told(work).count('"stage.done","faces"')
    assert finished == 1  # the step that ran when the signal came, and no other
    assert not (home / "out.mp4").exists()


def told(work: Path) -> str:
    """The journal, each line as "event","stage"."""
    path = work / "run.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return "\n".join(f'"{record["event"]}","{record.get("stage", "")}"' for record in records)


def wait_for(fact: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SLOW
    while not fact():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.005)


def test_1_for_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], film: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("musetalk_cli.jobs.plan_jobs", broken)
    assert cli.run(["dub", str(film), "--audio", "fr.wav"]) == 1
    assert capsys.readouterr().err.splitlines()[:2] == ["musetalk: ZeroDivisionError", "  oh"]


# names, settings, the other commands


@pytest.mark.parametrize("name", ['-a film\'s "фильм"\n映画 %d.mp4', "http:x.mp4"])
def test_any_name_is_a_name(home: Path, wall: Path, voice: Path, name: str) -> None:
    (home / name).write_bytes(wall.read_bytes())
    done = musetalk(home, "dub", "--audio", voice, "--device", "cpu", "-q", "--", name)
    assert done.returncode == 5, done.stderr  # it was read to its end, and nobody was in it


def test_outputs_are_named_by_language_beside_the_film(tmp_path: Path, film: Path, voice: Path) -> None:
    from musetalk_cli.jobs import plan_jobs

    def outputs(*audio: str, output: Path | None = None, language: str = "") -> list[str]:
        jobs = plan_jobs(film, audio, output, language, overwrite=False, skip_existing=False)
        return [job.output.relative_to(job.output.parents[1]).as_posix() for job in jobs]

    beside = film.parent.name
    assert outputs(f"fr={voice}", f"pt-BR={voice}") == [f"{beside}/film.fr.mp4", f"{beside}/film.pt-BR.mp4"]
    assert outputs(str(voice)) == [f"{beside}/film.fr.mp4"]  # fr.wav
    assert outputs(str(voice), language="de") == [f"{beside}/film.de.mp4"]
    assert outputs(f"fr={voice}", output=tmp_path) == [f"{tmp_path.name}/film.fr.mp4"]
    assert outputs(f"fr={voice}", f"de={voice}", output=tmp_path / "x.{lang}.mkv")[1] == f"{tmp_path.name}/x.de.mkv"


def test_settings_come_from_flag_then_environment_then_file(home: Path, film: Path, voice: Path) -> None:
    (home / "musetalk.toml").write_text('[dub]\nmodel = "v15"\n')
    arguments = ["dub", film, "--audio", voice, "--device", "cpu", "--json", "-o", home / "nowhere" / "out.mp4"]
    (home / "nowhere").mkdir()
    by_file = json.loads(musetalk(home, *arguments).stdout)["error"]["message"]
    by_environment = json.loads(musetalk(home, *arguments, env={"MUSETALK_MODEL": "v1"}).stdout)["error"]["message"]
    by_flag = musetalk(home, *arguments, "--model", "nonsense", env={"MUSETALK_MODEL": "v1"})
    assert "musetalkV15" in by_file
    assert "musetalkV15" not in by_environment
    assert by_flag.returncode == 2


def test_a_mistyped_setting_is_told(home: Path, film: Path, voice: Path) -> None:
    (home / "musetalk.toml").write_text("[dub]\nbatchsize = 3\n")
    done = dub(home, film, voice, home / "out.mp4")
    assert done.returncode == 2
    assert three_lines(done)[0:2] == ["musetalk: musetalk.toml", "  dub.batchsize: no such setting"]


def test_inspect_tells_shots_and_draws_them_and_status_finds_the_work(home: Path, film: Path) -> None:
    done = musetalk(home, "inspect", film, "-o", home / "sheet.png", "--work-dir", home / "work", "--json")
    assert done.returncode == 0, done.stderr
    (shot,) = json.loads(done.stdout)["shots"]
    assert (shot["frames"], shot["frames_with_face"], shot["people"]) == (12, 12, 1)
    assert (home / "sheet.png").read_bytes().startswith(b"\x89PNG")
    asked = ["status", film, "--work-dir", home / "work", "--json", "--why"]
    kept = {step["stage"]: step["kept"] for step in json.loads(musetalk(home, *asked).stdout)["steps"]}
    assert kept == {"demux": True, "faces": True}
    (_, changed) = json.loads(musetalk(home, *asked, "--face", "all").stdout)["steps"]
    assert changed["why"] == ["config.choose: largest -> all"]


def test_bench_tells_frames_a_second_of_every_stage(home: Path, film: Path) -> None:
    done = musetalk(home, "bench", film, "--device", "cpu", "--json", "-q")
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage["fps"] for stage in json.loads(done.stdout)["stages"]}
    assert set(stages) == {"demux", "faces", "listen", "latents", "masks", "inference", "blend", "remux"}
    assert min(stages.values()) > 0


def test_doctor_finds_what_is_here(home: Path) -> None:
    done = musetalk(home, "doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (0, True), done.stdout
    checks = {check["name"]: check for check in told["checks"]}
    assert checks["weights v15"]["state"] == "warn"
    assert "musetalk weights pull v15" in checks["weights v15"]["cure"]
    assert "ffmpeg" in checks["ffmpeg"]["fact"]


def test_doctor_fails_without_ffmpeg(home: Path) -> None:
    done = musetalk(home, "doctor", env={"IMAGEIO_FFMPEG_EXE": "/nonexistent/ffmpeg", "PATH": "/nonexistent"})
    assert done.returncode == 4
    assert "fail  ffmpeg" in done.stdout


def test_weights_list_and_path_work_without_network(home: Path) -> None:
    listed = json.loads(musetalk(home, "weights", "list", "--json").stdout)["files"]
    assert {row["set"] for row in listed} == {"v15", "v1", "parsing", "face-alignment", "training"}
    assert all(row["state"] == "absent" and row["licence"] for row in listed)
    path = musetalk(home, "weights", "path", env={"MUSETALK_WEIGHTS": str(home / "w")}).stdout.strip()
    assert path == str(home / "w")


def test_help_is_instant(home: Path) -> None:
    """Half a second on an idle machine; what is measured here is work, not waiting for a turn."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "dub" in musetalk(home, "--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
