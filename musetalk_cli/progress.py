"""What a run tells while it works. In: events from the pipeline. Out: run.jsonl in the work folder and one face on stderr.

One source, three faces: a live bar on a terminal, a line every few seconds elsewhere, JSON lines for programs. Knows nothing of
stages beyond their names and what a frame of each tends to cost.

Events and their fields:
    run.start   film, audio, output, frames, seconds, shots, model      once demux knows the film
    stage.start stage, unit, frames, key            unit: a shot's zero-padded index, or "film"
    stage.done  stage, unit, key, frames, seconds, reused
    warning     message, hint
    run.plan    shots, decisions, frames_worked, frames_copied, why_not_copied    once the voices are heard and the film is cut
    run.done    output, seconds, frames, faces, frames_copied, needs_review; sidecar, where the film's manifest lies beside it
    run.kept    output          it is there already, as this run would make it
    report.start result, frames     the film is there; frames of it that are measured
    report.done page, score, findings
    error       code, message, hint
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:  # rich takes 0.1 s to import, and most runs of the other commands show no bar
    from rich.progress import Progress, TaskID

ProgressMode = Literal["auto", "rich", "plain", "jsonl", "none"]
OnEvent = Callable[[Mapping[str, Any]], None]  # takes an event as run.jsonl has it
SHOT_STAGES = ("faces", "latents", "masks", "inference", "blend")  # a frame of the film goes through each of these once
REPORT_STAGES = ("measure",)  # and of a report's frames through these
MS_A_FRAME = {
    "faces": 40.0,
    "latents": 20.0,
    "masks": 10.0,
    "inference": 60.0,
    "blend": 60.0,
    "measure": 60.0,
}  # until a run measures its own
SPOKEN = (
    "run.start",
    "run.plan",
    "run.done",
    "run.kept",
    "report.done",
    "warning",
)  # events that people read as a sentence of their own
PLAIN_SECONDS = 5.0  # between two plain lines
BAR_COLUMNS = 12
AROUND_LINE = 11  # columns of the spinner, the time and what parts them


class Events:
    """Hands every event to every sink, stamped with the format's version and the time. Use `with`, or close it."""

    def __init__(self, sinks: Sequence["Sink"] = (), *, shows_errors: bool = False) -> None:
        self._sinks = tuple(sinks)
        self._speaking = threading.RLock()  # shots may be worked on in threads; a signal's handler may speak within
        self.shows_errors = shows_errors  # on stderr, as JSON: nobody needs to print them once more

    def emit(self, event: str, **fields: object) -> None:
        """fields: JSON's own types; paths, fractions and the like are written as text."""
        self.relay({"v": 1, "event": event, "t": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})

    def relay(self, record: Mapping[str, Any]) -> None:
        """An event that another process emitted, as it was."""
        with self._speaking:
            for sink in self._sinks:
                sink.take(record)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_events(
    journal: Path | None, mode: ProgressMode = "auto", *, verbose: bool = False, on_event: OnEvent | None = None
) -> Events:
    """The journal (run.jsonl, appended to), the face that suits stderr, and who else listens. verbose: plain says every step."""
    sinks: list[Sink] = [] if journal is None else [JsonLines(_open_journal(journal), owned=True)]
    face = choose_face(mode, terminal=sys.stderr.isatty(), environ=os.environ)
    match face:
        case "rich":
            sinks.append(Live())
        case "plain":
            sinks.append(Plain(sys.stderr, every=0.0 if verbose else PLAIN_SECONDS))
        case "jsonl":
            sinks.append(JsonLines(sys.stderr, owned=False))
    if on_event is not None:
        sinks.append(Heard(on_event))
    return Events(sinks, shows_errors=face == "jsonl")


def choose_face(mode: ProgressMode, *, terminal: bool, environ: Mapping[str, str]) -> ProgressMode:
    """auto: a bar where stderr is a terminal that can move its cursor and no CI is looking, else plain lines."""
    able = (terminal and environ.get("TERM") != "dumb") or bool(environ.get("FORCE_COLOR"))
    if mode == "auto":
        return "rich" if able and terminal and not environ.get("CI") else "plain"
    return "plain" if mode == "rich" and not able else mode


class Sink(Protocol):
    def take(self, record: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """One line an event, out at once: a killed run leaves all but its last step."""

    def __init__(self, stream: IO[str], *, owned: bool) -> None:
        self._stream, self._owned = stream, owned

    def take(self, record: Mapping[str, Any]) -> None:
        self._stream.write(_as_json(record) + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._owned:
            self._stream.close()


class Heard:
    """A caller within this process: told what the journal is told, as a reader of it would find it."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event

    def take(self, record: Mapping[str, Any]) -> None:
        self._on_event(json.loads(_as_json(record)))

    def close(self) -> None:
        pass


def _as_json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, default=str, ensure_ascii=False)


@dataclass(slots=True)
class Tally:
    """How far a film is, from its events: shares, frames a second, time left. Frames count once for each of SHOT_STAGES."""

    frames: int = 0
    worked: int = 0  # of them in shots that are not copied as a whole
    copied: int = 0
    shots: int = 0
    stage: str = ""
    unit: str = ""
    done: dict[str, int] = field(default_factory=dict)  # frames by stage
    reused: dict[str, int] = field(default_factory=dict)  # frames by stage
    spent: dict[str, tuple[int, float]] = field(default_factory=dict)  # frames and seconds computed in this run, by stage
    stages: tuple[str, ...] = SHOT_STAGES

    def take(self, record: Mapping[str, Any]) -> None:
        match record["event"]:
            case "run.start":
                self._begin(int(record["frames"]), int(record["shots"]), SHOT_STAGES)
            case "report.start":
                self._begin(int(record["frames"]), 0, REPORT_STAGES)
            case "run.plan":
                self.worked, self.copied = int(record["frames_worked"]), int(record["frames_copied"])
            case "stage.start":
                self.stage, self.unit = str(record["stage"]), str(record["unit"])
            case "stage.done" if record["stage"] in self.stages:
                self._finish(record["stage"], int(record["frames"]), float(record["seconds"]), bool(record["reused"]))

    def _begin(self, frames: int, shots: int, stages: tuple[str, ...]) -> None:
        self.frames = self.worked = frames
        self.shots, self.stages, self.copied = shots, stages, 0
        self.stage = self.unit = ""
        self.reused, self.done, self.spent = {}, {}, {}

    def _finish(self, stage: str, frames: int, seconds: float, reused: bool) -> None:
        self.done[stage] = self.done.get(stage, 0) + frames
        if reused:
            self.reused[stage] = self.reused.get(stage, 0) + frames
            return
        before = self.spent.get(stage, (0, 0.0))
        self.spent[stage] = (before[0] + frames, before[1] + seconds)

    @property
    def share(self) -> float:
        """0..1 of the film's work that is done."""
        return self._share_of(self.done)

    @property
    def finished(self) -> int:
        """Frames through the last of the stages, or past all of them."""
        return self.done.get(self.stages[-1], 0) + self.copied

    @property
    def reused_share(self) -> float:
        """What of `share` earlier runs did."""
        return self._share_of(self.reused)

    @property
    def fps(self) -> float:
        """Frames of film that a second of computing takes through all stages; 0 before anything was measured."""
        return 1 / sum(self._cost(s) for s in self.stages) if self.spent else 0.0

    @property
    def seconds_left(self) -> float | None:
        if not self.spent or not self.frames:
            return None
        return sum(self._cost(s) * max(self._due(s) - self.done.get(s, 0), 0) for s in self.stages)

    def _share_of(self, frames: Mapping[str, int]) -> float:
        """0..1 of the film's work, a stage weighing what its frames cost. frames: by stage."""
        whole = sum(self._cost(s) * self._due(s) for s in self.stages)
        return sum(self._cost(s) * n for s, n in frames.items()) / whole if whole else 0.0

    def _due(self, stage: str) -> int:
        """Frames that go through a stage."""
        if stage == SHOT_STAGES[0]:
            return self.frames
        return self.frames - self.copied if stage == SHOT_STAGES[-1] else self.worked

    def _cost(self, stage: str) -> float:
        """Seconds a frame: measured in this run, else the usual share of what the measured stages cost."""
        frames, seconds = self.spent.get(stage, (0, 0.0))
        if frames and seconds:
            return seconds / frames
        usual = sum(MS_A_FRAME[s] * n for s, (n, _) in self.spent.items())
        measured = sum(seconds for _, seconds in self.spent.values())
        return MS_A_FRAME[stage] * (measured / usual if usual and measured else 1 / 1000)

    def line(self, room: int | None = None) -> str:
        """The whole state in one line, for people; where it has no room, without what matters least."""
        parts = self._parts()
        for name in ("frames", "reused", "fps"):
            if room is not None and len(" · ".join(parts.values())) > room:
                parts.pop(name, None)
        return " · ".join(parts.values())

    def _parts(self) -> dict[str, str]:
        parts: dict[str, str] = {}
        if self.frames:
            parts = {"share": f"{self.share:4.0%}", "frames": f"{self.finished}/{self.frames} frames"}
        if self.stage:
            number = self.unit.partition(".")[0]
            shot = f" shot {int(number) + 1}" if number.isdigit() else ""
            parts["stage"] = f"{self.stage}{shot}" + (f"/{self.shots}" if shot and self.shots else "")
        if self.fps:
            parts["fps"] = f"{self.fps:.1f} fps"
        if (left := self.seconds_left) is not None:
            parts["left"] = f"{clock(left)} left"
        if self.reused:
            parts["reused"] = f"{self.reused_share:.0%} from an earlier run"
        return parts


class Plain:
    """Lines for logs: one at the start, one every few seconds while something happens, one at the end."""

    def __init__(self, stream: IO[str], *, every: float = PLAIN_SECONDS) -> None:
        self._stream, self._every = stream, every
        self._tally, self._said = Tally(), time.monotonic()

    def take(self, record: Mapping[str, Any]) -> None:
        self._tally.take(record)
        event = record["event"]
        if event in SPOKEN:
            self._say(sentence(record))
        elif event in ("stage.start", "stage.done") and time.monotonic() - self._said >= self._every:
            self._say(self._tally.line())

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()


class Live:
    """One bar on a terminal, redrawn in place; warnings scroll above it. Colour follows NO_COLOR and FORCE_COLOR."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        self._tally.take(record)
        match record["event"]:
            case event if event in SPOKEN:
                self._say(sentence(record), over=event in ("run.done", "report.done"))
            case "error":
                self.close()
            case "stage.start" | "stage.done":
                self._draw()

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        if self._bar is None:
            columns = (
                SpinnerColumn(),
                BarColumn(BAR_COLUMNS),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        assert self._task is not None
        room = self._bar.console.width - BAR_COLUMNS - AROUND_LINE
        self._bar.update(self._task, completed=self._tally.share, description=self._tally.line(room))

    def _say(self, text: str, *, over: bool) -> None:
        if over or self._bar is None:
            self.close()
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def sentence(record: Mapping[str, Any]) -> str:
    """A SPOKEN event as people read it."""
    match record["event"]:
        case "run.start":
            fact = f"{record['frames']} frames, {counted(record['shots'], 'shot')}, {clock(float(record['seconds']))}"
            return f"{record['film']} with {record['audio']}: {fact}, model {record['model']}"
        case "run.plan":
            return _plan(record)
        case "run.kept":
            return f"{record['output']}: is done already"
        case "run.done":
            told = [f"{record['faces']} with a new mouth" if "faces" in record else ""]
            told += [f"{record['frames_copied']} copied untouched" if record.get("frames_copied") else ""]
            told += [f"{len(record['needs_review'])} to be looked at" if record.get("needs_review") else ""]
            told += [f"its manifest beside it: {Path(record['sidecar']).name}" if record.get("sidecar") else ""]
            return ", ".join(
                [f"{record['output']}: {record['frames']} frames in {clock(float(record['seconds']))}", *filter(None, told)]
            )
        case "report.done":
            found = (
                f", {counted(len(record['findings']), 'finding')}: {'; '.join(record['findings'][:3])}"
                if record["findings"]
                else ""
            )
            return f"{record['page']}: score {record['score']:g}{found}"
        case _:
            hint = record.get("hint")
            return f"warning: {record['message']}" + (f"; {hint}" if hint else "")


def _plan(record: Mapping[str, Any]) -> str:
    """What becomes of the shots: 3 shots: 1 synced, 2 passed through (no face 1, silence 1)."""
    passed = ", ".join(f"{why} {count}" for why, count in record["passed"].items())
    told = [f"{record[what]} {what.replace('_', ' ')}" for what in ("synced", "needs_review") if record[what]]
    told += [f"{sum(record['passed'].values())} passed through ({passed})"] if passed else []
    return f"{counted(record['shots'], 'shot')}: {', '.join(told)}"


def counted(number: int, thing: str) -> str:
    """1 shot, 2 shots."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def clock(seconds: float) -> str:
    """125.2 -> "2:05"; hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _open_journal(path: Path) -> IO[str]:
    """run.jsonl for appending; a line that a kill cut short gets its end, so that the next one starts on its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a", encoding="utf-8", buffering=1)
    with path.open("rb") as written:
        if size := written.seek(0, os.SEEK_END):
            written.seek(size - 1)
            if written.read() != b"\n":
                stream.write("\n")
    return stream
