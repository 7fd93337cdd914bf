"""Features to FID, and statistics that are kept under the hash of what made them."""

from pathlib import Path

import numpy as np
import pytest

from musetalk_cli.metrics.fid import fid, kept_statistics, statistics
from musetalk_cli.metrics.stats import Moments


def made(seed: int) -> Moments:
    rows = np.random.default_rng(seed).normal(size=(40, 8)).astype(np.float32)
    return statistics(iter(np.split(rows, 4)), 8)


def test_a_set_is_at_no_distance_from_itself_and_at_some_from_another() -> None:
    assert fid(made(0), made(0)) == pytest.approx(0, abs=1e-10)
    assert (fid(made(0), made(1)) or 0) > 0.1
    assert fid(made(0), made(1)) == pytest.approx(fid(made(1), made(0)))


def test_fewer_than_two_pictures_have_no_distance() -> None:
    assert fid(made(0), statistics([], 8)) is None
    assert fid(statistics([np.zeros((1, 8))], 8), made(0)) is None


def test_statistics_are_made_once_for_what_made_them(tmp_path: Path) -> None:
    calls = []

    def make() -> Moments:
        calls.append(1)
        return made(len(calls))

    facts = {"film.mp4": "ab12", "inception": "6726825d"}
    first = kept_statistics(tmp_path / "kept", facts, make)
    again = kept_statistics(tmp_path / "kept", dict(reversed(facts.items())), make)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.scatter, again.scatter)
    for changed in ({**facts, "inception": "0"}, {**facts, "more": ""}):
        kept_statistics(tmp_path / "kept", changed, make)
    assert len(calls) == 3


def test_a_killed_making_leaves_nothing_behind(tmp_path: Path) -> None:
    def killed() -> Moments:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_statistics(tmp_path / "kept", {"a": "b"}, killed)
    assert not (tmp_path / "kept").exists()
    assert kept_statistics(tmp_path / "kept", {"a": "b"}, lambda: made(0)).count == 40
