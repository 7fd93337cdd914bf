"""`musetalk batch`: many films, one after the other. In: folders, films, manifests. Out: a receipt a film, a summary.

    folder, films ----- voices beside them, or by a pattern --.
    manifest (.toml, .jsonl) ---------------------------------|-- entries -- dub -- receipt beside each result
                                                              '-- what a receipt says is done is left alone

One bad film never stops the rest. The models stay loaded. Knows no stages.
"""

import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from musetalk_cli import __version__
from musetalk_cli.errors import InputError, InterruptedRun, MusetalkError, UsageError
from musetalk_cli.jobs import After, Existing, Parts, dub_film, plan_jobs
from musetalk_cli.languages import ISO_639_2
from musetalk_cli.session import Place, Voice, as_faults
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.suffixes import FILMS, SOUNDS
from musetalk_cli.targets import exists_error
from musetalk_cli.types import DubJob
from musetalk_cli.work import fingerprint

MANIFESTS = frozenset({".toml", ".jsonl"})
RECEIPT = ".receipt.json"
OWN_KEYS = frozenset({"film", "audio", "output", "cast", "mix"})
NOT_OF_A_FILM = frozenset({"device", "batch_size", "weights"})  # of the machine
SETTINGS = {field.name: field for field in fields(Choices) if field.name not in NOT_OF_A_FILM}
MANIFEST_CURE = (
    "give 'film', 'audio' (a path, a list, or {language = path}), and 'output', 'cast', 'mix' or settings of dub where needed"
)

Status = Literal["done", "done before", "failed"]


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
    """What became of a film. Beside each result that was made it lies as {result}.receipt.json."""

    film: str
    status: Status
    outputs: tuple[str, ...] = ()
    seconds: float = 0.0
    exit_code: int = 0
    message: str = ""
    hint: str = ""
    made_of: str = ""  # a hash of film, voice, settings and model
    result: str = ""  # of the output's content, as `work.fingerprint` has it
    tool: str = f"musetalk {__version__}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of all films."""

    receipts: tuple[Receipt, ...]

    @property
    def failed(self) -> int:
        return sum(receipt.status == "failed" for receipt in self.receipts)

    def as_json(self) -> dict[str, object]:
        counts = {
            status: sum(receipt.status == status for receipt in self.receipts) for status in ("done", "done before", "failed")
        }
        return {"counts": counts, "films": [asdict(receipt) for receipt in self.receipts]}

    def lines(self) -> list[str]:
        """A line a film, and a sum."""
        wide = max((len(Path(receipt.film).name) for receipt in self.receipts), default=0)
        rows = [
            f"{Path(one.film).name:{wide}}  {one.status:11}  {one.seconds:8.1f} s  {one.message or ', '.join(Path(o).name for o in one.outputs)}"
            for one in self.receipts
        ]
        made = sum(receipt.status == "done" for receipt in self.receipts)
        before = len(self.receipts) - made - self.failed
        return [*rows, f"{len(self.receipts)} films: {made} done, {before} done before, {self.failed} failed"]


class Plan(NamedTuple):
    """What the user asked for."""

    paths: tuple[Path, ...]
    audio: tuple[str, ...] = ()  # [LANG=]PATTERN, {stem} in it; for films that no manifest names
    output: Path | None = None  # a folder; None: beside each film
    existing: Existing = Existing()
    work_dir: Path | None = None


def run_batch(
    plan: Plan, choices: Choices, voice: Voice, after: After | None = None, told: Callable[[str], None] = print
) -> Batch:
    """Every entry, in order. told: gets a line before each film. Raises UsageError and InputError for what no film is behind; MissingError
    where the model of the batch is not there; InterruptedRun after a signal, when the film in hand has stopped."""
    entries = read_entries(plan)
    model = repr(dub_config(choices, choose_runtime(choices)).model)
    receipts: list[Receipt] = []
    for number, entry in enumerate(entries, 1):
        told(f"batch: {number} of {len(entries)}, {entry.film}")
        began = time.monotonic()
        try:
            receipts.append(_one(entry, plan, choices, voice, after, model))
        except InterruptedRun:
            raise
        except MusetalkError as error:
            spent = round(time.monotonic() - began, 1)
            receipts.append(Receipt(str(entry.film), "failed", (), spent, error.exit_code, error.fact, error.cure))
            told(f"batch: {entry.film} failed: {error.fact}")
    return Batch(tuple(receipts))


def read_entries(plan: Plan) -> list[Entry]:
    """Folders give their films by name, without what a batch itself has made; manifests their lines."""
    found = [entry for path in plan.paths for entry in _entries(path, plan)]
    if not found:
        raise UsageError("no film in it", "give films, a folder of films, or a manifest", thing=", ".join(map(str, plan.paths)))
    return found


def _entries(path: Path, plan: Plan) -> Iterator[Entry]:
    if path.is_dir():
        for film in sorted(path.iterdir()):
            if film.suffix.lower() in FILMS and not film.name.startswith(".") and not receipt_of(film).exists():
                yield _by_voices(film, plan)
    elif not path.exists():
        raise InputError(f"{path}: there is no such file or folder", "check the path")
    elif path.suffix.lower() in MANIFESTS:
        yield from _manifest(path)
    else:
        yield _by_voices(path, plan)


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
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        read = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
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
    settings = {name.replace("-", "_"): value for name, value in line.items() if name not in OWN_KEYS}
    for name, value in settings.items():
        if name not in SETTINGS:
            raise bad(f"{name!r} is no setting of dub")
        if not _fits(value, SETTINGS[name].default):
            raise bad(f"{name} = {value!r} is of the wrong kind")
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


def _fits(value: Any, usual: Any) -> bool:
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    if isinstance(usual, int | float):
        return isinstance(value, int | float)
    return isinstance(value, str) if isinstance(usual, str) else isinstance(value, str | int | float)


def _voices(given: Any, path: Path, bad: Callable[[str], InputError]) -> Iterator[str]:
    """Paths are relative to the manifest; fr=PATH keeps its language."""
    if given is None:
        return
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        given = [f"{language}={voice}" for language, voice in given.items() if isinstance(voice, str)]
    if not isinstance(given, list) or not given or not all(isinstance(text, str) and text for text in given):
        raise bad("'audio' names no voice")
    for text in given:
        language, equals, voice = text.partition("=")
        yield f"{language}={path.parent / voice}" if equals else str(path.parent / text)


def _one(entry: Entry, plan: Plan, choices: Choices, voice: Voice, after: After | None, model: str) -> Receipt:
    with as_faults():
        fingerprint(entry.film)
        if not entry.audio and entry.cast is None:
            cure = "lay {stem}.{language}.wav beside it, or give --audio LANG=PATTERN with {stem} in it"
            raise UsageError("there is no voice for it", cure, thing=str(entry.film))
        mine = replace(choices, **dict(entry.settings))
        place, output = _place(entry.film, plan), entry.output or plan.output
        jobs = plan_jobs(entry.film, entry.audio, output, "", Existing(overwrite=True), place, Parts(entry.cast, entry.bed))
        todo = [job for job in jobs if not _is_done(job, _made_of(job, mine, model), plan.existing)]
        began = time.monotonic()
        if todo:
            dub_film(todo, mine, place, voice, Existing(overwrite=True), after)
        spent = round(time.monotonic() - began, 1) if todo else 0.0
        for job in todo:
            _write(
                Receipt(
                    str(entry.film),
                    "done",
                    (str(job.output),),
                    spent,
                    made_of=_made_of(job, mine, model),
                    result=fingerprint(job.output),
                )
            )
        return Receipt(str(entry.film), "done" if todo else "done before", tuple(str(job.output) for job in jobs), spent)


def receipt_of(output: Path) -> Path:
    """Where the receipt of a result lies."""
    return output.with_name(output.name + RECEIPT)


def _is_done(job: DubJob, made_of: str, existing: Existing) -> bool:
    """Raises OutputExistsError for a file that is there and is not what this batch makes, unless `existing` says what to do then."""
    if not job.output.exists() or existing.overwrite:
        return False
    if existing.skip:
        return True
    try:
        read = json.loads(receipt_of(job.output).read_text(encoding="utf-8"))
        if read["made_of"] == made_of and read["result"] == fingerprint(job.output):
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no receipt of ours: then it is somebody's file
    raise exists_error(job.output, "-y replaces it, -n leaves it")


def _made_of(job: DubJob, choices: Choices, model: str) -> str:
    """Of film, voices, settings and model; not of paths or of the machine."""
    settings = {name: getattr(choices, name) for name in SETTINGS}
    read = (job.video, job.audio, *(path for _, path in job.voices), job.cast, job.bed)
    inputs = [fingerprint(path) for path in read if path is not None]
    told = [__version__, settings, model, inputs, job.language, job.output.suffix]
    return sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()


def _place(film: Path, plan: Plan) -> Place:
    return Place() if plan.work_dir is None else Place(plan.work_dir / fingerprint(film)[:16])


def _write(receipt: Receipt) -> None:
    path = receipt_of(Path(receipt.outputs[0]))
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(asdict(receipt), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
