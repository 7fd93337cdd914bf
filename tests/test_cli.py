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

from musetalk_cli import cli, jobs
from musetalk_cli.errors import InterruptedRun, OutputExistsError
from musetalk_cli.jobs import Existing, dub_film, plan_jobs
from musetalk_cli.session import Place, Voice
from musetalk_cli.settings import Choices

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
def voice(tmp_path_factory: pytest.TempPathFactory, make_speech: Callable[..., Path]) -> Path:
    return make_speech(tmp_path_factory.mktemp("voice") / "fr.wav", seconds=0.5)


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
        "MUSETALK_REPORT": "0",
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


def test_4_for_a_model_whose_weights_were_not_pulled(home: Path, film: Path, voice: Path) -> None:
    done = dub(home, film, voice, home / "out.mp4", "--model", "v15", "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "missing"
    assert "musetalk weights pull v15" in error["hint"]


def test_4_for_weights_that_do_not_verify(home: Path) -> None:
    done = musetalk(home, "weights", "verify", "parsing")
    assert done.returncode == 4
    assert "`musetalk weights pull parsing`" in done.stderr


def test_5_for_a_film_without_any_face(home: Path, wall: Path, voice: Path) -> None:
    done = dub(home, wall, voice, home / "out.mp4", "--progress", "jsonl")
    assert done.returncode == 5
    events = [json.loads(line) for line in done.stderr.splitlines()]  # nothing but JSON, the error too
    assert events[-1]["event"] == "error"
    assert events[-1]["code"] == "no_face"
    assert "--face all" not in events[-1]["hint"]  # there was nobody to choose
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_the_exit_code_stands_where_the_error_cannot_be_told(home: Path) -> None:
    """stderr is often a log on the very disk that is full."""
    command = [sys.executable, "-m", "musetalk_cli", "dub", "none.mp4", "--audio", "none.wav"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=home, env=environment(home), stdout=full, stderr=full, timeout=SLOW)
    assert done.returncode == 3


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
    begun, finished = (told(work).count(f'"{event}","faces"') for event in ("stage.start", "stage.done"))
    assert finished == begun  # the steps that ran when the signal came, one a thread, and no other
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


def test_stopped_in_the_second_language_the_same_command_goes_on(
    tmp_path: Path, film: Path, voice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first film is delivered and must neither be refused nor made again; one of other settings is not taken for it."""
    place, fast = Place(tmp_path / "work"), Choices(model="lite", device="cpu", preset="ultrafast")

    def run(choices: Choices) -> list[Path]:
        planned = plan_jobs(film, [f"de={voice}", f"es={voice}"], tmp_path, "", Existing(), place)
        return [film.output for film in dub_film(planned, choices, place, Voice("plain"), Existing())]

    def stopped_at_es(job: Any, *rest: Any, do: Any = jobs._dub) -> None:
        if job.language == "es":
            raise InterruptedRun
        do(job, *rest)

    with monkeypatch.context() as signalled:
        signalled.setattr("musetalk_cli.jobs._dub", stopped_at_es)
        with pytest.raises(InterruptedRun):
            run(fast)
    german = tmp_path / "film.de.mp4"
    before = german.stat()
    with pytest.raises(OutputExistsError, match="film.de.mp4: is there already"):
        run(Choices(model="lite", device="cpu", preset="ultrafast", crf=30.0))
    assert run(fast) == [german, tmp_path / "film.es.mp4"]
    assert (german.stat().st_mtime_ns, german.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert f"{german}: is done already" in capsys.readouterr().err
    german.write_bytes(b"of somebody else")
    with pytest.raises(OutputExistsError):
        run(fast)


# what is refused, in words that name it


@pytest.mark.parametrize(
    ("arguments", "thing", "fact", "command"),
    [
        (["dub", "x.mp4", "--audio", "y", "--chunk", "0"], "--chunk", "0.1", "dub"),
        (["dub", "x.mp4", "--audio", "y", "--codec", "z"], "--codec", "'z' is not one of 'auto'", "dub"),
        (["dub", "", "--audio", "y"], "FILM", "its path is empty", "dub"),
        (["inspect", "x.mp4", "-o", ""], "--output", "its path is empty", "inspect"),
        (["dub"], "FILM", "is missing", "dub"),
        (["weights", "pull"], "SET", "is missing", "weights pull"),
    ],
)
def test_a_refused_flag_is_the_thing_and_the_cure_names_the_command(
    arguments: list[str], thing: str, fact: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSETALK_CHUNK", "10")
    assert cli.run(arguments) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert (first, third) == (f"musetalk: {thing}", f"  see `musetalk {command} --help`")
    assert fact in second


def test_a_dub_without_a_voice_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the film is looked at."""
    assert cli.run(["dub", "x.mp4"]) == 2
    assert capsys.readouterr().err.splitlines() == ["musetalk: --audio", "  is missing", "  give the new voice: --audio fr.wav"]


def test_a_colon_in_a_name_does_not_cut_it(film: Path, voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "part 1: out.mp4"
    output.write_text("precious")
    assert cli.run(["dub", str(film), "--audio", str(voice), "-o", str(output)]) == 6
    assert capsys.readouterr().err.splitlines()[:2] == [f"musetalk: {output}", "  is there already"]


@pytest.mark.parametrize("json_too", [True, False])
def test_a_signal_before_the_run_began_is_told(
    json_too: bool, film: Path, voice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("musetalk_cli.jobs.plan_jobs", interrupted)
    assert cli.run(["dub", str(film), "--audio", str(voice), "-v", *(["--json"] if json_too else [])]) == 130
    told = capsys.readouterr()
    if json_too:
        assert json.loads(told.out)["error"]["code"] == "interrupted"
    else:
        assert told.err.splitlines() == [
            "musetalk: interrupted",
            "  stopped by SIGINT",
            "  run the same command again to go on from here",
        ]  # and no traceback, though -v was given


def test_only_a_bug_of_ours_has_a_traceback(
    film: Path, voice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("musetalk_cli.jobs.plan_jobs", broken)
    assert cli.run(["dub", str(film), "--audio", str(voice), "-v"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "in broken" in told


def test_the_path_on_stdout_is_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    cli._answer([Path("-a film.fr.mp4"), Path("b.mp4")])
    assert capsys.readouterr().out.splitlines() == ["./-a film.fr.mp4", "b.mp4"]


# names, settings, the other commands


@pytest.mark.parametrize("name", ['-a film\'s "фильм"\n映画 %d.mp4', "http:x.mp4"])
def test_any_name_is_a_name(home: Path, wall: Path, voice: Path, name: str) -> None:
    (home / name).write_bytes(wall.read_bytes())
    done = musetalk(home, "dub", "--audio", voice, "--device", "cpu", "-q", "--", name)
    assert done.returncode == 5, done.stderr  # it was read to its end, and nobody was in it


def test_outputs_are_named_by_language_beside_the_film(tmp_path: Path, film: Path, voice: Path) -> None:
    def outputs(*audio: str, output: Path | None = None, language: str = "") -> list[str]:
        planned = plan_jobs(film, audio, output, language, Existing(), Place(tmp_path / "work"))
        return [job.output.relative_to(job.output.parents[1]).as_posix() for job in planned]

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


def test_a_number_where_a_settings_file_should_have_a_path_is_told(home: Path, film: Path, voice: Path) -> None:
    (home / "musetalk.toml").write_text("[dub]\nsign-cert = 3\n")
    done = dub(home, film, voice, home / "out.mp4")
    assert done.returncode == 2
    assert three_lines(done)[0:2] == ["musetalk: --sign-cert", "  is no path"]


def test_inspect_tells_shots_and_draws_them_and_status_finds_the_work(home: Path, film: Path) -> None:
    done = musetalk(home, "inspect", film, "-o", home / "sheet.png", "--work-dir", home / "work", "--json")
    assert done.returncode == 0, done.stderr
    (shot,) = json.loads(done.stdout)["shots"]
    assert (shot["frames"], shot["frames_with_face"], shot["people"]) == (12, 12, 1)
    assert (home / "sheet.png").read_bytes().startswith(b"\x89PNG")
    asked = ["status", film, "--work-dir", home / "work", "--json", "--why"]
    kept = {step["stage"]: step["kept"] for step in json.loads(musetalk(home, *asked).stdout)["steps"]}
    assert kept == {"demux": True, "faces": True}
    whoever = json.loads(musetalk(home, *asked, "--face", "all").stdout)["steps"]
    assert [step["kept"] for step in whoever] == [True, True]  # whom to dub is decided after everyone is found
    (changed,) = json.loads(musetalk(home, *asked, "--chunk", "5").stdout)["steps"]
    assert (changed["stage"], changed["why"]) == ("demux", ["config.chunk: 10 -> 5"])


def test_bench_tells_frames_a_second_of_every_stage(home: Path, film: Path) -> None:
    """By the film's own sound, in which nobody speaks: every stage has its work all the same."""
    done = musetalk(home, "bench", film, "--device", "cpu", "--json", "-q")
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage["fps"] for stage in json.loads(done.stdout)["stages"]}
    work = {"latents", "masks", "inference", "blend"}
    assert set(stages) == {"demux", "faces", "listen", "decide", "pick", "remux"} | work
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
    assert {row["set"] for row in listed} == {"lite", "v15", "v1", "parsing", "face-alignment", "training", "eval"}
    assert all(row["state"] == ("present" if row["set"] == "lite" else "absent") and row["licence"] for row in listed)
    path = musetalk(home, "weights", "path", env={"MUSETALK_WEIGHTS": str(home / "w")}).stdout.strip()
    assert path == str(home / "w")


def test_help_is_instant(home: Path) -> None:
    """Half a second on an idle machine; what is measured here is work, not waiting for a turn."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "dub" in musetalk(home, "--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
