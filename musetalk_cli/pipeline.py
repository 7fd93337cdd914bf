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
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from musetalk_cli.config import DubConfig, FacesConfig, Runtime
from musetalk_cli.errors import InputError, NoFaceError, UsageError
from musetalk_cli.executor import Executor, Serial, executor_for
from musetalk_cli.media.encoders import choose_encoder
from musetalk_cli.models import preload_family
from musetalk_cli.models.family import TOKENS_PER_SECOND
from musetalk_cli.people import find_persons
from musetalk_cli.pieces import Cut, cut_film
from musetalk_cli.progress import MS_A_FRAME, Events
from musetalk_cli.provenance.identity import identity
from musetalk_cli.provenance.sign import BESIDE
from musetalk_cli.provenance.statement import UNSIGNED, Altered, Statement, altered_of, statement
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
from musetalk_cli.types import (
    Decisions,
    DubJob,
    Faces,
    Film,
    Masks,
    Mouths,
    Outcome,
    Segment,
    Shot,
    Source,
    Speech,
    Stretch,
    Verdict,
    Voicing,
    sidecar_of,
)
from musetalk_cli.work import Ref, Work, disk_fault, fingerprint, sync


@dataclass(frozen=True, slots=True)
class Run:
    """What every step of one film's run shares."""

    video: Path
    config: DubConfig
    runtime: Runtime
    work: Work
    events: Events
    executor: Executor = field(default_factory=Serial)


@dataclass(frozen=True, slots=True)
class Told:
    """What a run found out on its way, for people."""

    film: Source
    decisions: tuple[Decisions, ...]
    cut: Cut


def dub(
    job: DubJob, *, config: DubConfig, runtime: Runtime, work: Work, events: Events, executor: Executor | None = None
) -> Told:
    """Dub one film; what was decided of each shot. executor: where its shots are worked on, if not as `runtime` says.

    Raises NoFaceError where no frame has a usable face; what is finished is kept and found by the next run.
    """
    began = time.monotonic()
    made, told = make(job, Run(job.video, config, runtime, work, events, executor or executor_for(config.model, runtime)))
    output, sidecar = deliver(made.load(), job.output), made.load().sidecar
    beside = {} if sidecar is None else {"sidecar": sidecar_of(output)}
    events.emit("run.done", output=output, **beside, seconds=round(time.monotonic() - began, 1), **_summary(told))
    return told


def make(job: DubJob, run: Run) -> tuple[Ref[Film], Told]:
    """Every step up to the finished film in the work folder."""
    opened = open_job(job, run)
    settled = settle(opened, find_faces(opened.own, run, opened.source), run)
    segments = [segment for shot in run.executor.map(settled.errands, run.work, run.runtime) for segment in shot]
    return finish(settled, segments, run), settled.told


def make_shots(jobs: Sequence[DubJob], runs: Sequence[Run]) -> None:
    """The shots of several voices of one film, all at once: nobody waits for the last shot of one voice before the first of the next.
    What is finished here is found when each job is dubbed. runs: of each job, over the same executor.

    A job that cannot be dubbed is passed over: it is told when its turn comes.
    """
    run = runs[0]
    for job, of_job in zip(jobs, runs, strict=True):  # one after another: the first finds nearly all faces for the others
        with suppress(InputError, UsageError):
            opened = open_job(job, replace(of_job, events=Events()))
            find_faces(opened.own, of_job, opened.source)
    settling = [SettleJob(job, of_job.config) for job, of_job in zip(jobs, runs, strict=True)]
    settled = run.executor.map(settling, run.work, run.runtime)
    run.executor.map([errand for errands in settled for errand in errands], run.work, run.runtime)


@dataclass(frozen=True, slots=True)
class SettleJob:
    """The errand: to decide about one job, whose faces are found. Its result is what is left to do; nothing, where it cannot be done."""

    job: DubJob
    config: DubConfig
    cost: float = 1.0

    @property
    def unit(self) -> str:
        return self.job.output.name

    def do(self, work: Work, runtime: Runtime) -> tuple["DubShot", ...]:
        run = Run(self.job.video, self.config, runtime, work, Events())
        try:
            opened = open_job(self.job, run)
            return settle(opened, find_faces(opened.own, run, opened.source), run).errands
        except (InputError, NoFaceError, UsageError):
            return ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A job before anyone is looked for in its film."""

    job: DubJob
    own: Ref[Source]
    source: Ref[Source]  # the film with what follows on it
    cast_map: CastMap | None
    voices: tuple[VoiceFile, ...]


def open_job(job: DubJob, run: Run) -> Opened:
    """The film demuxed, and lengthened where its voices need it. Raises UsageError for what the output cannot hold."""
    if not run.work.has(demux, job.video, config=run.config.demux, unit="film"):  # a new film, which will need the model
        preload_family(run.config.model, run.runtime)
    own = run.work.do(demux, job.video, config=run.config.demux, runtime=run.runtime, unit="film")
    film = own.load()
    check_deliverable(job.video, film, run.config.remux)  # what the container or the encoder cannot hold is told before the work
    choose_encoder(film, run.config.blend)
    run.events.emit("run.start", **_told_of(job, film, run.config))
    cast_map = None if job.cast is None else with_voices(read_cast(job.cast), dict(job.voices))
    voices = (VoiceFile(job.audio),) if cast_map is None else tuple(cast_map.voices())
    return Opened(job, own, lengthened(own, voices, run), cast_map, voices)


@dataclass(frozen=True, slots=True)
class Settled:
    """A job of which everything is decided: what is left is to do it. errands: of each shot, in order. altered: by film order."""

    opened: Opened
    told: Told
    errands: tuple["DubShot", ...]
    altered: tuple[Altered, ...]


def settle(opened: Opened, found: Sequence[Ref[Faces]], run: Run) -> Settled:
    """Who in which shot speaks with which voice, which frames that touches, and what of the film is copied. found: of each shot."""
    do = partial(run.work.do, config=run.config.decide, runtime=run.runtime)
    job, film = opened.job, opened.source.load()
    shots = [face.load() for face in found]
    cast = cast_shots(film, shots, opened.cast_map, run)
    if not any(asked.voices for asked in cast):
        raise _no_face(job, film, shots)
    speeches = [hear(voice, run) for voice in opened.voices]
    _compare_lengths(film, [speech.load() for speech in speeches], run.config, run.events)
    heard = [[speeches[voice] for voice in shot.voices] for shot in cast]
    sources = [source_of(shot, opened.own, opened.source) for shot in film.shots]
    decided = [
        do(decide, source, face, asked.casting, spoken, unit=unit_name(face_of.shot))
        for source, face, face_of, asked, spoken in zip(sources, found, shots, cast, heard, strict=True)
    ]
    decisions = tuple(decision.load() for decision in decided)
    cut = cut_film(job.video, film, [decision.voicing for decision in decisions], run.config)
    decisions = tuple(with_unfit(decision, read_seen(face.folder)) for decision, face in zip(decisions, found, strict=True))
    run.events.emit("run.plan", **_plan(film, decisions, cut))
    errands = tuple(
        DubShot(
            run.video, run.config, shot, source, face, decision.voicing, tuple(spoken), tuple(cut.within(shot)), cut.reordering
        )
        for shot, source, face, decision, spoken in zip(film.shots, sources, found, decisions, heard, strict=True)
    )
    consents = {} if opened.cast_map is None else {person.name: person.consent for person in opened.cast_map.persons}
    altered = [
        stretch
        for decision, faces_of, asked in zip(decisions, shots, cast, strict=True)
        for stretch in altered_of(film, decision, faces_of, dict(asked.names), consents)
    ]
    return Settled(opened, Told(film, decisions, cut), errands, tuple(altered))


def finish(settled: Settled, segments: Sequence[Ref[Segment]], run: Run) -> Ref[Film]:
    """The film from its segments, what is copied of it, and its new sound."""
    opened, film, copies = settled.opened, settled.told.film, Copies(settled.told.cut.copied)
    voice = soundtrack(opened.job, opened.voices, run)
    do = partial(run.work.do, config=run.config.remux, runtime=run.runtime)
    given = (run.video, voice, opened.source, list(segments), copies, *_signing(settled, run))
    return do(remux, *given, unit="film", frames=film.frames)


def _signing(settled: Settled, run: Run) -> tuple[Statement, list[Path], list[Path]]:
    """What the manifest says, who signs it, and the voices that it names. Loud where there is to be none."""
    opened, config = settled.opened, run.config
    if not config.sign.on:
        message = "the film will not say that it was altered by a machine: no provenance was asked for"
        run.events.emit("warning", message=message, hint="leave out --no-provenance, unless another tool signs it")
        return UNSIGNED, [], []
    given = (settled.told.film, settled.told.decisions, settled.altered, config.model, opened.job.language)
    told = statement(*given, marked=bool(config.blend.watermark))
    beds = [] if opened.job.bed is None else [opened.job.bed]
    return told, [*identity(config.sign.cert, config.sign.key)], [*(voice.path for voice in opened.voices), *beds]


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
    return run.executor.map(face_errands(own, run, source), run.work, run.runtime)


def face_errands(own: Ref[Source], run: Run, source: Ref[Source] | None = None) -> list["FindFaces"]:
    """Of each shot in order."""
    source = source or own
    return [FindFaces(run.video, run.config.faces, source_of(shot, own, source), shot) for shot in source.load().shots]


@dataclass(frozen=True, slots=True)
class FindFaces:
    """The errand: who is in one shot."""

    video: Path
    config: FacesConfig
    source: Ref[Source]
    shot: Shot

    @property
    def unit(self) -> str:
        return unit_name(self.shot)

    @property
    def cost(self) -> float:
        return (self.shot.lead + self.shot.frames + self.shot.tail) * MS_A_FRAME["faces"] / 1000

    def do(self, work: Work, runtime: Runtime) -> Ref[Faces]:
        given = (self.video, self.source, self.shot)
        return work.do(faces, *given, config=self.config, runtime=runtime, unit=self.unit, frames=self.shot.frames)


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


@dataclass(frozen=True, slots=True)
class DubShot:
    """The errand: what of one shot must be encoded, from faces to finished frames. Every line of `do` is kept, so a stopped run goes on
    from the last one."""

    video: Path
    config: DubConfig
    shot: Shot
    source: Ref[Source]
    face: Ref[Faces]
    voicing: Voicing
    speeches: tuple[Ref[Speech], ...]
    stretches: tuple[Stretch, ...]  # of the shot, to be encoded; none: all of it is copied
    reordering: int | None  # as in Cut

    @property
    def unit(self) -> str:
        return unit_name(self.shot)

    @property
    def cost(self) -> float:
        rows = sum(line.stop - line.start for line in self.voicing.lines)
        encoded = sum(stretch.stop - stretch.start for stretch in self.stretches)
        of_rows = MS_A_FRAME["latents"] + MS_A_FRAME["masks"] + MS_A_FRAME["inference"]
        return (rows * of_rows + encoded * MS_A_FRAME["blend"]) / 1000 if self.stretches else 0.0

    def do(self, work: Work, runtime: Runtime) -> list[Ref[Segment]]:
        if not self.stretches:
            return []
        video, source, config, voicing = self.video, self.source, self.config, self.voicing
        do = partial(work.do, runtime=runtime, unit=self.unit, frames=self.shot.frames)

        picked = do(pick, self.face, Tracks(tuple(sorted({line.track for line in voicing.lines}))), config=None)
        latent = do(latents, video, source, picked, config=config.model)
        mask = do(masks, video, source, picked, config=config.masks)
        spoken = (list(self.speeches), voicing.without_fades(), config.model)
        mouth = do(inference, source, picked, latent, *spoken, config=config.inference)
        return [self._blended(stretch, picked, mask, mouth, work, runtime) for stretch in self.stretches]

    def _blended(
        self, stretch: Stretch, picked: Ref[Faces], mask: Ref[Masks], mouth: Ref[Mouths], work: Work, runtime: Runtime
    ) -> Ref[Segment]:
        unit = f"{self.unit}.{stretch.start - self.shot.start:05d}"
        encoded = replace(self.config.blend, reordering=self.reordering)
        given = (self.video, self.source, picked, mask, mouth, self.voicing, stretch, self.config.model)
        return work.do(blend, *given, config=encoded, runtime=runtime, unit=unit, frames=stretch.stop - stretch.start)


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


def deliver(film: Film, output: Path) -> Path:
    """The film to where the user wants it, after the manifest beside it, if it has one there; that of an older film goes.

    To `.{name}.part` beside the target, fsync, rename, when both are there: the target appears whole or not at all, and no manifest without
    its film. Raises ResourceError where the disk is full or fails.
    """
    sidecar = sidecar_of(output)
    wanted = [] if film.sidecar is None else [(film.sidecar, sidecar)]
    copies = [(path, target, target.with_name(f".{target.name}.part")) for path, target in (*wanted, (film.path, output))]
    try:
        for path, _, part in copies:
            shutil.copyfile(path, part)
            sync(part)
        if film.sidecar is None and output.suffix.lower() in BESIDE:
            sidecar.unlink(missing_ok=True)
        for _, target, part in copies:
            os.replace(part, target)
        sync(output.parent)
    except OSError as error:
        if (fault := disk_fault(error, output.parent, "-o")) is not None:
            raise fault from error
        raise
    finally:
        for _, _, part in copies:
            part.unlink(missing_ok=True)
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
