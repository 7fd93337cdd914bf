"""A film on a page. In: a tile for each shot: a frame and what is known of its faces. Out: PNG pages. Knows nothing of films.

page = head + rows of tiles;  tile = still with faces marked / number, time / bar of dubbed frames / who, and why
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE_WIDTHS_PX = (960, 800, 592, 435)  # for one column to four
ROWS_A_PAGE = 6
MOST_LABELS = 3
MARGIN_PX, GAP_PX, HEAD_PX = 48, 28, 118
LINE_PX = 24  # of a label
OVERSAMPLING = 2  # lines over a still are drawn this much larger, for smooth edges

PAPER, INK, MUTED = (20, 22, 26), (236, 233, 226), (139, 143, 152)
DUBBED, OTHER, TRACK_BAR = (255, 178, 36), (120, 168, 205), (52, 56, 64)
STAYS_DIM = 0.6  # a shot that stays as it is steps back

CLOSED = (range(36, 42), range(42, 48), range(48, 60), range(60, 68))  # eyes and lips of the 68 landmarks
OPEN = (range(17), range(17, 22), range(22, 27), range(27, 31), range(31, 36))  # jaw, brows, nose

Colour = tuple[int, int, int]


class Mark(NamedTuple):
    """A face in a still."""

    letter: str
    box: tuple[float, ...]  # x1 y1 x2 y2, pixels of the still
    landmarks: tuple[tuple[float, float], ...]  # 68, or none
    dubbed: bool


class Label(NamedTuple):
    """A line under a still."""

    letter: str  # of the person it speaks of, "" for the shot itself
    text: str
    dubbed: bool = False


class Tile(NamedTuple):
    """One shot."""

    still: NDArray[np.uint8]  # (H, W, 3) RGB
    aspect: float  # width by height as shown: pixels need not be square
    title: str
    time: str
    dubbed: tuple[tuple[float, float], ...]  # stretches of the shot that are dubbed, as shares 0..1
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]


def sheet_path(film: Path, output: Path | None) -> Path:
    """Of the first page."""
    name = f"{film.stem}.faces.png"
    if output is None:
        return film.with_name(name)
    return output / name if output.is_dir() else output


def further_pages(first: Path) -> list[Path]:
    """Those after the first that lie beside it, `{stem}-2.png` and so on, in order."""
    found = {path: re.fullmatch(rf"{re.escape(first.stem)}-(\d+)", path.stem) for path in first.parent.glob(f"*{first.suffix}")}
    return sorted((path for path, name in found.items() if name), key=lambda path: int(path.stem.rpartition("-")[2]))


def draw_pages(title: str, facts: str, tiles: Iterator[Tile], count: int) -> Iterator[Image.Image]:
    """Pages of at most four columns and six rows for `count` tiles, which are taken one by one: few stills are in memory."""
    columns = min(max(count, 1), len(TILE_WIDTHS_PX))
    a_page = columns * ROWS_A_PAGE
    pages = max(-(-count // a_page), 1)
    for page in range(pages):
        on_page = min(a_page, count - page * a_page)
        where = (
            "" if pages == 1 else f"page {page + 1} of {pages}: {page * a_page + 1} to {page * a_page + on_page} of {count} shots"
        )
        drawn = [_draw_tile(next(tiles), TILE_WIDTHS_PX[columns - 1]) for _ in range(on_page)]
        yield _page(title, facts, where, drawn, columns)


def _page(title: str, facts: str, where: str, tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    width = TILE_WIDTHS_PX[columns - 1]
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    size = (2 * MARGIN_PX + columns * (width + GAP_PX) - GAP_PX, HEAD_PX + sum(heights) + GAP_PX * len(rows) + MARGIN_PX - GAP_PX)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    room = size[0] - 2 * MARGIN_PX
    pen.text((MARGIN_PX, 34), _shortened(title, 30, room), INK, _font(30))
    pen.text((MARGIN_PX, 74), _shortened(facts, 17, room - _width(where, 17) - GAP_PX), MUTED, _font(17))
    pen.text((size[0] - MARGIN_PX, 74), where, MUTED, _font(17), anchor="ra")
    y = HEAD_PX
    for row, height in zip(rows, heights, strict=True):
        for i, tile in enumerate(row):
            page.paste(tile, (MARGIN_PX + i * (width + GAP_PX), y))
        y += height + GAP_PX
    return page


def _draw_tile(tile: Tile, width: int) -> Image.Image:
    still = _marked_still(tile, width)
    shown = tile.labels if len(tile.labels) <= MOST_LABELS else tile.labels[: MOST_LABELS - 1]
    rest = len(tile.labels) - len(shown)
    labels = [*shown, *([Label("", f"and {rest} more")] if rest else [])]
    image = Image.new("RGB", (width, still.height + 52 + LINE_PX * len(labels)), PAPER)
    image.paste(still, (0, 0))
    pen = ImageDraw.Draw(image)
    _draw_bar(pen, tile.dubbed, (0, still.height + 6, width, still.height + 11))
    y = still.height + 20
    pen.text((0, y), tile.title, INK, _font(20))
    pen.text((width, y + 3), tile.time, MUTED, _font(16), anchor="ra")
    for i, label in enumerate(labels):
        _draw_label(pen, label, y + 32 + i * LINE_PX, width)
    return image


def _marked_still(tile: Tile, width: int) -> Image.Image:
    """The still in a frame no taller than wide, faces marked."""
    height = round(width / max(tile.aspect, 1.0))
    inner = (round(height * tile.aspect), height) if tile.aspect < 1 else (width, height)
    picture = Image.fromarray(tile.still)
    if not tile.dubbed:
        picture = Image.blend(Image.new("RGB", picture.size, PAPER), picture, STAYS_DIM)
    large = picture.resize((inner[0] * OVERSAMPLING, inner[1] * OVERSAMPLING), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(large)
    zoom = (large.width / picture.width, large.height / picture.height)
    for mark in sorted(tile.marks, key=lambda mark: mark.dubbed):
        _draw_mark(pen, mark, zoom)
    still = Image.new("RGB", (width, height), TRACK_BAR)
    still.paste(large.resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, 0))
    return still


def _draw_mark(pen: ImageDraw.ImageDraw, mark: Mark, zoom: tuple[float, float]) -> None:
    colour, unit = DUBBED if mark.dubbed else OTHER, OVERSAMPLING
    x1, y1, x2, y2 = (v * zoom[i % 2] for i, v in enumerate(mark.box))
    if mark.dubbed:
        points = [(x * zoom[0], y * zoom[1]) for x, y in mark.landmarks]
        for line in [[*part, part[0]] for part in CLOSED] + [list(part) for part in OPEN]:
            pen.line([points[i] for i in line] if points else [], colour, unit, joint="curve")
    pen.rounded_rectangle((x1, y1, x2, y2), 4 * unit, outline=colour, width=(2 if mark.dubbed else 1) * unit)
    font = _font(15 * unit)
    tag = _width(mark.letter, 15 * unit) + 10 * unit
    top = max(y1 - 20 * unit, 0)
    pen.rounded_rectangle((x1, top, x1 + tag, top + 20 * unit), 4 * unit, colour)
    pen.text((x1 + tag / 2, top + 10 * unit), mark.letter, PAPER, font, anchor="mm")


def _draw_bar(pen: ImageDraw.ImageDraw, dubbed: Sequence[tuple[float, float]], place: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = place
    pen.rectangle((x1, y1, x2 - 1, y2), TRACK_BAR)
    for start, stop in dubbed:
        left = x1 + start * (x2 - x1)
        pen.rectangle((left, y1, max(x1 + stop * (x2 - x1) - 1, left), y2), DUBBED)


def _draw_label(pen: ImageDraw.ImageDraw, label: Label, y: int, width: int) -> None:
    colour = DUBBED if label.dubbed else OTHER
    indent = 0.0
    if label.letter:
        indent = _width(label.letter, 16) + 10
        pen.text((0, y), label.letter, colour, _font(16))
    pen.text((indent, y), _shortened(label.text, 16, width - indent), INK if label.dubbed else MUTED, _font(16))


def _shortened(text: str, size_px: int, room_px: float) -> str:
    if _width(text, size_px) <= room_px:
        return text
    while text and _width(f"{text}...", size_px) > room_px:
        text = text[:-1]
    return f"{text.rstrip()}..."


def _width(text: str, size_px: int) -> float:
    return float(_font(size_px).getlength(text))


@lru_cache(maxsize=16)
def _font(size_px: int) -> Any:
    """Aileron, which Pillow carries: no font of the system is needed."""
    return ImageFont.load_default(size_px)
