"""Clips made ready for training. In: a folder of clips. Out: a data folder with crops, landmarks and whisper features.

    clip.mp4 -> 25 fps -> 68 landmarks a frame -> face boxes -> 256 px crops of every n-th frame     OUT/<set>/<clip>.crops.npy
                  16 kHz -> whisper-tiny encoder -> (T, 5, 384), 50 a second                        OUT/<set>/<clip>.npz

Each clip is written whole or not at all, so that a stopped run goes on where it was. Knows nothing of networks that are trained.
"""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import crop_face, face_box
from musetalk_cli.models.analysis import EmbeddedAnalyser
from musetalk_cli.models.whisper import SAMPLE_RATE_HZ, hidden_states

FPS = 25
DETECT_EVERY = 12  # frames between two looks of the detector while the landmarker keeps the face
BOX_SIGMA_FRAMES = 1.2  # landmarks jitter by about a pixel; boxes should not
MIN_FRAMES = 20
CLIP_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov")


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """What to keep of a folder of clips."""

    every: int = 2  # crops of every n-th frame; landmarks are kept of all
    speech: bool = True  # False: faces only, the sound is not read
    whisper: Path | None = None  # whisper-tiny in transformers' layout
    identity: str = ""  # one name for all clips; "": the part of the file name before "_"


@dataclass(frozen=True, slots=True)
class PreparedClip:
    """One clip as it lies in the data folder. F frames at 25 fps; K of them have crops."""

    name: str
    identity: str
    landmarks: NDArray[np.float32]  # (F, 68, 2) source pixels; NaN where no face was found
    box: NDArray[np.int32]  # (F, 4); zeros where there is none
    crop_frame: NDArray[np.int32]  # (K,)
    features: NDArray[np.float16]  # (T, 5, 384), T = 0 where the clip has no speech
    speech: NDArray[np.float32]  # (S,) 16 kHz, S = 0 likewise


def prepare(clips: Path, out: Path, *, config: PrepareConfig, limit: int = 0, workers: int = 2) -> int:
    """Prepares the clips of a folder into `out`; the number of clips that have a usable face."""
    out.mkdir(parents=True, exist_ok=True)
    paths = sorted(path for path in clips.iterdir() if path.suffix in CLIP_SUFFIXES)
    if limit:
        paths = paths[:: max(len(paths) // limit, 1)][:limit]
    paths = [path for path in paths if not (out / f"{path.stem}.npz").exists()]
    paths.sort(key=lambda path: -path.stat().st_size)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(config,)) as pool:
        done = pool.map(_prepare_one, paths, [out] * len(paths))
        return sum(_reported(done, len(paths)))


def read_prepared(path: Path) -> PreparedClip:
    """The record of one clip; its crops are `crops_of(path)`."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in ("landmarks", "box", "crop_frame", "features", "speech")}
        return PreparedClip(name=path.stem, identity=str(file["identity"]), **arrays)


def crops_of(path: Path) -> NDArray[np.uint8]:
    """(K, 256, 256, 3) RGB crops that belong to a `.npz`, mapped, not read."""
    crops: NDArray[np.uint8] = np.load(path.with_suffix(".crops.npy"), mmap_mode="r")
    return crops


class _Worker:
    """What a worker process opens once."""

    config: PrepareConfig
    analyser: EmbeddedAnalyser
    encoder: Any = None


def _start_worker(config: PrepareConfig) -> None:
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _Worker.config, _Worker.analyser = config, EmbeddedAnalyser()
    if config.speech and config.whisper is not None:
        from transformers import WhisperModel

        _Worker.encoder = WhisperModel.from_pretrained(config.whisper, dtype=torch.float32).get_encoder().eval()


def _prepare_one(path: Path, out: Path) -> bool:
    frames = list(frames_25fps(path))
    landmarks = track_landmarks(frames, _Worker.analyser)
    boxes = smooth_boxes(landmarks, (frames[0].shape[1], frames[0].shape[0])) if frames else np.zeros((0, 4), np.int32)
    usable = np.flatnonzero(boxes[:, 2] > 0)
    if len(usable) < MIN_FRAMES:
        return False
    chosen = usable[:: _Worker.config.every].astype(np.int32)
    crops = np.stack([crop_face(frames[i], boxes[i]) for i in chosen])
    speech = read_speech(path) if _Worker.config.speech else np.zeros(0, np.float32)
    features = hidden_states(_Worker.encoder, speech) if _Worker.encoder is not None else np.zeros((0, 5, 384), np.float16)
    identity = _Worker.config.identity or path.stem.split("_")[0]
    np.save(_beside(out / f"{path.stem}.crops.npy"), crops)
    os.replace(_beside(out / f"{path.stem}.crops.npy"), out / f"{path.stem}.crops.npy")
    np.savez(
        _beside(out / f"{path.stem}.npz"),
        identity=np.array(identity),
        landmarks=landmarks,
        box=boxes,
        crop_frame=chosen,
        features=features,
        speech=speech,
    )
    os.replace(_beside(out / f"{path.stem}.npz"), out / f"{path.stem}.npz")
    return True


def frames_25fps(path: Path) -> Iterator[NDArray[np.uint8]]:
    """RGB frames at 25 a second by nearest time, from the first frame on."""
    with av.open(str(path)) as container:
        start, wanted = None, 0
        last: NDArray[np.uint8] | None = None
        last_s = 0.0
        for frame in container.decode(video=0):
            start = float(frame.time or 0.0) if start is None else start
            time_s = float(frame.time or 0.0) - start
            while last is not None and wanted / FPS < (last_s + time_s) / 2:
                yield last
                wanted += 1
            last, last_s = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), time_s
        if last is not None and wanted / FPS <= last_s + 0.5 / FPS:
            yield last


def read_speech(path: Path) -> NDArray[np.float32]:
    """(S,) float32 mono 16 kHz, sample 0 at the time of the first video frame."""
    with av.open(str(path)) as container:
        video_s = float((container.streams.video[0].start_time or 0) * (container.streams.video[0].time_base or 0))
        audio = container.streams.audio[0]
        audio_s = float((audio.start_time or 0) * (audio.time_base or 0))
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        blocks = [out.to_ndarray().ravel() for frame in container.decode(audio) for out in resampler.resample(frame)]
        blocks += [out.to_ndarray().ravel() for out in resampler.resample(None)]
    samples = np.concatenate([np.zeros(0, np.float32), *blocks]).astype(np.float32)
    late = round((audio_s - video_s) * SAMPLE_RATE_HZ)
    return np.pad(samples, (late, 0)) if late > 0 else samples[-late:]


def track_landmarks(frames: list[NDArray[np.uint8]], analyser: EmbeddedAnalyser) -> NDArray[np.float32]:
    """(F, 68, 2) of the largest face, NaN where there is none; the detector looks now and then, or when the face is lost."""
    found = np.full((len(frames), 68, 2), np.nan, np.float32)
    box: NDArray[np.floating] | None = None
    for index, frame in enumerate(frames):
        points = None
        if box is None or index % DETECT_EVERY == 0:
            faces = analyser.detect(frame)
            box = max((face.box for face in faces), key=_area, default=None)
        if box is not None:
            points = analyser.landmarks(frame, box)
        if points is not None:
            found[index] = points
            box = np.concatenate([points.min(0), points.max(0)])
        else:
            box = None
    return found


def smooth_boxes(landmarks: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.int32]:
    """(F, 4) face boxes of landmarks smoothed in time within runs of one face; zeros where a frame has none."""
    boxes = np.zeros((len(landmarks), 4), np.int32)
    for start, stop in runs(landmarks):
        rows = landmarks[start:stop].reshape(stop - start, -1)
        smooth = cv2.GaussianBlur(rows, (1, 9), 1, sigmaY=BOX_SIGMA_FRAMES, borderType=cv2.BORDER_REPLICATE)
        for index, points in enumerate(np.asarray(smooth, np.float32).reshape(-1, 68, 2), start):
            box = face_box(points, size)
            if box is not None:
                boxes[index] = box
    return boxes


def runs(landmarks: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Half-open ranges of frames that hold one face without a gap or a jump."""
    valid = ~np.isnan(landmarks[:, 0, 0])
    centre, height = landmarks.mean(1), np.ptp(landmarks[..., 1], axis=1)
    step = np.linalg.norm(np.diff(centre, axis=0), axis=1) / np.maximum(height[1:], 1)
    joined = valid[1:] & valid[:-1] & (np.nan_to_num(step, nan=9.0) < 0.3)
    starts = [i for i in range(len(valid)) if valid[i] and (i == 0 or not joined[i - 1])]
    return [(s, next((i for i in range(s + 1, len(valid)) if not joined[i - 1]), len(valid))) for s in starts]


def _area(box: NDArray[np.floating]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _beside(path: Path) -> Path:
    return path.with_name(f"part.{path.name}")


def _reported(done: Iterable[bool], total: int) -> Iterator[bool]:
    for count, good in enumerate(done, 1):
        if count % 20 == 0 or count == total:
            print(f"prepared {count}/{total}", flush=True)
        yield good
