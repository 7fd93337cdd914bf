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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from hashlib import sha256
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
from musetalk_cli.media.encoders import choose_encoder
from musetalk_cli.models.family import TOKENS_PER_SECOND
from musetalk_cli.people import find_persons
from musetalk_cli.pieces import Cut, cut_film
from musetalk_cli.progress import Events
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s1_lengthen import LengthenConfig, lengthen
from musetalk_cli.stages.s2_decide import decide
from musetalk_cli.stages.s2_faces import ShotSeen, Tracks, faces, identity_in, pick, read_seen
from musetalk_cli.stages.s3_latents import latents, listen
from musetalk_cli.stages.s3_masks import masks
from musetalk_cli.stages.s4_inference import inference
from musetalk_cli.stages.s5_blend import blend
from musetalk_cli.stages.s5_sound import Channels, sound
from musetalk_cli.stages.s6_remux import Copies, check_deliverable, remux
from musetalk_cli.types import Decisions, DubJob, Faces, Film, Outcome, Segment, Shot, Source, Speech, Verdict
from musetalk_cli.work import Ref, Work, fingerprint, sync


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


def dub(job: DubJob, *, config: DubConfig, runtime: Runtime, work: Work, events: Events) -> Told:
    """Dub one film; what was decided of each shot. Raises NoFaceError where no frame has a usable face; what is finished is kept and found by the next run."""
    began = time.monotonic()
    made, told = make(job, Run(job.video, config, runtime, work, events))
    output = deliver(made.load().path, job.output)
    events.emit("run.done", output=output, seconds=round(time.monotonic() - began, 1), **_summary(told))
    return told


def make(job: DubJob, run: Run) -> tuple[Ref[Film], Told]:
    """Every step up to the finished film in the work folder."""
    do = partial(run.work.do, runtime=run.runtime)
    own = do(demux, job.video, config=run.config.demux, unit="film")
    film = own.load()
    check_deliverable(job.video, film, run.config.remux)  # what the container or the encoder cannot hold is told before the work
    choose_encoder(film, run.config.blend)
    run.events.emit("run.start", **_told_of(job, film, run.config))
    cast_map = None if job.cast is None else with_voices(read_cast(job.cast), dict(job.voices))
    voices = [VoiceFile(job.audio)] if cast_map is None else list(cast_map.voices())
    source = lengthened(own, voices, run)
    film = source.load()
    found = find_faces(own, run, source)
    shots = [face.load() for face in found]
    cast = cast_shots(film, shots, cast_map, run)
    if not any(asked.voices for asked in cast):
        raise _no_face(job, film, shots)
    speeches = [hear(voice, run) for voice in voices]
    _compare_lengths(film, [speech.load() for speech in speeches], run.config, run.events)
    heard = [[speeches[voice] for voice in shot.voices] for shot in cast]
    decided = [
        do(decide, source_of(shot, own, source), face, asked.casting, spoken, config=run.config.decide, unit=unit_name(shot))
        for shot, face, asked, spoken in zip(film.shots, found, cast, heard, strict=True)
    ]
    decisions = tuple(decision.load() for decision in decided)
    cut = cut_film(job.video, film, [decision.voicing for decision in decisions], run.config)
    decisions = tuple(with_unfit(decision, read_seen(face.folder)) for decision, face in zip(decisions, found, strict=True))
    run.events.emit("run.plan", **_plan(film, decisions, cut))
    segments = [
        segment
        for shot, face, decision, spoken in zip(film.shots, found, decisions, heard, strict=True)
        for segment in dub_shot(shot, source_of(shot, own, source), face, decision, spoken, cut, run)
    ]
    voice = soundtrack(job, voices, run)
    copies = Copies(cut.copied)
    made = do(remux, job.video, voice, source, segments, copies, config=run.config.remux, unit="film", frames=film.frames)
    return made, Told(film, decisions, cut)


def lengthened(own: Ref[Source], voices: Sequence[VoiceFile], run: Run) -> Ref[Source]:
    """The film, or with `--length hold` or `bounce` as much more of it as the longest voice needs."""
    how = run.config.remux.length
    if how not in ("hold", "bounce"):
        return own
    tokens = max(len(hear(voice, run).load().features) for voice in voices)
    config = LengthenConfig(how, run.config.demux.chunk)
    seconds = str(Fraction(tokens, TOKENS_PER_SECOND))
    return run.work.do(lengthen, own, seconds, config=config, runtime=run.runtime, unit="film")


def source_of(shot: Shot, own: Ref[Source], source: Ref[Source]) -> Ref[Source]:
    """A shot of the film itself does not know what follows on the film, so that it is found done whatever does."""
    return own if shot.stop <= own.load().frames else source


def hear(voice: VoiceFile, run: Run) -> Ref[Speech]:
    """A voice as the model hears it, and when it speaks."""
    return run.work.do(listen, voice.path, voice.channel, config=run.config.model, runtime=run.runtime, unit="film")


def find_faces(own: Ref[Source], run: Run, source: Ref[Source] | None = None) -> list[Ref[Faces]]:
    """Who is in the film, shot by shot, before anything is known of a voice. source: the film with what follows on it."""
    source = source or own
    do = partial(run.work.do, config=run.config.faces, runtime=run.runtime)
    return [
        do(faces, run.video, source_of(shot, own, source), shot, unit=unit_name(shot), frames=shot.frames)
        for shot in source.load().shots
    ]


def cast_shots(film: Source, shots: Sequence[Faces], cast_map: CastMap | None, run: Run) -> list[ShotCast]:
    """Who in each shot follows which voice."""
    if cast_map is not None:
        return cast_from_map(film, shots, cast_map, run)
    rule = rule_of(run.config, run.runtime)
    return [cast_by_rule(shot, rule, "auto") for shot in shots]


def rule_of(config: DubConfig, runtime: Runtime) -> Chooser:
    """What `--face` says: the largest, all, or the one in a picture."""
    if config.cast.choose == "largest":
        return choose_largest
    if config.cast.choose == "all":
        return choose_all
    picture = Path(config.cast.choose)
    return choose_like(identity_in(picture, config.faces, runtime), config.cast.similarity, picture.name)


def cast_from_map(film: Source, shots: Sequence[Faces], cast: CastMap, run: Run) -> list[ShotCast]:
    """By `--cast`. Its letters are those of the film's own shots, whatever follows on them. Raises UsageError for a map whose letters
    are those of another analysis."""
    own = [shot for shot in shots if not film.own or shot.shot.stop <= film.own]
    end = film.time(film.frames - 1) + 1 / film.fps
    for stretch in cast.ranges:
        if stretch.start >= end:
            message = (
                f"{cast.path.name}: a range begins at {float(stretch.start):g} s, after the film's end at {float(end):.1f} s"
            )
            run.events.emit("warning", message=message, hint="it does nothing")
    by_letter = any(person.faces for person in cast.persons)
    if by_letter and cast.analysis and cast.analysis != analysis_of(run.video, own):
        raise UsageError(
            f"{cast.path}: its letters are of another film, or of other settings of the analysis",
            "draft it again with `musetalk inspect`, or leave the letters out and give each person a still",
        )
    pictures = {
        person.name: identity_in(person.still, run.config.faces, run.runtime)
        for person in cast.persons
        if person.still is not None and not person.faces
    }
    seen, persons = find_persons(own), find_persons(shots)
    named = name_persons(seen, cast, pictures, own)
    names = {persons.of[track]: name for number, name in named.items() for track in seen.tracks[number]}
    return [cast_by_map(shot, film, persons, cast, names) for shot in shots]


def analysis_of(video: Path, shots: Sequence[Faces]) -> str:
    """A name for what the analysis found: letters of persons mean the same where the same tracks are in the same frames of a film."""
    found = sha256(fingerprint(video).encode())
    for shot in shots:
        found.update(shot.frame.tobytes() + shot.track.tobytes())
    return found.hexdigest()[:16]


def dub_shot(
    shot: Shot, source: Ref[Source], face: Ref[Faces], decision: Decisions, speeches: list[Ref[Speech]], cut: Cut, run: Run
) -> list[Ref[Segment]]:
    """What of a shot must be encoded, from faces to finished frames; every line is kept, so a stopped run goes on from the last one."""
    stretches = cut.within(shot)
    if not stretches:
        return []
    video, config, voicing = run.video, run.config, decision.voicing
    encoded = replace(config.blend, reordering=cut.reordering)
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
            config=encoded,
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


def with_unfit(decisions: Decisions, seen: ShotSeen) -> Decisions:
    """Also of those whom nobody could dub."""
    unfit = [Verdict(one.track, one.first, one.last + 1, "passed through", one.unfit) for one in seen.tracks if one.unfit]
    return replace(decisions, verdicts=(*decisions.verdicts, *unfit))


def told_of_shot(decisions: Decisions) -> dict[str, object]:
    """A shot and everyone in it, as JSON; outcome: of its most touched track."""
    verdicts = [verdict._asdict() for verdict in decisions.verdicts]
    outcome, why = _outcome(decisions)
    shot = decisions.shot
    return {"shot": shot.index, "start": shot.start, "stop": shot.stop, "what": outcome, "why": why, "tracks": verdicts}


def _outcome(decisions: Decisions) -> tuple[Outcome, str]:
    """needs review if anyone does, else synced if anyone is, else passed through for what holds for most frames."""
    order: tuple[Outcome, ...] = ("needs review", "synced", "passed through")
    for outcome in order:
        alike = [verdict for verdict in decisions.verdicts if verdict.what == outcome]
        if alike:
            return outcome, max(alike, key=lambda verdict: verdict.stop - verdict.start).why
    return "passed through", "no face"


def _plan(film: Source, decisions: Sequence[Decisions], cut: Cut) -> dict[str, object]:
    """What is going to happen, before it does."""
    outcomes = [_outcome(shot) for shot in decisions]
    whats = Counter(what for what, _ in outcomes)
    return {
        "shots": len(decisions),
        "synced": whats["synced"],
        "needs_review": whats["needs review"],
        "passed": Counter(why.partition(":")[0] for what, why in outcomes if what == "passed through"),
        "decisions": [told_of_shot(shot) for shot in decisions],
        "frames_worked": sum(shot.frames for shot in film.shots if cut.within(shot)),
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


def _no_face(job: DubJob, film: Source, shots: Sequence[Faces]) -> NoFaceError:
    """Everyone is a choice only where someone fit to be dubbed is there, and was not chosen."""
    unchosen, cure = any(shot.rows for shot in shots), "see what `musetalk inspect` finds"
    if unchosen and job.cast is not None:
        fact = f"nobody to whom {job.cast.name} gives a voice is seen in {film.frames} frames"
        return NoFaceError(fact, f"{cure}, and put those letters into the cast map", thing=str(job.video))
    more = ", or choose --face all" if unchosen else ""
    return NoFaceError(f"no usable face in {film.frames} frames", cure + more, thing=str(job.video))


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
            else f"the sound goes on {by:.1f} s after the picture; --length trim, hold or bounce end them together"
        )
        events.emit("warning", message=f"the voice is {by:.1f} s longer than the picture", hint=hint)
    elif by < -1:
        hint = f"every frame is kept, the last {-by:.1f} s without a voice"
        events.emit("warning", message=f"the voice is {-by:.1f} s shorter than the picture", hint=hint)
