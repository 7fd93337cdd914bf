"""What a dub would see. In: a film. Out: a row for each shot, and a contact sheet with a frame of each, faces framed.

Runs the first two stages in the film's work folder, where `dub` finds them done. Knows nothing of voices.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import DubConfig, Runtime
from musetalk_cli.errors import OutputExistsError
from musetalk_cli.progress import clock
from musetalk_cli.session import Place, Session, Voice, open_session
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.types import Faces, Shot, Source

TILE = (320, 180)  # width, height of a shot on the sheet
COLUMNS = 6
MOST_TILES = 240  # a two-hour film has 1500 shots; every n-th is shown then
TRACK_COLOURS = np.array([(80, 220, 80), (80, 160, 255), (255, 140, 60), (230, 90, 230), (240, 230, 70), (90, 230, 230)])


@dataclass(frozen=True, slots=True)
class ShotReport:
    """One shot, and what becomes of it."""

    shot: int
    start: float  # seconds from the film's start
    frames: int
    frames_with_face: int
    people: int  # tracks that are dubbed
    widest_px: int  # of their boxes
    verdict: str


@dataclass(frozen=True, slots=True)
class Inspection:
    film: Path
    sheet: Path
    shots: tuple[ShotReport, ...]

    def as_json(self) -> dict[str, object]:
        return {"film": str(self.film), "shots": [asdict(shot) for shot in self.shots], "sheet": str(self.sheet)}

    def lines(self) -> list[str]:
        head = f"{'shot':>5} {'start':>8} {'frames':>7} {'with face':>9} {'people':>6} {'widest':>7}"
        rows = [
            f"{s.shot:5} {clock(s.start):>8} {s.frames:7} {s.frames_with_face:9} {s.people:6} {s.widest_px:4} px  {s.verdict}"
            for s in self.shots
        ]
        return [head, *rows, str(self.sheet)]


def inspect_film(film: Path, output: Path | None, choices: Choices, place: Place, voice: Voice, *, overwrite: bool) -> Inspection:
    """Find shots and faces, write the sheet. Raises OutputExistsError where one lies there already."""
    sheet = output or film.with_name(f"{film.stem}.faces.png")
    if sheet.exists() and not overwrite:
        raise OutputExistsError(f"{sheet}: is there already", "-y replaces it, -o names another")
    runtime = choose_runtime(choices)
    with open_session(film, place, voice, deliver=False) as session:
        source, found = _analyse(film, dub_config(choices, runtime), runtime, session)
        reports = tuple(_report(shot, faces, source) for shot, faces in zip(source.shots, found, strict=True))
        _write(sheet, contact_sheet(film, source, found))
    return Inspection(film, sheet, reports)


def contact_sheet(film: Path, source: Source, found: Sequence[Faces]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: a tile for each shot, its middle face framed in the colour of its track."""
    step = -(-len(found) // MOST_TILES)
    tiles = [_tile(film, source, faces) for faces in found[::step]]
    rows = -(-len(tiles) // COLUMNS)
    sheet = np.zeros((rows * TILE[1], min(COLUMNS, len(tiles)) * TILE[0], 3), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // COLUMNS * TILE[1], i % COLUMNS * TILE[0]
        sheet[y : y + TILE[1], x : x + TILE[0]] = tile
    return sheet


def _analyse(film: Path, config: DubConfig, runtime: Runtime, session: Session) -> tuple[Source, list[Faces]]:
    from musetalk_cli.pipeline import Run, find_faces
    from musetalk_cli.stages.s1_demux import demux

    source = session.work.do(demux, film, config=config.demux, runtime=runtime, unit="film")
    found = find_faces(source, Run(film, config, runtime, session.work, session.events))
    return source.load(), [faces.load() for faces in found]


def _report(shot: Shot, faces: Faces, source: Source) -> ShotReport:
    seen = len(np.unique(faces.frame))
    widest = int((faces.box[:, 2] - faces.box[:, 0]).max()) if faces.rows else 0
    verdict = {0: "no face: stays as it is", shot.frames: "dubbed"}.get(
        seen, f"dubbed; {shot.frames - seen} frames without a face stay"
    )
    people = len(np.unique(faces.track))
    return ShotReport(shot.index, float(source.time(shot.start)), shot.frames, seen, people, widest, verdict)


def _tile(film: Path, source: Source, faces: Faces) -> NDArray[np.uint8]:
    """(180, 320, 3): the frame in the middle of the faces, or of the shot."""
    import cv2

    from musetalk_cli.media.video import read_frames, to_rgb

    shot = faces.shot
    number = int(faces.frame[faces.rows // 2]) if faces.rows else (shot.start + shot.stop) // 2
    rgb = np.ascontiguousarray(to_rgb(next(iter(read_frames(film, source, number, number + 1))), source.colour))
    for row in np.flatnonzero(faces.frame == number):
        x1, y1, x2, y2 = (int(v) for v in faces.box[row])
        colour = TRACK_COLOURS[int(faces.track[row]) % len(TRACK_COLOURS)].tolist()
        cv2.rectangle(rgb, (x1, y1), (x2, y2), colour, max(2, source.size[0] // 200))
    scale = min(TILE[0] / source.size[0], TILE[1] / source.size[1])
    small = cv2.resize(rgb, (int(source.size[0] * scale), int(source.size[1] * scale)), interpolation=cv2.INTER_AREA)
    tile = np.zeros((TILE[1], TILE[0], 3), np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    cv2.putText(
        tile, f"{shot.index} {clock(float(source.time(number)))}", (6, 172), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1
    )
    return tile


def _write(path: Path, rgb: NDArray[np.uint8]) -> None:
    from PIL import Image

    part = path.with_name(f".{path.name}.part")
    Image.fromarray(rgb).save(part, format="PNG")
    part.replace(path)
