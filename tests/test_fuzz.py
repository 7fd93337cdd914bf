"""A few seconds of each part of the fuzz harness; docs/security.md has the figures of the long runs."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzz.mutate import mutated

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("what", "cases"), [("parsers", 4_000), ("media", 60)])
def test_broken_files_end_in_errors_of_ours(what: str, cases: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz", what, "--cases", str(cases), "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"all {cases} cases are through: 0 findings" in done.stdout


def test_case_follows_from_its_seed_alone() -> None:
    data = b'{"a": [1, 2, {"b": "c"}]}'
    one, again, other = (mutated(data, Random(seed), json_lines=True) for seed in (5, 5, 6))
    assert one == again
    assert {mutated(data, Random(seed), json_lines=True) for seed in range(50)} > {one, other}
