"""The film from top to bottom. In: a DubJob. Out: the dubbed film, where the user wants it. The only place that knows the order of stages.

    video -- demux -- Source -- faces -- Faces --.-- persons, cast -- Casting --.
                                                 |                              |-- decide -- Decisions --.
    voices -- listen -- Speech ------------------|------------------------------'                         |
                                                 '-- pick --.-- latents -- Latents --.                    |
                                                            '-- masks ---- Masks ----|-- inference -- Mouths -- blend -- Segment --.
    film's own packets where no mouth is touched ----------------------------------------------------------------------------------|
    voices -- sound -- Sound ------------------------------------------------------------------------------------------------------ remux

Faces, Latents and Masks are of the film alone: a second language finds them done.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from musetalk_cli.cast_map import CastMap, VoiceFile, read_cast, with_voices
from musetalk_cli.casting import (
    Chooser,
    ShotCast,
    cast_by_map,
    cast_by_rule,
    choose_all,
    choose_largest,
    choose_like,
    name_persons,
)
from musetalk_cli.config import DubConfig, Runtime
from musetalk_cli.errors import NoFaceError, UsageError
from musetalk_cli.media.video import choose_encoder
from musetalk_cli.models.family import TOKENS_PER_SECOND
from musetalk_cli.people import find_persons
from musetalk_cli.pieces import Cut, cut_film
from musetalk_cli.progress import Events
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_decide import decide
from musetalk_cli.stages.s2_faces import Tracks, faces, identity_in, pick
from musetalk_cli.stages.s3_latents import latents, listen
from musetalk_cli.stages.s3_masks import masks
from musetalk_cli.stages.s4_inference import inference
from musetalk_cli.stages.s5_blend import blend
from musetalk_cli.stages.s5_sound import Channels, sound
from musetalk_cli.stages.s6_remux import Copies, check_deliverable, remux
from musetalk_cli.types import Decisions, DubJob, Faces, Film, Segment, Shot, Source, Speech
from musetalk_cli.work import Ref, Work, sync


@dataclass(frozen=True, slots=True)
class Run:
    """What every step of one film's run shares."""

    video: Path
    config: DubConfig
    runtime: Runtime
    work: Work
    events: Events


@dataclass(frozen=True, slots=True)
class Told:
    """What a run found out on its way, for people."""

    film: Source
    decisions: tuple[Decisions, ...]
    cut: Cut


def dub(job: DubJob, *, config: DubConfig, runtime: Runtime, work: Work, events: Events) -> Path:
    """Dub one film. Raises NoFaceError where no frame has a usable face; what is finished is kept and found by the next run."""
    began = time.monotonic()
    made, told = make(job, Run(job.video, config, runtime, work, events))
    output = deliver(made.load().path, job.output)
    events.emit("run.done", output=output, seconds=round(time.monotonic() - began, 1), **_summary(told))
    return output


def make(job: DubJob, run: Run) -> tuple[Ref[Film], Told]:
    """Every step up to the finished film in the work folder."""
    do = partial(run.work.do, runtime=run.runtime, unit="film")
    source = do(demux, job.video, config=run.config.demux)
    film = source.load()
    check_deliverable(job.video, film, run.config.remux)  # what the container or the encoder cannot hold is told before the work
    choose_encoder(film, run.config.blend)
    run.events.emit("run.start", **_told_of(job, film, run.config))
    found = find_faces(source, run)
    voices, speeches, cast = cast_shots(job, film, found, run)
    decided = [
        run.work.do(
            decide,
            source,
            face,
            shot_cast.casting,
            [speeches[voice] for voice in shot_cast.voices],
            config=run.config.decide,
            runtime=run.runtime,
            unit=unit_name(face_shot),
        )
        for face, face_shot, shot_cast in zip(found, film.shots, cast, strict=True)
    ]
    decisions = tuple(decision.load() for decision in decided)
    cut = cut_film(job.video, film, [decision.voicing for decision in decisions], run.config)
    run.events.emit("run.plan", **_plan(film, decisions, cut))
    heard = [[speeches[voice] for voice in shot_cast.voices] for shot_cast in cast]
    segments = [
        segment
        for shot, face, decision, spoken in zip(film.shots, found, decisions, heard, strict=True)
        for segment in dub_shot(shot, source, face, decision, spoken, cut, run)
    ]
    voice = soundtrack(job, voices, run)
    made = do(remux, job.video, voice, source, segments, Copies(cut.copied), config=run.config.remux, frames=film.frames)
    return made, Told(film, decisions, cut)


def find_faces(source: Ref[Source], run: Run) -> list[Ref[Faces]]:
    """Who is in the film, shot by shot, before anything is known of a voice."""
    return [
        run.work.do(
            faces, run.video, source, shot, config=run.config.faces, runtime=run.runtime, unit=unit_name(shot), frames=shot.frames
        )
        for shot in source.load().shots
    ]


def cast_shots(
    job: DubJob, film: Source, found: Sequence[Ref[Faces]], run: Run
) -> tuple[list[VoiceFile], list[Ref[Speech]], list[ShotCast]]:
    """The voices, heard, and who in each shot follows which. Raises NoFaceError where nobody is to be dubbed."""
    shots = [face.load() for face in found]
    if job.cast is None:
        voices = [VoiceFile(job.audio)]
        rule = rule_of(run.config, run.runtime)
        cast = [cast_by_rule(shot, rule, "auto") for shot in shots]
    else:
        cast_map = with_voices(read_cast(job.cast), dict(job.voices))
        voices = list(cast_map.voices())
        cast = cast_from_map(film, shots, cast_map, analysis_of(found), run)
    if not any(shot_cast.voices for shot_cast in cast):
        raise NoFaceError(f"no usable face in {film.frames} frames", _cure_of_no_face(shots, cast), thing=str(job.video))
    speeches = [
        run.work.do(listen, path, channel, config=run.config.model, runtime=run.runtime, unit="film") for path, channel in voices
    ]
    _compare_lengths(film, [speech.load() for speech in speeches], run.config, run.events)
    return voices, speeches, cast


def rule_of(config: DubConfig, runtime: Runtime) -> Chooser:
    """What `--face` says: the largest, all, or the one in a picture."""
    if config.cast.choose == "largest":
        return choose_largest
    if config.cast.choose == "all":
        return choose_all
    picture = Path(config.cast.choose)
    return choose_like(identity_in(picture, config.faces, runtime), config.cast.similarity, picture.name)


def cast_from_map(film: Source, shots: Sequence[Faces], cast: CastMap, analysis: str, run: Run) -> list[ShotCast]:
    """By `--cast`. Raises UsageError for a map whose letters are those of another analysis."""
    by_letter = any(person.faces for person in cast.persons)
    if by_letter and cast.analysis and cast.analysis != analysis:
        raise UsageError(
            f"{cast.path}: its letters are of another film, or of other settings of the analysis",
            "draft it again with `musetalk inspect`, or leave the letters out and give each person a still",
        )
    persons = find_persons(shots)
    pictures = {
        person.name: identity_in(person.still, run.config.faces, run.runtime)
        for person in cast.persons
        if person.still is not None and not person.faces
    }
    names = name_persons(persons, cast, pictures, shots)
    return [cast_by_map(shot, film, persons, cast, names) for shot in shots]


def analysis_of(found: Sequence[Ref[Faces]]) -> str:
    """A name for what the analysis found: letters of persons mean the same wherever it is the same."""
    from hashlib import sha256

    return sha256("".join(face.key for face in found).encode()).hexdigest()[:16]


def dub_shot(
    shot: Shot, source: Ref[Source], face: Ref[Faces], decision: Decisions, speeches: list[Ref[Speech]], cut: Cut, run: Run
) -> list[Ref[Segment]]:
    """What of a shot must be encoded, from faces to finished frames; every line is kept, so a stopped run goes on from the last one."""
    stretches = cut.within(shot)
    if not stretches:
        return []
    video, config, voicing = run.video, run.config, decision.voicing
    do = partial(run.work.do, runtime=run.runtime, unit=unit_name(shot), frames=shot.frames)

    picked = do(pick, face, Tracks(tuple(sorted({line.track for line in voicing.lines}))), config=None)
    latent = do(latents, video, source, picked, config=config.model)
    mask = do(masks, video, source, picked, config=config.masks)
    mouth = do(inference, source, picked, latent, speeches, voicing.without_fades(), config.model, config=config.inference)
    return [
        run.work.do(
            blend,
            video,
            source,
            picked,
            mask,
            mouth,
            voicing,
            stretch,
            config.model,
            config=config.blend,
            runtime=run.runtime,
            unit=f"{unit_name(shot)}.{stretch.start - shot.start:05d}",
            frames=stretch.stop - stretch.start,
        )
        for stretch in stretches
    ]


def soundtrack(job: DubJob, voices: Sequence[VoiceFile], run: Run) -> Path:
    """The file with the new sound: the voice itself, or a sum."""
    if len(voices) == 1 and voices[0].channel < 0 and job.bed is None:
        return voices[0].path
    beds = [] if job.bed is None else [job.bed]
    channels = Channels(tuple(voice.channel for voice in voices))
    made = run.work.do(
        sound, [voice.path for voice in voices], channels, beds, config=None, runtime=run.runtime, unit="film"
    ).load()
    if made.gain_db < 0:
        message = f"voices and effects together are over full scale: all of it is {-made.gain_db:.1f} dB lower"
        run.events.emit("warning", message=message, hint="give them quieter to keep their level")
    return made.path


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
    return {
        "film": job.video,
        "audio": job.audio,
        "output": job.output,
        "language": job.language,
        "frames": film.frames,
        "seconds": seconds,
        "shots": len(film.shots),
        "model": config.model.name,
    }


def _plan(film: Source, decisions: Sequence[Decisions], cut: Cut) -> dict[str, object]:
    """What is going to happen, before it does."""
    return {
        "decisions": {str(shot.shot.index): [verdict._asdict() for verdict in shot.verdicts] for shot in decisions},
        "frames_encoded": film.frames - cut.frames_copied,
        "frames_copied": cut.frames_copied,
        "why_not_copied": cut.why,
    }


def _summary(told: Told) -> dict[str, object]:
    verdicts = [verdict for shot in told.decisions for verdict in shot.verdicts]
    faces = sum(verdict.stop - verdict.start for verdict in verdicts if verdict.what != "passed through")
    return {
        "frames": told.film.frames,
        "faces": faces,
        "frames_copied": told.cut.frames_copied,
        "needs_review": [f"{v.start}-{v.stop}: {v.why}" for v in verdicts if v.what == "needs review"],
    }


def _cure_of_no_face(shots: Sequence[Faces], cast: Sequence[ShotCast]) -> str:
    """Everyone is a choice only where someone fit to be dubbed is there, and was not chosen."""
    unchosen = any(shot.rows for shot in shots)
    return "see what `musetalk inspect` finds" + (", or choose --face all" if unchosen and cast else "")


def _compare_lengths(film: Source, speeches: Sequence[Speech], config: DubConfig, events: Events) -> None:
    """A second more or less is told, with what becomes of it."""
    longest = max(len(speech.features) for speech in speeches)
    voice, picture = Fraction(longest, TOKENS_PER_SECOND), film.time(film.frames - 1) + 1 / film.fps
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
