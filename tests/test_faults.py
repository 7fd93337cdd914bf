"""What must hold whatever goes wrong: a right film or a right exit code, no orphan, no leak, no half; and then the film. A few faults of
each kind; `python -m tests.faults` plays hundreds, and docs/reliability.md has their table."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults import checks
from faults.campaign import Campaign
from faults.cases import KINDS, Usual, draw
from faults.tally import table

SEED = int(os.environ.get("MUSETALK_TEST_FAULTS_SEED", "11"))
EACH = int(os.environ.get("MUSETALK_TEST_FAULTS_EACH", "1"))
NEEDS = {"ENOSPC of a small disk": "root, to mount a small disk"}
USUAL = Usual(
    2.0,
    4.0,
    9.0,
    {"create": 97, "write": 217, "fsync": 146, "rename": 25, "mkdir": 55, "read": 848, "unlink": 5, "reserve": 0},
    2 << 20,
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A campaign, as its own program: it gives itself a view of the mounts of its own, and takes in orphans."""
    folder = tmp_path_factory.mktemp("faults")
    told = folder / "rows.jsonl"
    line = [sys.executable, "-m", "tests.faults", "--each", str(EACH), "--seed", str(SEED), "--rows", str(told)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*line, "--warm", "--folder", str(folder)],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert told.exists(), done.stderr
    return [json.loads(row) for row in told.read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_fault_the_film_or_the_exit_code_is_right_and_nothing_is_left_behind(
    kind: str, rows: list[dict[str, Any]]
) -> None:
    mine = [row for row in rows if row["kind"] == kind]
    if not mine:
        pytest.skip(f"not possible here: needs {NEEDS.get(kind, 'a C compiler and LD_PRELOAD')}")
    for row in mine:
        assert not row["problems"], row


@pytest.mark.skipif(
    shutil.which("cc") is None or not sys.platform.startswith("linux"), reason="needs a C compiler and LD_PRELOAD"
)
def test_everything_is_flushed_before_it_gets_its_name_and_then_the_name_is(tmp_path: Path) -> None:
    """What a power cut takes is what was not flushed."""
    assert not Campaign(tmp_path, SEED, ["NaN"], mounts=False).flushed()


def test_what_a_power_cut_would_take_is_seen() -> None:
    whole = ["write\tw/tmp/1/a\t", "fsync\tw/tmp/1/a\t", "rename\tw/tmp/1\tw/faces/1", "fsync\tw/faces\t"]
    assert not list(checks.unflushed("\n".join(whole)))
    late, nameless = [whole[1], whole[0], *whole[2:]], whole[:3]
    assert list(checks.unflushed("\n".join(late))) == ["renamed before it was flushed: w/tmp/1/a"]
    assert list(checks.unflushed("\n".join(nameless))) == ["its name was never flushed: w/faces/1"]
    assert not list(checks.unflushed("\n".join([*nameless, "unlink\tw/faces/1\t"])))


def test_a_case_is_the_same_for_the_same_seed_and_number_and_another_for_another() -> None:
    kinds = list(KINDS)
    assert [draw(1, number, kinds, USUAL) for number in range(40)] == [draw(1, number, kinds, USUAL) for number in range(40)]
    assert draw(1, 3, kinds, USUAL) != draw(2, 3, kinds, USUAL)
    assert {draw(1, number, kinds, USUAL).kind for number in range(400)} == set(KINDS)


@pytest.fixture
def place(tmp_path: Path) -> checks.Place:
    place = checks.Place(tmp_path, in_cache=False)
    for folder in (place.out, place.tmp, place.cache, place.data, tmp_path / "home", tmp_path / "work" / "tmp"):
        folder.mkdir(parents=True)
    place.output.write_bytes(b"film")
    return place


def found(place: checks.Place) -> list[str]:
    looked = [checks.films(place, b"film", earlier=False), checks.reports(place), checks.leaks(place)]
    return [*(problem for look in looked for problem in look), *checks.results(place), *checks.made_twice(place)]


@pytest.mark.parametrize(
    ("path", "holding", "problem"),
    [
        ("out/film.fr.mp4", "fil", "wrong film: 3 bytes, should be 4"),
        ("out/.film.fr.mp4.part", "", "left beside the output: .film.fr.mp4.part"),
        ("out/film.fr.report.json", '{"a": ', "film.fr.report.json is half written"),
        ("tmp/x", "", "left in TMPDIR: x"),
        ("home/.x", "", "left at home: home/.x"),
        ("work/tmp/1/half.npy", "", "left half: tmp/1/half.npy"),
        ("work/holder", "process 1", "left in the work folder: holder"),
        ("work/faces/00000-ab/box.npy", "", "half a result: faces/00000-ab"),
        ("data/musetalk/.identity.1/key.pem", "", "left among the data: musetalk/.identity.1"),
        ("cache/musetalk/.abc.1/lock", "", "left in the cache: .abc.1"),
        (
            "work/run.jsonl",
            2 * '{"event": "stage.done", "reused": false, "stage": "s", "unit": "u", "key": "k"}\n',
            "made 2 times: s uk",
        ),
    ],
)
def test_whatever_a_run_leaves_behind_is_seen(path: str, holding: str, problem: str, place: checks.Place) -> None:
    assert not found(place)
    (place.root / path).parent.mkdir(parents=True, exist_ok=True)
    (place.root / path).write_text(holding)
    assert problem in found(place)


def test_an_error_without_a_word_and_a_traceback_are_seen() -> None:
    assert not list(checks.said("musetalk: film.mp4\n  is broken\n", 3))
    assert list(checks.said("", 9)) == ["exit code 9 without a word"]
    assert list(checks.said("musetalk: x\nTraceback (most recent call last):\nKeyError: 'x'", 1)) == [
        "a traceback: KeyError: 'x'"
    ]


def test_the_table_has_a_line_for_each_kind_and_counts_what_struck() -> None:
    row = {"kind": "slow disk", "struck": True, "code": 0, "cold": False, "problems": []}
    rows = [
        row,
        {**row, "struck": False},
        {**row, "kind": "NaN", "code": 1},
        {**row, "kind": "NaN", "code": -signal.SIGSEGV, "problems": ["orphan: ffmpeg"]},
    ]
    lines = table(rows).splitlines()
    assert lines[2:5] == [
        "| NaN | 2 | 0 | 0 | 1 | 0 | 1 | 0 | 0 |",
        "| slow disk | 1 | 0 | 1 | 0 | 0 | 0 | 0 | 0 |",
        "| **all** | 3 | 0 | 1 | 1 | 0 | 1 | 0 | 0 |",
    ]
    assert lines[-1].startswith("1 more faults")
