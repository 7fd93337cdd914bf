"""What a shell is given: completion by its own protocol, and manual pages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from musetalk_cli.help_examples import EXAMPLES

ROOT = Path(__file__).parents[1]
MUSETALK = str(Path(sys.executable).with_name("musetalk"))


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MUSETALK_")}
    return {
        **kept,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "PATH": f"{Path(MUSETALK).parent}:{os.environ['PATH']}",
        **more,
    }


def asked(home: Path, shell: str, line: str) -> list[str]:
    """What would complete the last word of a line, by the words of each shell's own script."""
    words = line.split(" ")
    env = {"_MUSETALK_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        env |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    else:
        env |= {
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
        }
    done = subprocess.run([MUSETALK], env=environment(home, **env), capture_output=True, text=True, timeout=120)
    return (
        re.findall(r'"([\w-]+)"', done.stdout)
        if shell == "zsh"
        else [row.split("\t")[0] for row in done.stdout.split("\n") if row]
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_flags_and_their_values_are_completed(tmp_path: Path, shell: str) -> None:
    assert {"dub", "doctor"} <= set(asked(tmp_path, shell, "musetalk d"))
    assert {"--silence"} <= set(asked(tmp_path, shell, "musetalk dub film.mp4 --sil"))
    assert {"auto", "original", "closed"} <= set(asked(tmp_path, shell, "musetalk dub film.mp4 --silence "))
    assert {"v15", "parsing"} <= set(asked(tmp_path, shell, "musetalk weights pull "))


BASH = """
set -u
source <(_MUSETALK_COMPLETE=source_bash musetalk)
complete -p musetalk
COMP_WORDS=({words}) COMP_CWORD={last}
_musetalk_completion musetalk
printf '%s\\n' "${{COMPREPLY[@]-}}"
"""


def in_bash(home: Path, *words: str) -> list[str]:
    script = BASH.format(words=" ".join(words), last=len(words) - 1)
    done = subprocess.run(["bash", "-c", script], env=environment(home), capture_output=True, text=True, timeout=120, cwd=home)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_takes_the_script_and_asks_for_files_where_the_program_knows_none(tmp_path: Path) -> None:
    how, *found = in_bash(tmp_path, "musetalk", "dub", "film.mp4", "--len")
    assert "-o default" in how  # readline's own file names, where nothing is answered
    assert found[0] == "--length"
    assert in_bash(tmp_path, "musetalk", "dub", "fil")[1:] == ["", ""]
    assert in_bash(tmp_path, "musetalk", "dub", "film.mp4", "--audio", "f")[1:] == ["", ""]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_completion_is_installed_for_a_user_by_one_command(tmp_path: Path) -> None:
    """By whichever shell asks: here bash."""
    (tmp_path / ".bashrc").write_text("# mine\n")
    line = "musetalk --install-completion bash"
    env = environment(tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rc = (tmp_path / ".bashrc").read_text()
    assert rc.startswith("# mine\n") and "musetalk" in rc
    (script,) = tmp_path.glob("**/musetalk.sh")
    assert "_musetalk_completion" in script.read_text()


# manual pages


def made() -> dict[str, str]:
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_man", ROOT / "docs" / "make_man.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_manual_pages_are_what_help_says() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "man").glob("*.1")}
    assert there == made(), "run python docs/make_man.py"


def test_every_command_has_a_page_with_its_flags_and_examples() -> None:
    pages = made()
    assert "musetalk.1" in pages and "EXIT STATUS" in pages["musetalk.1"]
    for title, examples in EXAMPLES.items():
        page = pages[f"musetalk-{title.replace(' ', '-')}.1"]
        assert ".SH NAME" in page and ".SH SYNOPSIS" in page and ".SH OPTIONS" in page
        assert page.count(".TP") > len(examples)
    assert r"\-\-audio" in pages["musetalk-dub.1"] and r"\-\-mirror" in pages["musetalk-weights-pull.1"]


@pytest.mark.parametrize(
    "reader", [["mandoc", "-T", "lint", "-W", "error"], ["groff", "-man", "-Tutf8", "-ww", "-z"]], ids=lambda r: r[0]
)
def test_readers_of_manual_pages_have_nothing_to_say(reader: list[str]) -> None:
    if shutil.which(reader[0]) is None:
        pytest.skip(f"no {reader[0]} here")
    pages = sorted(map(str, (ROOT / "docs" / "man").glob("*.1")))
    done = subprocess.run([*reader, *pages], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_wheel_carries_the_pages_where_man_looks() -> None:
    import tomllib

    shared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {"docs/man": "share/man/man1"}
