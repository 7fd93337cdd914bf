"""What the pipeline tells of a voice that does not fit, and of a film without a face to dub."""

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from made_cast import Seen, clock, faces_of
from made_faces import make_film, source_of

from musetalk_cli.casting import choose_all, choose_largest
from musetalk_cli.config import CastConfig, DubConfig, RemuxConfig, Runtime
from musetalk_cli.errors import ResourceError
from musetalk_cli.pipeline import _compare_lengths, _no_face, analysis_of, deliver, rule_of
from musetalk_cli.progress import Events
from musetalk_cli.types import DubJob, Film, Shot, Speech


class Heard(list[Mapping[str, Any]]):
    """A sink that keeps what it takes."""

    take = list.append

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("seconds", "length", "hint"),
    [
        (3.0, "keep", "the sound goes on 2.2 s after the picture; --length trim, hold or bounce end them together"),
        (3.0, "trim", "what is too long is left out"),
        (1.5, "keep", None),
    ],
)
def test_a_longer_voice_is_told_with_what_becomes_of_it(
    tmp_path: Path, seconds: float, length: Literal["keep", "trim"], hint: str | None
) -> None:
    film = source_of(make_film(tmp_path / "film.mkv", 20))  # 0.8 s
    heard = Heard()
    _compare_lengths(film, [spoken(seconds)], DubConfig(remux=RemuxConfig(length=length)), Events([heard]))
    assert [record["hint"] for record in heard] == ([] if hint is None else [hint])


def spoken(seconds: float) -> Speech:
    tokens = round(seconds * 50)
    return Speech(np.zeros((tokens, 5, 384), np.float16), np.ones(tokens, np.float16))


def test_of_a_cast_the_longest_voice_counts() -> None:
    film = clock(250)  # 10 s
    for voices, told in (((4, 9.5), 0), ((4, 7), 1), ((12.5, 4), 1)):
        heard = Heard()
        _compare_lengths(film, [spoken(seconds) for seconds in voices], DubConfig(), Events([heard]))
        assert len(heard) == told


@pytest.mark.parametrize(
    ("cast", "seen", "fact", "cure"),
    [
        (None, False, "no usable face in 9 frames", "see what `musetalk inspect` finds"),
        (None, True, "no usable face in 9 frames", "see what `musetalk inspect` finds, or choose --face all"),
        (Path("c/cast.toml"), False, "no usable face in 9 frames", "see what `musetalk inspect` finds"),
        (
            Path("c/cast.toml"),
            True,
            "nobody to whom cast.toml gives a voice is seen in 9 frames",
            "see what `musetalk inspect` finds, and put those letters into the cast map",
        ),
    ],
)
def test_everyone_is_a_choice_only_where_someone_fit_was_passed_over(cast: Path | None, seen: bool, fact: str, cure: str) -> None:
    """And one voice for all is no cure for a cast map."""
    shots = [faces_of(Shot(0, 0, 9), *([Seen(range(9))] if seen else []))]
    error = _no_face(DubJob(Path("film.mp4"), Path("fr.wav"), Path("out.mp4"), cast=cast), clock(9), shots)
    assert (error.exit_code, error.thing, error.cure) == (5, "film.mp4", cure)
    assert fact in error.fact


SHOTS = (Shot(0, 0, 9), Shot(1, 9, 18))


def test_an_analysis_is_named_by_the_film_and_who_is_in_which_frame(tmp_path: Path) -> None:
    film, remade = tmp_path / "film.mp4", tmp_path / "remade.mp4"
    film.write_bytes(b"one")
    remade.write_bytes(b"two")
    one, other = Seen(range(9)), Seen(range(4), 300)
    first, second = ([Seen([shot.start + n for n in seen.frames], seen.x) for seen in (one, other)] for shot in SHOTS)

    def found(*tracks: list[Seen], film: Path = film) -> str:
        return analysis_of(film, [faces_of(shot, *seen) for shot, seen in zip(SHOTS, tracks, strict=False)])

    assert found(first, second) == found(first, second) != found(first, second, film=remade)
    assert (
        len({found(first, second), found(first), found(first[:1], second), found(first, second[1:]), found(first[::-1], second)})
        == 5
    )


def test_a_face_is_chosen_by_the_word_that_was_given() -> None:
    for word, rule in (("largest", choose_largest), ("all", choose_all)):
        assert rule_of(DubConfig(cast=CastConfig(choose=word)), Runtime()) is rule


def test_a_full_disk_beside_the_film_names_that_folder_and_leaves_no_manifest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = tmp_path / "made.mkv", tmp_path / "films" / "a.mkv"
    out.parent.mkdir()
    for path in (made, tmp_path / "made.mkv.c2pa"):
        path.write_bytes(b"made")
    copy = shutil.copyfile

    def fills_up(path: Path, target: Path) -> None:
        copy(path, target)
        if path == made:
            raise OSError(errno.ENOSPC, "No space left on device", str(path), None, str(target))

    monkeypatch.setattr(shutil, "copyfile", fills_up)
    with pytest.raises(ResourceError) as full:
        deliver(Film(made, 1), out)
    assert full.value.fact.startswith(f"{out.parent}: ") and "-o" in full.value.cure
    assert list(out.parent.iterdir()) == []
