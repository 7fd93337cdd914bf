"""Promises of the work folder: named by what made it, published whole, found again, made again when damaged."""

import errno
import importlib
import json
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.config import Runtime
from musetalk_cli.errors import InputError, InterruptedRun, ResourceError, RetryableError
from musetalk_cli.progress import Events
from musetalk_cli.signals import Stop
from musetalk_cli.types import Shot
from musetalk_cli.work import Ref, Work, _write_array, fingerprint, kept_results, stage

CALLS: list[str] = []


@dataclass(frozen=True, slots=True)
class Knobs:
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class Numbers:
    values: NDArray[np.float32]
    rate: Fraction
    shots: tuple[Shot, ...] = ()
    notes: Path | None = None


@dataclass(frozen=True, slots=True)
class Total:
    total: float
    file: Path


@stage(version=1)
def numbers(film: Path, *, config: Knobs, runtime: Runtime, out: Path) -> Numbers:
    CALLS.append("numbers")
    return Numbers(np.arange(len(film.read_bytes()), dtype=np.float32), Fraction(24000, 1001), (Shot(0, 0, 3), Shot(1, 3, 5)))


@stage(version=1)
def total(found: Numbers, *, config: Knobs, runtime: Runtime, out: Path) -> Total:
    CALLS.append("total")
    (out / "total.txt").write_text("sum")
    return Total(float(found.values.sum()) * config.gain, out / "total.txt")


@stage(version=1)
def streamed(film: Path, *, config: Knobs, runtime: Runtime, out: Path) -> Numbers:
    """Writes its array itself, for what would not fit in memory."""
    values = np.lib.format.open_memmap(out / "values.npy", "w+", np.float32, (300_000,))
    values[:] = 7
    return Numbers(values, Fraction(25))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.bin"
    path.write_bytes(b"0123456789")
    CALLS.clear()
    return path


def run(folder: Path, film: Path, gain: float = 1.0, runtime: Runtime | None = None) -> Ref[Total]:
    with Work.open(folder, Events(), Stop()) as work:
        runtime = runtime or Runtime()
        found = work.do(numbers, film, config=Knobs(), runtime=runtime, unit="film")
        return work.do(total, found, config=Knobs(gain), runtime=runtime, unit="film")


def test_second_run_computes_nothing(tmp_path: Path, film: Path) -> None:
    assert run(tmp_path / "work", film).load().total == run(tmp_path / "work", film).load().total == 45
    assert CALLS == ["numbers", "total"]


def test_late_setting_reruns_only_what_follows_and_changing_back_reruns_nothing(tmp_path: Path, film: Path) -> None:
    for gain in (1.0, 2.0, 1.0):
        assert run(tmp_path / "work", film, gain).load().total == 45 * gain
    assert CALLS == ["numbers", "total", "total"]


def test_speed_settings_rerun_nothing(tmp_path: Path, film: Path) -> None:
    run(tmp_path / "work", film)
    run(tmp_path / "work", film, runtime=Runtime(device="cuda:1", batch_size=64))
    assert CALLS == ["numbers", "total"]


def test_film_and_work_folder_may_both_move(tmp_path: Path, film: Path) -> None:
    run(tmp_path / "work", film)
    moved = film.rename(tmp_path / "elsewhere.bin")
    (tmp_path / "work").rename(tmp_path / "desk")
    assert run(tmp_path / "desk", moved).load().file.read_text() == "sum"
    assert CALLS == ["numbers", "total"]


def test_another_film_is_another_result(tmp_path: Path, film: Path) -> None:
    run(tmp_path / "work", film)
    film.write_bytes(b"012345678X")
    run(tmp_path / "work", film)
    assert CALLS == ["numbers", "total"] * 2


def test_raised_version_reruns_that_stage_and_all_after_it(tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "work", film)
    monkeypatch.setattr(numbers, "version", 2)
    run(tmp_path / "work", film)
    assert CALLS == ["numbers", "total"] * 2


def test_damaged_result_is_made_again(tmp_path: Path, film: Path) -> None:
    folder = run(tmp_path / "work", film).folder
    (folder / "total.txt").write_text("sun")
    assert run(tmp_path / "work", film).load().file.read_text() == "sum"
    assert CALLS == ["numbers", "total", "total"]


def test_half_result_of_a_killed_run_is_never_found(tmp_path: Path, film: Path) -> None:
    folder = run(tmp_path / "work", film).folder
    (folder / "result.json").unlink()
    run(tmp_path / "work", film)
    assert CALLS == ["numbers", "total", "total"]


def test_records_come_back_as_they_were(tmp_path: Path, film: Path) -> None:
    with Work.open(tmp_path / "work", Events(), Stop()) as work:
        found = work.do(numbers, film, config=Knobs(), runtime=Runtime(), unit="film").load()
    assert found.rate == Fraction(24000, 1001)
    assert found.shots == (Shot(0, 0, 3), Shot(1, 3, 5))
    assert found.notes is None
    np.testing.assert_array_equal(found.values, np.arange(10, dtype=np.float32))


def test_array_that_a_stage_streamed_is_kept_as_it_is_through_a_linked_folder(tmp_path: Path, film: Path) -> None:
    """A cache folder is often a link; the array must not be written over the file that it is read from."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with Work.open(tmp_path / "link", Events(), Stop()) as work:
        kept = work.do(streamed, film, config=Knobs(), runtime=Runtime(), unit="film").load()
    assert len(kept.values) == 300_000
    assert (kept.values == 7).all()


def test_failed_stage_leaves_nothing_behind(tmp_path: Path, film: Path) -> None:
    @stage(version=1)
    def fails(film: Path, *, config: Knobs, runtime: Runtime, out: Path) -> Total:
        (out / "half").write_bytes(b"x" * 100)
        raise ValueError("no")

    with Work.open(tmp_path / "work", Events(), Stop()) as work, pytest.raises(ValueError, match="no"):
        work.do(fails, film, config=Knobs(), runtime=Runtime(), unit="film")
    assert not [path for path in (tmp_path / "work").rglob("*") if path.name == "half"]


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "disk fails .Input/output error")])
def test_full_or_failing_disk_is_a_resource_error(number: int, said: str, tmp_path: Path, film: Path) -> None:
    @stage(version=1)
    def fills(film: Path, *, config: Knobs, runtime: Runtime, out: Path) -> Total:
        raise OSError(number, "in the system's words")

    with Work.open(tmp_path / "work", Events(), Stop()) as work, pytest.raises(ResourceError, match=said):
        work.do(fills, film, config=Knobs(), runtime=Runtime(), unit="film")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit on the size of files")
def test_an_array_that_only_half_fits_on_the_disk_is_a_full_disk(tmp_path: Path, film: Path) -> None:
    resource = importlib.import_module("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @stage(version=1)
    def large(film: Path, *, config: Knobs, runtime: Runtime, out: Path) -> Numbers:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        return Numbers(np.zeros(100_000, np.float32), Fraction(25))

    try:
        with Work.open(tmp_path / "work", Events(), Stop()) as work, pytest.raises(ResourceError, match="disk is full"):
            work.do(large, film, config=Knobs(), runtime=Runtime(), unit="film")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3)), np.float16(3) * np.ones(()), np.asfortranarray(np.eye(3)), np.arange(9)[::2]]
)
def test_arrays_are_written_as_numpy_writes_them(array: NDArray[Any], tmp_path: Path) -> None:
    _write_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "numpys.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


def test_halves_of_threads_that_were_left_behind_go_with_the_run(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRun), Work.open(tmp_path / "work", Events(), Stop()):
        (tmp_path / "work" / "tmp" / "1").mkdir(parents=True)
        (tmp_path / "work" / "tmp" / "1" / "half.npy").write_bytes(b"half")
        raise InterruptedRun
    assert not list((tmp_path / "work").glob("tmp*"))


def test_folder_in_use_is_retryable(tmp_path: Path) -> None:
    with Work.open(tmp_path, Events(), Stop()), pytest.raises(RetryableError, match="in use by process"):
        with Work.open(tmp_path, Events(), Stop()):
            pass


def test_asked_to_stop_nothing_new_is_started_and_what_is_there_is_found(tmp_path: Path, film: Path) -> None:
    run(tmp_path / "work", film)
    stop = Stop()
    stop.number = 15
    with Work.open(tmp_path / "work", Events(), stop) as work:
        found = work.do(numbers, film, config=Knobs(), runtime=Runtime(), unit="film")
        with pytest.raises(InterruptedRun) as stopped:
            work.do(total, found, config=Knobs(9), runtime=Runtime(), unit="film")
    assert stopped.value.exit_code == 143
    assert CALLS == ["numbers", "total"]


def test_why_names_the_setting_that_changed(tmp_path: Path, film: Path) -> None:
    with Work.open(tmp_path / "work", Events(), Stop()) as work:
        found = work.do(numbers, film, config=Knobs(), runtime=Runtime(), unit="film")
        assert work.why(total, found, config=Knobs(), unit="film") == ["not made yet"]
        work.do(total, found, config=Knobs(), runtime=Runtime(), unit="film")
        assert work.why(total, found, config=Knobs(2.0), unit="film") == ["config.gain: 1.0 -> 2.0"]


def test_why_names_files_and_stages_where_it_can(tmp_path: Path, film: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"another")
    with Work.open(tmp_path / "work", Events(), Stop()) as work:
        found = work.ref(numbers, film, config=Knobs(), unit="film")
        assert work.why(total, found, config=Knobs(), unit="film") == ["waits for numbers"]
        work.do(numbers, film, config=Knobs(), runtime=Runtime(), unit="film")
        work.do(total, found, config=Knobs(), runtime=Runtime(), unit="film")
        assert work.why(numbers, other, config=Knobs(), unit="film") == ["another film: other.bin"]
        changed = work.ref(numbers, other, config=Knobs(), unit="film")
        why = work.why(total, changed, config=Knobs(2.0), unit="film")
        assert why == ["because numbers runs again", "config.gain: 1.0 -> 2.0"]
        work.do(numbers, other, config=Knobs(), runtime=Runtime(), unit="film")
        assert work.why(total, changed, config=Knobs(), unit="film") == ["another found"]


def test_results_hold_no_pickle_and_say_what_made_them(tmp_path: Path, film: Path) -> None:
    run(tmp_path / "work", film)
    kept: list[dict[str, Any]] = list(kept_results(tmp_path / "work"))
    assert [read["stage"] for read in kept] == ["numbers", "total"]
    assert kept[0]["made_of"]["inputs"]["film"] == fingerprint(film)
    assert json.dumps(kept).count(str(tmp_path)) == 0


def test_fingerprint_of_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing.mp4"):
        fingerprint(tmp_path / "nothing.mp4")
