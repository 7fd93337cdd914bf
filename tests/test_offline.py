"""Nothing leaves this machine where the network is switched off: by the real program, in a process where every connection would fail."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from musetalk_cli import offline
from musetalk_cli.errors import MissingError
from musetalk_cli.store import open_store

# A process in which whoever connects, sends or asks for a name leaves a note and fails, past whatever the program itself does.
TRAP = """
import socket, sys
def trapped(name):
    def fail(*given, **_):
        open({note!r}, "a").write(f"{{name}} {{given}}\\n")
        raise OSError(101, "trapped")
    return fail
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, trapped(name))
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, trapped(name))
from musetalk_cli.cli import main
sys.argv = ["musetalk", *sys.argv[1:]]
main()
"""


@pytest.fixture
def typed(tmp_path: Path, make_film: Callable[..., Path], make_speech: Callable[..., Path]) -> Callable[..., int]:
    make_film(tmp_path / "film.mp4", frames=8)
    make_speech(tmp_path / "fr.wav", seconds=0.3)
    note = tmp_path / "note"
    note.touch()

    def run(*arguments: str, **env: str) -> int:
        home = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        kept = {name: value for name, value in os.environ.items() if name not in offline.SWITCHES}
        command = [sys.executable, "-c", TRAP.format(note=str(note)), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env={**kept, **home, **env}, capture_output=True, text=True, timeout=300)
        assert note.read_text() == "", f"{arguments}: {note.read_text()}\n{done.stderr}"
        return done.returncode

    return run


@pytest.mark.parametrize("name", offline.SWITCHES)
def test_a_pull_without_a_network_tries_none(typed: Callable[..., int], name: str) -> None:
    assert typed("weights", "pull", "parsing", "--accept-licence", **{name: "1"}) == 4


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (5, ("dub", "film.mp4", "--audio", "fr.wav", "--offline")),  # nobody is in it
        (5, ("--offline", "dub", "film.mp4", "--audio", "fr.wav")),
        (4, ("dub", "film.mp4", "--audio", "fr.wav", "--store", "s3://bucket/films", "--offline")),
        (4, ("dub", "film.mp4", "--audio", "fr.wav", "--executor", "ray", "--offline")),
        (4, ("weights", "pull", "eval", "--accept-licence", "--mirror", "https://files.example/models", "--offline")),
        (0, ("inspect", "film.mp4", "--offline")),
        (0, ("weights", "list", "--offline")),
    ],
)
def test_no_command_asks_for_a_network_that_is_switched_off(
    typed: Callable[..., int], code: int, arguments: tuple[str, ...]
) -> None:
    assert typed(*arguments) == code


def test_other_machines_are_refused_and_this_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever library asks, below everything that is Python."""
    offline.guard()
    monkeypatch.setenv("MUSETALK_OFFLINE", "1")
    for name in ("files.example", b"files.example"):
        with pytest.raises(MissingError, match="switched off by MUSETALK_OFFLINE"):
            socket.getaddrinfo(name, 443)
    with socket.socket() as there, pytest.raises(MissingError, match=r"192\.0\.2\.1 443"):
        there.connect(("192.0.2.1", 443))
    with socket.socket(socket.AF_INET6) as there, pytest.raises(MissingError):
        there.connect(("2001:db8::1", 443))
    with socket.create_server(("127.0.0.1", 0)) as here:
        socket.create_connection(here.getsockname()).close()
    socket.getaddrinfo("localhost", 80)


def test_a_store_on_other_machines_is_refused_and_a_folder_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSETALK_OFFLINE", "1")
    open_store(tmp_path.as_uri())
    with pytest.raises(MissingError, match="needs the network"):
        open_store("s3://bucket/films")


@pytest.mark.parametrize(("value", "off"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_a_switch_is_on_where_it_says_yes(value: str, off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in offline.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert bool(offline.switch()) is off
