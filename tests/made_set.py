"""A made training set in `prepare`'s layout: drawn faces that open and close their mouths, and a hum that follows them."""

from pathlib import Path

import cv2
import numpy as np
from made_faces import landmarks_at

from musetalk_cli.crop import face_box
from musetalk_cli.training.dataset import FRAMES, SAMPLES_DIR, About, FrameWriter, Track, write_sample

SIZE = (112, 144)  # of a window, width and height


def make_set(folder: Path, *, people: int = 3, frames: int = 24, held_out: int = 1, speech: bool = True) -> Path:
    """`people` samples of one person each; the last `held_out` are in the split "val"."""
    for person in range(people):
        name = f"person{person}-0-0"
        split = "val" if person >= people - held_out else "train"
        _make_sample(folder / SAMPLES_DIR / name, name, person, frames, split, speech)
    return folder


def _make_sample(folder: Path, name: str, person: int, frames: int, split: str, speech: bool) -> None:
    random = np.random.default_rng(person)
    folder.mkdir(parents=True)
    opened = 0.5 + 0.5 * np.sin(np.arange(frames) / 2 + person)
    landmarks = np.stack([_face(opened[i], 56 + np.sin(i / 5), 66 + np.cos(i / 7)) for i in range(frames)])
    skin = random.integers(90, 200, 3)
    with FrameWriter(folder / FRAMES, SIZE) as writer:
        for points in landmarks:
            writer.write(_picture(points, skin))
    boxes = np.stack([face_box(points, SIZE, margin=0) for points in landmarks])
    film = np.tile(np.array([0, 0, *SIZE], np.int32), (frames, 1))
    about = About(name, f"person{person}", "made", 0.0, 25, frames, 80.0, 1.0, 0, False, 0.5, split)  # type: ignore[arg-type]
    hum = np.repeat(opened, 640) * np.sin(np.arange(640 * frames) / 8)
    sound = (8000 * hum).astype(np.int16) if speech else np.zeros(0, np.int16)
    features = random.normal(size=(2 * frames, 5, 384)) + np.repeat(opened, 2)[:, None, None]
    write_sample(folder, about, Track(landmarks, boxes, film), sound, features[: 2 * frames * speech].astype(np.float16))


def _face(opened: float, x: float, y: float) -> np.ndarray:
    points = landmarks_at(x, y, 80)
    points[[67, 66, 65, 58, 57, 56, 55, 59], 1] += 8 * opened
    points[4:13, 1] += 4 * opened
    return points


def _picture(points: np.ndarray, skin: np.ndarray) -> np.ndarray:
    picture = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    cv2.fillPoly(picture, [np.rint(points[[*range(17), 26, 17]]).astype(np.int32)], skin.tolist())
    cv2.fillPoly(picture, [np.rint(points[48:60]).astype(np.int32)], (160, 60, 60))
    cv2.fillPoly(picture, [np.rint(points[60:68]).astype(np.int32)], (20, 10, 10))
    for eye in (36, 42):
        cv2.fillPoly(picture, [np.rint(points[eye : eye + 6]).astype(np.int32)], (240, 240, 240))
    return picture
