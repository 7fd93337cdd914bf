"""Who is in a shot. In: the film, a shot. Out: Faces of everyone who could be dubbed, and `tracks.json`, which tells of everyone seen.

    frames -- detect (every 8th; all where two looks differ) -- 68 landmarks on each face's crop -- persons -- smoothed

A frame in which the detector sees no face has no row. Knows nothing of voices, masks or of who is to be dubbed.
"""

import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cattrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from musetalk_cli.config import FacesConfig, Runtime
from musetalk_cli.crop import face_box, from_upright, upright
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.landmarks import rolls_of
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.models.analysis import Detection, FaceAnalyser, five_of, lent_analyser
from musetalk_cli.models.looks import look_of
from musetalk_cli.reading import check_regular
from musetalk_cli.tracks import Person, Sighting, around, filled, follow, iou, paired, smoothed, steady, unfit
from musetalk_cli.types import Faces, Shot, Source
from musetalk_cli.work import stage

DETECT_EVERY = 8  # frames, counted from the film's first, so that neighbouring chunks look at the same ones
IDENTIFY_EVERY = 24  # frames; and at a face's first look
SAME_FACE_IOU = 0.3  # of landmarks and the detector's box of the same face, which also holds the forehead
AGREE = 0.1  # of the face's size: how far the detector's eyes, nose and mouth may lie from the landmarks; profiles: 0.1 to 0.2
CLOSE_UP = 0.65  # of the box, for a second try where the landmarker saw the neighbour instead
NEAR_MIN_FACE = 0.8  # of min_face: someone who is large enough by and large keeps his row in every frame
MOUTH = slice(48, 68)
ROW_FIELDS = ("frame", "track", "box", "landmarks", "roll", "hidden")
IDENTITY_SIZE = 128  # of SFace
TRACKS_FILE = "tracks.json"
PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO")  # of a person; Pillow's EPS would start Ghostscript
STILL_PX = 89_000_000  # from 89.5 megapixels on Pillow itself warns, from 179 it refuses
# What Pillow raises for pictures that are damaged or none.
NO_PICTURE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, LookupError, TypeError, struct.error, zlib.error)
_loading = threading.Lock()  # two shots that ask at once are given one analyser


@dataclass(frozen=True, slots=True)
class TrackSeen:
    """One person of a shot."""

    track: int  # as in Faces.track
    frames: int  # in which the detector saw the face
    rows: int  # in which it could be dubbed
    first: int  # frame
    last: int
    size_px: tuple[float, float]  # width and height of the detector's box, median
    score: float  # of the detector, median
    unfit: str  # why it cannot be dubbed at all; "": it can
    still_box: tuple[float, ...] | None = None  # x1 y1 x2 y2 in the frame ShotSeen.still, seen upright, where the person is in it
    still_landmarks: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class ShotSeen:
    """What `tracks.json` holds."""

    shot: Shot
    still: int  # a frame that shows most of the persons, first those who could be dubbed
    faceless: int  # frames in which the detector saw nobody
    tracks: tuple[TrackSeen, ...] = ()


@stage(version=3)
def faces(video: Path, source: Source, shot: Shot, *, config: FacesConfig, runtime: Runtime, out: Path) -> Faces:
    """Rows of everyone who is real, large enough and seen by the landmarker; beside them `out/tracks.json`, see `read_seen`.

    The box follows the released v1.5 rule from smoothed landmarks (spec 3.2 and 3.3); a tilted head has a roll. A film that is
    stored turned is looked at upright, and all places are told in pixels as they are stored.
    """
    with _open_analyser(config.analyser, runtime) as analyser:
        seen = follow(_observe(video, source, shot, analyser, config), bridge=config.bridge)
    everyone = [(person, within) for person in seen if (within := _within(person, shot)).sightings]
    persons = [within for _, within in everyone]
    why = [unfit(within, config.min_face) for within in persons]
    rows = [
        (track, row)
        for track, (person, _) in enumerate(everyone)
        if not why[track]
        for row in _rows(person, shot, source, config)
    ]
    found = _as_faces(shot, rows, _identities([person for person, _ in everyone]))  # a brief chunk may hold no look at who it is
    _write_seen(out / TRACKS_FILE, shot, persons, why, found)
    return found


class Tracks(NamedTuple):
    """Numbers of tracks of a shot, ascending."""

    of: tuple[int, ...]


@stage(version=1)
def pick(faces: Faces, tracks: Tracks, *, config: None, runtime: Runtime, out: Path) -> Faces:
    """The rows of these tracks alone: what follows is done for nobody else."""
    rows = np.isin(faces.track, tracks.of)
    return replace(faces, **{name: getattr(faces, name)[rows] for name in ROW_FIELDS})


def read_seen(folder: Path) -> ShotSeen:
    """Everyone seen in a shot, from the folder that holds its Faces."""
    return _records.structure(json.loads((folder / TRACKS_FILE).read_text()), ShotSeen)


@contextmanager
def _open_analyser(name: str, runtime: Runtime) -> Iterator[FaceAnalyser]:
    """The face analysis that config names."""
    if name == "embedded":
        with lent_analyser() as analyser:
            yield analyser
    elif name == "face-alignment":
        from musetalk_cli.weights import folder

        with _loading:
            loaded = _face_alignment(folder(runtime.weights), runtime.device)
        yield loaded
    else:
        raise UsageError(f"face analyser {name!r} is unknown", "choose embedded or face-alignment")


@lru_cache(maxsize=1)
def _face_alignment(weights: Path, device: str) -> FaceAnalyser:
    from musetalk_cli.models.face_alignment_analyser import FaceAlignmentAnalyser

    return FaceAlignmentAnalyser(weights, device)


def identity_in(picture: Path, config: FacesConfig, runtime: Runtime) -> NDArray[np.float32]:
    """(128,) of the largest face of a picture, of length 1. Raises InputError for a picture without a face, or none at all."""
    with _open_analyser(config.analyser, runtime) as analyser:
        return _identity_in(picture, analyser)


def _identity_in(picture: Path, analyser: FaceAnalyser) -> NDArray[np.float32]:
    try:
        check_regular(picture.stat().st_mode, picture)
        with Image.open(picture, formats=PICTURES) as image:
            if image.width * image.height > STILL_PX:
                raise Image.DecompressionBombError
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except FileNotFoundError:
        raise InputError(
            f"{picture}: no such picture", "give a JPEG or PNG of the person: as --face, or as the still in a cast map"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{picture}: larger than {STILL_PX // 10**6} megapixels", "scale it down to 4000 pixels or so"
        ) from error
    except NO_PICTURE as error:
        raise InputError(f"{str(picture)!a}: cannot be read as a picture", "give a JPEG or PNG") from error
    found = analyser.detect(rgb)
    if not found:
        raise InputError(
            f"{picture}: shows no face", "give a picture that shows the person's face from the front, sharp and alone"
        )
    return analyser.embed(rgb, max(found, key=lambda face: float(np.prod(face.box[2:] - face.box[:2]))))


def _observe(video: Path, source: Source, shot: Shot, analyser: FaceAnalyser, config: FacesConfig) -> Iterator[list[Sighting]]:
    """Everyone in each frame of the shot, its lead and its tail."""
    first, stop = max(shot.start - shot.lead, 0), min(shot.stop + shot.tail, source.frames)
    observer = Observer(analyser, config)
    block: list[Picture] = []
    for number, picture in enumerate(read_frames(video, source, first, stop), first):
        block.append(Picture(number, upright(to_rgb(picture, source.colour, quick=True), source.rotation)))
        if number == first or number % DETECT_EVERY == 0 or number == stop - 1:
            yield from observer.sightings(block)
            block = []


class Picture(NamedTuple):
    number: int
    rgb: NDArray[np.uint8]  # (H, W, 3)


class Observer:
    """Everyone in frame after frame, block after block: the detector looks at the last frame of each, elsewhere where it must."""

    def __init__(self, analyser: FaceAnalyser, config: FacesConfig) -> None:
        self._analyser = analyser
        self._look = partial(_look, analyser=analyser, config=config)
        self._before: list[_Face] = []

    def sightings(self, block: Sequence[Picture]) -> Iterator[list[Sighting]]:
        """The faces of each frame of a block, which follows on the block before; the first block is one frame."""
        before, self._before = self._before, self._look(block[-1])
        for frame, seen in zip(block, _between_looks(block, before, self._before, self._look), strict=True):
            known = before if frame is block[-1] else None
            yield [_sighting(frame, face, known, self._analyser) for face in seen]


class _Face(NamedTuple):
    detection: Detection
    landmarks: NDArray[np.float32] | None


def _between_looks(
    block: Sequence[Picture], before: list[_Face], now: list[_Face], look: Callable[..., list[_Face]]
) -> Iterator[list[_Face]]:
    """The faces of each frame of a block, whose last has been looked at and so has the frame before it.

    Where both looks show the same faces, those between lie between, and only landmarks are taken there. Where a face comes, goes
    or is not where it should be, the detector looks at the frame itself. Who has no landmarks in either look is not asked for.
    """
    pairs = paired(_boxes(before), _boxes(now), SAME_FACE_IOU)
    usable = {(0, i) for i, face in enumerate(before) if face.landmarks is not None}
    usable |= {(1, k) for k, face in enumerate(now) if face.landmarks is not None}
    same = usable <= {(0, i) for i, _ in pairs} | {(1, k) for _, k in pairs}
    for step, frame in enumerate(block[:-1], 1):
        if not same:
            yield look(frame)
            continue
        between = [_midway(before[i].detection, now[k].detection, step / len(block)) for i, k in pairs]
        asked = [(0, i) in usable or (1, k) in usable for i, k in pairs]
        faces = look(frame, [face for face, ask in zip(between, asked, strict=True) if ask])
        lost = any(face.landmarks is None for face in faces)
        yield look(frame) if lost else [*faces, *(_Face(face, None) for face, ask in zip(between, asked, strict=True) if not ask)]
    yield now


def _midway(a: Detection, b: Detection, share: float) -> Detection:
    return Detection(
        np.asarray(a.box * (1 - share) + b.box * share, np.float32),
        a.score * (1 - share) + b.score * share,
        np.asarray(a.keypoints * (1 - share) + b.keypoints * share, np.float32),
    )


def _boxes(seen: list[_Face]) -> NDArray[np.float32]:
    return np.array([face.detection.box for face in seen], np.float32).reshape(-1, 4)


def _look(frame: Picture, known: list[Detection] | None = None, *, analyser: FaceAnalyser, config: FacesConfig) -> list[_Face]:
    """Faces of a frame with their landmarks: those known, or those the detector finds."""
    found = [face for face in analyser.detect(frame.rgb) if face.score >= config.min_score] if known is None else known
    large = [float(face.box[2] - face.box[0]) >= NEAR_MIN_FACE * config.min_face for face in found]
    return [
        _Face(face, _landmarks(frame.rgb, face, analyser) if enough else None) for face, enough in zip(found, large, strict=True)
    ]


def _landmarks(rgb: NDArray[np.uint8], face: Detection, analyser: FaceAnalyser) -> NDArray[np.float32] | None:
    """(68, 2) of this face and no other; None where there are none to be trusted, or the mouth lies outside the picture."""
    centre = np.tile((face.box[:2] + face.box[2:]) / 2, 2)
    for box in (face.box, centre + (face.box - centre) * CLOSE_UP):
        points = analyser.landmarks(rgb, box)
        if points is None:
            return None
        if _fit(points, face):
            x, y = points[MOUTH].mean(0)
            return points if 0 <= x < rgb.shape[1] and 0 <= y < rgb.shape[0] else None
    return None


def _fit(points: NDArray[np.float32], face: Detection) -> bool:
    """Whether two networks that know nothing of each other see the same face: else it is the neighbour's, or a profile, on which
    MediaPipe draws a front view. A detector without keypoints (NaN) is asked for the place alone."""
    if iou(around(points), face.box) < SAME_FACE_IOU:
        return False
    apart = np.linalg.norm(five_of(points) - face.keypoints, axis=1).mean() / np.sqrt(np.prod(face.box[2:] - face.box[:2]))
    return not apart > AGREE


def _sighting(frame: Picture, face: _Face, known: list[_Face] | None, analyser: FaceAnalyser) -> Sighting:
    """known: faces of the look before this one; None where this frame was not looked at as an end of a block."""
    due = known is not None and face.landmarks is not None
    new = due and not paired(_boxes(known or []), face.detection.box[None], SAME_FACE_IOU)
    identity = analyser.embed(frame.rgb, face.detection) if due and (new or frame.number % IDENTIFY_EVERY == 0) else None
    look = None if face.landmarks is None else look_of(frame.rgb, face.landmarks)
    return Sighting(frame.number, face.detection.box, face.detection.score, face.landmarks, identity, look)


def _within(person: Person, shot: Shot) -> Person:
    return Person(tuple(seen for seen in person.sightings if shot.start <= seen.frame < shot.stop))


class _Row(NamedTuple):
    frame: int
    box: NDArray[np.int32]  # (4,)
    landmarks: NDArray[np.float32]  # (68, 2)
    roll: float
    hidden: float


def _rows(person: Person, shot: Shot, source: Source, config: FacesConfig) -> Iterator[_Row]:
    whole = steady(filled(person, config.bridge), shot)
    seen = smoothed(whole.frames, whole.landmarks, config.smooth)
    landmarks = np.asarray(from_upright(seen, source.rotation, source.size), np.float32)
    rolls = rolls_of(whole.frames, landmarks)
    for frame, points, roll, hidden in zip(whole.frames, landmarks, rolls, whole.hidden, strict=True):
        box = face_box(points, source.size, margin=config.margin, shift=config.shift, roll=float(roll))
        if shot.start <= frame < shot.stop and box is not None:
            yield _Row(int(frame), box, points, float(roll), float(hidden))


def _identities(persons: list[Person]) -> NDArray[np.float32]:
    """(P, 128), NaN of those whom the identity network never saw."""
    unknown = np.full(IDENTITY_SIZE, np.nan, np.float32)
    found = [unknown if person.identity is None else person.identity for person in persons]
    return np.array(found, np.float32).reshape(-1, IDENTITY_SIZE)


def _as_faces(shot: Shot, rows: list[tuple[int, _Row]], identity: NDArray[np.float32]) -> Faces:
    """(track, row) of all persons -> Faces, by frame and then by track."""
    rows = sorted(rows, key=lambda pair: (pair[1].frame, pair[0]))
    return Faces(
        shot,
        np.array([row.frame for _, row in rows], np.int32),
        np.array([track for track, _ in rows], np.int16),
        np.array([row.box for _, row in rows], np.int32).reshape(-1, 4),
        np.array([row.landmarks for _, row in rows], np.float32).reshape(-1, 68, 2),
        identity,
        np.array([row.roll for _, row in rows], np.float32),
        np.array([row.hidden for _, row in rows], np.float32),
    )


def _write_seen(path: Path, shot: Shot, persons: list[Person], why: list[str], found: Faces) -> None:
    still = _still(shot, persons, why)
    seen_frames = {int(frame) for person in persons for frame in person.frames}
    tracks = [_track_seen(i, *of, found, still) for i, of in enumerate(zip(persons, why, strict=True))]
    seen = ShotSeen(shot, still, shot.frames - len(seen_frames), tuple(tracks))
    path.write_text(json.dumps(_records.unstructure(seen), indent=1))


def _still(shot: Shot, persons: list[Person], why: list[str]) -> int:
    """The frame with most persons, those who could be dubbed counting first; of equals the one nearest to the middle."""
    middle = (shot.start + shot.stop - 1) / 2
    worth = np.zeros(shot.frames)
    for person, unfit_for in zip(persons, why, strict=True):
        with_landmarks = [seen.frame - shot.start for seen in person.sightings if seen.landmarks is not None]
        worth[person.frames - shot.start] += 1
        worth[with_landmarks] += 1 if unfit_for else 100
    return max(range(shot.start, shot.stop), key=lambda frame: (worth[frame - shot.start], -abs(frame - middle)))


def _track_seen(track: int, person: Person, why: str, found: Faces, still: int) -> TrackSeen:
    now = next((seen for seen in person.sightings if seen.frame == still), None)
    rows = np.flatnonzero(found.track == track)
    return TrackSeen(
        track=track,
        frames=len(person.sightings),
        rows=len(rows),
        first=int(person.frames[0]),
        last=int(person.frames[-1]),
        size_px=(round(person.size_px[0], 1), round(person.size_px[1], 1)),
        score=round(person.score, 3),
        unfit=why,
        still_box=None if now is None else tuple(round(float(v), 1) for v in now.box),
        still_landmarks=None
        if now is None or now.landmarks is None
        else tuple((round(float(x), 1), round(float(y), 1)) for x, y in now.landmarks),
    )


_records = cattrs.Converter()
