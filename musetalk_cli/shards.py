"""`plan`, `work`, `join`: a film dubbed by any number of machines that share a folder. In: jobs. Out: plan.json, then the films.

    plan  -- demux, listen -- plan.json
    work  -- faces of its share, then of others' -- settle each job -- dub its share, then others'        any number, at any time
    join  -- every result looked at, remux -- the film where the user wants it

A worker is told nothing by another: it looks at what lies in the folder. What is asked of that folder: see `crew`. Machines without a
folder in common find each other's results in a store (see `store`); they do not see each other's claims, so with --own-share-only they make
nothing twice but exit 75 where they would have to wait for each other, and without it they may make a unit twice. Results have the names
and the bytes that `musetalk dub` gives them there, so each of the two finds what the other made.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar, cast, get_args, get_type_hints

import cattrs

from musetalk_cli import __version__
from musetalk_cli.cast_map import read_cast, with_voices
from musetalk_cli.config import MODELS, DubConfig, Runtime
from musetalk_cli.crew import Member, living
from musetalk_cli.errors import InputError, RetryableError, UsageError
from musetalk_cli.executor import Errand, Threads
from musetalk_cli.jobs import After, Delivered, Existing, dub_film
from musetalk_cli.models import free_workers
from musetalk_cli.pipeline import DubShot, FindFaces, Run, face_errands, find_faces, hear, open_job, settle
from musetalk_cli.progress import Events, ProgressMode, open_events
from musetalk_cli.reading import is_plain_name, parse_json, read_json, read_text
from musetalk_cli.session import Place, Voice, as_faults, check_own, open_session
from musetalk_cli.settings import Choices, choose_runtime, dub_config, for_job, trained_model
from musetalk_cli.sharing import Shard, Unit, deal, to_make
from musetalk_cli.signals import Stop, stop_on_signals
from musetalk_cli.store import store_behind
from musetalk_cli.types import DubJob
from musetalk_cli.work import Ref, Work, fingerprint

T = TypeVar("T")
PLAN = "plan.json"
SETTLED = "settled"
WAITS_S = (0.05, 2.0)  # for what others are at: the first, and the longest
_OVER = Unit("", 0.0)
FRESH_S = 10.0  # a look at what is made
MOST_COST_S = 1e9  # of a unit
NAMED_AT_MOST = 8  # units that are missing
RULES = ("largest", "all")  # of --face; else it is a picture


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker chooses for itself."""

    device: str = "auto"
    batch_size: str = "auto"
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What plan.json says. id: of its content. choices: those of `dub`, the precision settled. config: of all jobs, without what is a
    job's own. files: content fingerprints of all that a worker reads. store: as of `Place`."""

    id: str
    choices: Choices
    config: dict[str, Any]
    jobs: tuple[DubJob, ...]
    files: dict[Path, str]
    store: str = ""


class Planned(NamedTuple):
    path: Path
    shots: int
    jobs: int
    seconds: float  # of work, estimated

    def as_json(self) -> dict[str, object]:
        return {"plan": str(self.path), "shots": self.shots, "jobs": self.jobs, "estimated_seconds": round(self.seconds, 1)}


class Worked(NamedTuple):
    """What a worker did."""

    shard: Shard
    made: int  # units
    units: int  # of the whole plan

    def as_json(self) -> dict[str, object]:
        return {"shard": f"{self.shard.number}/{self.shard.of}", "made": self.made, "units": self.units}


# plan


def plan_work(jobs: Sequence[DubJob], choices: Choices, place: Place, voice: Voice) -> Planned:
    """Write plan.json into the place's folder, with the film demuxed and every voice heard. Errors are those of `dub_film` up to there."""
    face = choices.face if choices.face in RULES else str(Path(choices.face).absolute())
    own = trained_model(choices.model)
    choices = replace(choices, face=face, model=choices.model if own is None else str(own.absolute()))
    runtime = choose_runtime(choices)
    config = dub_config(choices, runtime)
    choices = replace(choices, precision=config.model.precision)  # what is fastest differs from machine to machine, and shows
    folder, shots, seconds = place.folder(jobs[0].video), [], 0.0
    with open_session(jobs[0].video, place, voice, deliver=False) as session:
        for job in jobs:
            run = Run(job.video, for_job(config, job), runtime, session.work, session.events)
            opened = open_job(job, run)
            for heard in opened.voices:
                hear(heard, run)
            errands = face_errands(opened.own, run, opened.source)
            seconds += sum(errand.cost for errand in errands)
            shots = [
                {"shot": e.shot.index, "start": e.shot.start, "stop": e.shot.stop, "cost": round(e.cost, 3)} for e in errands
            ]
        told = {
            "v": 1,
            "tool": f"musetalk {__version__}",
            "choices": _portable(asdict(choices), folder),
            "config": _of_every_machine(config),
            "jobs": [_portable(job._asdict(), folder) for job in jobs],
            "files": {_relative(path, folder): fingerprint(path) for job in jobs for path in _read_by(job, choices)},
            "shots": shots,
            "store": place.store,
        }
        _write(folder / PLAN, json.dumps(told, indent=1, ensure_ascii=False))
    return Planned(folder / PLAN, len(shots), len(jobs), seconds)


def read_plan(folder: Path) -> Plan:
    """Raises InputError where there is none, or a file is not the one that was planned with."""
    path = folder / PLAN
    cure = "make one: musetalk plan FILM --audio VOICE --work-dir DIR -o OUT"
    try:
        text = read_text(path)
        told = parse_json(text)
        choices = Choices(**_found_again(told["choices"], folder))
        jobs = tuple(_job(job, folder) for job in told["jobs"])
        files = {_absolute(name, folder): str(of) for name, of in told["files"].items()}
        config, store = dict(told["config"]), str(told["store"])
    except FileNotFoundError:
        raise InputError(f"{path}: there is no plan", cure) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no plan of this version ({type(error).__name__}: {error})", cure) from error
    for file, planned in files.items():
        if fingerprint(file) != planned:
            raise InputError(f"{file}: is another file than the one that was planned with", "bring that one, or plan again")
    return Plan(hashlib.sha256(text.encode()).hexdigest()[:16], choices, config, jobs, files, store)


def _read_by(job: DubJob, choices: Choices) -> list[Path]:
    """Every file of the user's that a worker reads for a job."""
    voices = [job.audio]
    if job.cast is not None:
        cast_map = with_voices(read_cast(job.cast), dict(job.voices))
        stills = [person.still for person in cast_map.persons if person.still is not None]
        voices = [job.cast, *stills, *(voice.path for voice in cast_map.voices())]
    face = [] if choices.face in RULES else [Path(choices.face)]
    return [job.video, *voices, *([] if job.bed is None else [job.bed]), *face]


def _portable(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths as a machine finds them that sees the folder elsewhere: within it relative, else absolute."""
    return {name: _portable_value(name, value, folder) for name, value in told.items()}


def _portable_value(name: str, value: Any, folder: Path) -> Any:
    if isinstance(value, Path) or (name in ("face", "model") and Path(value).is_absolute()):
        return _relative(Path(value), folder)
    if isinstance(value, tuple | list):
        return [_portable_value("", item, folder) for item in value]
    return value


def _found_again(choices: dict[str, Any], folder: Path) -> dict[str, Any]:
    named = {name for name, other in (("face", RULES), ("model", ("auto", *MODELS))) if choices[name] not in other}
    paths = {name: str(_absolute(choices[name], folder)) for name in named}
    return {**choices, **_paths(choices, folder, ("weights", "sign_cert", "sign_key")), **paths}


def _relative(path: Path, folder: Path) -> str:
    whole = path.absolute()
    return str(whole.relative_to(folder.absolute())) if whole.is_relative_to(folder.absolute()) else str(whole)


def _absolute(text: str, folder: Path) -> Path:
    return folder.absolute() / text


def _paths(told: dict[str, Any], folder: Path, names: Sequence[str]) -> dict[str, Path | None]:
    return {name: None if told[name] is None else _absolute(told[name], folder) for name in names}


def _job(told: dict[str, Any], folder: Path) -> DubJob:
    paths = cast(dict[str, Any], _paths(told, folder, ("video", "audio", "output", "cast", "bed")))
    voices = tuple((name, _absolute(path, folder)) for name, path in told["voices"])
    return DubJob(**{**told, **paths, "voices": voices})


# work


def work_shard(folder: Path, shard: Shard, machine: Machine, voice: Voice, *, steal: bool = True) -> Worked:
    """Make the share, and with `steal` whatever nobody else makes; returns when all of it is there.

    Raises InputError for another film than was planned with, UsageError where this machine would make something else, RetryableError
    where a run holds the folder, or without `steal` where others would have to make what the share waits for.
    """
    folder = folder.absolute()
    with as_faults(), stop_on_signals(quiet=voice.quiet) as stop:
        plan = read_plan(folder)
        check_own(folder)
        title = f"shard-{shard.number}of{shard.of}"
        with (
            _journal(folder, title, voice) as events,
            Work.enter(folder, title, events, stop, Place(store=plan.store).store_of(plan.jobs[0].video)) as (work, member),
        ):
            return _Worker(plan, shard, plan_runs(plan, machine, work), work, member, steal=steal).work()


def plan_runs(plan: Plan, machine: Machine, work: Work) -> list[Run]:
    """Of each job, on this machine. Raises UsageError where it would make something else than was planned: other weights."""
    choices = choices_on(plan, machine)
    runtime = choose_runtime(choices)
    config = dub_config(choices, runtime)
    different = [name for name, value in _of_every_machine(config).items() if value != plan.config.get(name)]
    if different:
        fact = f"would be made otherwise than planned: {', '.join(different)}"
        raise UsageError(fact, "bring the same weights and version, or plan again on this machine", thing=socket.gethostname())
    return [Run(job.video, for_job(config, job), runtime, work, Events(), Present()) for job in plan.jobs]


def choices_on(plan: Plan, machine: Machine) -> Choices:
    """Those of the plan, but what is the machine's own."""
    return replace(
        plan.choices, device=machine.device, batch_size=machine.batch_size, weights=machine.weights or plan.choices.weights
    )


@contextmanager
def _journal(folder: Path, title: str, voice: Voice) -> Iterator[Events]:
    """A journal of its own: lines of two machines in one file could mix."""
    path = folder / "journals" / f"{socket.gethostname()}-{os.getpid()}-{title}.jsonl"
    mode: ProgressMode = "none" if voice.quiet else voice.progress
    with open_events(path, mode, verbose=voice.verbose) as events:
        yield events


class Present:
    """An Executor that makes nothing: what the errands lead to is there, or is named."""

    def map(self, errands: Sequence[Errand[T]], work: Work, runtime: Runtime) -> list[T]:
        """Raises RetryableError where a result is missing; a damaged one is dropped, so that the next worker makes it again."""
        naming = Naming(work.folder)
        found = [errand.do(naming, runtime) for errand in errands]
        missing = []
        for errand, refs in zip(errands, found, strict=True):
            damaged = [ref for ref in _leaves(refs) if not work.keeps(ref)]
            work.drop(*damaged)
            missing += [errand.unit] if damaged else []
        if missing:
            more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
            what = "faces" if isinstance(errands[0], FindFaces) else "shots"
            fact = f"{len(missing)} of {len(errands)} {what} are not made: {', '.join(missing[:NAMED_AT_MOST])}{more}"
            raise RetryableError(fact, f"musetalk work {work.folder} makes them", thing=str(work.folder))
        return found


class Naming(Work):
    """A work folder in which results are only named."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Events(), Stop())

    def do(self, function: Callable[..., T], *inputs: Any, config: Any, runtime: Runtime, unit: str, frames: int = 0) -> Ref[T]:
        """The Ref that the real one would return."""
        return self.ref(function, *inputs, config=config, unit=unit)


def _leaves(refs: Any) -> list[Ref[Any]]:
    return [refs] if isinstance(refs, Ref) else list(refs)


class _Task(NamedTuple):
    """A unit, what there is when it is made, and how."""

    unit: Unit
    leaves: tuple[Path, ...]
    make: Callable[[], object]


class _Worker:
    """One `work`, from its share of the faces to its share of the shots."""

    def __init__(self, plan: Plan, shard: Shard, runs: Sequence[Run], work: Work, member: Member, *, steal: bool) -> None:
        self._plan, self._shard, self._runs, self._work, self._member, self._steal = plan, shard, runs, work, member, steal
        self._naming = Naming(work.folder)
        self._made = self._units = 0

    def work(self) -> Worked:
        self._make(self._faces(), steal=self._steal, needed=True)
        self._make([self._settling(number) for number in range(len(self._runs))], steal=True, needed=True)
        self._make([task for number in range(len(self._runs)) for task in self._shots(number)], steal=self._steal, needed=False)
        return Worked(self._shard, self._made, self._units)

    def _make(self, tasks: Sequence[_Task], *, steal: bool, needed: bool) -> None:
        """As many at once as this machine takes. needed: what comes after needs all of them, whoever makes them."""
        board = _Board(tasks, self._member)
        by_name = {task.unit.name: task for task in tasks}
        units = [task.unit for task in tasks]
        self._units += len(units)
        shares = deal([unit.cost for unit in units], self._shard.of)
        asks = to_make(units, shares, self._shard.number, board, steal=steal)
        run, pull = self._runs[0], _Pull(asks, by_name, self._member)
        at_once = free_workers(run.config.model, run.runtime)
        self._made += sum(Threads(at_once).map([pull] * min(at_once, len(units)), self._work, run.runtime))
        while needed and (rest := by_name.keys() - board.made()):
            self._work.stop.check()
            if living(self._work.folder) == [self._member.name]:
                fact = f"{len(rest)} of {len(units)} units that the rest needs are of other shares, and nobody is at work on them"
                cure = "start the other shards, or leave out --own-share-only"
                raise RetryableError(fact, cure, thing=str(self._work.folder))
            time.sleep(WAITS_S[1])

    def _faces(self) -> list[_Task]:
        """Of all jobs; most share all of them."""
        tasks: dict[str, _Task] = {}
        for job, run in zip(self._plan.jobs, self._runs, strict=True):
            opened = open_job(job, run)
            for errand in face_errands(opened.own, run, opened.source):
                task = self._task("faces", errand, run.runtime)
                tasks[task.unit.name] = task
        return list(tasks.values())

    def _task(self, title: str, errand: FindFaces | DubShot, runtime: Runtime) -> _Task:
        leaves = tuple(ref.folder for ref in _leaves(errand.do(self._naming, runtime)))
        unit = Unit(f"{title}-{leaves[0].name if leaves else errand.unit}", errand.cost)
        return _Task(unit, leaves, lambda: errand.do(self._work, runtime))

    def _settling(self, number: int) -> _Task:
        units, shots = self._settled(number)
        return _Task(Unit(f"settle-{units.stem}", 1.0), (units,), lambda: self._settle(number, units, shots))

    def _settled(self, number: int) -> tuple[Path, Path]:
        """The units of a job with their costs and leaves, which all read; its errands, a line each."""
        stem = self._work.folder / SETTLED / f"{self._plan.id}-{number:03d}"
        return stem.with_suffix(".json"), stem.with_suffix(".jsonl")

    def _settle(self, number: int, units: Path, shots: Path) -> None:
        job, run = self._plan.jobs[number], self._runs[number]
        opened = open_job(job, run)
        errands = settle(opened, find_faces(opened.own, run, opened.source), run).errands
        tasks = [self._task(f"dub-{number:03d}", errand, run.runtime) for errand in errands]
        rows = [[*task.unit, [str(leaf.relative_to(self._work.folder)) for leaf in task.leaves]] for task in tasks]
        units.parent.mkdir(exist_ok=True)
        _write(shots, "".join(json.dumps(errand_as_json(errand)) + "\n" for errand in errands))
        _write(units, json.dumps(rows))  # last: where it is, all is

    def _shots(self, number: int) -> list[_Task]:
        """Of one job: those of which anything is encoded."""
        run, (units, shots) = self._runs[number], self._settled(number)
        lines: list[str] = []

        def make(row: int) -> object:
            if not lines:
                lines.extend(shots.read_text(encoding="utf-8").splitlines())
            return read_errand(lines[row], shots, run.video, run.config, self._work.folder).do(self._work, run.runtime)

        return [
            _Task(unit, leaves, lambda row=row: make(row))  # type: ignore[misc]
            for row, (unit, leaves) in enumerate(read_units(units, self._work.folder))
            if leaves
        ]


class _Pull:
    """An errand for each thread of a worker: to make one unit after another until there is none."""

    unit, cost = "", 1.0

    def __init__(self, asks: Iterator[Unit | None], tasks: Mapping[str, _Task], member: Member) -> None:
        self._asks, self._tasks, self._member = asks, tasks, member
        self._asking = Lock()

    def do(self, work: Work, runtime: Runtime) -> int:
        """How many it made."""
        made, wait_s = 0, WAITS_S[0]
        while True:
            work.stop.check()
            with self._asking:
                unit = next(self._asks, _OVER)
            if unit is _OVER:
                return made
            if unit is None:
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, WAITS_S[1])
                continue
            try:
                self._tasks[unit.name].make()
            finally:
                self._member.release(unit.name)
            made, wait_s = made + 1, WAITS_S[0]


class _Board:
    """Tasks by what lies in the shared folder and the store: one look at each folder of results tells of all units."""

    def __init__(self, tasks: Sequence[_Task], member: Member) -> None:
        self._tasks, self._member = {task.unit.name: task for task in tasks}, member
        self._store = store_behind(member.folder)
        self.claimed = member.claimed

    def claim(self, unit: str) -> bool:
        if not self._member.claim(unit):
            return False
        if all(self._is_there(leaf) for leaf in self._tasks[unit].leaves):  # since the last look
            self._member.release(unit)
            return False
        return True

    def made(self) -> set[str]:
        self._looked = time.monotonic()
        there: dict[Path, set[str]] = {}
        for parent in {leaf.parent for task in self._tasks.values() for leaf in task.leaves}:
            there[parent] = set() if self._store is None else self._store.kept(parent.name)
            with suppress(FileNotFoundError):
                there[parent] |= set(os.listdir(parent))
        return {
            name for name, task in self._tasks.items() if all(leaf.name in there.get(leaf.parent, ()) for leaf in task.leaves)
        }

    def _is_there(self, leaf: Path) -> bool:
        return leaf.exists() or (self._store is not None and self._store.has(f"{leaf.parent.name}/{leaf.name}"))


# join


def join_shards(folder: Path, machine: Machine, voice: Voice, existing: Existing, after: After | None) -> list[Delivered]:
    """The films, from what the workers made; the folder stays. Raises RetryableError that names what is missing, and as `dub_film`."""
    folder = folder.absolute()
    plan = read_plan(folder)
    return dub_film(plan.jobs, choices_on(plan, machine), Place(folder, store=plan.store), voice, existing, after, Present())


# records as JSON


def errand_as_json(errand: DubShot) -> dict[str, Any]:
    """All but the film and the config, which the plan holds."""
    return {name: _json.unstructure(getattr(errand, name)) for name in _ERRAND_FIELDS}


def read_units(path: Path, folder: Path) -> list[tuple[Unit, tuple[Path, ...]]]:
    """Units of a job with the results that each leaves in the work folder. Raises InputError where it is not what `work` wrote."""
    try:
        rows = [
            (Unit(name, float(cost)), tuple(_within(leaf, folder) for leaf in leaves)) for name, cost, leaves in read_json(path)
        ]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: damaged ({error})", _SETTLED_CURE) from error
    if not all(is_plain_name(unit.name) and 0 <= unit.cost < MOST_COST_S for unit, _ in rows):  # nan is not within
        raise InputError(f"{path}: damaged (a unit has no name or no cost)", _SETTLED_CURE)
    return rows


def _within(leaf: str, folder: Path) -> Path:
    """STAGE/UNIT-KEY in the work folder. Raises ValueError for a place elsewhere."""
    if len(parts := Path(leaf).parts) != 2 or ".." in parts or "\0" in leaf or Path(leaf).is_absolute():
        raise ValueError(f"{leaf!r} is no result")
    return folder / leaf


def read_errand(line: str, path: Path, video: Path, config: DubConfig, folder: Path) -> DubShot:
    """As `errand_from_json`. Raises InputError where the line is not what `work` wrote. path: of its file."""
    try:
        errand = errand_from_json(parse_json(line), video, config, folder)
        if not 0 <= errand.cost < MOST_COST_S:
            raise ValueError("its cost is none")
        return errand
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, cattrs.BaseValidationError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__})", _SETTLED_CURE) from error


def errand_from_json(told: dict[str, Any], video: Path, config: DubConfig, folder: Path) -> DubShot:
    """folder: the work folder, as this machine sees it."""
    hints = get_type_hints(DubShot)
    read = {name: _json.structure(_in_folder(told[name], folder), hints[name]) for name in _ERRAND_FIELDS}
    return DubShot(video=video, config=config, **read)


def _in_folder(told: Any, folder: Path) -> Any:
    """With every Ref that is named in it told where it lies."""
    if isinstance(told, dict):
        return {**told, "folder": str(folder / told["stage"] / f"{told['unit']}-{told['key'][:16]}")}
    if isinstance(told, list) and told and all(isinstance(item, dict) for item in told):
        return [_in_folder(item, folder) for item in told]
    return told


_SETTLED_CURE = "delete it and start the workers again: it is made anew"
_ERRAND_FIELDS = [field.name for field in fields(DubShot) if field.name not in ("video", "config")]
_json = cattrs.Converter()
_json.register_unstructure_hook(Ref, lambda ref: {"stage": ref.stage, "unit": ref.unit, "key": ref.key})
_json.register_structure_hook_func(
    lambda kind: getattr(kind, "__origin__", None) is Ref,
    lambda told, kind: Ref(told["key"], told["stage"], told["unit"], Path(told["folder"]), get_args(kind)[0]),
)


def _of_every_machine(config: DubConfig) -> dict[str, Any]:
    """All but where a picture of a face lies, whose content is among the plan's files."""
    told = cast(dict[str, Any], json.loads(json.dumps(asdict(config), default=str)))
    return {name: value for name, value in told.items() if name != "cast"}


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f"part.{os.getpid()}.{path.name}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
