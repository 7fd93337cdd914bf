"""What README.md, docs/ and --help tell to type is typed here, as it stands, each page in a folder of its own with the files that it names.

Fences of `sh`, `bash` and `console` are commands, of `python` programs; `toml` and `json` are read; `text` is neither, and any other kind
is refused. What cannot run here is in the tables below, and nowhere else.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import make_film, make_speech
from made_films import FRAMES, face, talking, two_people, wall
from made_set import make_set
from test_losses import alexnet

from musetalk_cli import cli, weights
from musetalk_cli.download import Origin
from musetalk_cli.help_examples import EXAMPLES
from musetalk_cli.settings import flags_of
from musetalk_cli.weights import ModelFile

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RUN, READ, SHOWN = ("sh", "bash", "console"), ("toml", "json"), ("text",)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Programs that are not run: a stand-in on PATH takes their place, and its arguments must be one of these. Paths in them must be there.
STAND_INS: dict[str, tuple[str, ...]] = {
    "python3": (r"-m venv \.venv",),
    "python": (r"-m pytest",),
    "pip": (r"install -c constraints\.txt \.", r"install -c constraints\.txt \.\[(?P<extra>\w+)\]"),
    "sbatch": (r"--parsable --array=0-1 (?P<path>\S+) work", r"--parsable --dependency=afterany:7 (?P<path>\S+) join"),
    "docker": (r"build -f (?P<path>\S+) --target cpu -t \S+ \.",),
    "kubectl": (r"apply -f (?P<path>\S+) -l step=(plan|work|join)",),
    "ray": (r"up (?P<path>\S+)",),
}
SETTINGS = """# what a musetalk.toml makes of the pages' own commands, so that they take seconds
[prepare]
sync = "none"
min-seconds = 0.2
min-face = 40
workers = 1
"""
TINY = ("steps = 1", "batch = 1", "threads = 1", "log-every = 1")
STAGES = ("syncnet", "stage1", "stage2")


class Command(NamedTuple):
    """A line to type, and what a console shows after it."""

    line: str
    shown: str | None = None  # lines with ... for any; None: anything
    code: int = 0


# --- what pages say


def fences(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(kind: str, text: str) -> Iterator[Command]:
    if kind == "console":
        yield from _typed(text)
        return
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield Command(line.strip())


def _typed(text: str) -> Iterator[Command]:
    """`$ ` begins a command; `$ echo $?` tells the exit code of the one before."""
    blocks = [block.partition("\n") for block in re.split(r"^\$ ", text, flags=re.MULTILINE) if block.strip()]
    for number, (line, _, shown) in enumerate(blocks):
        if line.strip() == "echo $?":
            continue
        after = blocks[number + 1] if number + 1 < len(blocks) else ("", "", "")
        yield Command(line.strip(), shown, int(after[2]) if after[0].strip() == "echo $?" else 0)


# --- the folder


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every page finds: a film of two people, one of nobody, voices, a cast, a training set in the making."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "two").mkdir()
    run = two_people(folder / "two", 14)
    add_sound(run, folder / "film.mp4", folder)
    make_film(folder / "wall.mp4", frames=8, size=(160, 160), picture=lambda _: wall((160, 160)), audio="aac")
    for name, pace in (("fr", 1.0), ("de", 0.8), ("anna", 0.9), ("paul", 1.1), ("effects", 0.7)):
        make_speech(folder / f"{name}.wav", seconds=0.5, pace=pace)
    (folder / "taken.mp4").write_text("mine")
    draw_cast(folder)
    (folder / "film.cast.toml").write_text(
        '[[person]]\nname = "anna"\nfaces = ["A"]\nvoice = "anna.wav"\n\n[[person]]\nname = "paul"\nfaces = ["B"]\nvoice = "paul.wav"\n'
    )
    alexnet(folder / "alexnet.ckpt")
    make_set(folder / "sets" / "mine")
    _films(folder)
    (folder / "musetalk.toml").write_text(SETTINGS + "".join(f"\n[train.{stage}]\n" + "\n".join(TINY) + "\n" for stage in STAGES))
    (folder / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.mp4", "*.wav", "__pycache__"))
    shutil.copy(folder / "one.mp4", folder / "examples" / "film.mp4")
    shutil.copy(folder / "fr.wav", folder / "examples" / "fr.wav")
    return folder


def add_sound(film: Path, path: Path, folder: Path) -> None:
    from conftest import run_tool

    make_speech(folder / "spoken.wav", seconds=0.56)
    run_tool("-i", str(film), "-i", str(folder / "spoken.wav"), "-c:v", "copy", "-c:a", "aac", "-shortest", str(path))


def draw_cast(folder: Path) -> None:
    """The stills of the cast, which `inspect` leaves beside a map that is there already."""
    assert cli.run(["inspect", str(folder / "film.mp4"), "-q", "--work-dir", str(folder.parent / "drawn")]) == 0
    (folder / "film.faces.png").unlink()


def _films(folder: Path) -> None:
    """Short ones of one person; a folder where one of them is broken; voices beside and below."""
    make_film(folder / "one.mp4", frames=FRAMES, size=(160, 160), picture=face, audio="aac")
    for name in ("films", "broken", "held_back", "clips"):
        (folder / name).mkdir()
        for film in ("one", "two"):
            shutil.copy(folder / "one.mp4", folder / name / f"{film}.mp4")
            shutil.copy(folder / "fr.wav", folder / name / f"{film}.fr.wav")
    (folder / "films" / "voices").mkdir()
    for film in ("one", "two"):
        shutil.copy(folder / "de.wav", folder / "films" / "voices" / f"{film}.wav")
    (folder / "broken" / "two.mp4").write_bytes(b"no film")
    entry = '[[film]]\nfilm = "films/one.mp4"\naudio = { fr = "fr.wav" }\noutput = "from-manifest.mp4"\n'
    (folder / "jobs.toml").write_text(entry)


class Desk:
    """A folder to type in: `musetalk` runs in this process, all else in a shell whose other programs are stand-ins."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self._patch, self._capture = folder, patch, capture
        self._bin = folder.parent / "bin"
        self._log = folder.parent / "stood-in.log"
        self._bin.mkdir()
        for name in STAND_INS:
            _stand_in(self._bin / name, self._log)
        real = self._bin / "musetalk"
        real.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m musetalk_cli "$@"\n')
        real.chmod(0o755)

    def run(self, command: Command) -> None:
        self._before(command.line.split())
        words = self._words(command.line)  # as the shell finds the folder then
        self._capture.readouterr()
        code, out = self._here(words[1:]) if words[:1] == ["musetalk"] else self._shell(command.line)
        assert code == command.code, f"$ {command.line}\n{out}"
        if command.shown is not None:
            shown = re.escape(command.shown.strip()).replace(r"\.\.\.", r".*").replace("\\\n", "\n")
            assert re.fullmatch(shown, out.strip(), re.DOTALL), f"$ {command.line}\n{out}"

    def _words(self, line: str) -> list[str]:
        """As a shell takes it, [] for more than one simple command."""
        operators = shlex.shlex(line, posix=True, punctuation_chars=True)
        operators.whitespace_split = True
        if not line.startswith("musetalk ") or any(set(word) <= set("|&;<>()") for word in operators):
            return []
        told = self._subprocess(f"printf '%s\\0' {line}")
        return told.stdout.split("\0")[:-1]

    def _here(self, arguments: list[str]) -> tuple[int, str]:
        with self._patch.context() as patch:
            patch.chdir(self.folder)
            if arguments[0] == "weights":
                patch.setattr(weights, "SETS", toy_sets())
            offline = {name: os.environ.get(name, "") for name in ("MUSETALK_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
            for name, value in offline.items():
                patch.setenv(name, value)
            code = cli.run(arguments)
        heard = self._capture.readouterr()
        return code, heard.err + heard.out

    def _shell(self, line: str) -> tuple[int, str]:
        done = self._subprocess(line)
        for stood_in in self._log.read_text().splitlines() if self._log.exists() else ():
            self._check(stood_in)
        return done.returncode, done.stderr + done.stdout

    def _subprocess(self, line: str) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"}
        shell = ["bash", "-euo", "pipefail", "-c", line]
        return subprocess.run(shell, cwd=self.folder, env=env, capture_output=True, text=True, timeout=300)

    def _check(self, stood_in: str) -> None:
        program, _, arguments = stood_in.partition(" ")
        found = next((m for known in STAND_INS[program] if (m := re.fullmatch(known, arguments))), None)
        assert found, f"{stood_in}: not among STAND_INS"
        for kind, name in found.groupdict().items():
            if kind == "path":
                assert (self.folder / name).exists(), f"{stood_in}: there is no {name}"
            else:
                extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                assert name in extras, f"{stood_in}: there is no extra {name}"

    def _before(self, words: list[str]) -> None:
        """What a person would have made between two commands."""
        for begin, make in BETWEEN.items():
            if words[: len(begin.split())] == begin.split():
                make(self.folder)


def _stand_in(path: Path, log: Path) -> None:
    """Notes what it was asked, and prints a job's number. `python3 -m venv` leaves what is sourced next."""
    makes = "mkdir -p .venv/bin && : > .venv/bin/activate\n" if path.name == "python3" else ""
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "{path.name} $*" >> "{log}"\n{makes}echo 7\n')
    path.chmod(0o755)


def toy_sets() -> dict[str, tuple[Any, ...]]:
    """Sets of the same names, whose one file is here: the real ones are gigabytes on other machines."""
    origin = Origin(
        url="https://example.org/net", size=3, sha256="2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    )
    return {name: ((ModelFile("face-parse-bisent/net", origin),),) for name in weights.SETS}


def put_model(folder: Path) -> None:
    """What a network would have brought."""
    for place in ("mirror", os.environ["MUSETALK_WEIGHTS"]):
        (folder / place / "face-parse-bisent").mkdir(parents=True, exist_ok=True)
        (folder / place / "face-parse-bisent" / "net").write_bytes(b"foo")


def put_other_systems(folder: Path) -> None:
    for name in ("wav2lip", "latentsync", "other"):
        shutil.copytree(folder / "evaluation" / "results" / "lite", folder / "out" / name, dirs_exist_ok=True)


def put_ratings(folder: Path) -> None:
    """Of two raters, as the page saves them."""
    key = json.loads((folder / "study" / "key.json").read_text())
    (folder / "ratings").mkdir()
    for rater in (1, 2):
        rows = [
            {"clip": clip, "screen": 1, "place": 1, "VQ": rater, "IC": 3, "LSQ": 4 + number % 2}
            for number, clip in enumerate(key["clips"])
        ]
        saved = {"study": key["study"], "format": 1, "rater": f"r{rater}", "saved": "2026-01-01T00:00:00Z", "asked": len(rows)}
        (folder / "ratings" / f"{rater}.json").write_text(json.dumps({**saved, "ratings": rows}))


def put_speakers(folder: Path) -> None:
    """Two films in which somebody speaks, for judges who listen; made once."""
    if (folder / "speakers").exists():
        return
    for name, pace in (("one", 1.0), ("two", 0.8)):
        made = folder / "speakers" / name
        made.mkdir(parents=True)
        film = talking(made, make_speech(made / "voice.wav", seconds=2, pace=pace))
        for place in ("held_back", "films"):
            shutil.copy(film, folder / place / f"{name}.mp4")


BETWEEN: dict[str, Callable[[Path], object]] = {
    "musetalk weights": put_model,
    "musetalk evaluate held_back": put_speakers,
    "musetalk evaluate films": put_other_systems,
    "musetalk study tally": put_ratings,
}


@pytest.fixture
def desk(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Desk:
    folder = tmp_path / "desk"
    shutil.copytree(shelf, folder)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("MUSETALK_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("MUSETALK_PRESET", "ultrafast")
    monkeypatch.delenv("MUSETALK_REPORT")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Desk(folder, monkeypatch, capfd)


# --- the promises


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_runs_as_it_stands(page: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {}
    for kind, text in fences(page):
        if kind in RUN:
            for command in commands(kind, text):
                desk.run(command)
        elif kind == "python":
            with monkeypatch.context() as patch:
                patch.chdir(desk.folder)
                exec(compile(text, page.name, "exec"), names)  # noqa: S102
        elif kind == "toml":
            tomllib.loads(text)
        elif kind == "json":
            json.loads(text)
        else:
            assert kind in SHOWN, f"{page.name}: a fence of kind {kind!r}: mark as text what is not to run"


@pytest.mark.parametrize("command", EXAMPLES)
def test_every_example_of_help_runs_as_it_stands(command: str, desk: Desk) -> None:
    shutil.copy(desk.folder / "film.mp4", desk.folder / "dubbed.mp4")
    for name in ("sheets", "reports"):
        (desk.folder / name).mkdir()
    for example in EXAMPLES[command]:
        code = 7 if command == "verify" else 0  # a copy is no dub
        desk.run(Command(example.command, code=code))
    from typer.main import get_command

    assert set(EXAMPLES) <= set(flags_of(get_command(cli.app)))


def test_pages_name_no_flag_that_is_not_there() -> None:
    """Also in what is not run: `musetalk dub FILM --audio VOICE` within a sentence or a table."""
    from typer.main import get_command

    known = flags_of(get_command(cli.app))
    everywhere = {flag for flags in known.values() for flag in flags} | {f"no-{f}" for f in ("report", "copy", "original-audio")}
    for page in PAGES:
        for code in re.findall(r"`(musetalk [^`\n]+)`", page.read_text(encoding="utf-8")):
            for flag in re.findall(r"(?<=\s)--([a-z][a-z-]+)", code):
                assert flag in everywhere | {"help", "offline", "install-completion", "show-completion", "version"}, (
                    f"{page.name}: {code}"
                )


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_an_unknown_command_in_a_page_is_an_error(desk: Desk) -> None:
    for line in ("musetalk dup film.mp4", "mustalk dub film.mp4", "pip install something-else", "kubectl delete pods"):
        with pytest.raises(AssertionError):
            desk.run(Command(line))
