"""Promises of the store: a result counts when its mark is there, is compared before it counts, and is found by another machine."""

import json
import shutil
import sys
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import make_speech
from made_films import clip
from test_work import CALLS, Knobs, Numbers, Total, numbers, total

from musetalk_cli import cli
from musetalk_cli.config import Runtime
from musetalk_cli.errors import MissingError, RetryableError, UsageError
from musetalk_cli.progress import Events
from musetalk_cli.session import Place, Voice, open_session
from musetalk_cli.signals import Stop
from musetalk_cli.store import MARK, Store, is_url, name_store, open_store, store_behind
from musetalk_cli.work import Ref, Work, stage


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    """Each test's process knows nothing of what was in a store before."""
    open_store.cache_clear()
    yield
    open_store.cache_clear()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.bin"
    path.write_bytes(b"0123456789")
    CALLS.clear()
    return path


@pytest.fixture(params=["memory", "file", "path"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be, of three kinds; that of S3 has a test of its own."""
    name = uuid.uuid4().hex
    return {"memory": f"memory://{name}/kept", "file": f"file://{tmp_path}/{name}/kept", "path": f"{tmp_path}/{name}"}[
        request.param
    ]


def run(folder: Path, film: Path, url: str, gain: float = 1.0) -> Ref[Total]:
    """Two stages in a machine's own work folder."""
    open_store.cache_clear()  # as another process
    with Work.open(folder, Events(), Stop(), url) as work:
        found = work.do(numbers, film, config=Knobs(), runtime=Runtime(), unit="film")
        return work.do(total, found, config=Knobs(gain), runtime=Runtime(), unit="film")


def objects(url: str) -> dict[str, bytes]:
    """{path below the url: content}"""
    store = Store(url)
    files, root = store._files, store._root
    return {path.removeprefix(root).lstrip("/"): files.cat_file(path) for path in files.find(root)}


def test_another_machine_computes_nothing(tmp_path: Path, film: Path, url: str) -> None:
    assert run(tmp_path / "here", film, url).load().total == 45
    there = run(tmp_path / "there", film, url).load()
    assert there.total == 45 and there.file.read_text() == "sum"
    assert CALLS == ["numbers", "total"]


def test_only_what_is_read_is_fetched(tmp_path: Path, film: Path, url: str) -> None:
    run(tmp_path / "here", film, url)
    found = run(tmp_path / "there", film, url)
    assert found.exists and not list((tmp_path / "there").glob(f"*/*/{MARK}"))
    found.load()
    assert [path.parts[-3] for path in (tmp_path / "there").glob(f"*/*/{MARK}")] == ["total"]
    run(tmp_path / "there", film, url, gain=2.0)
    assert CALLS == ["numbers", "total", "total"]  # what the new one is made of was fetched, not made


def test_result_is_not_there_until_its_mark_is(tmp_path: Path, film: Path, url: str) -> None:
    made = run(tmp_path / "here", film, url)
    name = f"total/{made.folder.name}"
    store = Store(url)
    store._files.rm_file(f"{store._root}/{name}/{MARK}")
    assert any(path.startswith(name) for path in objects(url))  # its file is there still
    run(tmp_path / "there", film, url)
    assert CALLS == ["numbers", "total", "total"]


def test_half_a_mark_is_none(tmp_path: Path, film: Path, url: str) -> None:
    made = run(tmp_path / "here", film, url)
    store = Store(url)
    path = f"{store._root}/total/{made.folder.name}/{MARK}"
    store._files.pipe_file(path, store._files.cat_file(path)[:-20])
    run(tmp_path / "there", film, url)
    assert CALLS == ["numbers", "total", "total"]


def test_mark_comes_last(tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    made = run(tmp_path / "here", film, "")
    order: list[str] = []
    put, pipe = store._files.put, store._files.pipe_file
    monkeypatch.setattr(store._files, "put", lambda here, there: (put(here, there), order.extend(there)))
    monkeypatch.setattr(store._files, "pipe_file", lambda path, data: (pipe(path, data), order.append(path)))
    store.keep(made.folder, f"total/{made.folder.name}")
    assert [path.rpartition(".")[2] for path in order] == ["txt", "json"]


def test_upload_that_breaks_off_leaves_no_result_and_the_next_run_goes_on_with_it(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    run(tmp_path / "here", film, url)
    files = Store(url)._files
    pipe = files.pipe_file

    def breaks(path: str, data: bytes) -> None:
        if path.endswith(MARK):
            raise ConnectionError("gone")
        pipe(path, data)

    with monkeypatch.context() as patch, pytest.raises(RetryableError, match="does not answer"):
        patch.setattr(type(files), "pipe_file", lambda _, path, data: breaks(path, data))
        run(tmp_path / "here", film, url, gain=2.0)
    name = next(path.name for path in (tmp_path / "here" / "total").iterdir() if not Store(url).has(f"total/{path.name}"))
    run(tmp_path / "here", film, url, gain=2.0)
    assert Store(url).has(f"total/{name}") and CALLS == ["numbers", "total", "total"]  # not made again, only put there


def test_damaged_copy_is_refused_and_made_again(tmp_path: Path, film: Path, url: str) -> None:
    run(tmp_path / "here", film, url)
    store = Store(url)
    (path,) = [path for path in store._files.find(store._root) if path.endswith("values.npy")]
    store._files.pipe_file(path, store._files.cat_file(path)[:-1] + b"!")
    with pytest.raises(RetryableError, match="damaged"):
        run(tmp_path / "there", film, url, gain=2.0)
    assert not list((tmp_path / "there").glob(f"*/*/{MARK}"))
    assert run(tmp_path / "there", film, url, gain=2.0).load().total == 90
    assert run(tmp_path / "third", film, url, gain=2.0).load().total == 90
    assert CALLS == ["numbers", "total", "numbers", "total"]


def test_damaged_result_here_is_mended_from_there(tmp_path: Path, film: Path, url: str) -> None:
    made = run(tmp_path / "here", film, url)
    (made.folder / "total.txt").write_text("dim")
    assert run(tmp_path / "here", film, url).load().file.read_text() == "sum"
    assert CALLS == ["numbers", "total"]


def test_two_who_publish_one_key_leave_one_whole_result(
    tmp_path: Path, film: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where their bytes differ, and one's files and mark come between the other's files and mark."""

    @stage(version=1)
    def differs(film: Path, *, config: Knobs, runtime: Runtime, out: Path) -> Numbers:
        return Numbers(np.full(5, runtime.batch_size, np.float32), Fraction(25))

    made = {}
    for machine in (1, 2):
        with Work.open(tmp_path / f"machine{machine}", Events(), Stop()) as work:
            made[machine] = work.do(differs, film, config=Knobs(), runtime=Runtime(batch_size=machine), unit="film")
    name = f"differs/{made[1].folder.name}"
    first, second = Store(url), Store(url)
    pipe, others = first._files.pipe_file, [second]

    def late(path: str, data: bytes) -> None:
        if others:
            others.pop().keep(made[2].folder, name)
        pipe(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(first._files, "pipe_file", late)
        first.keep(made[1].folder, name)
    with Work.open(tmp_path / "third", Events(), Stop(), url) as work:
        found = work.do(differs, film, config=Knobs(), runtime=Runtime(batch_size=3), unit="film").load()
    assert found.values.tolist() == [1.0] * 5


def test_publishing_again_changes_nothing(tmp_path: Path, film: Path, url: str) -> None:
    run(tmp_path / "here", film, url)
    before = objects(url)
    run(tmp_path / "here", film, url)
    assert objects(url) == before


def test_folder_without_a_store_asks_none(tmp_path: Path, film: Path, url: str) -> None:
    run(tmp_path / "here", film, url)
    assert store_behind(tmp_path / "here") is not None
    run(tmp_path / "here", film, "", gain=2.0)
    assert store_behind(tmp_path / "here") is None
    assert sum(path.startswith("total/") and path.endswith(MARK) for path in objects(url)) == 1


def test_every_process_at_work_in_a_folder_finds_its_store(tmp_path: Path, film: Path, url: str) -> None:
    """A worker makes its own Work, of the folder alone."""
    with Work.open(tmp_path / "here", Events(), Stop(), url):
        lent = Work(tmp_path / "here", Events(), Stop(), tmp_path / "here" / "tmp" / "worker")
        made = lent.do(numbers, film, config=Knobs(), runtime=Runtime(), unit="film")
    assert Store(url).has(f"numbers/{made.folder.name}")


def test_fresh_forgets_what_is_in_the_store(tmp_path: Path, film: Path, url: str) -> None:
    for fresh in (False, False, True):
        with open_session(film, Place(tmp_path / "here", fresh=fresh, store=url), Voice(quiet=True)) as session:
            session.work.do(numbers, film, config=Knobs(), runtime=Runtime(), unit="film")
    assert CALLS == ["numbers", "numbers"]


def test_films_have_each_their_place_in_a_store(film: Path) -> None:
    other = film.with_name("other.bin")
    other.write_bytes(b"another")
    place = Place(store="s3://bucket/prefix/")
    assert place.store_of(film) != place.store_of(other)
    assert place.store_of(film).startswith("s3://bucket/prefix/") and Place().store_of(film) == ""


def test_unknown_kind_of_store_and_missing_package_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no such kind of store"):
        Store("nowhere://bucket")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingError, match=r"gs://bucket: cannot be opened") as caught:
        Store("gs://bucket")
    assert "musetalk[s3]" in caught.value.cure


def test_store_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}")

    def refuse(*_: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(store, "_files", SimpleNamespace(pipe_file=refuse))
    with pytest.raises(UsageError, match="Access Denied"):
        name_store(tmp_path, store.url)
    assert store_behind(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("s3://bucket/film.mp4", True), ("gs://b", True), ("film.mp4", False), ("a/b.mp4", False), ("://x", False)],
)
def test_urls_are_told_from_paths(text: str, is_one: bool) -> None:
    assert is_url(text) == is_one


@pytest.fixture(name="bucket", scope="module")
def _bucket() -> Iterator[str]:
    """A server on this machine that speaks S3, and the environment that leads to it."""
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server")
    import logging

    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="films")
        yield "s3://films/kept"
        server.stop()


def test_s3_keeps_results_for_another_machine(tmp_path: Path, film: Path, bucket: str) -> None:
    run(tmp_path / "here", film, f"{bucket}/one")
    assert run(tmp_path / "there", film, f"{bucket}/one").load().file.read_text() == "sum"
    assert CALLS == ["numbers", "total"]
    marks = [json.loads(told) for path, told in objects(f"{bucket}/one").items() if path.endswith(MARK)]
    assert {mark["stage"] for mark in marks} == {"numbers", "total"}
    Store(f"{bucket}/one").forget()
    assert objects(f"{bucket}/one") == {}


def test_missing_bucket_is_a_usage_error(tmp_path: Path, bucket: str) -> None:
    with (
        pytest.raises(UsageError, match="cannot be written|cannot be used"),
        Work.open(tmp_path, Events(), Stop(), "s3://nobodys/kept"),
    ):
        pass


def test_film_is_dubbed_from_another_machines_analysis_over_s3(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second machine has no folder in common with the first, and the same bytes come out."""
    film, voice = clip(tmp_path), make_speech(tmp_path / "voice.wav", seconds=0.5)
    made, fetched = {}, {}
    for machine in ("one", "two"):
        open_store.cache_clear()
        output, work = tmp_path / f"{machine}.mp4", tmp_path / machine
        flags = ["--audio", f"fr={voice}", "--model", "lite", "--device", "cpu", "--store", f"{bucket}/two", "-q"]
        assert cli.run(["dub", str(film), *flags, "-o", str(output), "--work-dir", str(work)]) == 0
        events = [json.loads(line) for line in (work / "run.jsonl").read_text().splitlines()]
        made[machine] = [event["stage"] for event in events if event["event"] == "stage.done" and not event["reused"]]
        fetched[machine] = {path.parts[-3] for path in work.glob(f"*/*/{MARK}")}
    assert "faces" in made["one"] and made["two"] == []
    assert "latents" in fetched["one"] and "latents" not in fetched["two"]  # which nobody had to read again
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_machines_without_a_folder_in_common_share_a_plan_by_the_store(tmp_path: Path) -> None:
    """Each has a copy of the plan and of what it reads; none makes what another has made, and `join` is on one that made nothing."""
    first = tmp_path / "first"
    first.mkdir()
    film, voice = clip(first, frames=30), make_speech(first / "voice.wav", seconds=1.2)
    flags = ["--audio", f"fr={voice}", "--model", "lite", "--device", "cpu", "--chunk", "0.4", "--length", "trim", "-q"]
    assert cli.run(["dub", str(film), *flags, "-o", str(tmp_path / "whole.mp4")]) == 0
    (first / "run.jsonl").touch()
    given = [*flags, "-o", str(first / "film.fr.mp4"), "--work-dir", str(first), "--store", f"file://{tmp_path}/kept"]
    assert cli.run(["plan", str(film), *given]) == 0
    machines = [tmp_path / name for name in ("second", "third", "fourth")]
    for machine in machines:
        machine.mkdir()
        for name in ("plan.json", film.name, voice.name):
            shutil.copy(first / name, machine)
    open_store.cache_clear()
    assert cli.run(["work", str(machines[0]), "-q"]) == 0
    assert cli.run(["work", str(machines[1]), "-q", "--shard", "1/2"]) == 0
    assert cli.run(["join", str(machines[2]), "-q"]) == 0
    assert (machines[2] / "film.fr.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    journals = [json.loads(line) for path in (machines[1] / "journals").iterdir() for line in path.read_text().splitlines()]
    assert [event["stage"] for event in journals if event["event"] == "stage.start"] == []
