"""From a command line to finished films. In: a film, voices as the user wrote them, an output or none. Out: DubJobs, dubbed.

Knows no stages: it plans the outputs, refuses what would overwrite, and hands each job to the pipeline in one session.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from musetalk_cli.cast_map import check_known, read_cast, with_voices
from musetalk_cli.config import PUBLIC_KEY, DubConfig, Runtime
from musetalk_cli.errors import UsageError
from musetalk_cli.executor import Executor
from musetalk_cli.languages import ISO_639_2, three_letters
from musetalk_cli.session import Place, Session, Voice, open_session
from musetalk_cli.settings import LITE_CURE, LITE_NOTICE, Choices, check_choices, check_crf, choose_runtime, dub_config, for_job
from musetalk_cli.standing import finished_film
from musetalk_cli.targets import check_apart, check_file, check_folder, check_suffix, exists_error
from musetalk_cli.types import DubJob, Film, sidecar_of
from musetalk_cli.work import fingerprint

EXISTS_CURE = "-y replaces it, -n leaves it"
Said = str | tuple[str, Path]  # a voice as --audio takes it, or (language or person, path)
TAGGED = re.compile(r"(?P<language>[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)=(?P<path>.+)", re.DOTALL)


class Existing(NamedTuple):
    """What becomes of an output that is there. Neither: it is refused, unless it is what this very run would write."""

    overwrite: bool = False
    skip: bool = False


class Parts(NamedTuple):
    """What a soundtrack is made of beside one voice."""

    cast: Path | None = None
    bed: Path | None = None  # music and effects


def plan_jobs(
    film: Path,
    audio: Sequence[Said],
    output: Path | None,
    language: str,
    existing: Existing,
    place: Place,
    parts: Parts | None = None,
) -> list[DubJob]:
    """A job for each voice, or one for a cast. Raises UsageError for outputs that collide, would replace an input or cannot be written;
    OutputExistsError for one that is there and was not made in the work folder; InputError for a file that cannot be read."""
    if existing.overwrite and existing.skip:
        raise UsageError("--overwrite and --skip-existing: only one can be meant", "choose one")
    parts = parts or Parts()
    if parts.cast is None and not audio:
        raise UsageError("is missing", "give the new voice: --audio fr.wav", thing="--audio")
    fingerprint(film)  # an unreadable input is told before minutes of work
    jobs = (
        _voice_jobs(film, audio, output, language)
        if parts.cast is None
        else [_cast_job(film, audio, output, language, parts.cast)]
    )
    jobs = [job._replace(bed=parts.bed) for job in jobs]
    for path in (path for job in jobs for path in _sounds(job)):
        fingerprint(path)
    _check_apart(jobs)
    for job in jobs:
        _check_target(job)
        if job.output.exists() and not any(existing) and not _was_made_in(place, job):
            raise exists_error(job.output, EXISTS_CURE)
    return jobs


def job_to_rehearse(film: Path, audio: Sequence[Said], parts: Parts) -> DubJob | None:
    """The job that a dub with these voices would do first, into whatever file; None without a voice."""
    if parts.cast is not None:
        return _cast_job(film, audio, film, "", parts.cast)._replace(bed=parts.bed)
    return _voice_jobs(film, audio, film, "")[0]._replace(bed=parts.bed) if audio else None


def _voice_jobs(film: Path, audio: Sequence[Said], output: Path | None, language: str) -> list[DubJob]:
    voices = [_voice(text, language) for text in audio]
    return [DubJob(film, path, _output(film, path, lang, output), lang) for lang, path in voices]


def _cast_job(film: Path, audio: Sequence[Said], output: Path | None, language: str, cast: Path) -> DubJob:
    """One film with everybody's voice. --audio NAME=PATH wins over the map."""
    named = [_named(text) for text in audio]
    if len(dict(named)) < len(named):
        raise UsageError("two voices for one name", "give each person one --audio", thing="--audio")
    three_letters(language)
    first = with_voices(check_known(read_cast(cast)), dict(named)).voices()[0].path
    target = _output(film, Path("cast"), language, output)
    return DubJob(film, first, target, language, cast, tuple(named))


def _named(text: Said) -> tuple[str, Path]:
    if isinstance(text, tuple):
        return text
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UsageError(f"{text!r} names nobody", "with --cast write NAME=PATH, the name as in the cast map", thing="--audio")
    return name, Path(path)


def _sounds(job: DubJob) -> list[Path]:
    """Every file of sound that a job reads."""
    voices = [job.audio]
    if job.cast is not None:
        voices = [voice.path for voice in with_voices(read_cast(job.cast), dict(job.voices)).voices()]
    return voices + ([] if job.bed is None else [job.bed])


class Delivered(NamedTuple):
    """A film where the user wants it."""

    output: Path
    shots: tuple[
        dict[str, object], ...
    ] = ()  # what was decided of each, see pipeline.told_of_shot; none where it was there before
    frames_copied: int = 0

    def as_json(self) -> dict[str, object]:
        sidecar = None if self.sidecar is None else str(self.sidecar)
        return {"output": str(self.output), "sidecar": sidecar, "frames_copied": self.frames_copied, "shots": list(self.shots)}

    @property
    def sidecar(self) -> Path | None:
        """The film's manifest, where it lies beside it."""
        beside = sidecar_of(self.output)
        return beside if beside.is_file() else None


After = Callable[[DubJob, Session, DubConfig, Runtime], None]  # told of each film where its work still is


def dub_film(
    jobs: Sequence[DubJob],
    choices: Choices,
    place: Place,
    voice: Voice,
    existing: Existing,
    after: After | None = None,
    executor: Executor | None = None,
    wanted: Callable[[DubJob], bool] | None = None,
) -> list[Delivered]:
    """Dub them one after another over one analysis; returns the films, those that were there and may stay included.

    An output that is byte for byte what these settings made before is done: so a run over several languages can be stopped and
    called again. Raises OutputExistsError for any other that is there, unless `existing` says what to do then. after: called for each
    film that is there as these settings make it, just now or before. executor: who works on the shots, if not this process; with it
    those of all voices are worked on together. wanted: asked of each job when the work folder is held, whether it is still to be done.
    """
    made: dict[Path, Delivered] = {}
    todo = [job for job in jobs if not (existing.skip and job.output.exists())]
    if todo:
        check_choices(choices)
        for job in todo:
            check_crf(choices, job.output.suffix)
        _open_inputs(todo)
        runtime = choose_runtime(choices)
        config = dub_config(choices, runtime)
        with open_session(todo[0].video, place, voice) as session:
            if wanted is not None:
                todo = [job for job in todo if wanted(job)]
            undone = _undone(todo, session, config, runtime, existing)
            if undone:
                _check_signing(config)
            if undone and choices.model == "auto" and config.model.name == "lite":
                session.events.emit("warning", message=LITE_NOTICE, hint=LITE_CURE)
            if undone and choices.watermark_key != PUBLIC_KEY and not choices.watermark:
                session.events.emit("warning", message="a key of the watermark is set, and none is made", hint="add --watermark")
            if executor is not None and len(undone) > 1:
                _make_shots(undone, session, config, runtime, executor)
            for job in todo:
                if job in undone:
                    made[job.output] = _dub(job, session, for_job(config, job), runtime, executor)
                if after is not None:
                    after(job, session, for_job(config, job), runtime)
    return [made.get(job.output, Delivered(job.output)) for job in jobs]


def _undone(jobs: Sequence[DubJob], session: Session, config: DubConfig, runtime: Runtime, existing: Existing) -> list[DubJob]:
    """The jobs whose output is not there as this run would make it; the others are told. All are looked at before any work."""
    if existing.overwrite:
        return list(jobs)
    done = []
    for job in jobs:
        if job.output.exists():
            made = finished_film(job, session.work.folder, for_job(config, job), runtime)
            if made is None or fingerprint(made.path) != fingerprint(job.output):
                raise exists_error(job.output, EXISTS_CURE)
            if _has_its_manifest(made, job.output):
                done.append(job)
    for job in done:
        session.events.emit("run.kept", output=job.output)
    return [job for job in jobs if job not in done]


def _has_its_manifest(made: Film, output: Path) -> bool:
    """A manifest that lies beside the film may have been lost since: then both are delivered again."""
    beside = sidecar_of(output)
    return made.sidecar is None or (beside.is_file() and fingerprint(made.sidecar) == fingerprint(beside))


def _was_made_in(place: Place, job: DubJob) -> bool:
    """Whether the work folder holds a finished film with the output's bytes, of whatever settings."""
    if place.fresh:
        return False
    size = job.output.stat().st_size
    films = (path for path in place.folder(job.video).glob("remux/*/film.*") if path.stat().st_size == size)
    return any(fingerprint(path) == fingerprint(job.output) for path in films)


def _voice(text: Said, language: str) -> tuple[str, Path]:
    """fr=voice.wav and fr.wav are both French. A file whose own name looks like the first is written ./fr=x.wav.

    Raises UsageError for what is no language.
    """
    found = TAGGED.fullmatch(text) if isinstance(text, str) else None
    if not text:
        raise UsageError("its path is empty", "give the file with the new voice", thing="--audio")
    said, path = text if isinstance(text, tuple) else (found["language"], Path(found["path"])) if found else ("", Path(text))
    named = path.stem.lower() if path.stem.lower() in ISO_639_2 else ""
    tag = said or language or named
    three_letters(tag)
    return tag, path


def _output(film: Path, audio: Path, language: str, output: Path | None) -> Path:
    name = f"{film.stem}.{language or audio.stem}{film.suffix}"
    if output is None:
        return film.with_name(name)
    if output.is_dir():
        return output / name
    return Path(str(output).replace("{lang}", language or audio.stem))


def _check_apart(jobs: Sequence[DubJob]) -> None:
    outputs = [job.output.absolute() for job in jobs]
    if len(set(outputs)) < len(outputs):
        fact = "more than one voice would be written there"
        raise UsageError(fact, "put {lang} into -o, and LANG= before each path", thing=str(jobs[0].output))
    inputs = [
        path for job in jobs for path in (job.video, *_sounds(job), *([] if job.cast is None else [job.cast]))
    ]  # the second job reads its voice after the first has written
    for job in jobs:
        check_apart(job.output, inputs)


def _check_target(job: DubJob) -> None:
    from musetalk_cli.stages.s6_remux import CONTAINERS

    check_folder(job.output.parent)
    check_file(job.output)
    check_file(sidecar_of(job.output))
    check_suffix(job.output, CONTAINERS)


def _open_inputs(jobs: Sequence[DubJob]) -> None:
    """The head of the film and a second of each voice: a file that is neither is told before minutes of work."""
    from musetalk_cli.media.audio import SPEECH_HZ, speech_blocks
    from musetalk_cli.media.video import open_film

    with open_film(jobs[0].video):
        pass
    for job in jobs:
        for path in _sounds(job):
            next(speech_blocks(path, SPEECH_HZ), None)


def _check_signing(config: DubConfig) -> None:
    from musetalk_cli.provenance.sign import check_signing

    check_signing(config.sign)


def _make_shots(jobs: Sequence[DubJob], session: Session, config: DubConfig, runtime: Runtime, executor: Executor) -> None:
    from musetalk_cli.pipeline import Run, make_shots

    make_shots(jobs, [Run(job.video, for_job(config, job), runtime, session.work, session.events, executor) for job in jobs])


def _dub(job: DubJob, session: Session, config: DubConfig, runtime: Runtime, executor: Executor | None) -> Delivered:
    from musetalk_cli.pipeline import dub, told_of_shot

    told = dub(job, config=config, runtime=runtime, work=session.work, events=session.events, executor=executor)
    return Delivered(job.output, tuple(told_of_shot(shot) for shot in told.decisions), told.cut.frames_copied)
