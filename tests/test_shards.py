"""Workers that know of each other only what lies in a folder make each unit, mostly once, and leave what one run would have left."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_film, make_speech
from numpy.typing import NDArray

from musetalk_cli import cli, crew
from musetalk_cli.crew import enter, living
from musetalk_cli.errors import InputError, RetryableError, UsageError
from musetalk_cli.executor import Threads
from musetalk_cli.farm_cli import _shard
from musetalk_cli.jobs import Existing, dub_film, plan_jobs
from musetalk_cli.progress import Events
from musetalk_cli.session import Place, Voice
from musetalk_cli.settings import Choices
from musetalk_cli.shards import Machine, plan_work, read_plan, work_shard
from musetalk_cli.sharing import Shard, Unit, deal, to_make
from musetalk_cli.signals import Stop
from musetalk_cli.work import Work, holder_of

# who makes what


class Table:
    """A Board in memory, as one worker sees it. dead: claims of those who do not live."""

    def __init__(self, there: set[str], claims: dict[str, str], name: str, dead: tuple[str, ...] = ()) -> None:
        self._there, self._claims, self._name, self._dead = there, claims, name, dead

    def made(self) -> set[str]:
        return set(self._there)

    def claimed(self) -> set[str]:
        return set(self._claims)

    def claim(self, unit: str) -> bool:
        if unit in self._there or (unit in self._claims and self._claims[unit] not in self._dead):
            return False
        self._claims[unit] = self._name
        return True


UNITS = [Unit(f"u{number}", cost) for number, cost in enumerate((5, 1, 4, 2, 3, 9, 1, 1))]


def asks(shard: Shard, board: Table, *, steal: bool = True) -> Iterator[Unit | None]:
    return to_make(UNITS, deal([unit.cost for unit in UNITS], shard.of), shard.number, board, steal=steal)


def test_shares_are_dealt_dearest_first_and_evenly() -> None:
    shares = deal([unit.cost for unit in UNITS], 3)
    assert shares == deal([unit.cost for unit in UNITS], 3)
    assert sorted(itertools.chain(*shares)) == list(range(8))
    loads = [sum(UNITS[number].cost for number in share) for share in shares]
    assert max(loads) - min(loads) <= 1
    assert all(np.all(np.diff([UNITS[number].cost for number in share]) <= 0) for share in shares)


@pytest.mark.parametrize("alive", [(0, 1, 2), (1,), (2, 0)])
def test_any_of_the_shards_make_every_unit_once(alive: tuple[int, ...]) -> None:
    there: set[str] = set()
    claims: dict[str, str] = {}
    workers = [asks(Shard(number, 3), Table(there, claims, str(number))) for number in alive]
    made: list[str] = []
    for worker in itertools.cycle(workers):
        unit = next(worker, None)
        if unit is not None:
            made.append(unit.name)
            there.add(unit.name)
            del claims[unit.name]
        if len(there) == len(UNITS):
            break
    assert sorted(made) == sorted(unit.name for unit in UNITS)
    assert [next(worker, "over") for worker in workers] == ["over"] * len(workers)


def test_a_worker_waits_for_what_another_is_at_and_takes_it_over_from_the_dead() -> None:
    there, claims = {unit.name for unit in UNITS[1:]}, {"u0": "other"}
    assert next(asks(Shard(), Table(there, claims, "me"))) is None
    assert next(asks(Shard(), Table(there, claims, "me", dead=("other",)))) == UNITS[0]


def test_without_stealing_only_the_own_share_is_made() -> None:
    there: set[str] = set()
    made = []
    for unit in asks(Shard(1, 3), Table(there, {}, "me"), steal=False):
        assert unit is not None
        made.append(unit)
        there.add(unit.name)
    assert made == [UNITS[number] for number in deal([unit.cost for unit in UNITS], 3)[1]]


@pytest.mark.parametrize(("text", "shard"), [("0/3", (0, 3)), ("2/3", (2, 3)), ("3/3", (0, 3)), ("1/1", (0, 1))])
def test_shards_are_counted_from_nought_or_from_one(text: str, shard: tuple[int, int]) -> None:
    assert _shard(text) == shard


@pytest.mark.parametrize("text", ["4/3", "1/0", "x/3", "1", "-1/3", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no share"):
        _shard(text)


# the folder


def test_a_unit_is_claimed_by_one_and_free_again_when_released_or_its_claimant_is_dead(tmp_path: Path) -> None:
    with enter(tmp_path, "a") as one, enter(tmp_path, "b") as other:
        assert one.claim("u1") and not other.claim("u1") and other.claimed() == {"u1"}
        assert not one.claim("u1")  # another thread is at it
        one.release("u1")
        assert other.claim("u1")
        (tmp_path / "claims" / "u2").write_text("elsewhere-1-c")  # who never was, or is gone
        assert one.claim("u2") and not other.claim("u2")
        (tmp_path / "claims" / "u3").touch()  # its maker is about to write its name
        assert not one.claim("u3")
    assert not list((tmp_path / "workers").iterdir())


def test_members_of_other_machines_live_by_their_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with enter(tmp_path, "a") as me:
        theirs = tmp_path / "workers" / "elsewhere-7-b.lock"
        theirs.touch()
        (tmp_path / "claims" / "u1").write_text(theirs.stem)
        assert living(tmp_path) == [theirs.stem, me.name] and not me.claim("u1")
        long_ago = time.time() - crew.STALE_S - 1
        os.utime(theirs, (long_ago, long_ago))
        monkeypatch.setattr(crew, "ALIVE_FOR_S", 0.0)
        assert living(tmp_path) == [me.name] and me.claim("u1")


def test_of_this_machine_the_dead_are_known_at_once_and_their_halves_cleared(tmp_path: Path) -> None:
    with enter(tmp_path, "a") as me:
        dead = tmp_path / "workers" / me.name.replace("-a", "-dead")
        dead = dead.with_name(f"{dead.name}.lock")
        dead.touch()
        (tmp_path / "tmp" / dead.stem / "half").mkdir(parents=True)
        assert living(tmp_path) == [me.name]
        with enter(tmp_path, "b") as other:
            assert not dead.exists() and not (tmp_path / "tmp" / dead.stem).exists()
            assert me.tmp.is_dir() and other.tmp.is_dir()


def test_who_enters_while_the_dead_are_buried_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as later, enter(tmp_path, "a"):

        def looked(folder: Path) -> list[str]:
            monkeypatch.setattr(crew, "living", living)
            found = living(folder)
            later.enter_context(enter(tmp_path, "b"))  # a moment after it was asked who lives
            return found

        monkeypatch.setattr(crew, "living", looked)
        crew.bury(tmp_path)
        names = {file.stem.rsplit("-", 1)[1] for file in (tmp_path / "workers").glob("*.lock")}
        assert names == {"a", "b"}
        assert len(list((tmp_path / "tmp").iterdir())) == 2


def test_one_run_holds_the_folder_or_many_workers_do(tmp_path: Path) -> None:
    with Work.open(tmp_path, Events(), Stop()):
        with pytest.raises(RetryableError, match="in use by process"), enter(tmp_path, "a"):
            pass
    with enter(tmp_path, "a") as me, enter(tmp_path, "b"):
        assert me.name in holder_of(tmp_path)
        with pytest.raises(RetryableError, match="in use by .*-a, .*-b"), Work.open(tmp_path, Events(), Stop()):
            pass
    assert holder_of(tmp_path) == ""
    with Work.open(tmp_path, Events(), Stop()):
        pass


def test_of_two_who_publish_one_result_both_find_it_whole(tmp_path: Path) -> None:
    from made_errands import Knob, Toy

    from musetalk_cli.config import Runtime

    refs = []

    def go(title: str) -> None:
        with Work.enter(tmp_path, title, Events(), Stop()) as (work, _):
            refs.append(Toy(3, Knob(seconds=0.3)).do(work, Runtime()))

    workers = [threading.Thread(target=go, args=(title,)) for title in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [int(ref.load().of[0]) for ref in refs] == [9, 9, 9]
    assert len(list(tmp_path.glob("square/*"))) == 1
    assert not list((tmp_path / "tmp").iterdir())


# the film


def portrait(number: int) -> NDArray[np.uint8]:
    """(192, 192, 3): a portrait, from frame 9 on its mirror image."""
    from skimage import data

    seen = cv2.resize(data.astronaut()[0:256, 96:352], (192, 192), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(seen[:, ::-1] if number >= 9 else seen)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with film.mp4 of 18 frames, fr.wav, and serial.mp4, what `dub` makes of them."""
    folder = tmp_path_factory.mktemp("films")
    make_film(folder / "film.mp4", frames=18, size=(192, 192), picture=portrait)
    make_speech(folder / "fr.wav", seconds=0.8)
    assert musetalk("dub", *asked(folder, "serial.mp4", "serial")) == 0
    return folder


def asked(folder: Path, output: str, work: str) -> list[str]:
    flags = ["--audio", str(folder / "fr.wav"), "-o", str(folder / output), "--work-dir", str(folder / work), "--chunk", "0.2"]
    return [str(folder / "film.mp4"), *flags]


def line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "musetalk_cli", *arguments]


def musetalk(*arguments: str) -> int:
    return cli.run([*arguments, "--progress", "none"])


def seen(folder: Path, pattern: str) -> list[Path]:
    """What is there, while others come and go."""
    with suppress(FileNotFoundError):
        return list(folder.glob(pattern))
    return []


@contextmanager
def shard(work: Path, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with shard `number` of three, gone with the block."""
    command = line("work", "--shard", f"{number}/3", str(work), "--progress", "none")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def test_three_shards_at_once_one_killed_and_rerun_give_the_bytes_of_one_run(films: Path) -> None:
    work = films / "shards"
    assert musetalk("plan", *asked(films, "shards.mp4", "shards")) == 0
    with shard(work, 1) as killed:
        while not seen(work / "tmp", "*1of3/*/*"):  # it is within a step
            assert killed.poll() is None
            time.sleep(0.001)
        killed.send_signal(signal.SIGSTOP)  # and stays there while the others begin
        with shard(work, 0) as first, shard(work, 2) as last:
            while len(seen(work / "tmp", "*of3")) < 3:
                assert first.poll() is None and last.poll() is None
                time.sleep(0.01)
            killed.kill()
            killed.wait()
            assert musetalk("work", "--shard", "1/3", str(work)) == 0
            assert [first.wait(120), last.wait(120)] == [0, 0]
    assert musetalk("join", str(work)) == 0
    assert (films / "shards.mp4").read_bytes() == (films / "serial.mp4").read_bytes()
    assert not seen(work / "claims", "*") and not seen(work / "tmp", "*")


def test_join_names_what_is_missing_and_a_damaged_result_is_made_again(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = films / "one"
    assert musetalk("plan", *asked(films, "one.mp4", "one")) == 0
    assert musetalk("join", str(work)) == 75
    said = capsys.readouterr().err
    assert "faces are not made: 00000" in said and f"musetalk work {work}" in said
    assert musetalk("work", str(work)) == 0
    segment = next(path for path in work.glob("blend/*/*") if path.suffix != ".json")
    segment.write_bytes(segment.read_bytes()[:-1])
    assert musetalk("join", str(work)) == 75
    assert "1 of" in capsys.readouterr().err
    assert musetalk("work", str(work)) == 0
    assert musetalk("join", str(work)) == 0
    assert (films / "one.mp4").read_bytes() == (films / "serial.mp4").read_bytes()


def test_alone_with_its_own_share_a_worker_says_that_it_waits_for_others(films: Path) -> None:
    plan = ["plan", *asked(films, "own.mp4", "own")]
    assert musetalk(*plan) == 0
    assert musetalk("work", "--shard", "0/2", "--own-share-only", str(films / "own")) == 75
    assert len(list((films / "own" / "faces").iterdir())) == 2


def test_processes_give_the_bytes_of_one_run(films: Path) -> None:
    assert musetalk("dub", *asked(films, "processes.mp4", "processes"), "--workers", "2") == 0
    assert (films / "processes.mp4").read_bytes() == (films / "serial.mp4").read_bytes()


def test_threads_give_the_bytes_of_one_run(films: Path) -> None:
    place = Place(films / "threads")
    jobs = plan_jobs(films / "film.mp4", [str(films / "fr.wav")], films / "threads.mp4", "", Existing(), place)
    dub_film(jobs, Choices(chunk=0.2), place, Voice(quiet=True), Existing(), executor=Threads(2))
    assert (films / "threads.mp4").read_bytes() == (films / "serial.mp4").read_bytes()


@pytest.fixture
def planned(films: Path, tmp_path: Path) -> Path:
    """A work folder with a plan, of a film within it and a voice beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "run.jsonl").touch()
    (tmp_path / "work" / "film.mp4").write_bytes((films / "film.mp4").read_bytes())
    (tmp_path / "fr.wav").write_bytes((films / "fr.wav").read_bytes())
    place = Place(tmp_path / "work")
    jobs = plan_jobs(tmp_path / "work" / "film.mp4", [str(tmp_path / "fr.wav")], tmp_path / "out.mp4", "", Existing(), place)
    plan_work(jobs, Choices(), place, Voice(quiet=True))
    return tmp_path / "work"


def test_a_plan_moves_with_its_folder_and_refuses_another_film(planned: Path) -> None:
    moved = planned.with_name("moved")
    planned.rename(moved)
    plan = read_plan(moved)
    assert plan.jobs[0].video == moved / "film.mp4" and plan.jobs[0].audio == planned.parent / "fr.wav"
    with (moved / "film.mp4").open("ab") as film:
        film.write(b"more")
    with pytest.raises(InputError, match=r"film\.mp4: is another file than the one that was planned with"):
        read_plan(moved)


def test_no_plan_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no plan; make one: musetalk plan"):
        read_plan(tmp_path)


def test_a_machine_that_would_make_something_else_is_refused(planned: Path) -> None:
    path = planned / "plan.json"
    path.write_text(path.read_text().replace('"steady": 1.0', '"steady": 2.0'))
    with pytest.raises(UsageError, match="would be made otherwise than planned: inference"):
        work_shard(planned, Shard(), Machine(), Voice(quiet=True))
