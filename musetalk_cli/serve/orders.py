"""What passes between the page, the server and the process that works. In: nothing. Out: records, as JSON and back."""

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import cattrs

from musetalk_cli.config import Length
from musetalk_cli.errors import MusetalkError
from musetalk_cli.executor import Hands
from musetalk_cli.reading import parse_json, read_bytes
from musetalk_cli.session import Place
from musetalk_cli.settings import Choices

FINISHED, FAILED = "serve.finished", "serve.failed"  # events that end the work
NOTE = "serve.json"  # in the work folder: the Order of a dub that is not done

# A page chooses among names; a folder of a model or a picture of a face, which the command takes too, could lie anywhere.
AModel = Literal["", "auto", "lite", "v15", "v1"]
AFace = Literal["", "largest", "all"]
ALength = Literal["", Length]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InspectWish:
    """What a page sends."""

    film: str
    face: AFace = ""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class DubWish:
    """What a page sends."""

    film: str
    voice: str = ""
    cast: bool = False  # voices by the cast map in the voice's stead
    output: str = ""
    language: str = ""
    model: AModel = ""
    length: ALength = ""
    face: AFace = ""
    overwrite: bool = False
    keep: bool = False


@dataclass(frozen=True, slots=True)
class VerifyWish:
    """What a page sends."""

    film: str
    result: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the page asked for. Names are of files in `folder`; what is empty is as the settings have it. output: of what is verified, too."""

    kind: Literal["inspect", "dub", "verify"]
    folder: str
    film: str
    voice: str = ""
    cast: str = ""
    output: str = ""
    language: str = ""
    model: AModel = ""
    length: ALength = ""
    face: AFace = ""
    overwrite: bool = False
    keep: bool = False

    @property
    def title(self) -> str:
        """As people call it."""
        named = {"inspect": "the inspection", "dub": "the dub", "verify": "the proof"}
        return f"{named[self.kind]} of {self.film}"

    def path(self, name: str) -> Path:
        return Path(self.folder) / name


@dataclass(frozen=True, slots=True)
class Settings:
    """What `dub` would take in this shell: defaults, musetalk.toml, MUSETALK_*."""

    choices: Choices = field(default_factory=Choices)
    place: Place = field(default_factory=Place)
    hands: Hands = field(default_factory=Hands)

    def of(self, order: Order) -> "Settings":
        """The same with what the page chose."""
        usual = self.choices
        choices = replace(
            usual, model=order.model or usual.model, length=order.length or usual.length, face=order.face or usual.face
        )
        return replace(self, choices=choices, place=replace(self.place, keep=self.place.keep or order.keep))


@dataclass(frozen=True, slots=True)
class Request:
    """What the process is given."""

    order: Order
    settings: Settings


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a person reads it: the thing, the fact, the cure."""

    thing: str
    fact: str
    cure: str
    code: str
    exit_code: int


def problem_of(error: MusetalkError) -> Problem:
    """The same, for another process."""
    return Problem(error.thing, error.about, error.cure, error.code, error.exit_code)


def to_json(record: object) -> str:
    """A line."""
    return json.dumps(_records().unstructure(record))


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Strict: a text is a text, and what is not known is an error. Raises ValueError."""
    try:
        return _records().structure(parse_json(text), kind)
    except (ValueError, TypeError, AttributeError, RecursionError, cattrs.BaseValidationError) as error:
        raise ValueError(f"no {kind.__name__}") from error


def leave_note(work: Path, order: Order) -> None:
    """In a work folder that is held."""
    (work / NOTE).write_text(to_json(order), encoding="utf-8")


def unfinished_order(work: Path, folder: Path, film: str) -> Order | None:
    """The dub of that film in `folder` that a work folder was left with."""
    try:
        order = from_json(read_bytes(work / NOTE), Order)
    except (OSError, ValueError):
        return None
    return order if (order.folder, order.film) == (str(folder), film) else None


@cache
def _records() -> cattrs.Converter:
    records = cattrs.Converter(forbid_extra_keys=True)
    for kind in (str, bool):
        records.register_structure_hook(kind, _exactly)
    return records


def _exactly(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value
