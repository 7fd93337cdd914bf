"""Faces before and after. In: which rows, and why. Out: Pairs, as small JPEG. Reads a frame of the film and of the result for each."""

import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli.crop import upright
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.report.pieces import Seen
from musetalk_cli.report.records import Finding, Pair
from musetalk_cli.tracks import around
from musetalk_cli.types import Faces, Source

SIDE_PX = 256
AROUND = 1.6  # of the landmarks' box: so that a seam is seen beside the skin that it should be like
QUALITY = 85
RANDOM = 4
MOST_FINDINGS = 8  # of which a picture is shown; the worst come first


class Wish(NamedTuple):
    """A face to be shown."""

    shot: int
    track: int
    frame: int
    why: str


class Look(NamedTuple):
    """Where the pictures are."""

    film: Path
    result: Path
    source: Source
    shown: Source


def wishes(seen: Sequence[Seen], rows: Sequence[NDArray[np.bool_]], found: Sequence[Finding], seed: int) -> list[Wish]:
    """The middle of each finding, the worst frame by each figure, and some at random; each frame once. rows: the generated ones."""
    asked = [*_of_findings(seen, found), *_worst(seen, rows), *_random(seen, rows, seed)]
    first = {(wish.shot, wish.track, wish.frame): wish for wish in reversed(asked)}
    return sorted(first.values(), key=asked.index)


def pairs_of(asked: Sequence[Wish], faces: Sequence[Faces], look: Look) -> Iterator[Pair]:
    """faces: by shot."""
    for wish in asked:
        of = faces[wish.shot]
        row = int(np.flatnonzero((of.frame == wish.frame) & (of.track == wish.track))[0])
        square = _square(around(of.landmarks[row]))
        was = _jpeg(_cut(look.film, look.source, wish.frame, square))
        now = _jpeg(_cut(look.result, look.shown, wish.frame, square))
        yield Pair(wish.shot, wish.track, wish.frame, round(float(look.source.time(wish.frame)), 3), wish.why, was, now)


def _of_findings(seen: Sequence[Seen], found: Sequence[Finding]) -> Iterator[Wish]:
    for one in [one for one in found if one.kind != "needs review"][:MOST_FINDINGS]:
        for part in seen:
            inside = part.frame[(part.frame >= one.start) & (part.frame < one.stop)]
            if one.shot in (None, part.shot) and one.track in (None, part.track) and len(inside):
                yield Wish(part.shot, part.track, int(inside[len(inside) // 2]), one.kind)
                break


def _worst(seen: Sequence[Seen], rows: Sequence[NDArray[np.bool_]]) -> Iterator[Wish]:
    """By the colour step over the mask's edge, by sharpness, by how much the mouth was changed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        figures: dict[str, list[NDArray[np.floating]]] = {
            "seam": [part.seam / np.maximum(part.film_seam, 1) for part in seen],
            "sharpness": [1 / part.sharpness for part in seen],
            "change": [part.change for part in seen],
        }
    for name, values in figures.items():
        bad = [
            np.where(inside & ~part.unchanged & np.isfinite(of), of, -np.inf)
            for part, inside, of in zip(seen, rows, values, strict=True)
        ]
        number = max(range(len(seen)), key=lambda n: bad[n].max(initial=-np.inf), default=None)
        if number is not None and np.isfinite(most := bad[number].max(initial=-np.inf)):
            told = f"{1 / most:.2f}" if name == "sharpness" else f"{most:.1f}"
            part = seen[number]
            yield Wish(part.shot, part.track, int(part.frame[bad[number].argmax()]), f"worst: {name} {told}")


def _random(seen: Sequence[Seen], rows: Sequence[NDArray[np.bool_]], seed: int) -> Iterator[Wish]:
    known = [(part.shot, part.track, int(frame)) for part, inside in zip(seen, rows, strict=True) for frame in part.frame[inside]]
    for shot, track, frame in sorted(random.Random(seed).sample(known, min(RANDOM, len(known))), key=lambda row: row[2]):
        yield Wish(shot, track, frame, "random")


def _square(box: NDArray[np.floating]) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2 about a box, the same to all sides of its middle."""
    middle, half = (box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2])) / 2 * AROUND
    x1, y1, x2, y2 = (round(float(v)) for v in (*(middle - half), *(middle + half)))
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _cut(path: Path, source: Source, frame: int, square: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """(256, 256, 3) as it is to be seen; black beyond the picture."""
    (picture,) = read_frames(path, source, frame, frame + 1)
    cut = Image.fromarray(to_rgb(picture, source.colour)).crop(square)
    return upright(np.asarray(cut.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS), np.uint8), source.rotation)


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
