"""The film from top to bottom. In: a DubJob. Out: the dubbed film, where the user wants it. The only place that knows the order of stages.

    video -- demux -- Source ----.
                                 |-- faces -- Faces --.-- latents -- Latents --.
    audio -- listen -- Speech ---|                    '-- masks ---- Masks ----|-- inference -- Mouths -- blend -- Segment --.
                                 '------------------------------------------------------------------------------------------ remux -- film

Everything left of Mouths is of the film alone but Speech: a second language finds it done.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from musetalk_cli.config import DubConfig, Runtime
from musetalk_cli.errors import NoFaceError
from musetalk_cli.media.video import choose_encoder
from musetalk_cli.models.family import TOKENS_PER_SECOND
from musetalk_cli.progress import Events
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_faces import faces, read_seen
from musetalk_cli.stages.s3_latents import latents, listen
from musetalk_cli.stages.s3_masks import masks
from musetalk_cli.stages.s4_inference import inference
from musetalk_cli.stages.s5_blend import blend
from musetalk_cli.stages.s6_remux import check_deliverable, remux
from musetalk_cli.types import DubJob, Faces, Segment, Shot, Source, Speech
from musetalk_cli.work import Ref, Work, sync


@dataclass(frozen=True, slots=True)
class Run:
    """What every step of one film's run shares."""

    video: Path
    config: DubConfig
    runtime: Runtime
    work: Work
    events: Events


def dub(job: DubJob, *, config: DubConfig, runtime: Runtime, work: Work, events: Events) -> Path:
    """Dub one film. Raises NoFaceError where no frame has a usable face; what is finished is kept and found by the next run."""
    began = time.monotonic()
    run = Run(job.video, config, runtime, work, events)
    source = work.do(demux, job.video, config=config.demux, runtime=runtime, unit="film")
    film = source.load()
    check_deliverable(job.video, film, config.remux)  # what the container or the encoder cannot hold is told before the work
    choose_encoder(film, config.blend)
    events.emit("run.start", **_told_of(job, film, config))
    found = find_faces(source, run)
    rows = sum(shot.load().rows for shot in found)
    if not rows:
        raise NoFaceError(f"no usable face in {film.frames} frames", _cure_of_no_face(found), thing=str(job.video))
    speech = work.do(listen, job.audio, config=config.model, runtime=runtime, unit="film")
    _compare_lengths(film, speech.load(), config, events)
    segments = [dub_shot(shot, source, faces, speech, run) for shot, faces in zip(film.shots, found, strict=True)]
    dubbed = work.do(
        remux, job.video, job.audio, source, segments, config=config.remux, runtime=runtime, unit="film", frames=film.frames
    )
    output = deliver(dubbed.load().path, job.output)
    events.emit("run.done", output=output, frames=film.frames, faces=rows, seconds=round(time.monotonic() - began, 1))
    return output


def find_faces(source: Ref[Source], run: Run) -> list[Ref[Faces]]:
    """Who is in the film, shot by shot, before anything is known of a voice."""
    return [
        run.work.do(
            faces, run.video, source, shot, config=run.config.faces, runtime=run.runtime, unit=unit_name(shot), frames=shot.frames
        )
        for shot in source.load().shots
    ]


def dub_shot(shot: Shot, source: Ref[Source], face: Ref[Faces], speech: Ref[Speech], run: Run) -> Ref[Segment]:
    """One shot from faces to finished frames; every line is kept, so a stopped run goes on from the last one."""
    video, config = run.video, run.config
    do = partial(run.work.do, runtime=run.runtime, unit=unit_name(shot), frames=shot.frames)

    latent = do(latents, video, source, face, config=config.model)
    mask = do(masks, video, source, face, config=config.masks)
    mouth = do(inference, source, face, latent, speech, config=config.model)
    return do(blend, video, source, face, mask, mouth, config.model, config=config.blend)


def deliver(film: Path, output: Path) -> Path:
    """Copy to `.{name}.part` beside the target, fsync, rename: the target appears whole or not at all."""
    part = output.with_name(f".{output.name}.part")
    try:
        shutil.copyfile(film, part)
        sync(part)
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)
    sync(output.parent)
    return output


def unit_name(shot: Shot) -> str:
    """What a shot is called in the work folder; sorts as the film runs."""
    return f"{shot.index:05d}"


def _told_of(job: DubJob, film: Source, config: DubConfig) -> dict[str, object]:
    seconds = float(film.time(film.frames - 1) - film.time(0)) + float(1 / film.fps)
    shots = len(film.shots)
    return {
        **job._asdict(),
        "film": job.video,
        "frames": film.frames,
        "seconds": seconds,
        "shots": shots,
        "model": config.model.name,
    }


def _cure_of_no_face(found: Sequence[Ref[Faces]]) -> str:
    """Everyone is a choice only where someone fit to be dubbed was compared with a picture, and is not the person in it."""
    unchosen = any(track.similarity is not None for shot in found for track in read_seen(shot.folder).tracks)
    return "see what `musetalk inspect` finds" + (", or choose --face all" if unchosen else "")


def _compare_lengths(film: Source, speech: Speech, config: DubConfig, events: Events) -> None:
    """A second more or less is told, with what becomes of it."""
    voice, picture = Fraction(len(speech.features), TOKENS_PER_SECOND), film.time(film.frames - 1) + 1 / film.fps
    by = float(voice - picture)
    if by > 1:
        trimmed = config.remux.length == "trim"
        hint = (
            "what is too long is left out"
            if trimmed
            else f"the sound goes on {by:.1f} s after the picture; --length trim ends it there"
        )
        events.emit("warning", message=f"the voice is {by:.1f} s longer than the picture", hint=hint)
    elif by < -1:
        hint = f"every frame is kept, the last {-by:.1f} s without a voice"
        events.emit("warning", message=f"the voice is {-by:.1f} s shorter than the picture", hint=hint)
