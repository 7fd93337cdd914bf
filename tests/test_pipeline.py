"""What the pipeline tells of a voice that does not fit, and of a film without a face to dub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from made_faces import make_film, source_of

from musetalk_cli.config import DubConfig, RemuxConfig
from musetalk_cli.pipeline import _compare_lengths, _cure_of_no_face
from musetalk_cli.progress import Events
from musetalk_cli.stages.s2_faces import TRACKS_FILE
from musetalk_cli.types import Faces, Speech
from musetalk_cli.work import Ref


class Heard(list[Mapping[str, Any]]):
    """A sink that keeps what it takes."""

    take = list.append

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("seconds", "length", "hint"),
    [
        (3.0, "keep", "the sound goes on 2.2 s after the picture; --length trim ends it there"),
        (3.0, "trim", "what is too long is left out"),
        (1.5, "keep", None),
    ],
)
def test_a_longer_voice_is_told_with_what_becomes_of_it(
    tmp_path: Path, seconds: float, length: Literal["keep", "trim"], hint: str | None
) -> None:
    film = source_of(make_film(tmp_path / "film.mkv", 20))  # 0.8 s
    heard = Heard()
    speech = Speech(np.zeros((round(seconds * 50), 5, 384), np.float16))
    _compare_lengths(film, speech, DubConfig(remux=RemuxConfig(length=length)), Events([heard]))
    assert [record["hint"] for record in heard] == ([] if hint is None else [hint])


def test_everyone_is_a_choice_only_where_someone_fit_was_passed_over(tmp_path: Path) -> None:
    track = {"track": 0, "frames": 1, "rows": 0, "first": 0, "last": 0, "size_px": [9, 9], "score": 0.9, "chosen": False}
    small = {**track, "why": "too small: 9 px wide, needs 32"}
    other = {**track, "why": "not the person in me.png", "similarity": 0.1}
    cures = []
    for tracks in ([], [small], [small, other]):
        seen = {"shot": [0, 0, 1, 0, 0], "still": 0, "faceless": 0, "tracks": tracks}
        (tmp_path / TRACKS_FILE).write_text(json.dumps(seen))
        cures.append(_cure_of_no_face([Ref("key", "faces", "00000", tmp_path, Faces)]))
    assert ["--face all" in cure for cure in cures] == [False, False, True]
