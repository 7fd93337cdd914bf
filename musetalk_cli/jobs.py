"""From a command line to finished films. In: a film, voices as the user wrote them, an output or none. Out: DubJobs, dubbed.

Knows no stages: it plans the outputs, refuses what would overwrite, and hands each job to the pipeline in one session.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from musetalk_cli.config import DubConfig, Runtime
from musetalk_cli.errors import OutputExistsError, UsageError
from musetalk_cli.languages import ISO_639_2, three_letters
from musetalk_cli.session import Place, Session, Voice, open_session
from musetalk_cli.settings import LITE_CURE, LITE_NOTICE, Choices, choose_runtime, dub_config, for_job
from musetalk_cli.types import DubJob
from musetalk_cli.work import fingerprint

TAGGED = re.compile(r"(?P<language>[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)=(?P<path>.+)", re.DOTALL)


def plan_jobs(
    film: Path, audio: Sequence[str], output: Path | None, language: str, *, overwrite: bool, skip_existing: bool
) -> list[DubJob]:
    """A job for each voice. Raises UsageError for outputs that collide or would replace an input, OutputExistsError for one that
    is there, unless one of the flags says what to do then; InputError for a file that cannot be read."""
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing: only one can be meant", "choose one")
    voices = [_voice(text, language) for text in audio]
    fingerprint(film)  # an unreadable input is told before minutes of work
    for _, path in voices:
        fingerprint(path)
    jobs = [DubJob(film, path, _output(film, path, lang, output), lang) for lang, path in voices]
    _check_apart(jobs)
    for job in jobs:
        _check_target(job, overwrite=overwrite, skip_existing=skip_existing)
    return jobs


def dub_film(jobs: Sequence[DubJob], choices: Choices, place: Place, voice: Voice, *, skip_existing: bool) -> list[Path]:
    """Dub them one after another over one analysis; returns the outputs, those that were there and may stay included."""
    todo = [job for job in jobs if not (skip_existing and job.output.exists())]
    if todo:
        _open_inputs(todo)
        runtime = choose_runtime(choices)
        config = dub_config(choices, runtime)
        with open_session(todo[0].video, place, voice) as session:
            if choices.model == "auto" and config.model.name == "lite":
                session.events.emit("warning", message=LITE_NOTICE, hint=LITE_CURE)
            for job in todo:
                _dub(job, session, for_job(config, job), runtime)
    return [job.output for job in jobs]


def _voice(text: str, language: str) -> tuple[str, Path]:
    """fr=voice.wav and fr.wav are both French. A file whose own name looks like the first is written ./fr=x.wav.

    Raises UsageError for what is no language.
    """
    found = TAGGED.fullmatch(text)
    path = Path(found["path"] if found else text)
    named = path.stem.lower() if path.stem.lower() in ISO_639_2 else ""
    tag = found["language"] if found else language or named
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
        raise UsageError(
            f"{jobs[0].output}: more than one voice would be written there", "put {lang} into -o, and LANG= before each path"
        )
    for job in jobs:
        for source in (job.video, job.audio):
            if job.output.exists() and job.output.samefile(source):
                raise UsageError(f"{job.output}: is itself an input", "choose another -o")


def _check_target(job: DubJob, *, overwrite: bool, skip_existing: bool) -> None:
    folder = job.output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: not a folder that can be written", "make it, or choose another -o")
    if job.output.is_dir():
        raise UsageError(f"{job.output}: is a folder", "choose another -o")
    if job.output.exists() and not (overwrite or skip_existing):
        raise OutputExistsError(f"{job.output}: is there already", "-y replaces it, -n leaves it")


def _open_inputs(jobs: Sequence[DubJob]) -> None:
    """The head of the film and a second of each voice: a file that is neither is told before minutes of work."""
    from musetalk_cli.media.audio import SPEECH_HZ, speech_blocks
    from musetalk_cli.media.video import open_film

    with open_film(jobs[0].video):
        pass
    for job in jobs:
        next(speech_blocks(job.audio, SPEECH_HZ), None)


def _dub(job: DubJob, session: Session, config: DubConfig, runtime: Runtime) -> None:
    from musetalk_cli.pipeline import dub

    dub(job, config=config, runtime=runtime, work=session.work, events=session.events)
