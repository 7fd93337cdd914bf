"""How good the lite model is on people and voices it has not met. In: prepared held-back clips, the model. Out: figures.

A face of one clip is driven by the voice of another; the lips of the result, found anew in the finished frame, should open as the
lips of the voice's own speaker did (r), and should not where the voice is moved in time (r shifted).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import MASK_ROW, crop_face
from musetalk_cli.metrics.lips import correlation, opening, shifted_correlation
from musetalk_cli.models.analysis import FaceAnalyser
from musetalk_cli.models.lite import LiteModel
from musetalk_cli.training.data import windows_of
from musetalk_cli.training.prepare import PreparedClip, crops_of, frames_25fps, read_prepared

SHIFTS = (-50, -35, 35, 50)  # frames: 1.4 and 2 s


class Face(NamedTuple):
    """A film with one face: its path and what was prepared of it."""

    video: Path
    clip: PreparedClip


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one face driven by one voice."""

    face: str
    voice: str
    frames: int
    r: float
    r_shifted: float  # mean over SHIFTS
    open_share: float  # mean opening of the result, in that of the voice's own speaker


def evaluate_all(model: LiteModel, analyser: FaceAnalyser, data: Path, videos: Path, voices: list[str], faces: int = 2) -> None:
    """Each voice on `faces` other people; prints one line a pair and the median."""
    paths = sorted(data.glob("*.npz"))
    print(f"autoencoder: {reconstruction_psnr(paths, model):.2f} dB")
    clips = {path.stem: read_prepared(path) for path in paths}
    found = []
    for number, name in enumerate(voices):
        others = [other for other in clips if clips[other].identity != clips[name].identity]
        for other in (others[(number + step * len(others) // faces) % len(others)] for step in range(faces)):
            found.append(agreement(Face(video_of(videos, other), clips[other]), clips[name], model, analyser))
            print(found[-1], flush=True)
    for name in voices:
        print(f"{name}: r {np.median([row.r for row in found if row.voice == name]):.3f}")
    print(f"median r {np.median([row.r for row in found]):.3f}, shifted {np.median([row.r_shifted for row in found]):.3f}")


def video_of(folder: Path, name: str) -> Path:
    """The clip that was prepared under this name."""
    return next(path for path in sorted(folder.iterdir()) if path.stem == name)


def agreement(face: Face, voice: PreparedClip, model: LiteModel, analyser: FaceAnalyser, *, limit: int = 125) -> Agreement:
    """Drives `face` with `voice` and measures the lips of the result."""
    found = []
    for frame, box in dubbed(face, voice, model, limit):
        found.append(analyser.landmarks(frame, box.astype(np.float32)))
    none = np.full((68, 2), np.nan, np.float32)
    made = opening(np.stack([none if points is None else points for points in found]))
    real = opening(voice.landmarks)
    r = correlation(made, real[: len(made)])
    shifted = float(np.mean([shifted_correlation(made, real[: len(made)], shift) for shift in SHIFTS]))
    share = float(np.nanmean(made) / max(float(np.nanmean(real[: len(made)])), 1e-6))
    return Agreement(face.clip.name, voice.name, len(made), r, shifted, share)


def dubbed(
    face: Face, voice: PreparedClip, model: LiteModel, limit: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Frames of `face` with new mouths, pasted plainly, and the box of each; frames without a face are left out."""
    windows = windows_of(voice.features, np.arange(min(len(voice.landmarks), limit)))
    for index, frame in enumerate(frames_25fps(face.video)):
        if index >= min(len(windows), len(face.clip.box)):
            return
        box = face.clip.box[index]
        if box[2] <= box[0]:
            continue
        crop = crop_face(frame, box)[None]
        answer = model.decode(model.infer(*model.encode(crop), windows[index : index + 1]))[0]
        yield pasted(frame, answer, box), box


def pasted(frame_rgb: NDArray[np.uint8], crop_rgb: NDArray[np.uint8], box: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The lower half of crop over the frame, faded in below the mask's edge."""
    x1, y1, x2, y2 = (int(v) for v in box)
    rows = np.clip((np.arange(256) - MASK_ROW) / 12, 0, 1)
    columns = np.clip(np.minimum(np.arange(256), 255 - np.arange(256)) / 10, 0, 1)
    alpha = (rows[:, None] * columns[None] * np.clip((255 - np.arange(256)) / 6, 0, 1)[:, None]).astype(np.float32)
    size = (x2 - x1, y2 - y1)
    new, share = cv2.resize(crop_rgb, size, interpolation=cv2.INTER_AREA), cv2.resize(alpha, size)[..., None]
    out = frame_rgb.copy()
    out[y1:y2, x1:x2] = np.rint(new * share + out[y1:y2, x1:x2] * (1 - share)).astype(np.uint8)
    return out


def reconstruction_psnr(paths: list[Path], model: LiteModel, every: int = 10) -> float:
    """Mean dB of crops through encoder and decoder."""
    crops = np.concatenate([np.array(crops_of(path)[::every]) for path in paths])
    rebuilt = np.concatenate([model.decode(model.encode(crops[i : i + 1])[1]) for i in range(len(crops))])
    error = np.square(crops.astype(np.float32) - rebuilt).mean((1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3))))


def sweep(crop_rgb: NDArray[np.uint8], model: LiteModel, codes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One face with each lip code (N, code): (N, 256, 256, 3)."""
    import torch

    masked, reference = (torch.from_numpy(latent).float() for latent in model.encode(crop_rgb[None]))
    with torch.inference_mode():
        answers = [model.nets.unet(masked, reference, torch.from_numpy(code[None])) for code in codes]
    return model.decode(torch.cat(answers).to(torch.float16).numpy())
