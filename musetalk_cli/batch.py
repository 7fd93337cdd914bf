"""`musetalk batch`: many films, one after the other. In: folders, films, patterns, manifests. Out: a receipt a film, a summary.

    folder, films, 'films/**/*.mp4' -- voices beside them, or by a pattern --.
    manifest (.toml, .jsonl) -------------------------------------------------|-- entries -- dub -- receipt beside each result
                                                                              '-- what a receipt says is done is left alone

One bad film never stops the rest. The models stay loaded, and all languages of a film use one analysis. A receipt is `begun` before its
result appears and `done` after, both while the film's work folder is held: so a batch that was killed knows its own half-finished films,
and of two batches over the same films each is dubbed by one, while the other puts it off, comes back at the end and finds it done. Knows
no stages.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from glob import escape, glob, has_magic
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from musetalk_cli import __version__
from musetalk_cli.config import MODELS, DubConfig, Runtime
from musetalk_cli.errors import InputError, InterruptedRun, MusetalkError, RetryableError, UsageError
from musetalk_cli.executor import Executor
from musetalk_cli.jobs import After, Existing, Parts, dub_film, plan_jobs
from musetalk_cli.languages import ISO_639_2
from musetalk_cli.reading import parse_json, parse_toml, read_json, read_text
from musetalk_cli.session import Place, Session, Voice, as_faults
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.store import is_url
from musetalk_cli.suffixes import FILMS, SOUNDS
from musetalk_cli.targets import exists_error, make_folder
from musetalk_cli.types import DubJob, sidecar_of
from musetalk_cli.work import fingerprint

MANIFESTS = frozenset({".toml", ".jsonl"})
RECEIPT = ".receipt.json"
OWN_KEYS = frozenset({"film", "audio", "output", "cast", "mix"})
NOT_OF_A_FILM = frozenset({"device", "batch_size", "weights"})  # of the machine
SETTINGS = {field.name: field for field in fields(Choices) if field.name not in NOT_OF_A_FILM}
PATHS = ("sign_cert", "sign_key")
WORDS = {"face": ("largest", "all"), "model": ("auto", *MODELS)}  # what else is said there is a path, too
STATUSES = ("done", "done before", "failed", "put off")
MANIFEST_CURE = (
    "give 'film', 'audio' (a path, a list, or {language = path}), and 'output', 'cast', 'mix' or settings of dub where needed"
)

Status = Literal["done", "done before", "failed", "put off"]  # put off: another run is at it, or a connection was lost


class Entry(NamedTuple):
    """A film to dub. settings: of `dub`, by Choices' names, where they are not the batch's."""

    film: Path
    audio: tuple[str, ...]
    output: Path | None = None
    cast: Path | None = None
    bed: Path | None = None
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a film. Beside each result it lies as {result}.receipt.json, also where the result failed."""

    film: str
    status: Status | Literal["begun"]
    outputs: tuple[str, ...] = ()
    seconds: float = 0.0
    exit_code: int = 0
    message: str = ""
    hint: str = ""
    made_of: str = ""  # a hash of film, voice, settings and model
    result: str = ""  # of the output's content, as `work.fingerprint` has it
    sidecar: str = ""  # of the manifest beside it; "" where there is none
    tool: str = f"musetalk {__version__}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of all films."""

    receipts: tuple[Receipt, ...]

    @property
    def failed(self) -> int:
        return self._count("failed")

    @property
    def put_off(self) -> int:
        return self._count("put off")

    def as_json(self) -> dict[str, object]:
        return {"counts": {status: self._count(status) for status in STATUSES}, "films": [asdict(one) for one in self.receipts]}

    def lines(self) -> list[str]:
        """A table with a line a film, and a sum."""
        names = _names([Path(one.film) for one in self.receipts])
        states = [f"{one.status} ({one.exit_code})" if one.exit_code else one.status for one in self.receipts]
        wide, broad = (max(map(len, texts), default=0) for texts in (names, states))
        rows = [
            f"{name:{wide}}  {state:{broad}}  {one.seconds:8.1f} s  {one.message or ', '.join(Path(o).name for o in one.outputs)}"
            for name, state, one in zip(names, states, self.receipts, strict=True)
        ]
        off = f", {self.put_off} put off" if self.put_off else ""
        counts = f"{self._count('done')} done, {self._count('done before')} done before, {self.failed} failed{off}"
        return [*rows, f"{len(rows)} films: {counts}"]

    def _count(self, status: str) -> int:
        return sum(one.status == status for one in self.receipts)


class Plan(NamedTuple):
    """What the user asked for."""

    paths: tuple[Path, ...]
    audio: tuple[str, ...] = ()  # [LANG=]PATTERN, {stem} in it; for films that no manifest names
    output: Path | None = None  # a folder; None: beside each film
    existing: Existing = Existing()
    work_dir: Path | None = None  # of all films, each in a folder of its own
    keep: bool = False  # work folders in the cache
    fresh: bool = False  # forget what earlier runs finished, results too
    store: str = ""  # see session.Place
    lang: str = ""  # of voices that do not say it


@dataclass(frozen=True, slots=True)
class Shared:
    """What all films of a batch have in common. begun, taken: what this batch has got to so far."""

    plan: Plan
    choices: Choices
    voice: Voice
    after: After | None
    executor: Executor | None
    begun: set[Path] = field(default_factory=set)  # work folders that were opened
    taken: dict[Path, Entry] = field(default_factory=dict)  # by output


def run_batch(
    plan: Plan,
    choices: Choices,
    voice: Voice,
    after: After | None = None,
    told: Callable[[str], None] = print,
    executor: Executor | None = None,
) -> Batch:
    """Every entry, in order, but last those that an earlier run was at when it was killed: they may be what killed it. Those that another
    run is at are tried once more when the others are through.

    told: gets a line before each film. executor: as of `dub_film`. Raises UsageError and InputError for what no film is behind, UsageError
    where the folder of the results cannot be made; MissingError where the model of the batch is not there; InterruptedRun after a
    signal, when the film in hand has stopped.
    """
    entries = read_entries(plan)
    _model_of(choices)
    _make_output(plan)
    shared = Shared(plan, choices, voice, after, executor)
    receipts: dict[int, Receipt] = {}
    begun = _begun(entries, plan)
    order = sorted(range(len(entries)), key=lambda number: str(entries[number].film) in begun)
    for _ in range(2):
        for number in [n for n in order if n not in receipts or receipts[n].status == "put off"]:
            told(f"batch: {number + 1} of {len(entries)}, {entries[number].film}")
            later = [one for n, one in enumerate(entries) if n != number and n not in receipts]
            made = receipts[number] = _one(entries[number], later, shared)
            if made.exit_code:
                told(f"batch: {entries[number].film} {made.status}: {made.message}")
    return Batch(tuple(receipts[number] for number in range(len(entries))))


def undone(plan: Plan, choices: Choices) -> list[tuple[list[DubJob], Choices, Place]]:
    """What a batch would work on now, film by film; those that would fail at once are left out. Raises what `read_entries` does."""
    _make_output(plan)
    shared = Shared(plan, choices, Voice(quiet=True), None, None)
    found = []
    for entry in read_entries(plan):
        with suppress(MusetalkError), as_faults():
            jobs = [job for job in _jobs(entry, shared) if not _Order(entry, job, shared).is_done()]
            if jobs:
                found.append((jobs, _mine(entry, shared), _place(entry.film, plan)))
    return found


def _make_output(plan: Plan) -> None:
    if plan.output is not None and not plan.output.suffix:
        make_folder(plan.output)


def read_entries(plan: Plan) -> list[Entry]:
    """Folders give their films by name, patterns what they match, without what a batch itself has made; manifests their lines."""
    found = [entry for path in plan.paths for entry in _entries(path, plan)]
    if not found:
        raise UsageError("no film in it", "give films, a folder of films, or a manifest", thing=", ".join(map(str, plan.paths)))
    return list(dict.fromkeys(found))


def _entries(path: Path, plan: Plan) -> Iterator[Entry]:
    if path.is_dir():
        yield from _by_voices_each((film for film in path.iterdir() if not film.name.startswith(".")), plan)
    elif path.suffix.lower() in MANIFESTS and path.exists():
        yield from _manifest(path)
    elif has_magic(str(path)) and not path.exists():  # quoted, or the shell found nothing for it
        matched = [Path(text) for text in glob(str(path), recursive=True)]
        if not matched:
            raise InputError(f"{path}: nothing matches", "check the pattern")
        for manifest in sorted(one for one in matched if one.suffix.lower() in MANIFESTS):
            yield from _manifest(manifest)
        yield from _by_voices_each(matched, plan)
    elif path.exists() or path.suffix.lower() in FILMS:  # a film that is gone fails in its turn, and stops no other
        if not receipt_of(path).exists():
            yield _by_voices(path, plan)
    else:
        raise InputError(f"{path}: there is no such file or folder", "check the path")


def _by_voices_each(paths: Iterable[Path], plan: Plan) -> Iterator[Entry]:
    for film in sorted(path for path in paths if path.suffix.lower() in FILMS and not path.is_dir()):
        if not receipt_of(film).exists():
            yield _by_voices(film, plan)


def _by_voices(film: Path, plan: Plan) -> Entry:
    if plan.audio:
        return Entry(film, tuple(text.replace("{stem}", film.stem).replace("{folder}", str(film.parent)) for text in plan.audio))
    beside = [
        sound
        for sound in sorted(film.parent.glob(f"{escape(film.stem)}.*"))
        if sound.suffix.lower() in SOUNDS and _language(sound, film) in ISO_639_2
    ]
    return Entry(film, tuple(f"{_language(sound, film)}={sound}" for sound in beside))


def _language(sound: Path, film: Path) -> str:
    """film.fr.wav beside film.mp4 -> fr."""
    return sound.stem[len(film.stem) + 1 :].lower()


def _manifest(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(_lines(path), 1):
        yield _entry(line, path, number)


def _lines(path: Path) -> list[Any]:
    try:
        text = read_text(path, encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            return [parse_json(line) for line in text.splitlines() if line.strip()]
        read = parse_toml(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no manifest ({error})", MANIFEST_CURE) from error
    unknown = read.keys() - {"film", "defaults"}
    films, defaults = read.get("film", []), read.get("defaults", {})
    if unknown or not isinstance(films, list) or not isinstance(defaults, dict):
        raise InputError(f"{path}: write a [[film]] table for each film, and [defaults] for all", MANIFEST_CURE)
    return [{**defaults, **film} if isinstance(film, dict) else film for film in films]


def _entry(line: Any, path: Path, number: int) -> Entry:
    def bad(fact: str) -> InputError:
        return InputError(f"{path}: film {number}: {fact}", MANIFEST_CURE)

    if not isinstance(line, dict) or not isinstance(line.get("film"), str) or not line["film"]:
        raise bad("names no film")
    if is_url(line["film"]):
        raise bad(f"{line['film']} is a URL: films and voices are files here, fetch it first")
    settings = {name.replace("-", "_"): value for name, value in line.items() if name not in OWN_KEYS}
    for name, value in settings.items():
        if name not in SETTINGS:
            raise bad(f"{name!r} is no setting of dub")
        if not _fits(value, SETTINGS[name].default, name):
            raise bad(f"{name} = {value!r} is of the wrong kind")
    settings |= {name: path.parent / settings[name] for name in PATHS if name in settings}
    for name, words in WORDS.items():
        if name in settings and settings[name] not in words:
            settings[name] = str(path.parent / settings[name])
    optional = {name: line.get(name) for name in ("output", "cast", "mix")}
    if any(not isinstance(value, str | None) or value == "" for value in optional.values()):
        raise bad("'output', 'cast' and 'mix' are paths")
    output, cast, bed = (None if value is None else path.parent / value for value in optional.values())
    return Entry(
        path.parent / line["film"],
        tuple(_voices(line.get("audio"), path, bad)),
        output,
        cast,
        bed,
        tuple(sorted(settings.items())),
    )


def _fits(value: Any, usual: Any, name: str) -> bool:
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    if isinstance(usual, int | float):
        return isinstance(value, int | float)
    return isinstance(value, int | float) if name == "crf" else isinstance(value, str)


def _voices(given: Any, path: Path, bad: Callable[[str], InputError]) -> Iterator[str]:
    """Paths are relative to the manifest; fr=PATH keeps its language."""
    if given is None:
        return
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        given = [f"{language}={voice}" if isinstance(voice, str) and voice else None for language, voice in given.items()]
    if not isinstance(given, list) or not given or not all(isinstance(text, str) and text for text in given):
        raise bad("'audio' names no voice")
    for text in given:
        language, equals, voice = text.partition("=")
        yield f"{language}={path.parent / voice}" if equals else str(path.parent / text)


def _one(entry: Entry, later: Sequence[Entry], shared: Shared) -> Receipt:
    """What became of it. Raises InterruptedRun alone."""
    began = time.monotonic()
    try:
        with as_faults():
            outputs, made = _dub(entry, later, shared)
    except InterruptedRun:
        raise
    except MusetalkError as error:
        status: Status = "put off" if isinstance(error, RetryableError) else "failed"
        return Receipt(str(entry.film), status, (), _since(began), error.exit_code, error.fact, error.cure)
    return Receipt(str(entry.film), "done" if made else "done before", outputs, _since(began) if made else 0.0)


def _dub(entry: Entry, later: Sequence[Entry], shared: Shared) -> tuple[tuple[str, ...], int]:
    """All its outputs, and how many of them were made now."""
    jobs = _jobs(entry, shared)
    orders = [_Order(entry, job, shared) for job in jobs]
    todo = {order.job.output: order for order in orders if not order.is_done()}
    if todo:
        keep = shared.plan.keep or any(one.film == entry.film and _is_wanted(one, shared) for one in later)
        place = _place(entry.film, shared.plan)
        folder = place.folder(entry.film)
        place = replace(place, keep=keep, fresh=shared.plan.fresh and folder not in shared.begun)
        shared.begun.add(folder)

        def finish(job: DubJob, session: Session, config: DubConfig, runtime: Runtime) -> None:
            todo[job.output].finish(session, config, runtime)

        try:
            mine = _mine(entry, shared)
            given = (mine, place, shared.voice, Existing(overwrite=True), finish, shared.executor)
            dub_film([order.job for order in todo.values()], *given, wanted=lambda job: todo[job.output].begin())
        except MusetalkError as error:
            if not isinstance(error, InterruptedRun | RetryableError):
                for order in todo.values():
                    order.fail(error)
            raise
    return tuple(str(job.output) for job in jobs), sum(order.made for order in todo.values())


def _jobs(entry: Entry, shared: Shared) -> list[DubJob]:
    """Raises UsageError where it has no voice, or another film of the batch is written to the same place."""
    fingerprint(entry.film)
    if not entry.audio and entry.cast is None:
        cure = "lay {stem}.{language}.wav beside it, or give --audio LANG=PATTERN with {stem} in it"
        raise UsageError("there is no voice for it", cure, thing=str(entry.film))
    plan, output = shared.plan, entry.output or shared.plan.output
    parts, place = Parts(entry.cast, entry.bed), _place(entry.film, shared.plan)
    jobs = plan_jobs(entry.film, entry.audio, output, plan.lang, Existing(overwrite=True), place, parts)
    for job in jobs:
        other = shared.taken.setdefault(job.output.absolute(), entry)
        if other != entry:
            cure = "name another 'output' in a manifest, or leave out -o"
            raise UsageError(f"this batch puts {other.film} there", cure, thing=str(job.output))
    return jobs


class _Order:
    """A result to be made, and its receipt."""

    def __init__(self, entry: Entry, job: DubJob, shared: Shared) -> None:
        self.job = job
        self._film, self._plan, self._after = str(entry.film), shared.plan, shared.after
        self._made_of = _made_of(job, _mine(entry, shared))
        self._began = time.monotonic()
        self.made = False

    def is_done(self) -> bool:
        """Raises OutputExistsError for a file that is there and is not what this batch makes, unless `existing` says what to do then."""
        output, existing = self.job.output, self._plan.existing
        if not output.exists() or existing.overwrite:
            return False
        if existing.skip:
            return True
        receipt = _receipt(output)
        if receipt is not None and receipt.made_of == self._made_of:
            if receipt.status == "begun":  # killed between the result's appearing and the receipt
                return False
            if receipt.status == "done" and receipt.result == fingerprint(output):
                lost = receipt.sidecar and receipt.sidecar != _manifest_of(output)
                return not lost and not self._plan.fresh
        raise exists_error(output, "-y replaces it, -n leaves it")

    def begin(self) -> bool:
        """When the work folder is held: whether it is still to be made. Another batch may just have done so."""
        if self.is_done():
            return False
        self._began = time.monotonic()
        self._write(Receipt(self._film, "begun"))
        return True

    def finish(self, session: Session, config: DubConfig, runtime: Runtime) -> None:
        """The result is there."""
        if self._after is not None:
            self._after(self.job, session, config, runtime)
        output, seconds = self.job.output, _since(self._began)
        self._write(Receipt(self._film, "done", seconds=seconds, result=fingerprint(output), sidecar=_manifest_of(output)))
        self.made = True

    def fail(self, error: MusetalkError) -> None:
        """It will not be there. A receipt of an earlier result that still is stays."""
        receipt = _receipt(self.job.output)
        if not self.made and (receipt is None or receipt.status != "done" or not self.job.output.exists()):
            told = (error.exit_code, error.fact, error.cure)
            self._write(Receipt(self._film, "failed", (), _since(self._began), *told))

    def _write(self, receipt: Receipt) -> None:
        _write(replace(receipt, outputs=(str(self.job.output),), made_of=self._made_of))


def _manifest_of(output: Path) -> str:
    """Of what lies beside it."""
    beside = sidecar_of(output)
    return fingerprint(beside) if beside.is_file() else ""


def _begun(entries: Sequence[Entry], plan: Plan) -> set[str]:
    """Films with a receipt that was begun only, by a run that is at work or was killed."""
    outputs = [entry.output or plan.output or entry.film.parent for entry in entries]
    folders = {output if output.is_dir() else output.parent for output in outputs}
    kept = [path.with_name(path.name.removesuffix(RECEIPT)) for folder in folders for path in folder.glob(f"*{RECEIPT}")]
    return {receipt.film for receipt in map(_receipt, kept) if receipt is not None and receipt.status == "begun"}


def _is_wanted(entry: Entry, shared: Shared) -> bool:
    """Whether a later entry will have something to do, as far as can be told now."""
    try:
        jobs = _jobs(entry, replace(shared, taken={}))
        return not all(_Order(entry, job, shared).is_done() for job in jobs)
    except MusetalkError:
        return False


def _mine(entry: Entry, shared: Shared) -> Choices:
    return replace(shared.choices, **dict(entry.settings))


def receipt_of(output: Path) -> Path:
    """Where the receipt of a result lies."""
    return output.with_name(output.name + RECEIPT)


def _made_of(job: DubJob, choices: Choices) -> str:
    """Of film, voices, settings and model; not of paths or of the machine."""
    settings = {name: getattr(choices, name) for name in SETTINGS}
    read = (job.video, job.audio, *(path for _, path in job.voices), job.cast, job.bed)
    inputs = [fingerprint(path) for path in read if path is not None]
    told = [__version__, settings, _model_of(choices), inputs, job.language, job.output.suffix]
    return sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=64)
def _model_of(choices: Choices) -> str:
    """The model by the content of its files. Raises MissingError where it is not there."""
    return repr(dub_config(choices, choose_runtime(choices)).model)


def _place(film: Path, plan: Plan) -> Place:
    return Place(None if plan.work_dir is None else plan.work_dir / fingerprint(film)[:16], store=plan.store)


def _receipt(output: Path) -> Receipt | None:
    try:
        read = read_json(receipt_of(output))
        return Receipt(**{**read, "outputs": tuple(read["outputs"])})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # none of ours


def _write(receipt: Receipt) -> None:
    path = receipt_of(Path(receipt.outputs[0]))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(asdict(receipt), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _names(films: Sequence[Path]) -> list[str]:
    """As short as tells them apart: below the folder that all are in."""
    parents = [os.path.abspath(film.parent) for film in films]
    root = os.path.commonpath(parents) if parents else ""
    return [os.path.relpath(os.path.abspath(film), root) for film in films]
