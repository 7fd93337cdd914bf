"""One U-Net step a row. In: Faces, Latents, the voices and the film's clock. Out: Mouths. Knows nothing of pixels.

frame time t ---- tokens [floor(50 t) - 4, floor(50 t) + 6) of its voice ---- (N, 10, 5, 384) -- steady in time --.
masked, reference (N, C, 32, 32) each ---------------------------------------------------------------------------- U-Net, timestep 0
landmarks in the crops, rows that lend their mouths (lite only) --------------------------------------------------'       |
                                                                                    (N, C, 32, 32) -- steady in time -----'
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import InferenceConfig, ModelConfig, Runtime
from musetalk_cli.errors import InternalError, ResourceError
from musetalk_cli.landmarks import in_crop
from musetalk_cli.models import free_batch, load_family
from musetalk_cli.models.family import LEAD, WINDOW, Family, Lent, Plan, windows_at
from musetalk_cli.steady import runs, smooth
from musetalk_cli.types import PASS, Faces, Latents, Mouths, Source, Speech, Voicing
from musetalk_cli.work import stage

SILENCE_S = 1  # second of silence in whose middle a shut mouth is heard
SAMPLE_RATE_HZ = 16_000


@stage(version=4)
def inference(
    source: Source,
    faces: Faces,
    latents: Latents,
    speeches: Sequence[Speech],
    voicing: Voicing,
    model: ModelConfig,
    *,
    config: InferenceConfig,
    runtime: Runtime,
    out: Path,
) -> Mouths:
    """The answer latents of every row that has a line, in batches across the shot; of the others the film's own.

    Source: paper section 3.1, spec 2.2 and 3.4. What each row hears and answers is averaged with its neighbours of the same line,
    so that mouths do not tremble (`config`).
    """
    family = load_family(model, runtime)
    voice = voicing.voice(faces.frame, faces.track)
    lines = [rows for rows in runs(faces.frame, faces.track, voice) if voice[rows[0]] != PASS]
    windows = _windows(family, source, faces, speeches, voice)
    for rows in lines:
        windows[rows] = smooth(windows[rows], config.heard_hz, float(source.fps))
    points = in_crop(faces.landmarks, faces.box, faces.roll)
    plan = family.plan(points, windows, faces.track)
    answer = np.array(latents.reference)
    spoken = np.sort(np.concatenate([np.zeros(0, np.intp), *lines]))
    _infer(family, latents, windows, points, plan, spoken, answer, runtime)
    for rows in lines:
        answer[rows] = smooth(answer[rows], config.answered_hz, float(source.fps))
    return Mouths(answer)


def _windows(
    family: Family, source: Source, faces: Faces, speeches: Sequence[Speech], voice: NDArray[np.int16]
) -> NDArray[np.float16]:
    """(N, 10, 5, 384) of each row's voice; silence for CLOSED and PASS."""
    windows = np.zeros((faces.rows, WINDOW, 5, 384), np.float16)
    shut = np.flatnonzero(voice < 0)
    if len(shut):
        windows[shut] = _silence(family)
    for number, speech in enumerate(speeches):
        rows = np.flatnonzero(voice == number)
        windows[rows] = windows_at(speech.features, [source.time(int(frame)) for frame in faces.frame[rows]])
    return windows


@lru_cache(maxsize=1)
def _silence(family: Family) -> NDArray[np.float16]:
    """(1, 10, 5, 384): what a shut mouth hears; half a second on a CPU, once for a process."""
    heard = family.listen(np.zeros(SILENCE_S * SAMPLE_RATE_HZ, np.float32))
    middle = len(heard) // 2
    return heard[middle - LEAD : middle - LEAD + WINDOW][None]


def _infer(
    family: Family,
    latents: Latents,
    windows: NDArray[np.float16],
    points: NDArray[np.float32],
    plan: Plan,
    spoken: NDArray[np.intp],
    answer: NDArray[np.float16],
    runtime: Runtime,
) -> None:
    """Rows `spoken` of answer, in place."""
    start, size = 0, runtime.batch_size or free_batch(runtime)
    while start < len(spoken):
        rows = spoken[start : start + size]
        try:
            lenders = plan.lenders[rows]
            lent = Lent(points[rows], plan.wanted[rows], latents.reference[lenders], points[lenders])
            answer[rows] = _one_batch(family, latents, windows, lent, rows)
        except MemoryError as error:
            if size == 1:
                raise ResourceError(f"{runtime.device}: out of memory for a single face", "choose --device cpu") from error
            size //= 2  # the same rows again, in smaller batches: rows are independent
            continue
        start += size


def _one_batch(
    family: Family, latents: Latents, windows: NDArray[np.float16], lent: Lent, rows: NDArray[np.intp]
) -> NDArray[np.float16]:
    masked, reference = latents.masked[rows], latents.reference[rows]
    answer = family.infer(masked, reference, windows[rows], lent)
    if not np.isfinite(answer).all():  # half precision overflows on some cards: the black mouths of the published scripts
        answer = family.infer(masked, reference, windows[rows], lent, fp32=True)
    if not np.isfinite(answer).all():
        raise InternalError(f"rows {rows[0]} to {rows[-1]}: NaN in full precision", "run `musetalk weights verify`")
    return answer
