"""What the network is told. In: the new voice, and Faces with their film. Out: Speech, Latents. Knows nothing of mouths.

`listen` hears the voice 30 s at a time, `latents` sees the shot a batch of crops at a time: neither holds a film.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.crop import CROP_PX, Placement
from musetalk_cli.errors import InternalError, ResourceError
from musetalk_cli.media.audio import speech_blocks
from musetalk_cli.media.video import read_frames, region_to_rgb
from musetalk_cli.models import load_family
from musetalk_cli.models.family import Family
from musetalk_cli.models.voice_activity import VoiceActivity
from musetalk_cli.types import Faces, Latents, Source, Speech
from musetalk_cli.work import stage

SAMPLE_RATE_HZ = 16_000
BLOCK_SAMPLES = 30 * SAMPLE_RATE_HZ  # whisper's window; each block is heard alone, as the published models are used
CROPS_A_BATCH = 16


@stage(version=2)
def listen(audio: Path, channel: int, *, config: ModelConfig, runtime: Runtime, out: Path) -> Speech:
    """The new voice through whisper-tiny's encoder, and when it speaks: 50 a second, T = floor(samples / 320). Source: spec 2.1.

    channel: of the file's sound, from 0; ALL_CHANNELS mixes them.
    """
    family = load_family(config, runtime)
    activity, told = VoiceActivity(), []
    path, tokens = out / "features.npy", 0
    with path.open("wb") as file:  # not mapped: the pages of a long voice would count as our memory
        file.write(_npy_header(tokens))
        for samples in speech_blocks(audio, BLOCK_SAMPLES, channel):
            heard = _heard(family, samples)
            file.write(np.ascontiguousarray(heard, np.float16).tobytes())
            told.append(activity.hear(samples, len(heard)))
            tokens += len(heard)
        file.seek(0)
        file.write(_npy_header(tokens))
    return Speech(np.load(path, mmap_mode="r" if tokens else None, allow_pickle=False), np.concatenate(told))


@stage(version=1)
def latents(video: Path, source: Source, faces: Faces, *, config: ModelConfig, runtime: Runtime, out: Path) -> Latents:
    """Every face crop through the VAE's encoder: masked and reference latents, rows as in `faces`. Source: spec 3.4."""
    family = load_family(config, runtime)
    shape = (faces.rows, family.latent_channels, 32, 32)
    masked, reference = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
    start = 0
    for crops in _batches(_crops(video, source, faces)):
        rows = slice(start, start := start + len(crops))
        masked[rows], reference[rows] = _encoded(family, crops, runtime.device)
    return Latents(masked, reference)


def _heard(family: Family, samples: NDArray[np.float32]) -> NDArray[np.float16]:
    """(S,) -> (T <= 1500, 5, 384), all of it numbers."""
    for _ in range(2):
        heard = family.listen(samples)
        if np.isfinite(heard).all():
            return heard
    raise InternalError(f"{len(samples)} samples of the voice: NaN twice", "run `musetalk weights verify`")


def _encoded(family: Family, crops: NDArray[np.uint8], device: str) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Masked and reference latents, in halves where memory runs out: rows are independent."""
    try:
        return family.encode(crops)
    except MemoryError as error:
        if len(crops) == 1:
            raise ResourceError(f"{device}: out of memory for a single face", "choose --device cpu") from error
    half = len(crops) // 2
    (masked, reference), rest = _encoded(family, crops[:half], device), _encoded(family, crops[half:], device)
    return np.concatenate([masked, rest[0]]), np.concatenate([reference, rest[1]])


def _npy_header(tokens: int) -> bytes:
    """Of (tokens, 5, 384) float16; numpy leaves room in it, so that it is as long for any number."""
    header = BytesIO()
    write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": (tokens, 5, 384)})
    return header.getvalue()


def _crops(video: Path, source: Source, faces: Faces) -> Iterator[NDArray[np.uint8]]:
    if faces.rows == 0:
        return
    first, last = int(faces.frame[0]), int(faces.frame[-1])
    row = 0
    for number, frame in enumerate(read_frames(video, source, first, last + 1), first):
        if faces.frame[row] != number:
            continue
        while row < faces.rows and faces.frame[row] == number:
            place = Placement.of(faces.box[row], faces.landmarks[row], faces.roll[row])
            seen = place.seen(source.size, (CROP_PX, CROP_PX))
            rgb = region_to_rgb(frame, seen, source.colour)
            yield place.taken(rgb, (CROP_PX, CROP_PX), left=seen[0], top=seen[1])
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
