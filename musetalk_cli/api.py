"""`from musetalk_cli import dub`: what the commands do, for programs. In: paths and settings. Out: records, or a MusetalkError.

The commands call the same functions. Never exits, prints nothing unless asked to; knows no stages. Everything here may be called from any
thread; one process works on one film at a time as fast as on several.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musetalk_cli.errors import UsageError
from musetalk_cli.executor import Hands, hired
from musetalk_cli.jobs import Delivered, Existing, Parts, Said, dub_film, plan_jobs
from musetalk_cli.progress import OnEvent, ProgressMode
from musetalk_cli.report.command import Reported, Reports
from musetalk_cli.session import Place, Voice, as_faults
from musetalk_cli.settings import Choices
from musetalk_cli.signals import Stop, stop_on_signals
from musetalk_cli.types import DubJob

if TYPE_CHECKING:  # numpy, torch and the like
    from musetalk_cli.inspection import Inspection
    from musetalk_cli.stages.s7_verify import Verification

StrPath = str | os.PathLike[str]
Audio = StrPath | Mapping[str, StrPath]


@dataclass(frozen=True, slots=True)
class DubConfig(Choices):
    """What shapes the picture and the pace: the flags of `musetalk dub` with their defaults, `DubConfig(model="v15", crf=16)`.

    The environment and musetalk.toml are not read: a program says what it means.
    """


@dataclass(frozen=True, slots=True)
class DubResult:
    """The films of one call, in the order of its voices, and their reports."""

    films: tuple[Delivered, ...]
    reports: Reports

    @property
    def output(self) -> Path:
        """The film; of several the first."""
        return self.films[0].output

    @property
    def outputs(self) -> tuple[Path, ...]:
        return tuple(film.output for film in self.films)

    @property
    def reported(self) -> tuple[Reported, ...]:
        """A report for each film that was measured."""
        return self.reports.made

    def check(self, least: float) -> None:
        """Raises QualityGateError where a film's score, 0 to 100, is lower, or where a report could not be made."""
        self.reports.check(least)

    def as_json(self) -> dict[str, object]:
        """What `musetalk dub --json` prints."""
        films = [film.as_json() for film in self.films]
        return {"outputs": [str(path) for path in self.outputs], "films": films, "reports": self.reports.as_json()}


def dub(
    film: StrPath,
    audio: Audio | None = None,
    output: StrPath | None = None,
    *,
    config: Choices | None = None,
    cast: StrPath | None = None,
    mix: StrPath | None = None,
    language: str = "",
    overwrite: bool = False,
    skip_existing: bool = False,
    report: bool = True,
    place: Place | None = None,
    hands: Hands | None = None,
    progress: ProgressMode = "none",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> DubResult:
    """Give a film a new voice; its lips follow.

    audio: the new voice; or several over one analysis, {"fr": "fr.wav", "de": "de.wav"}; with a cast {"anna": "anna.wav"}, which wins over
    the voices in the map. output: None is {stem}.{language}{suffix} beside the film; a folder; or a path, which may hold {lang}. An
    output that is there is refused, unless it is byte for byte what this call would make: then it is done. cast: the cast map that
    `inspect` drafts. mix: music and effects. language: of a voice that says none, neither by its key nor its name. report: whether to
    measure what came out. place: the work folder and what becomes of it; what a stopped or failed call finished is found by the next.
    hands: who works on the shots. progress: what stderr shows.

    on_event: called with each event as run.jsonl in the work folder gets it (`musetalk_cli.progress` lists them), one at a time, from
    whichever thread speaks; an exception of its own stops the run in good order and is raised here. stop: `stop.request()` from any
    thread ends the run after its running step; without one, and in the main thread, SIGINT and SIGTERM do.

    Raises the error that the command would exit with: UsageError, InputError, MissingError, NoFaceError, OutputExistsError,
    ResourceError, RetryableError, InterruptedRun; all are MusetalkErrors, with `fact`, `cure`, `code` and `exit_code`.
    """
    place, existing = place or Place(), Existing(overwrite, skip_existing)
    with _listening(Voice(progress, quiet=progress == "none", on_event=on_event, stop=stop)) as voice, as_faults():
        jobs = plan_jobs(Path(film), _said(audio), _path(output), language, existing, place, Parts(_path(cast), _path(mix)))
        return dub_jobs(jobs, config or DubConfig(), place, hands or Hands(), existing, voice, report=report)


def dub_jobs(
    jobs: Sequence[DubJob], config: Choices, place: Place, hands: Hands, existing: Existing, voice: Voice, *, report: bool
) -> DubResult:
    """What `dub` and the command do once it is clear which films are to be written: those of one film, see `plan_jobs`."""
    reports = Reports()
    with hired(hands) as executor:
        films = dub_film(jobs, config, place, voice, existing, reports.add if report else None, executor)
    return DubResult(tuple(films), reports)


def inspect(
    film: StrPath,
    *,
    sheet: StrPath | None = None,
    cast: StrPath | None = None,
    config: Choices | None = None,
    overwrite: bool = False,
    redraw: bool = False,
    place: Place | None = None,
    progress: ProgressMode = "none",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> "Inspection":
    """Shots, faces and persons of a film, who is dubbed and why not; writes a contact sheet and drafts a cast map, as `musetalk inspect`.

    sheet, cast: None: beside the film. redraw: a contact sheet that is there is replaced, a cast map is not. The rest as for `dub`, which
    finds all of this done in the same place. Raises what `dub` does.
    """
    from musetalk_cli.inspection import Targets, inspect_film

    targets = Targets(_path(sheet), _path(cast))
    with _listening(Voice(progress, quiet=progress == "none", on_event=on_event, stop=stop)) as voice, as_faults():
        return inspect_film(
            Path(film), targets, config or DubConfig(), place or Place(), voice, overwrite=overwrite, redraw=redraw
        )


def verify(film: StrPath, dubbed: StrPath, *, original_audio: bool = True, decode: bool = True) -> "Verification":
    """Whether `dubbed` keeps the film's frames, timestamps, untouched packets and streams: `passed`, and each check with its fact.

    original_audio: whether the film's own sound should be there. decode: whether to decode the whole picture, which takes longest. Raises
    InputError where a file cannot be read.
    """
    from musetalk_cli.stages.s7_verify import verify_film

    with as_faults():
        return verify_film(Path(film), Path(dubbed), original_audio=original_audio, decode=decode)


def _path(path: StrPath | None) -> Path | None:
    if path is not None and not os.fspath(path):
        raise UsageError("is an empty path", "give None for the default", thing="a path")
    return None if path is None else Path(path)


def _said(audio: Audio | None) -> list[Said]:
    if audio is None:
        return []
    if isinstance(audio, Mapping):
        return [(name, Path(path)) for name, path in audio.items()]
    return [("", Path(audio))] if os.fspath(audio) else [""]


@contextmanager
def _listening(voice: Voice) -> Iterator[Voice]:
    """With a Stop, and with an on_event whose own error stops the run and is what the caller gets."""
    with _stopping(voice) as stop:
        heard = _Heard(voice.on_event, stop)
        try:
            yield replace(voice, on_event=heard if voice.on_event else None, stop=stop)
        except Exception as error:
            if heard.failed is not None and heard.failed is not error:
                raise heard.failed from None
            raise
        if heard.failed is not None:  # at the last event
            raise heard.failed


@contextmanager
def _stopping(voice: Voice) -> Iterator[Stop]:
    if voice.stop is not None:
        yield voice.stop
    elif threading.current_thread() is not threading.main_thread():  # where Python lets nobody ask for signals
        yield Stop()
    else:
        with stop_on_signals(quiet=voice.quiet) as stop:
            yield stop


class _Heard:
    """A caller's on_event."""

    def __init__(self, on_event: OnEvent | None, stop: Stop) -> None:
        self._on_event, self._stop = on_event, stop
        self.failed: Exception | None = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self._on_event is None or self.failed is not None:
            return
        try:
            self._on_event(record)
        except Exception as error:  # noqa: BLE001 it is raised where the caller waits
            self.failed = error
            self._stop.request()
