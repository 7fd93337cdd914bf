"""`musetalk report`, and the report after a dub. In: what the user chose. Out: a report beside the result; a gate. Knows no stages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from musetalk_cli.config import DubConfig, ReportConfig, Runtime
from musetalk_cli.errors import InterruptedRun, MusetalkError, QualityGateError
from musetalk_cli.report.files import paths, write
from musetalk_cli.report.records import Report
from musetalk_cli.session import Place, Session, Voice, open_session
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.targets import check_apart, check_file, check_folder, exists_error
from musetalk_cli.types import DubJob


class Reported(NamedTuple):
    """A report and where it lies."""

    report: Report
    html: Path
    json: Path


def report_film(
    film: Path,
    result: Path,
    output: Path | None,
    choices: Choices,
    place: Place,
    voice: Voice,
    *,
    seconds: float | None,
    overwrite: bool,
) -> Reported:
    """Of two files, see `report_of`; written into the folder `output`, or beside the result. seconds: of faces that are measured, None: all.

    Raises UsageError where the folder cannot be written, OutputExistsError where a report lies there already.
    """
    stem = (result.parent if output is None else output) / result.stem
    check_folder(stem.parent)
    for path in paths(stem):
        check_file(path)
        check_apart(path, [film, result])
        if path.exists() and not overwrite:
            raise exists_error(path, "-y replaces it, -o names another folder")
    from musetalk_cli.pipeline import Run  # with all networks' libraries: a dub that has not begun does not wait for them
    from musetalk_cli.report.measure import report_of

    runtime = choose_runtime(choices)
    with open_session(film, place, voice, deliver=False) as session:
        run = Run(film, dub_config(choices, runtime), runtime, session.work, session.events)
        report = report_of(film, result, run, replace(ReportConfig(), seconds=seconds))
        return _told(Reported(report, *write(report, stem)), session)


def report_dub(job: DubJob, session: Session, config: DubConfig, runtime: Runtime, *, seconds: float | None) -> Reported:
    """Of what this job has just delivered, in its session and with its config; beside it, in place of an older report of it."""
    from musetalk_cli.pipeline import Run
    from musetalk_cli.report.measure import report_of_dub

    run = Run(job.video, config, runtime, session.work, session.events)
    report = report_of_dub(job, run, replace(ReportConfig(), seconds=seconds))
    return _told(Reported(report, *write(report, job.output.with_suffix(""))), session)


def _told(made: Reported, session: Session) -> Reported:
    findings = [f"{one.kind}, {one.text}" for one in made.report.findings]
    session.events.emit("report.done", page=made.html, score=made.report.score, findings=findings)
    return made


class Reports:
    """Of the films of one run."""

    def __init__(self, made: Sequence[Reported] = (), seconds: float | None = ReportConfig().seconds) -> None:
        self._made, self._seconds, self._failed = [*made], seconds, list[str]()

    def add(self, job: DubJob, session: Session, config: DubConfig, runtime: Runtime) -> None:
        """Measure what was just delivered. That it could not be is told, and spoils no film."""
        try:
            self._made.append(report_dub(job, session, config, runtime, seconds=self._seconds))
        except InterruptedRun:
            raise
        except MusetalkError as error:
            self._failed.append(f"{job.output.name}: {error.fact}")
            session.events.emit("warning", message=f"no report of {job.output.name}: {error.fact}", hint=error.cure)

    @property
    def made(self) -> tuple[Reported, ...]:
        return tuple(self._made)

    def check(self, least: float) -> None:
        """Raises QualityGateError for the first whose score is lower, or that has none."""
        for report, html, _ in self._made:
            if report.score < least:
                kinds = ", ".join(dict.fromkeys(one.kind for one in report.findings if one.kind != "needs review"))
                raise QualityGateError(
                    f"score {report.score:g}, --fail-under {least:g}: {kinds}", f"see {html}", thing=report.result
                )
        if self._failed:
            raise QualityGateError(f"no report of {self._failed[0]}", "measure it again: musetalk report FILM RESULT")

    def as_json(self) -> list[dict[str, object]]:
        return [
            {
                "html": str(one.html),
                "json": str(one.json),
                "score": one.report.score,
                "findings": [f"{f.kind}: {f.text}" for f in one.report.findings],
            }
            for one in self._made
        ]
