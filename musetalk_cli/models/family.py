"""The one interface of the three families of weights: what the stages ask of a model. Knows nothing of stages or files.

Arrays in, arrays out, so that a stage needs no torch. Rows are independent: any split into batches gives the same rows, to the bit where
numbers are exact, else but for rounding.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import Precision

WINDOW = 10  # whisper tokens a video frame sees: 80 ms before, its own 40 ms at 25 fps, 80 ms after
LEAD = 4  # of them before the frame's time
TOKENS_PER_SECOND = 50


class Numbers(NamedTuple):
    """What a family computes in."""

    precision: Precision = "fp32"
    exact: bool = True  # the same bits however rows are batched; else whatever is fastest


FULL = Numbers()


class Plan(NamedTuple):
    """What N rows of a shot are to become, before any is painted."""

    wanted: NDArray[np.float32]  # (N, 68, 2) where the landmarks should be, in the 256 px crop
    lenders: NDArray[np.intp]  # (N,) the row that lends each its mouth


class Lent(NamedTuple):
    """Faces of N rows by their landmarks, and the faces of the same persons that lend them their mouths."""

    points: NDArray[np.float32]  # (N, 68, 2) in the 256 px crop
    wanted: NDArray[np.float32]  # (N, 68, 2) where they should be
    latents: NDArray[np.float16]  # (N, C, 32, 32) of the lending crops, unmasked, scaled
    lending: NDArray[np.float32]  # (N, 68, 2) in the lending crops


class Family(Protocol):
    def __hash__(self) -> int:
        """Of the object itself: what is heard once is kept for it."""
        ...

    @property
    def name(self) -> str:
        """lite | v15 | v1"""
        ...

    @property
    def latent_channels(self) -> int:
        """C: 4 for v1 and v15."""
        ...

    def listen(self, speech: NDArray[np.float32]) -> NDArray[np.float16]:
        """(S,) mono 16 kHz -> (T, 5, 384) whisper-tiny hidden states, T = floor(S / 320).

        Each 30 s of the voice are heard alone, so a long voice may be handed over in blocks of 480 000 samples.
        """
        ...

    def encode(self, crops_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """(N, 256, 256, 3) -> masked and reference latents, (N, C, 32, 32) each, scaled; posterior mode, so deterministic."""
        ...

    def plan(self, points: NDArray[np.float32], windows: NDArray[np.float16], track: NDArray[np.integer]) -> Plan:
        """All rows of a shot: landmarks (N, 68, 2) in the crops, (N, 10, 5, 384), persons (N,). In the paper nothing is planned."""
        ...

    def infer(
        self,
        masked: NDArray[np.float16],
        reference: NDArray[np.float16],
        windows: NDArray[np.float16],
        lent: Lent,
        *,
        fp32: bool = False,
    ) -> NDArray[np.float16]:
        """One U-Net step at timestep 0. windows: (N, 10, 5, 384) -> answer latents (N, C, 32, 32), scaled.

        May hold NaN in half precision; the caller then asks again with fp32. Raises MemoryError where the batch does not fit.
        """
        ...

    def decode(self, latents: NDArray[np.float16]) -> NDArray[np.uint8]:
        """(N, C, 32, 32) scaled -> (N, 256, 256, 3) RGB."""
        ...


def windows_at(features: NDArray[np.float16], times: Sequence[Fraction]) -> NDArray[np.float16]:
    """Features (T, 5, 384) and N exact times in seconds -> (N, 10, 5, 384): tokens [floor(50 t) - 4, floor(50 t) + 6).

    Zeros where the window reaches outside the voice. The same window at every frame rate; the published scripts shift it below
    25 and from 50 fps on.
    """
    first = np.array([floor(TOKENS_PER_SECOND * t) - LEAD for t in times], np.int64).reshape(-1, 1)
    token = first + np.arange(WINDOW)  # (N, 10)
    inside = (token >= 0) & (token < len(features))
    windows = np.zeros((*token.shape, *features.shape[1:]), features.dtype)
    windows[inside] = features[token[inside]]
    return windows
