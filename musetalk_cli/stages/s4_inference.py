"""One U-Net step a row. In: Faces, Latents, Speech and the film's clock. Out: Mouths. Knows nothing of pixels.

frame time t ---- tokens [floor(50 t) - 4, floor(50 t) + 6) of Speech ---- (N, 10, 5, 384) --.
masked, reference (N, C, 32, 32) each ------------------------------------------------------- U-Net, timestep 0 -> (N, C, 32, 32)
landmarks in the crops, rows that lend their mouths (lite only) -----------------------------'
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import InternalError, ResourceError
from musetalk_cli.landmarks import in_crop
from musetalk_cli.models import free_batch, load_family
from musetalk_cli.models.family import Family, Lent, windows_at
from musetalk_cli.types import Faces, Latents, Mouths, Source, Speech
from musetalk_cli.work import stage


@stage(version=2)
def inference(
    source: Source, faces: Faces, latents: Latents, speech: Speech, *, config: ModelConfig, runtime: Runtime, out: Path
) -> Mouths:
    """The answer latents of every row, in batches across the shot. Source: paper section 3.1, spec 2.2 and 3.4."""
    family = load_family(config, runtime)
    windows = windows_at(speech.features, [source.time(int(frame)) for frame in faces.frame])
    points = in_crop(faces.landmarks, faces.box)
    plan = family.plan(points, windows, faces.track)
    answer = np.zeros_like(latents.masked)
    start, size = 0, runtime.batch_size or free_batch(runtime)
    while start < faces.rows:
        rows = slice(start, start + size)
        try:
            lenders = plan.lenders[rows]
            lent = Lent(points[rows], plan.wanted[rows], latents.reference[lenders], points[lenders])
            answer[rows] = _one_batch(family, latents, windows, lent, rows)
        except MemoryError as error:
            if size == 1:
                raise ResourceError(f"{runtime.device}: out of memory for a single face", "choose --device cpu") from error
            size //= 2  # the same rows again, in smaller batches: rows are independent
            continue
        start = rows.stop
    return Mouths(answer)


def _one_batch(family: Family, latents: Latents, windows: NDArray[np.float16], lent: Lent, rows: slice) -> NDArray[np.float16]:
    masked, reference = latents.masked[rows], latents.reference[rows]
    answer = family.infer(masked, reference, windows[rows], lent)
    if not np.isfinite(answer).all():  # half precision overflows on some cards: the black mouths of the published scripts
        answer = family.infer(masked, reference, windows[rows], lent, fp32=True)
    if not np.isfinite(answer).all():
        raise InternalError(f"rows {rows.start} to {rows.stop}: NaN in full precision", "run `musetalk weights verify`")
    return answer
