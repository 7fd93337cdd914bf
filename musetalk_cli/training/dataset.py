"""Samples of a training set: how they lie on disk. In: folders that `musetalk prepare` wrote. Out: Sample, its frames, its voice.

    SET/samples/NAME/    one face of one shot at 25 fps
        frames.mkv       MJPEG 4:4:4, every frame a key frame: a window of constant size that follows the face, black outside the film
        track.npz        landmarks (F, 68, 2), box (F, 4), film (F, 4): all in pixels of frames.mkv
        features.npy     (T, 5, 384) float16 whisper-tiny states, 50 a second; absent without speech
        speech.wav       16 kHz mono PCM_16, starts with frame 0 and is as long as the frames; absent without speech
        sample.json      what the rest of Sample holds; written last

No pickle anywhere. Knows nothing of films, detectors or networks.
"""

import json
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.errors import InputError, MissingError
from musetalk_cli.media.ffmpeg import AS_FILE, media_url
from musetalk_cli.metrics.stats import DAMAGE
from musetalk_cli.reading import read_json

FPS = 25
SPEECH_HZ = 16_000
SAMPLES_DIR, UNFINISHED = "samples", "part."
FRAMES, TRACK, FEATURES, SPEECH, SAMPLE = "frames.mkv", "track.npz", "features.npy", "speech.wav", "sample.json"
JPEG_QUALITY = 95  # libjpeg's scale; about ffmpeg's q 2
SEEK_OVER = 12  # frames; fewer are read past, which costs less than a seek
INFERENCE_MARGIN = 10  # source pixels below the chin, as the face stage adds them

Split = Literal["train", "val"]


class About(NamedTuple):
    """What sample.json holds."""

    name: str
    identity: str
    source: str  # path of the video below RAW
    start_s: float  # in the video at 25 fps
    fps: int
    frames: int
    face_px: float  # width of the face box in the source, median
    scale: float  # pixels of frames.mkv for one of the source
    offset_frames: int  # by which the sound came late
    corrected: bool  # whether speech and features are shifted by it already
    confidence: float
    split: Split


class Track(NamedTuple):
    """A face over the frames of a sample, in pixels of frames.mkv."""

    landmarks: NDArray[np.float32]  # (F, 68, 2)
    box: NDArray[np.int32]  # (F, 4) crop.face_box with margin 0
    film: NDArray[np.int32]  # (F, 4) the part of the window that lies inside the film


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample; F = frames. Frames and voice stay on disk until they are asked for."""

    folder: Path
    name: str
    identity: str
    frames: int
    landmarks: NDArray[np.float32]  # (F, 68, 2) px of frames.mkv
    box: NDArray[np.int32]  # (F, 4) px of frames.mkv, margin 0
    offset_frames: int
    confidence: float
    split: str
    film: NDArray[np.int32] | None = None  # (F, 4) px of frames.mkv inside the film; None: all
    source: str = ""

    def features(self) -> NDArray[np.float16]:
        """(T, 5, 384), T = 2 F; T = 0 where the sample has no speech."""
        path = self.folder / FEATURES
        return np.load(path, allow_pickle=False) if path.exists() else np.zeros((0, 5, 384), np.float16)

    def speech(self) -> NDArray[np.float32]:
        """(S,) 16 kHz in [-1, 1], S = 640 F; S = 0 where the sample has no speech."""
        return read_wav(self.folder / SPEECH) if (self.folder / SPEECH).exists() else np.zeros(0, np.float32)

    def boxes(self, margin: int | NDArray[np.integer] = 0) -> NDArray[np.int32]:
        """(F, 4) boxes with `margin` pixels more below the chin, one for all or (F,); inside the film, as crop.face_box has them."""
        boxes = self.box.copy()
        boxes[:, 3] += np.asarray(margin, np.int32)
        if self.film is not None:
            boxes[:, 3] = np.maximum(np.minimum(boxes[:, 3], self.film[:, 3]), self.box[:, 3])
        return boxes


def read_samples(folders: Sequence[Path], split: str | None = None) -> list[Sample]:
    """The samples of all sets, by folder and name; split: only these. Raises MissingError where a folder holds none at all."""
    found: list[Sample] = []
    for folder in folders:
        paths = sorted((folder / SAMPLES_DIR).glob(f"*/{SAMPLE}"))
        if not paths:
            raise MissingError(f"{folder}: holds no prepared samples", f"make them: musetalk prepare RAW {folder}")
        samples = [read_sample(path.parent) for path in paths if not path.parent.name.startswith(UNFINISHED)]
        found += [sample for sample in samples if split in (None, sample.split)]
    return found


def read_sample(folder: Path) -> Sample:
    """One sample folder. Raises InputError where it is damaged."""
    try:
        about = About(**read_json(folder / SAMPLE))
        with np.load(folder / TRACK, allow_pickle=False) as file:
            track = Track(file["landmarks"], file["box"], file["film"])
    except DAMAGE as error:
        raise InputError(
            f"{folder}: not a whole sample ({error})", "delete the folder and run `musetalk prepare` again"
        ) from error
    return Sample(
        folder,
        about.name,
        about.identity,
        about.frames,
        track.landmarks,
        track.box,
        about.offset_frames,
        about.confidence,
        about.split,
        track.film,
        about.source,
    )


def read_frames(sample: Sample, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """(K, h, w, 3) RGB frames of a sample, in the order asked for. Raises InputError where a frame is not there."""
    return read_frames_of(sample.folder / FRAMES, indices)


def read_frames_of(path: Path, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """The same of a frames.mkv."""
    wanted = sorted({int(i) for i in indices})
    found = dict(_decoded(path, wanted))
    if len(found) < len(wanted):
        lost = next(i for i in wanted if i not in found)
        raise InputError(f"{path}: frame {lost} is not there", "delete the sample and run `musetalk prepare` again")
    return np.stack([found[int(i)] for i in indices])


def iterate_frames(sample: Sample) -> Iterator[NDArray[np.uint8]]:
    """All frames in order, (h, w, 3) RGB each, one at a time."""
    return (rgb for _, rgb in _decoded(sample.folder / FRAMES, range(sample.frames)))


class FrameWriter:
    """frames.mkv, frame after frame of one size. Use as a context manager; an exception inside leaves an unfinished file."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._file = av.open(media_url(path), "w", format="matroska", options={"fflags": "+bitexact"})
        stream: Any = self._file.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj444p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, FPS)
        self._stream, self._size, self.frames = stream, size, 0

    def write(self, rgb: NDArray[np.uint8]) -> None:
        """The next (h, w, 3) frame."""
        if rgb.shape != (self._size[1], self._size[0], 3):
            raise ValueError(f"a frame of {rgb.shape} for a window of {self._size}")
        packet = av.Packet(encode_jpeg(rgb))
        packet.stream, packet.time_base = self._stream, Fraction(1, FPS)
        packet.pts = packet.dts = self.frames
        packet.duration, packet.is_keyframe = 1, True
        self._file.mux(packet)
        self.frames += 1

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def write_sample(folder: Path, about: About, track: Track, speech: NDArray[np.int16], features: NDArray[np.float16]) -> None:
    """All of a sample but frames.mkv, which lies in `folder` already; sample.json last. Empty arrays write no file."""
    np.savez(folder / TRACK, landmarks=track.landmarks, box=track.box, film=track.film)
    if len(speech):
        write_wav(folder / SPEECH, speech)
    if len(features):
        np.save(folder / FEATURES, features)
    (folder / SAMPLE).write_text(json.dumps(about._asdict(), indent=1) + "\n")


def read_wav(path: Path) -> NDArray[np.float32]:
    """(S,) in [-1, 1] of a mono 16-bit WAV."""
    with wave.open(str(path), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return samples.astype(np.float32) / np.float32(32768)


def write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    """16 kHz mono PCM_16."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SPEECH_HZ, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """(h, w, 3) -> JPEG, 4:4:4."""
    options = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """JPEG -> (h, w, 3) RGB. Raises InputError where it is damaged."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise InputError("a frame of a sample is no JPEG", "delete the sample and run `musetalk prepare` again")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _decoded(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(number, frame) of ascending numbers; only these are decoded."""
    with av.open(media_url(path), options=AS_FILE) as file:
        stream = file.streams.video[0]
        tick = Fraction(stream.time_base or 1)
        packets, at = file.demux(stream), -1
        for number in wanted:
            if number > at + SEEK_OVER:
                file.seek(int(Fraction(number, FPS) / tick), stream=stream)
                packets = file.demux(stream)
            for packet in packets:
                if packet.pts is None:
                    return
                at = round(packet.pts * tick * FPS)
                if at >= number:
                    break
            if at == number:
                yield number, decode_jpeg(bytes(packet))
