"""How good the lite model is on people and voices it has not met. In: prepared held-back clips, the model. Out: figures.

A face of one clip is driven by the voice of another; the lips of the result, found anew in the finished frame, should open as the
lips of the voice's own speaker did (r), and should not where the voice is moved in time (r shifted).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import MASK_ROW, crop_face
from musetalk_cli.metrics.lips import correlation, opening, shifted_correlation
from musetalk_cli.models.analysis import FaceAnalyser
from musetalk_cli.models.lite import LiteModel
from musetalk_cli.training.data import windows_of
from musetalk_cli.training.dataset import INFERENCE_MARGIN, Sample, iterate_frames, read_frames, read_samples

SHIFTS = (-50, -35, 35, 50)  # frames: 1.4 and 2 s


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one face driven by one voice."""

    face: str
    voice: str
    frames: int
    r: float
    r_shifted: float  # mean over SHIFTS
    open_share: float  # mean opening of the result, in that of the voice's own speaker


def evaluate_all(model: LiteModel, analyser: FaceAnalyser, data: Path, voices: list[str], faces: int = 2) -> None:
    """Each voice, the name of a sample, on `faces` other people of the set `data`; prints one line a pair and the median."""
    samples = {sample.name: sample for sample in read_samples([data])}
    print(f"autoencoder: {reconstruction_psnr(list(samples.values()), model):.2f} dB")
    found = []
    for number, name in enumerate(voices):
        others = [sample for sample in samples.values() if sample.identity != samples[name].identity]
        for face in (others[(number + step * len(others) // faces) % len(others)] for step in range(faces)):
            found.append(agreement(face, samples[name], model, analyser))
            print(found[-1], flush=True)
    for name in voices:
        print(f"{name}: r {np.median([row.r for row in found if row.voice == name]):.3f}")
    print(f"median r {np.median([row.r for row in found]):.3f}, shifted {np.median([row.r_shifted for row in found]):.3f}")


def agreement(face: Sample, voice: Sample, model: LiteModel, analyser: FaceAnalyser, *, limit: int = 125) -> Agreement:
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
    return Agreement(face.name, voice.name, len(made), r, shifted, share)


def dubbed(face: Sample, voice: Sample, model: LiteModel, limit: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Frames of `face` with new mouths, pasted plainly, and the box of each."""
    windows = windows_of(voice.features(), np.arange(min(voice.frames, limit)))
    boxes = face.boxes(INFERENCE_MARGIN)
    for window, box, frame in zip(windows, boxes, iterate_frames(face), strict=False):
        crop = crop_face(frame, box)[None]
        answer = model.decode(model.infer(*model.encode(crop), window[None]))[0]
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


def reconstruction_psnr(samples: list[Sample], model: LiteModel, every: int = 20) -> float:
    """Mean dB of crops of every n-th frame through encoder and decoder."""
    crops = np.stack(
        [
            crop_face(rgb, sample.boxes(INFERENCE_MARGIN)[i])
            for sample in samples
            for i, rgb in zip(range(0, sample.frames, every), read_frames(sample, range(0, sample.frames, every)), strict=True)
        ]
    )
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
