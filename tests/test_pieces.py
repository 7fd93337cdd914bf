"""Promises of the cut: only whole stretches without a generated mouth are copied, and shot by shot all the rest is encoded, once."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import make_film

from musetalk_cli.config import BlendConfig, CutConfig, DemuxConfig, DubConfig, RemuxConfig, Runtime
from musetalk_cli.media.splice import Splice
from musetalk_cli.pieces import Cut, copies, cut_film, touched
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.types import CLOSED, Line, Shot, Source, Stretch, Voicing

GOP = 10
FRAMES = 60


def splice(frames: int = FRAMES, gop: int = GOP) -> Splice:
    """A keyframe every `gop` frames; a stretch may end before any of them, and at the end."""
    starts = np.arange(0, frames, gop, dtype=np.int64)
    return Splice("h264", "", starts, np.append(starts[1:], frames), np.zeros(0, np.int64), 0, 0)


def marked(*stretches: tuple[int, int], frames: int = FRAMES) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    told = np.zeros(frames, np.bool_)
    for start, stop in stretches:
        told[start:stop] = True
    return told


# what is touched


def test_a_frame_is_touched_where_any_mouth_of_any_shot_is_generated() -> None:
    voicings = [Voicing((Line(0, 2, 5, 0), Line(1, 4, 8, CLOSED, 3, 3))), Voicing(), Voicing((Line(0, 20, 21, 1),))]
    assert np.flatnonzero(touched(30, voicings)).tolist() == [*range(2, 8), 20]
    assert not touched(30, []).any()


# what is copied


@pytest.mark.parametrize(
    ("mouths", "expected"),
    [
        ([], [(0, 60)]),
        ([(0, 60)], []),
        ([(25, 35)], [(0, 20), (40, 60)]),  # between points to cut at
        ([(20, 40)], [(0, 20), (40, 60)]),  # exactly on them
        ([(19, 41)], [(0, 10), (50, 60)]),
        ([(0, 1)], [(10, 60)]),
        ([(59, 60)], [(0, 50)]),
        ([(5, 6), (15, 16), (25, 26), (35, 36), (45, 46), (55, 56)], []),  # no whole stretch is left
        ([(5, 6), (35, 36)], [(10, 30), (40, 60)]),
    ],
)
def test_what_is_copied_is_whole_and_shows_no_generated_mouth(
    mouths: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    told = marked(*mouths)
    found = copies(splice(), told, 1)
    assert found == tuple(Stretch(*stretch) for stretch in expected)
    assert not any(told[start:stop].any() for start, stop in found)


@pytest.mark.parametrize(("shortest", "count"), [(10, 2), (11, 1), (31, 0)])
def test_a_stretch_that_is_not_worth_a_joint_is_encoded(shortest: int, count: int) -> None:
    assert len(copies(splice(), marked((10, 30)), shortest)) == count


def test_none_begins_with_a_keyframe_before_which_something_would_be_thrown_away() -> None:
    """But the film's first, before which there is nothing."""
    abrupt = replace(splice(), abrupt=np.array([0, 20, 30]))
    assert copies(abrupt, marked((15, 16)), 1) == (Stretch(0, 10), Stretch(40, 60))


# what of a shot is encoded


def cut(*copied: tuple[int, int], frames: int = FRAMES) -> Cut:
    return Cut(frames, tuple(Stretch(*stretch) for stretch in copied))


@pytest.mark.parametrize(
    ("copied", "shot", "expected"),
    [
        ([], (10, 30), [(10, 30)]),
        ([(0, 60)], (10, 30), []),
        ([(10, 30)], (10, 30), []),
        ([(0, 20)], (10, 30), [(20, 30)]),
        ([(20, 60)], (10, 30), [(10, 20)]),
        ([(15, 25)], (10, 30), [(10, 15), (25, 30)]),
        ([(0, 12), (14, 16), (28, 60)], (10, 30), [(12, 14), (16, 28)]),
        ([(0, 10), (30, 60)], (10, 30), [(10, 30)]),
        ([(40, 60)], (10, 30), [(10, 30)]),
    ],
)
def test_a_shot_is_encoded_where_it_is_not_copied(
    copied: list[tuple[int, int]], shot: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    assert cut(*copied).within(Shot(1, *shot)) == expected


def test_copies_and_what_is_encoded_make_the_film_exactly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = np.unique(rng.integers(0, FRAMES + 1, 8))
        copied = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=False) if rng.random() > 0.3]
        stops = [*np.unique(rng.integers(1, FRAMES, 4)).tolist(), FRAMES]
        shots = [Shot(i, a, b) for i, (a, b) in enumerate(zip([0, *stops], stops, strict=False))]
        whole = cut(*copied)
        encoded = [stretch for shot in shots for stretch in whole.within(shot)]
        frames = sorted(frame for start, stop in (*copied, *encoded) for frame in range(start, stop))
        assert frames == list(range(FRAMES))
        assert all(any(shot.start <= start < stop <= shot.stop for shot in shots) for start, stop in encoded)
        assert whole.frames_copied == FRAMES - sum(stop - start for start, stop in encoded)


# of a real film


def film_of(folder: Path, name: str = "film.mp4", codec: str = "libx264", **options: str) -> tuple[Path, Source]:
    like = {"x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0"} if codec == "libx264" else {}
    film = make_film(folder / name, frames=FRAMES, codec=codec, size=(64, 48), options=like | options)
    return film, demux(film, config=DemuxConfig(), runtime=Runtime(), out=folder)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source]:
    return film_of(tmp_path_factory.mktemp("film"))


CONFIG = DubConfig()
SPOKEN: Sequence[Voicing] = [Voicing((Line(0, 25, 35, 0),))]


def test_a_copied_stretch_begins_with_a_keyframe_and_ends_before_the_mouth(film: tuple[Path, Source]) -> None:
    before, after = cut_film(*film, SPOKEN, CONFIG).copied
    assert before.start == 0 and 20 <= before.stop <= 25  # where no stored frame is shown later
    assert after == Stretch(40, 60)


def test_segments_between_copies_may_hold_back_no_more_frames_than_the_film(film: tuple[Path, Source], tmp_path: Path) -> None:
    without = film_of(tmp_path, bf="0")
    assert cut_film(*without, SPOKEN, CONFIG).reordering == 0
    assert (cut_film(*film, SPOKEN, CONFIG).reordering or 0) > 0
    assert cut_film(*film, SPOKEN, replace(CONFIG, cut=CutConfig(copy=False))).reordering is None


def test_a_film_whose_voice_is_silent_is_copied_whole(film: tuple[Path, Source]) -> None:
    assert cut_film(*film, [], CONFIG).copied == (Stretch(0, FRAMES),)


def test_shortest_is_in_seconds(film: tuple[Path, Source]) -> None:
    for seconds, count in ((Fraction(20, 25), 2), (Fraction(26, 25), 0)):
        assert len(cut_film(*film, SPOKEN, replace(CONFIG, cut=CutConfig(shortest=seconds))).copied) == count


def test_what_cannot_be_copied_says_why(film: tuple[Path, Source], tmp_path: Path) -> None:
    everywhere = [Voicing((Line(0, 0, FRAMES, 0),))]
    assert cut_film(*film, everywhere, CONFIG).why == "no stretch without a generated mouth lies between two points to cut at"
    assert cut_film(*film, SPOKEN, replace(CONFIG, cut=CutConfig(copy=False))) == Cut(FRAMES, (), "switched off")
    other = cut_film(*film, SPOKEN, replace(CONFIG, blend=BlendConfig(codec="libx265")))
    assert other == Cut(FRAMES, (), "the film is h264 and is encoded by libx265")
    old = film_of(tmp_path, "old.avi", "mpeg4")
    config = replace(CONFIG, blend=BlendConfig(suffix=".avi"), remux=RemuxConfig(suffix=".avi"))
    assert cut_film(*old, SPOKEN, config).why.startswith("the film is mpeg4 and is encoded by")
