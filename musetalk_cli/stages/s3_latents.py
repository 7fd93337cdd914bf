"""What the network is told. In: the new voice, and Faces with their film. Out: Speech, Latents. Knows nothing of mouths.

`listen` hears the voice 30 s at a time, `latents` sees the shot a batch of crops at a time: neither holds a film.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.crop import crop_face
from musetalk_cli.media.audio import speech_blocks
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.models import load_family
from musetalk_cli.types import Faces, Latents, Source, Speech
from musetalk_cli.work import stage

SAMPLE_RATE_HZ = 16_000
BLOCK_SAMPLES = 30 * SAMPLE_RATE_HZ  # whisper's window; each block is heard alone, as the published models are used
CROPS_A_BATCH = 16


@stage(version=1)
def listen(audio: Path, *, config: ModelConfig, runtime: Runtime, out: Path) -> Speech:
    """The new voice through whisper-tiny's encoder: (T, 5, 384), 50 a second, T = floor(samples / 320). Source: spec 2.1."""
    family = load_family(config, runtime)
    raw = out / "features.raw"
    tokens = 0
    with raw.open("wb") as file:
        for samples in speech_blocks(audio, BLOCK_SAMPLES):
            heard = family.listen(samples)  # (<= 1500, 5, 384)
            file.write(np.ascontiguousarray(heard, np.float16).tobytes())
            tokens += len(heard)
    return Speech(_as_npy(raw, (tokens, 5, 384)))


@stage(version=1)
def latents(video: Path, source: Source, faces: Faces, *, config: ModelConfig, runtime: Runtime, out: Path) -> Latents:
    """Every face crop through the VAE's encoder: masked and reference latents, rows as in `faces`. Source: spec 3.4."""
    family = load_family(config, runtime)
    shape = (faces.rows, family.latent_channels, 32, 32)
    masked, reference = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
    start = 0
    for crops in _batches(_crops(video, source, faces)):
        rows = slice(start, start := start + len(crops))
        masked[rows], reference[rows] = family.encode(crops)
    return Latents(masked, reference)


def _as_npy(raw: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Raw float16 on disk -> the same as .npy beside it, mapped; a voice of hours is never in memory."""
    path = raw.with_suffix(".npy")
    if shape[0] == 0:
        raw.unlink()
        return np.zeros(shape, np.float16)
    array = open_memmap(path, "w+", np.float16, shape)
    source = np.memmap(raw, np.float16, "r", shape=shape)
    for start in range(0, shape[0], 1500):
        array[start : start + 1500] = source[start : start + 1500]
    raw.unlink()
    return array


def _crops(video: Path, source: Source, faces: Faces) -> Iterator[NDArray[np.uint8]]:
    if faces.rows == 0:
        return
    first, last = int(faces.frame[0]), int(faces.frame[-1])
    row = 0
    for number, frame in enumerate(read_frames(video, source, first, last + 1), first):
        if faces.frame[row] != number:
            continue
        rgb = to_rgb(frame, source.colour)
        while row < faces.rows and faces.frame[row] == number:
            yield crop_face(rgb, faces.box[row])
            row += 1


def _batches(crops: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """One by one -> (<= 16, 256, 256, 3)."""
    batch: list[NDArray[np.uint8]] = []
    for crop in crops:
        batch.append(crop)
        if len(batch) == CROPS_A_BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
