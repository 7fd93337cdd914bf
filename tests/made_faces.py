"""Made films and faces for the tests of masks and blending: 68 landmarks of a face of any size, a film that moves, its Source."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import face_box
from musetalk_cli.types import Colour, Faces, Shot, Source

SIZE = (192, 160)


def landmarks_at(x: float, y: float, width: float) -> NDArray[np.float32]:
    """(68, 2) of a plain frontal face `width` wide whose nose bridge (point 29) lies at x, y."""
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([np.cos(angle) / 2, -0.05 + 0.75 * np.sin(angle)], 1)
    brows = [
        [s * d, -0.32 - 0.04 * np.sin(d * 6)]
        for s, ds in ((-1, (0.4, 0.33, 0.25, 0.16, 0.08)), (1, (0.08, 0.16, 0.25, 0.33, 0.4)))
        for d in ds
    ]
    nose = [[0, -0.2], [0, -0.1], [0, 0], [0, 0.1], [-0.08, 0.16], [-0.04, 0.18], [0, 0.19], [0.04, 0.18], [0.08, 0.16]]
    eyes = [
        [s * 0.22 + dx, -0.2 + dy]
        for s in (-1, 1)
        for dx, dy in ((-0.07, 0), (-0.03, -0.03), (0.03, -0.03), (0.07, 0), (0.03, 0.03), (-0.03, 0.03))
    ]
    outer, inner = np.linspace(np.pi, -np.pi, 13)[:-1], np.linspace(np.pi, -np.pi, 9)[:-1]
    lips = [
        *np.stack([0.2 * np.cos(outer), 0.38 - 0.09 * np.sin(outer)], 1),
        *np.stack([0.15 * np.cos(inner), 0.38 - 0.04 * np.sin(inner)], 1),
    ]
    return (np.array([*jaw, *brows, *nose, *eyes, *lips]) * width + [x, y]).astype(np.float32)


def make_film(
    path: Path, frames: int = 6, *, size: tuple[int, int] = SIZE, pix_fmt: str = "yuv420p", codec: str = "ffv1"
) -> Path:
    """A lossless film of soft colours that drift, 25 fps, Matroska."""
    picture = np.random.default_rng(1).integers(0, 256, (size[1] + 32, size[0] + 32, 3)).astype(np.uint8)
    picture = cv2.normalize(cv2.GaussianBlur(picture, (0, 0), 5), None, 30, 220, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for i in range(frames):
            rgb = np.ascontiguousarray(picture[i : i + size[1], 2 * i : 2 * i + size[0]])
            film.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)))
        film.mux(stream.encode(None))
    return path


def source_of(path: Path, *stops: int) -> Source:
    """The Source of a made film, cut into shots that end at `stops`."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        decoded = list(film.decode(stream))
        pts = np.array([frame.pts for frame in decoded], np.int64)
        edges = [0, *stops, len(pts)]
        shots = tuple(Shot(i, a, b) for i, (a, b) in enumerate(pairwise(edges)))
        colour = Colour(decoded[0].format.name)
        return Source(
            fps=Fraction(25),
            size=(stream.width, stream.height),
            time_base=Fraction(stream.time_base or 1),
            start=Fraction(0),
            pts=pts,
            durations=np.zeros(len(pts), np.int64),
            shots=shots,
            streams=(),
            video_stream=0,
            codec=stream.codec_context.name,
            colour=colour,
        )


def tilted(points: NDArray[np.float32], degrees: float, about: tuple[float, float]) -> NDArray[np.float32]:
    """(..., 2) turned clockwise about a point of the picture."""
    angle = np.radians(degrees)
    x, y = np.moveaxis(points - about, -1, 0)
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], -1)
    return (turned + about).astype(np.float32)


def faces_at(shot: Shot, size: tuple[int, int], *rows: tuple[int, int, NDArray[np.float32]], roll: float = 0.0) -> Faces:
    """Faces of rows (frame, track, landmarks), boxes by the rule; roll: degrees clockwise of all heads."""
    landmarks = np.array([row[2] for row in rows], np.float32).reshape(-1, 68, 2)
    boxes = [face_box(points, size, roll=roll) for points in landmarks]
    return Faces(
        shot=shot,
        frame=np.array([row[0] for row in rows], np.int32),
        track=np.array([row[1] for row in rows], np.int16),
        box=np.array(boxes, np.int32).reshape(-1, 4),
        landmarks=landmarks,
        roll=np.full(len(rows), roll, np.float32),
    )
