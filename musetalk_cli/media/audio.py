"""The new voice as the network hears it. In: any file with sound. Out: mono float32 at 16 kHz. Knows nothing of film or models."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from musetalk_cli.errors import InputError
from musetalk_cli.media.video import check_span, clock, earliest_start, open_film

SPEECH_HZ = 16_000
ALL_CHANNELS = -1
GAP = Fraction(1, 50)  # seconds without packets that are filled with silence; less is rounding of timestamps


def read_speech(audio: Path) -> NDArray[np.float32]:
    """The whole voice: (S,) float32 mono 16 kHz, in [-1, 1] where the file is. See `speech_blocks`."""
    return np.concatenate(list(speech_blocks(audio, SPEECH_HZ)))


def speech_blocks(audio: Path, block: int, channel: int = ALL_CHANNELS) -> Iterator[NDArray[np.float32]]:
    """The voice in pieces of `block` samples, the last one shorter: float32 mono 16 kHz, resampled by soxr HQ.

    Sample 0 is the file's beginning: a voice track that starts later than the file is preceded by silence, and where packets are
    missing in the middle there is silence too. Channels are averaged, or one is taken. Memory is bounded by the block. Raises
    InputError where the file has no sound, lacks the channel, cannot be read, or is damaged, naming the time.
    """
    held: list[NDArray[np.float32]] = []
    count = total = 0
    for piece in _resampled(audio, channel):
        held.append(piece)
        count += len(piece)
        total += len(piece)
        while count >= block:
            joined = np.concatenate(held)
            yield joined[:block]
            held, count = [joined[block:]], count - block
    if not total:
        raise InputError(f"{audio}: its sound has no length", "give a voice file that plays")
    if count:
        yield np.concatenate(held)


def voice_of(file: InputContainer, audio: Path) -> AudioStream:
    """The sound of a voice file: its first audio stream. Raises InputError where there is none."""
    if not file.streams.audio:
        raise InputError(f"{audio}: there is no sound in it", "give the file with the new voice as --audio")
    stream = file.streams.audio[0]
    if stream.codec_context is None:
        raise InputError(f"{audio}: no decoder for its sound", "convert it first: ffmpeg -i VOICE NEW.wav")
    return stream


def _resampled(audio: Path, channel: int) -> Iterator[NDArray[np.float32]]:
    """Mono pieces at 16 kHz."""
    resampler: soxr.ResampleStream | None = None
    for rate_hz, piece in _mono(audio, channel):
        if resampler is None:
            resampler = soxr.ResampleStream(rate_hz, SPEECH_HZ, 1, dtype="float32", quality="HQ")
        yield np.asarray(resampler.resample_chunk(piece), np.float32)
    if resampler is not None:
        yield np.asarray(resampler.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)


def _mono(audio: Path, channel: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(sampling rate, samples) as they are in the file, channels averaged or one of them, gaps filled."""
    with open_film(audio) as file:
        stream = voice_of(file, audio)
        rate_hz, channels = stream.rate, stream.codec_context.channels
        if channel >= channels:
            raise InputError(f"{audio}: it has {channels} channels, none with number {channel}", "they are counted from 0")
        downmix = channels > 2 and channel == ALL_CHANNELS
        to_float = av.AudioResampler(format="fltp", layout="mono" if downmix else None)
        start, heard = earliest_start(file), 0
        for frame in _decoded(file, stream, audio):
            if frame.sample_rate != rate_hz or frame.layout.nb_channels != channels:
                raise InputError(f"{audio}: its sound changes format at {clock(heard / Fraction(rate_hz))}", _CURE)
            due = heard if frame.pts is None else round((frame.pts * cast(Fraction, frame.time_base) - start) * rate_hz)
            check_span(Fraction(due, rate_hz), audio)
            if due - heard > GAP * rate_hz:
                yield from _silence(rate_hz, due - heard)
                heard = due
            early = max(-due, 0)  # samples from before the file's beginning, which no player plays
            for part in to_float.resample(frame):
                planes = np.asarray(part.to_ndarray(), np.float32)
                samples = (planes.mean(axis=0) if channel == ALL_CHANNELS else planes[channel])[early:]
                heard += len(samples)
                yield rate_hz, samples


_CURE = "convert it first: ffmpeg -i VOICE NEW.wav"


def _decoded(file: InputContainer, stream: AudioStream, audio: Path) -> Iterator[AudioFrame]:
    at = Fraction(0)
    try:
        for packet in file.demux(stream):
            at = packet.pts * packet.time_base if packet.pts is not None else at
            yield from packet.decode()
    except av.FFmpegError as error:
        raise InputError(f"{audio}: its sound is damaged at {clock(at)} ({error.strerror})", _CURE) from error


def _silence(rate_hz: int, samples: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """In pieces of a second at most, so that a track that starts late costs no memory."""
    for start in range(0, samples, rate_hz):
        yield rate_hz, np.zeros(min(rate_hz, samples - start), np.float32)
