"""Where a run works: a folder that can be written, is held by one, and is left behind only where there is something to go on from."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from musetalk_cli import doctor
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.session import JOURNAL, Place, Voice, cache_folder, fault_of, open_session
from musetalk_cli.settings import Choices
from musetalk_cli.standing import standing
from musetalk_cli.work import holder_of

QUIET = Voice(quiet=True)


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "film.mp4"
    path.write_bytes(b"film")
    return path


def test_a_cache_that_cannot_be_made_is_a_usage_error(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="Read-only file system") as caught, open_session(film, Place(), QUIET):
        pass
    assert caught.value.cure == "choose another --work-dir"


def test_a_work_folder_that_cannot_be_written_is_a_usage_error(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="work: cannot be written"), open_session(film, Place(film.with_name("work")), QUIET):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_cannot_be_written_is_no_bug_of_ours(number: int) -> None:
    fault = fault_of(OSError(number, os.strerror(number), "/there"))
    assert (fault.exit_code, fault.thing) == (2, "/there")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_is_no_bug_of_ours(number: int) -> None:
    fault = fault_of(OSError(number, os.strerror(number), "/there"))
    assert (fault.exit_code, fault.thing, fault.about) == (9, "/there", f"the disk fails ({os.strerror(number)})")


def test_what_a_killed_run_was_removing_goes_with_the_next(film: Path) -> None:
    ours, others = cache_folder() / f".{'0a' * 8}.4711", cache_folder() / ".other"
    for folder in (ours, others):
        (folder / "faces").mkdir(parents=True)
    with open_session(film, Place(), QUIET):
        pass
    assert [path.name for path in cache_folder().iterdir()] == [others.name]


def test_a_failed_run_leaves_nothing_in_the_cache_unless_something_was_finished(film: Path) -> None:
    for finished in (False, True):
        with pytest.raises(InputError), open_session(film, Place(), QUIET) as session:
            if finished:
                finish_something(session.work.folder)
            raise InputError("film.mp4: broken")
        assert (list(cache_folder().iterdir()) != []) == finished


def finish_something(folder: Path) -> None:
    result = folder / "demux" / "film-0" / "result.json"
    result.parent.mkdir(parents=True)
    told = {"stage": "demux", "unit": "film", "key": "0", "made_of": {"inputs": {}}, "record": {}, "files": {}}
    result.write_text(json.dumps(told))


def test_a_failed_run_leaves_the_folder_that_the_user_named(film: Path) -> None:
    place = Place(film.with_name("work"))
    with pytest.raises(InputError), open_session(film, place, QUIET):
        raise InputError("film.mp4: broken")
    assert (film.with_name("work") / JOURNAL).exists()


def test_status_names_a_holder_only_while_it_lives(film: Path) -> None:
    place = Place(film.with_name("work"))
    with open_session(film, place, QUIET) as session:
        assert standing(film, place, None).holder.startswith(f"process {os.getpid()} on ")
        folder = session.work.folder
    assert holder_of(folder) == ""
    (folder / "holder").write_text("process 1 on a machine that was switched off")
    assert standing(film, place, None).holder == ""


def test_a_run_that_failed_holds_nothing(film: Path) -> None:
    place = Place(film.with_name("work"))
    with pytest.raises(InputError), open_session(film, place, QUIET):
        raise InputError("film.mp4: broken")
    assert not (film.with_name("work") / "holder").exists()


def test_status_refuses_a_folder_that_is_no_work_folder(film: Path) -> None:
    with pytest.raises(UsageError, match="not a work folder"):
        standing(film, Place(film.parent), None)


def test_status_says_what_the_rest_waits_for(film: Path) -> None:
    place = Place(film.with_name("work"))
    found = standing(film, place, Choices(model="lite", device="cpu"))
    assert found.lines()[-2:] == ["  demux           1 to make: not made yet", "  demux finds the shots, and with them the rest"]


@pytest.mark.parametrize(("free_gb", "state"), [(100, "ok"), (1, "warn"), (0.01, "fail")])
def test_doctor_fails_where_next_to_nothing_is_free(
    free_gb: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free_gb * 1e9))
    (check,) = doctor._disk(tmp_path / "work")
    assert check.state == state
    assert list(tmp_path.iterdir()) == []  # nothing is left of the try


def test_doctor_fails_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (check,) = doctor._disk(tmp_path / "file" / "work")
    assert (check.state, check.cure) == ("fail", "choose another --work-dir")
