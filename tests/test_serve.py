"""The local page: who is let in, what can be chosen, and a dub that is started, watched, stopped, gone on with and compared in a browser."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from browser import WIDTHS, Page, open_browser
from conftest import make_film, make_speech
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli import cli
from musetalk_cli.cast_map import ALL_CHANNELS, read_cast
from musetalk_cli.errors import InputError, MissingError, UsageError
from musetalk_cli.serve.casting import Change, change_cast, shown_cast
from musetalk_cli.serve.folder import Folder
from musetalk_cli.serve.orders import Order, Request, Settings, from_json, to_json

SIZE = (288, 160)
FRAMES = 40
PATIENCE_S = 40.0  # of one step of the whole, on a busy machine

Rgb = NDArray[np.uint8]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


class Server(NamedTuple):
    """`musetalk serve` in a process of its own."""

    process: "subprocess.Popen[str]"
    url: str

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return self.url.partition("token=")[2]

    @property
    def known(self) -> dict[str, str]:
        """What the browser of the person sends."""
        return {"Cookie": f"musetalk-{self.port}={self.token}"}

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: object = None) -> Answer:
        """headers: None: as the person's browser; the path goes out as it is."""
        if headers is None:
            headers = self.known | ({"Origin": self.origin} if method == "POST" else {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        return self.ask("GET", path).told

    def news(self) -> Iterator[Any]:
        """The State, whenever it changes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", "/api/events", headers=self.known)
        try:
            with connection.getresponse() as stream:
                for line in stream:
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
        finally:
            connection.close()

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]

    def end(self, number: int = signal.SIGINT) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)


@contextmanager
def serving(folder: Path, *flags: str, **environment: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "musetalk_cli", "serve", str(folder), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        assert process.stdout is not None
        with process.stdout:
            yield Server(process, process.stdout.readline().strip())
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(timeout=20)
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a film, two voices, what is not to be seen, and a link out of it."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.wav").write_bytes(b"secret")
    folder = tmp_path_factory.mktemp("a studio")
    make_film(folder / "a film.mp4", frames=FRAMES, size=SIZE, picture=_portrait())
    make_speech(folder / "fr.wav", seconds=1.6)
    (folder / "notes.txt").write_text("not a film")
    (folder / ".hidden.mp4").write_bytes(b"hidden")
    (folder / "link.wav").symlink_to(outside / "secret.wav")
    (folder / "linked").symlink_to(outside)
    (folder / "sub").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(studio, XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache"))) as started:
        yield started


def _portrait() -> Any:
    from skimage import data

    face = np.asarray(data.astronaut()[16:240, 112:336], np.uint8)
    small = np.asarray(Image.fromarray(face).resize((138, 138)))

    def picture(number: int) -> Rgb:
        rgb = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
        left = 60 + number // 4
        rgb[11:149, left : left + 138] = small
        return rgb

    return picture


# ---- who is let in ----------------------------------------------------------------------------------------------------------


def test_the_last_line_is_the_url_with_a_token_that_cannot_be_guessed(server: Server) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", server.url)


def test_the_first_visit_trades_the_token_for_a_cookie_that_neither_scripts_nor_other_sites_get(server: Server) -> None:
    answer = server.ask("GET", f"/?token={server.token}", {})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and server.token in cookie
    assert server.ask("GET", "/", {"Cookie": cookie.split(";")[0]}).status == 200


PATHS = ("/", "/page.js", "/api/folder", "/api/events", "/file/fr.wav", "/still/a%20film.mp4?at=0", "/report/x", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "cookie", [{}, {"Cookie": "musetalk-{port}=wrong"}, {"Cookie": "musetalk-{port}="}], ids=["no", "wrong", "empty"]
)
def test_without_the_token_nothing_is_answered(server: Server, path: str, cookie: dict[str, str]) -> None:
    headers = {name: value.format(port=server.port) for name, value in cookie.items()}
    answer = server.ask("GET", path, headers)
    assert (answer.status, answer.body) == (403, b"") and "set-cookie" not in answer.headers


def test_a_wrong_token_in_the_url_is_refused_though_the_cookie_is_right(server: Server) -> None:
    for token in ("", "wrong", server.token[:-1], "%E9", f"{server.token}x"):
        answer = server.ask("GET", f"/?token={token}")
        assert (answer.status, answer.body) == (403, b"")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1", "0.0.0.0:{port}", ""])
def test_another_host_is_refused_though_the_token_is_right(server: Server, host: str) -> None:
    """A name of an attacker's that was made to point to this machine."""
    headers = server.known | {"Host": host.format(port=server.port)}
    assert server.ask("GET", "/api/folder", headers).status == 403
    assert server.ask("GET", f"/?token={server.token}", {"Host": headers["Host"]}).status == 403


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_a_post_from_another_site_is_refused(server: Server, origin: str | None) -> None:
    headers = server.known | ({} if origin is None else {"Origin": origin.format(port=server.port)})
    assert server.ask("POST", "/api/stop", headers, {}).status == 403
    assert server.ask("DELETE", "/file/fr.wav", headers | {"Origin": server.origin}).status == 403


def test_it_is_not_reachable_by_another_address_of_this_machine(server: Server) -> None:
    assert _answers("127.0.0.1", server.port)
    for address in {"127.0.0.2", "::1", *_addresses()}:
        assert not _answers(address, server.port), address


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def _addresses() -> set[str]:
    """Of this machine, beside loopback: what its name means, and from where it would speak to the outside (nothing is sent)."""
    found = set()
    with suppress(OSError):
        found |= {str(one[4][0]) for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found.add(probe.getsockname()[0])
    return {one for one in found if not one.startswith("127.0.0.1")}


def test_another_address_cannot_be_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["serve", str(tmp_path), "--host", "0.0.0.0"]) == UsageError.exit_code
    assert "--host" in capsys.readouterr().err


def test_every_answer_forbids_foreign_scripts_frames_and_storing(server: Server) -> None:
    assert "sandbox;" in server.ask("GET", "/file/fr.wav").headers["content-security-policy"]
    for path in ("/", "/page.js", "/api/folder", "/file/fr.wav", "/nowhere", "/api/film?name=no"):
        headers = server.ask("GET", path).headers
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff", path
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "http" not in policy, path
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0], path
    assert not re.search(rb"(?:https?:)?//[a-z]", server.ask("GET", "/").body + server.ask("GET", "/page.css").body)


# ---- what can be chosen -----------------------------------------------------------------------------------------------------


def test_films_and_voices_of_the_folder_are_listed_and_nothing_else(server: Server, studio: Path) -> None:
    found = server.get("/api/folder")
    assert [one["name"] for one in found["films"]] == ["a film.mp4"]
    assert [one["name"] for one in found["voices"]] == ["fr.wav"]
    assert found["folder"] == str(studio)


OUTSIDE = (
    "../outside0/secret.wav",
    "..%2Foutside0%2Fsecret.wav",
    "%2e%2e/%2e%2e/etc/passwd",
    "%2Fetc%2Fpasswd",
    "/etc/passwd",
    "link.wav",
    "linked%2Fsecret.wav",
    "linked/secret.wav",
    ".hidden.mp4",
    "notes.txt",
    "sub",
    "fr.wav%00",
    "..",
    ".",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_the_folder_is_given(server: Server, name: str) -> None:
    for path in (
        f"/file/{name}",
        f"/still/{name}?at=0",
        f"/report/{name}",
        f"/face/a%20film.mp4/{name}",
        f"/api/film?name={name}",
    ):
        answer = server.ask("GET", path)
        assert answer.status in (400, 404), path
        assert b"secret" not in answer.body.replace(b"secret.wav", b"") and b"root:" not in answer.body


@pytest.mark.parametrize("name", ["../x.mp4", "/tmp/x.mp4", "sub/x.mp4", ".x.mp4", "link.wav", "x\n.mp4"])
def test_no_work_begins_with_a_name_outside_the_folder(server: Server, name: str) -> None:
    wish = {"film": "a film.mp4", "voice": "fr.wav"}
    for asked in ({"output": name}, {"film": name}, {"voice": name}):
        answer = server.ask("POST", "/api/dub", body=wish | asked)
        assert answer.status == 400 and answer.told["problem"]["cure"]
    assert server.ask("POST", "/api/inspect", body={"film": name}).status == 400
    assert server.ask("POST", "/api/verify", body={"film": "a film.mp4", "result": name}).status == 400


def test_a_cast_map_with_a_voice_outside_the_folder_is_refused(server: Server, studio: Path) -> None:
    cast = studio / "a film.cast.toml"
    cast.write_text('[[person]]\nname = "A"\nfaces = ["A"]\nvoice = "linked/secret.wav"\n')
    try:
        answer = server.ask("POST", "/api/dub", body={"film": "a film.mp4", "cast": True})
        assert answer.status == 400 and "outside" in answer.told["problem"]["fact"]
    finally:
        cast.unlink()


@pytest.mark.parametrize(
    "body", [[], {}, {"film": 1}, {"film": "a film.mp4", "shell": "x"}, {"film": "a film.mp4", "cast": "yes"}, "x" * 1_100_000]
)
def test_what_no_page_of_ours_sends_is_refused(server: Server, body: object) -> None:
    answer = server.ask("POST", "/api/dub", body=body)
    assert answer.status == 400 and answer.told["problem"]["code"] == "usage"


def test_a_film_is_given_in_ranges(server: Server, studio: Path) -> None:
    whole = (studio / "a film.mp4").read_bytes()
    answer = server.ask("GET", "/file/a%20film.mp4", server.known | {"Range": "bytes=10-19"})
    assert (answer.status, answer.body) == (206, whole[10:20])
    assert answer.headers["content-range"] == f"bytes 10-19/{len(whole)}" and answer.headers["content-type"] == "video/mp4"


def test_a_still_is_the_frame_that_was_asked_for(server: Server) -> None:
    """The face moves to the right by a pixel every four frames."""
    edges = []
    for at in ("0", "1.28"):
        answer = server.ask("GET", f"/still/a%20film.mp4?at={at}&width=288")
        assert answer.headers["content-type"] == "image/jpeg"
        picture = np.asarray(Image.open(_file(answer.body)), np.int16)
        assert picture.shape == (SIZE[1], SIZE[0], 3)
        edges.append(int(np.flatnonzero(np.abs(picture[40:120] - 90).mean((0, 2)) > 20)[0]))
    assert edges[1] - edges[0] == 8
    assert server.ask("GET", "/still/a%20film.mp4?at=99").status == 400
    assert server.ask("GET", "/still/a%20film.mp4?at=nan").status == 400


def _file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_names_that_are_no_utf_8_are_counted_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.mp4")).write_bytes(b"x")
    found = Folder(tmp_path).listing()
    assert (found.films, found.unnamed) == ((), 1)


def test_a_folder_that_is_not_there_and_a_port_that_is_taken_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, server: Server
) -> None:
    assert cli.run(["serve", str(tmp_path / "no")]) == InputError.exit_code
    assert cli.run(["serve", str(tmp_path), "--port", str(server.port)]) == UsageError.exit_code
    told = capsys.readouterr()
    assert "in use" in told.err and told.out == ""


def test_the_page_can_be_shown_in_a_browser_without_telling_the_token_to_everyone_on_the_machine(tmp_path: Path) -> None:
    """Who may list processes sees the name of a file, which only the person may read."""
    show, seen = tmp_path / "show", tmp_path / "seen"
    show.write_text(f'#!/bin/sh\necho "$1" > "{seen}.part"; cat "${{1#file://}}" >> "{seen}.part"; mv "{seen}.part" "{seen}"\n')
    show.chmod(0o755)
    with serving(tmp_path, "--open", BROWSER=str(show)) as server:
        server.ask("GET", "/")
        while not seen.exists() and server.process.poll() is None:
            time.sleep(0.05)
        address, page = seen.read_text().split("\n", 1)
        assert server.token in page and server.token not in address and Path(address[7:]).parent.stat().st_mode & 0o077 == 0
        assert server.end(signal.SIGTERM) == 143
    assert not Path(address[7:]).exists()


def test_work_that_dies_is_told_and_the_page_lives(server: Server) -> None:
    assert server.ask("POST", "/api/inspect", body={"film": "a film.mp4"}).told["phase"] == "working"
    (worker,) = server.children()
    second = server.ask("POST", "/api/dub", body={"film": "a film.mp4", "voice": "fr.wav"})
    assert (second.status, second.told["problem"]["thing"]) == (409, "the inspection of a film.mp4")
    os.kill(worker, signal.SIGKILL)
    last = next(state for state in server.news() if state["phase"] != "working")
    assert last["phase"] == "failed" and "signal 9" in last["problem"]["fact"]
    assert server.ask("GET", "/").status == 200


def test_work_that_is_stopped_twice_stops_at_once(server: Server) -> None:
    server.ask("POST", "/api/inspect", body={"film": "a film.mp4"})
    (worker,) = server.children()
    os.kill(worker, signal.SIGSTOP)  # until both were asked
    assert [server.ask("POST", "/api/stop", body={}).told["phase"] for _ in range(2)] == ["stopping", "stopping at once"]
    with suppress(ProcessLookupError):  # gone already
        os.kill(worker, signal.SIGCONT)
    last = next(state for state in server.news() if state["phase"] not in ("stopping", "stopping at once"))
    assert (last["phase"], last["problem"]["code"]) == ("stopped", "interrupted")
    assert server.ask("POST", "/api/stop", body={}).told["phase"] == "stopped"


def test_the_work_ends_with_a_server_that_was_killed(studio: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "musetalk_cli.serve.worker"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    order = Order("inspect", str(studio), "a film.mp4")
    process.communicate(to_json(Request(order, Settings())) + "\n", timeout=PATIENCE_S)  # closes its stdin, and waits
    assert process.returncode in (-signal.SIGTERM, 143)


def test_what_has_to_be_installed_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.run(["serve", str(tmp_path)]) == MissingError.exit_code
    assert "musetalk[serve]" in capsys.readouterr().err


def test_what_the_page_does_not_ask_is_as_the_shell_has_it_for_dub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "musetalk.toml").write_text('[dub]\ncodec = "libx265"\nmodel = "v15"\nlength = "hold"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSETALK_WORK_DIR", str(tmp_path / "work"))
    given: list[Settings] = []
    monkeypatch.setattr("musetalk_cli.serve.server.run_server", lambda folder, port, settings, **_: given.append(settings))
    assert cli.run(["serve", str(tmp_path)]) == 0
    made = given[0].of(Order("dub", str(tmp_path), "film.mp4", model="lite", keep=True))
    assert (made.choices.codec, made.choices.model, made.choices.length) == ("libx265", "lite", "hold")
    assert (made.place.work_dir, made.place.keep) == (tmp_path / "work", True)
    assert from_json(to_json(Request(Order("dub", "/", "film.mp4"), made)), Request).settings == made


# ---- the cast map -----------------------------------------------------------------------------------------------------------


CAST = """# by hand
film = "film.mp4"

[[person]]
name = "A"
faces = ["A"]
still = "film.cast/A.jpg"
# seen    0:00 to 0:01
# voice = "A.wav"

[[person]]
name = "B"
faces = ["B"]
voice = "old.wav"
channel = 1
silence = "closed"

# a word about ranges
[[range]]
from = 1
to = 2
pass = true
"""


@pytest.fixture
def cast(tmp_path: Path) -> Path:
    path = tmp_path / "film.cast.toml"
    path.write_text(CAST)
    return path


def test_a_changed_cast_keeps_what_the_page_does_not_show(cast: Path) -> None:
    before = shown_cast(cast)
    assert before.persons[0].notes == ("seen    0:00 to 0:01",) and before.ranges == 1
    after = change_cast(cast, before.version, [Change("anna", "fr.wav", "form 12"), Change("bert", "old.wav", "")])
    told = [(who.name, who.voice, who.consent) for who in after.persons]
    assert told == [("anna", "fr.wav", "form 12"), ("bert", "old.wav", "")]
    text, read = cast.read_text(), read_cast(cast)
    assert "# by hand" in text and "# seen    0:00 to 0:01" in text and "# a word about ranges" in text and "A.wav" not in text
    assert read.persons[1].voice is not None and read.persons[1].voice.channel == 1 and read.persons[1].silence == "closed"
    assert len(read.ranges) == 1 and read.persons[0].voice is not None and read.persons[0].voice.path == cast.with_name("fr.wav")


def test_a_new_voice_is_heard_with_all_its_channels(cast: Path) -> None:
    change_cast(cast, shown_cast(cast).version, [Change("anna", "", ""), Change("bert", "new.wav", "")])
    voice = read_cast(cast).persons[1].voice
    assert voice is not None and (voice.path.name, voice.channel) == ("new.wav", ALL_CHANNELS)


def test_two_entries_of_one_name_become_one_person(cast: Path) -> None:
    change_cast(cast, shown_cast(cast).version, [Change("anna", "fr.wav", ""), Change("anna", "", "")])
    (anna,) = read_cast(cast).persons
    assert anna.faces == ("A", "B") and anna.voice is not None and anna.voice.path.name == "fr.wav"


def test_a_cast_that_was_changed_meanwhile_or_cannot_be_meant_stays_as_it_is(cast: Path) -> None:
    version = shown_cast(cast).version
    for names in (("a=b", "c"), ("", "c")):
        with pytest.raises(UsageError):
            change_cast(cast, version, [Change(name, "", "") for name in names])
        assert cast.read_text() == CAST
    cast.write_text(CAST + "\n# more\n")
    with pytest.raises(UsageError, match="meanwhile"):
        change_cast(cast, version, [Change("anna", "", ""), Change("bert", "", "")])
    assert cast.read_text() == CAST + "\n# more\n" and [path.name for path in cast.parent.iterdir()] == [cast.name]


# ---- in a browser -----------------------------------------------------------------------------------------------------------


OVER = "/^(Done|Stopped|Failed):/.test(document.querySelector('#h-work').textContent)"


def heading(page: Page) -> str:
    """Of the work, once it is over."""
    page.wait(OVER)
    return page.text("#h-work")


def test_a_dub_is_set_up_watched_left_gone_on_with_stopped_finished_and_compared(studio: Path, tmp_path: Path) -> None:
    """The server is ended in the midst of it, too: the next one goes on."""
    home = {f"XDG_{name.upper()}_HOME": str(tmp_path / name) for name in ("cache", "config")}
    with open_browser() as browser:
        with serving(studio, **home) as server:
            with browser.open(server.url, server=server.origin) as page:
                page.raw.set_default_timeout(PATIENCE_S * 1000)
                assert page.raw.url == f"{server.origin}/"
                look_for_faces(page)
                set_the_cast(page, studio)
                page.click("#start")
                page.wait("/ of 40 frames/.test(document.querySelector('#line').textContent)")
                assert server.ask("POST", "/api/inspect", body={"film": "a film.mp4"}).status == 409
            workers = server.children()
            assert server.end() == 130 and workers
            assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        with serving(studio, **home) as server, browser.open(server.url, server=server.origin) as page:
            page.raw.set_default_timeout(PATIENCE_S * 1000)
            page.click("#resume")
            page.wait("!document.querySelector('#stop').hidden")
            page.click("#stop")
            assert heading(page).startswith("Stopped")
            page.click("#go-on")
            page.wait("document.querySelector('#go-on').hidden")
            page.reload()
            page.wait("document.body.dataset.ready")
            assert heading(page).startswith("Done"), page.text("#work")
            journal = next((tmp_path / "cache").glob("musetalk/*/run.jsonl")).read_text()
            assert any('"stage": "demux"' in line and '"reused": true' in line for line in journal.splitlines())
            compare(page, studio, tmp_path)


def look_for_faces(page: Page) -> None:
    page.click("#inspect")
    assert heading(page).startswith("Done")
    page.wait("document.querySelector('#sheets img')?.naturalWidth > 400")
    page.wait("document.querySelector('.person img')?.naturalWidth > 100")


def set_the_cast(page: Page, studio: Path) -> None:
    page.click("input[value=cast]")
    page.fill("#name-0", "eileen")
    page.raw.select_option("#voice-0", "fr.wav")
    page.fill("#consent-0", "form 12")
    page.fill("#language", "fr")
    page.fill("#output", "dubbed.mp4")
    page.click("#keep")
    page.click("#save")
    page.wait("document.querySelector('#saved').textContent.startsWith('Saved')")
    (who,) = read_cast(studio / "a film.cast.toml").persons
    assert (who.name, who.consent) == ("eileen", "form 12") and who.voice is not None and who.voice.path == studio / "fr.wav"


def compare(page: Page, studio: Path, tmp_path: Path) -> None:
    page.wait("document.querySelector('#result').value === 'dubbed.mp4'")
    page.wait(
        "document.querySelector('#was-still').naturalWidth === 288 && document.querySelector('#now-still').naturalWidth === 288"
    )
    edge = page.raw.locator("#edge")
    edge.focus()
    shown = []
    for key in ("Home", "End"):  # all of the dub, all of the film
        page.press(key)
        shown.append(np.asarray(Image.open(_file(page.raw.locator("#stage").screenshot())).convert("L"), np.int16))
    changed = np.abs(shown[0] - shown[1]).mean(1) > 1
    assert changed.any(), "film and dub look the same"
    before = page.text("#clock")
    page.click("#after")
    assert page.text("#clock") != before
    page.wait("!document.querySelector('#play').disabled || !document.querySelector('#unplayable').hidden")
    for width in WIDTHS:
        page.raw.set_viewport_size({"width": width, "height": 900})
        assert page.overflow_px() == 0
    page.click("#prove")
    page.wait("/^ok +frames/.test(document.querySelector('#proof').textContent)")
    assert "FAIL" not in page.text("#proof")
    page.click("#report summary")
    report = page.raw.frame_locator("#frame")
    report.locator("h1").wait_for()
    assert report.locator("h1").inner_text() == "dubbed.mp4"
    assert page.download("#get-result", tmp_path).read_bytes() == (studio / "dubbed.mp4").read_bytes()
