"""`musetalk config`: every setting, its value, and who says so."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from musetalk_cli import cli


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, and a user's beside it; neither says anything yet."""
    for name in ("MUSETALK_REPORT", "MUSETALK_MODEL", "MUSETALK_CRF", "MUSETALK_KEEP", "MUSETALK_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "musetalk").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def user_file(project: Path) -> Path:
    return project.parent / "config" / "musetalk" / "musetalk.toml"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    assert cli.run(["config", "show", *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    return {(row["command"], row["key"]): row for row in rows}


def test_each_setting_has_the_value_that_wins_and_says_where_it_stands(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user_file(project).write_text('[dub]\ncrf = 20\nface = "all"\nkeep = true\n')
    (project / "musetalk.toml").write_text('[dub]\ncrf = 12\nmax_yaw = 30\n[weights.pull]\nmirror = "here"\n')
    monkeypatch.setenv("MUSETALK_KEEP", "0")
    found = shown(capsys)

    def of(key: str, command: str = "dub") -> tuple[Any, str, str]:
        row = found[command, key]
        return row["value"], row["origin"], row["where"]

    assert of("model") == ("auto", "default", "")
    assert of("face") == ("all", "user", str(user_file(project)))
    assert of("crf") == (12.0, "project", str(project / "musetalk.toml"))
    assert of("max-yaw") == (30.0, "project", str(project / "musetalk.toml"))
    assert of("keep") == (False, "environment", "MUSETALK_KEEP")
    assert of("mirror", "weights pull") == ("here", "project", str(project / "musetalk.toml"))
    assert of("crf", "batch") == (None, "default", "")


def test_every_flag_of_every_command_is_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.main import get_command

    from musetalk_cli.settings import flags_of

    known = {(command, flag) for command, flags in flags_of(get_command(cli.app)).items() for flag in flags if flag != "help"}
    assert set(shown(capsys)) == known
    assert {command for command, _ in known} >= {"dub", "batch", "weights pull", "train stage1", "config show"}


def test_what_it_prints_is_a_settings_file_that_says_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the origins too: they are comments."""
    user_file(project).write_text('[dub]\ncrf = 20\naudio = ["a \\"b\\".wav", "ü=c.wav"]\n')
    before = shown(capsys, "dub")
    for flags in ([], ["--origin"]):
        assert cli.run(["config", "show", "dub", *flags]) == 0
        text = capsys.readouterr().out
        assert tomllib.loads(text)["dub"]["audio"] == ['a "b".wav', "ü=c.wav"]
        assert ("# default" in text) == (f"# user: {user_file(project)}" in text) == bool(flags)
        (project / "musetalk.toml").write_text(text)
        after = shown(capsys, "dub")
        assert {key: row["value"] for key, row in after.items()} == {key: row["value"] for key, row in before.items()}
        (project / "musetalk.toml").unlink()


def test_path_names_both_files_in_the_order_in_which_they_are_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "musetalk.toml").touch()
    assert cli.run(["config", "path"]) == 0
    user, own = capsys.readouterr().out.splitlines()
    assert user.split() == ["user", str(user_file(project)), "(not", "there)"]
    assert own.split() == ["project", str(project / "musetalk.toml")]


@pytest.mark.parametrize(
    ("file", "arguments", "told"),
    [
        ("", ["config", "show", "dup"], "no such command"),
        ("[dup]\n", ["config", "show"], "[dup]: no such table"),
        ("[weights]\npull = 3\n", ["config", "show"], "[weights.pull]: no such table"),
        ("[weights.push]\n", ["config", "show"], "[weights.push]: no such table"),
        ("dub = 3\n", ["config", "show"], "no such table"),
        ("[dub]\nchunk = 0\n", ["config", "show"], "--chunk"),
        ("[dub]\ncodec = 'divx'\n", ["config", "show"], "--codec"),
    ],
)
def test_what_no_command_would_take_is_told(
    project: Path, capsys: pytest.CaptureFixture[str], file: str, arguments: list[str], told: str
) -> None:
    (project / "musetalk.toml").write_text(file)
    assert cli.run(arguments) == 2
    assert told in capsys.readouterr().err


def test_a_wrong_variable_of_the_environment_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUSETALK_CRF", "fine")
    assert cli.run(["config", "show"]) == 2
    assert "--crf" in capsys.readouterr().err


def test_a_service_whose_home_is_no_folder_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert cli.run(["config", "show", "dub"]) == 0
