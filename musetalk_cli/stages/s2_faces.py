"""Who is in a shot, and whose mouth is dubbed. In: the film, a shot. Out: Faces, and `tracks.json`, which tells of everyone seen.

    frames -- detect (every 8th; all where two looks differ) -- 68 landmarks on each face's crop -- persons -- chosen -- smoothed

A frame in which the detector sees no face has no row. Knows nothing of voices or masks.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cattrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from musetalk_cli.config import FacesConfig, Runtime
from musetalk_cli.crop import face_box
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.models.analysis import Detection, EmbeddedAnalyser, FaceAnalyser, five_of
from musetalk_cli.tracks import (
    Person,
    Sighting,
    Verdict,
    around,
    choose_all,
    choose_largest,
    choose_like,
    filled,
    follow,
    iou,
    judged,
    paired,
    smoothed,
    steady,
)
from musetalk_cli.types import Faces, Shot, Source
from musetalk_cli.work import stage

DETECT_EVERY = 8  # frames, counted from the film's first, so that neighbouring chunks look at the same ones
IDENTIFY_EVERY = 24  # frames; and at a face's first look
SAME_FACE_IOU = 0.3  # of landmarks and the detector's box of the same face, which also holds the forehead
AGREE = 0.1  # of the face's size: how far the detector's eyes, nose and mouth may lie from the landmarks; profiles: 0.1 to 0.2
CLOSE_UP = 0.65  # of the box, for a second try where the landmarker saw the neighbour instead
NEAR_MIN_FACE = 0.8  # of min_face: someone who is large enough by and large keeps his row in every frame
MOUTH = slice(48, 68)
TRACKS_FILE = "tracks.json"


@dataclass(frozen=True, slots=True)
class TrackSeen:
    """One person of a shot, dubbed or not."""

    track: int  # as in Faces.track
    frames: int  # in which the detector saw the face
    rows: int  # in which it is dubbed
    first: int  # frame
    last: int
    size_px: tuple[float, float]  # width and height of the detector's box, median
    score: float  # of the detector, median
    chosen: bool
    why: str
    similarity: float | None = None  # cosine to the picture of --face
    still_box: tuple[float, ...] | None = None  # x1 y1 x2 y2 in the frame ShotSeen.still, where the person is in it
    still_landmarks: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class ShotSeen:
    """What `tracks.json` holds."""

    shot: Shot
    still: int  # a frame that shows most of the persons, first those who are dubbed
    faceless: int  # frames in which the detector saw nobody
    tracks: tuple[TrackSeen, ...] = ()


@stage(version=1)
def faces(video: Path, source: Source, shot: Shot, *, config: FacesConfig, runtime: Runtime, out: Path) -> Faces:
    """Rows of every person that `config.choose` picks, in source pixels; beside them `out/tracks.json`, see `read_seen`.

    The box follows the released v1.5 rule from smoothed landmarks (spec 3.2 and 3.3). Raises InputError for a film that is stored
    turned, or a picture without a face.
    """
    if source.rotation % 360:
        raise InputError(
            f"{video}: is stored turned by {source.rotation} degrees, which is not supported",
            "turn it upright first: `ffmpeg -i FILM -crf 12 -c:a copy UPRIGHT.mp4`",
        )
    with _open_analyser(config.analyser, runtime) as analyser:
        choose = _chooser(config, analyser)
        seen = follow(_observe(video, source, shot, analyser, config), bridge=config.bridge)
    persons = [(person, within) for person in seen if (within := _within(person, shot)).sightings]
    verdicts = judged([within for _, within in persons], min_face=config.min_face, choose=choose)
    rows = [
        (track, *row)
        for track, ((person, _), verdict) in enumerate(zip(persons, verdicts, strict=True))
        if verdict.chosen
        for row in _rows(person, shot, source.size, config)
    ]
    found = _as_faces(shot, rows)
    _write_seen(out / TRACKS_FILE, shot, [within for _, within in persons], verdicts, found)
    return found


def read_seen(folder: Path) -> ShotSeen:
    """Everyone seen in a shot, from the folder that holds its Faces."""
    return _records.structure(json.loads((folder / TRACKS_FILE).read_text()), ShotSeen)


@contextmanager
def _open_analyser(name: str, runtime: Runtime) -> Iterator[FaceAnalyser]:
    """The face analysis that config names; MediaPipe must end before Python does, so each shot opens its own in 20 ms."""
    if name == "embedded":
        with EmbeddedAnalyser() as analyser:
            yield analyser
    elif name == "face-alignment":
        from musetalk_cli.weights import folder

        yield _face_alignment(folder(runtime.weights), runtime.device)
    else:
        raise UsageError(f"face analyser {name!r} is unknown", "choose embedded or face-alignment")


@lru_cache(maxsize=1)
def _face_alignment(weights: Path, device: str) -> FaceAnalyser:
    from musetalk_cli.models.face_alignment_analyser import FaceAlignmentAnalyser

    return FaceAlignmentAnalyser(weights, device)


def _chooser(config: FacesConfig, analyser: FaceAnalyser) -> Callable[[Sequence[Person]], list[Verdict]]:
    if config.choose == "largest":
        return choose_largest
    if config.choose == "all":
        return choose_all
    picture = Path(config.choose)
    return choose_like(_identity_in(picture, analyser), config.similarity, picture.name)


def _identity_in(picture: Path, analyser: FaceAnalyser) -> NDArray[np.float32]:
    """(128,) of the largest face of a picture."""
    try:
        with Image.open(picture) as image:
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except FileNotFoundError:
        raise InputError(f"{picture}: no such picture", "choose --face largest, all, or a picture of the person") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{picture}: cannot be read as a picture", "give a JPEG or PNG") from error
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
        block.append(Picture(number, to_rgb(picture, source.colour, quick=True)))
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
    return Sighting(frame.number, face.detection.box, face.detection.score, face.landmarks, identity)


def _within(person: Person, shot: Shot) -> Person:
    return Person(tuple(seen for seen in person.sightings if shot.start <= seen.frame < shot.stop))


class _Row(NamedTuple):
    frame: int
    box: NDArray[np.int32]  # (4,)
    landmarks: NDArray[np.float32]  # (68, 2)


def _rows(person: Person, shot: Shot, size: tuple[int, int], config: FacesConfig) -> Iterator[_Row]:
    whole = steady(filled(person, config.bridge), shot)
    for frame, points in zip(whole.frames, smoothed(whole.frames, whole.landmarks, config.smooth), strict=True):
        box = face_box(points, size, margin=config.margin, shift=config.shift)
        if shot.start <= frame < shot.stop and box is not None:
            yield _Row(int(frame), box, points)


def _as_faces(shot: Shot, rows: list[tuple[int, int, NDArray[np.int32], NDArray[np.float32]]]) -> Faces:
    """(track, frame, box, landmarks) of all chosen persons -> Faces, by frame and then by track."""
    rows = sorted(rows, key=lambda row: (row[1], row[0]))
    return Faces(
        shot,
        np.array([frame for _, frame, _, _ in rows], np.int32),
        np.array([track for track, _, _, _ in rows], np.int16),
        np.array([box for _, _, box, _ in rows], np.int32).reshape(-1, 4),
        np.array([points for _, _, _, points in rows], np.float32).reshape(-1, 68, 2),
    )


def _write_seen(path: Path, shot: Shot, persons: list[Person], verdicts: list[Verdict], found: Faces) -> None:
    still = _still(shot, persons, verdicts)
    seen_frames = {int(frame) for person in persons for frame in person.frames}
    tracks = [_track_seen(i, *of, found, still) for i, of in enumerate(zip(persons, verdicts, strict=True))]
    seen = ShotSeen(shot, still, shot.frames - len(seen_frames), tuple(tracks))
    path.write_text(json.dumps(_records.unstructure(seen), indent=1))


def _still(shot: Shot, persons: list[Person], verdicts: list[Verdict]) -> int:
    """The frame with most persons, those dubbed counting first; of equals the one nearest to the middle."""
    middle = (shot.start + shot.stop - 1) / 2
    worth = np.zeros(shot.frames)
    for person, verdict in zip(persons, verdicts, strict=True):
        with_landmarks = [seen.frame - shot.start for seen in person.sightings if seen.landmarks is not None]
        worth[person.frames - shot.start] += 1
        worth[with_landmarks] += 100 if verdict.chosen else 1
    return max(range(shot.start, shot.stop), key=lambda frame: (worth[frame - shot.start], -abs(frame - middle)))


def _track_seen(track: int, person: Person, verdict: Verdict, found: Faces, still: int) -> TrackSeen:
    now = next((seen for seen in person.sightings if seen.frame == still), None)
    rows = np.flatnonzero(found.track == track)
    drawn = [found.landmarks[row] for row in rows if found.frame[row] == still]
    landmarks = drawn[0] if drawn else None if now is None else now.landmarks
    return TrackSeen(
        track=track,
        frames=len(person.sightings),
        rows=len(rows),
        first=int(person.frames[0]),
        last=int(person.frames[-1]),
        size_px=(round(person.size_px[0], 1), round(person.size_px[1], 1)),
        score=round(person.score, 3),
        chosen=verdict.chosen,
        why=verdict.why,
        similarity=None if verdict.similarity is None else round(verdict.similarity, 3),
        still_box=None if now is None else tuple(round(float(v), 1) for v in now.box),
        still_landmarks=None if landmarks is None else tuple((round(float(x), 1), round(float(y), 1)) for x, y in landmarks),
    )


_records = cattrs.Converter()
