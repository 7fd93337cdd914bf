"""Who speaks in the film itself. In: Faces of a shot, the film's own sound. Out: Speakers. For the draft of a cast map, not for dubbing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import InternalError
from musetalk_cli.metrics.lips import opening
from musetalk_cli.models import load_family
from musetalk_cli.models.family import TOKENS_PER_SECOND, windows_at
from musetalk_cli.models.lite import LiteModel
from musetalk_cli.speaking import Lips, Spoken, who_speaks
from musetalk_cli.types import Faces, Shot, Source, Speech
from musetalk_cli.work import stage


@dataclass(frozen=True, slots=True)
class Speakers:
    """Stretches in which a track of the shot seems to speak, with a confidence."""

    shot: Shot
    spoken: tuple[Spoken, ...]


@stage(version=1)
def speaking(source: Source, faces: Faces, speech: Speech, *, config: ModelConfig, runtime: Runtime, out: Path) -> Speakers:
    """speech: of the film's own sound. config: the lite model, whose lip codes say how far the sound wants a mouth to open."""
    family = load_family(config, runtime)
    if not isinstance(family, LiteModel):
        raise InternalError(f"{family.name} has no lip codes")
    lips = {
        int(track): _lips(source, faces, speech, family, np.flatnonzero(faces.track == track)) for track in np.unique(faces.track)
    }
    return Speakers(faces.shot, tuple(who_speaks(lips, float(source.fps))))


def _lips(
    source: Source, faces: Faces, speech: Speech, family: LiteModel, rows: "np.ndarray[tuple[int], np.dtype[np.intp]]"
) -> Lips:
    times = [source.time(int(frame)) for frame in faces.frame[rows]]
    token = np.array([int(time * TOKENS_PER_SECOND) for time in times])
    activity = np.concatenate([np.asarray(speech.activity, np.float32), np.zeros(1, np.float32)])
    heard = activity[np.clip(token, 0, len(activity) - 1)]
    wanted = family.lip_codes(windows_at(speech.features, times))[:, 0]
    return Lips(faces.frame[rows], opening(faces.landmarks[rows]), wanted, heard)
