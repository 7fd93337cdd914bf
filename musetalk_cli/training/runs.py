"""What a training run is made with. In: a stage, sets, settings, what the user overrides. Out: a Recipe in RUN/config.json.

A run that goes on must be made with the same recipe: what changed is listed and refused, unless the user says that it may. What says
only how long, how often or how fast may always change. Imports no torch. Knows nothing of nets.
"""

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from musetalk_cli.errors import UsageError

CONFIG_FILE = "config.json"
FREE = {  # last parts of names: how long, how often, how fast
    *("minutes", "workers", "log_every", "validate_every", "checkpoint_every", "checkpoint_minutes", "keep", "threads"),
}
S = TypeVar("S")


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run follows from, but for the samples themselves."""

    task: str  # autoencoder | lips | syncnet | stage1 | stage2
    model: str  # lite | published
    preset: str
    sets: tuple[str, ...]
    init: str  # where the nets begin: a folder or file, "" for scratch
    syncnet: str
    perceptual: str
    precision: str  # no | bf16 | fp16
    by_minutes: bool  # the rate falls over the minutes, for want of a number of steps
    settings: Mapping[str, Any]  # a record of settings as plain values
    options: Mapping[str, Any]  # what the family of nets has of its own


def plain(record: object) -> Any:
    """A record of settings as JSON's own types."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, tuple) and hasattr(record, "_asdict"):
        return {name: plain(value) for name, value in record._asdict().items()}
    if isinstance(record, (tuple, list)):
        return [plain(value) for value in record]
    return record


def overridden(settings: S, assignments: Sequence[str]) -> S:
    """Settings with each "name=value" or "part.name=value" put in, read as that field's type. Raises UsageError."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: no value", "give it as name=value")
        settings = cast("S", _with(settings, path.split("."), text, assignment))
    return settings


def claim(out: Path, recipe: Recipe, *, fresh: bool = False, changed: bool = False) -> None:
    """Writes the recipe into `out`, or compares it with the one of the run that is there.

    fresh: what is there is put aside as `out`/before-N. changed: go on although the recipe is another. Raises UsageError that
    lists what changed, where neither is said.
    """
    wanted = json.loads(json.dumps(plain(recipe)))
    path = out / CONFIG_FILE
    if fresh and path.exists():
        _put_aside(out)
    if path.exists() and not changed:
        differences = differing(json.loads(path.read_text()), wanted)
        if differences:
            listed = "; ".join(differences[:8]) + ("; ..." if len(differences) > 8 else "")
            raise UsageError(
                f"{out}: a run with other settings: {listed}",
                "add --changed to go on with the new ones, or --fresh to begin again",
            )
    out.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"part.{path.name}")
    beside.write_text(json.dumps(wanted, indent=2) + "\n")
    os.replace(beside, path)


def read_recipe(out: Path) -> Recipe:
    """The recipe of a run. Raises UsageError where there is none."""
    path = out / CONFIG_FILE
    if not path.exists():
        raise UsageError(
            f"{out}: not a training run: {CONFIG_FILE} is not there", "give the folder that `musetalk train` was given"
        )
    values = json.loads(path.read_text())
    return Recipe(**{**values, "sets": tuple(values["sets"])})


def restored(kind: type[S], values: Mapping[str, Any]) -> S:
    """The record of settings that `plain` took apart."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _built(hints[name], value) for name, value in values.items()})


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each value that is another, as "name: old -> new"; names in FREE left out."""
    old, new = dict(_flat(before)), dict(_flat(now))
    names = [name for name in {**old, **new} if name.rsplit(".", 1)[-1] not in FREE]
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _put_aside(out: Path) -> None:
    number = 1
    while (out / f"before-{number}").exists():
        number += 1
    aside = out / f"before-{number}"
    aside.mkdir()
    for path in list(out.iterdir()):
        if not path.name.startswith("before-"):
            os.replace(path, aside / path.name)


def _with(record: Any, path: list[str], text: str, assignment: str) -> Any:
    hints = _fields(record)
    name, *rest = path
    if name not in hints:
        raise UsageError(f"--set {assignment}: no setting {name}", f"choose one of {', '.join(sorted(hints))}")
    value = _with(getattr(record, name), rest, text, assignment) if rest else _parsed(text, hints[name], assignment)
    return record._replace(**{name: value}) if hasattr(record, "_replace") else dataclasses.replace(record, **{name: value})


def _fields(record: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(record) or hasattr(record, "_fields"):
        return typing.get_type_hints(type(record))
    return {}


def _parsed(text: str, hint: Any, assignment: str) -> Any:
    """A value of the type that the field has."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        if text not in parts:
            raise UsageError(f"--set {assignment}: not a choice", f"choose one of {', '.join(parts)}")
        return text
    if kind in (typing.Union, types.UnionType):
        return None if text == "none" else _parsed(text, next(part for part in parts if part is not type(None)), assignment)
    if kind is tuple:
        pieces = [piece for piece in text.split(",") if piece]
        if parts[-1] is not Ellipsis and len(pieces) != len(parts):
            raise UsageError(f"--set {assignment}: {len(pieces)} values", f"give {len(parts)}, with commas between them")
        return tuple(_parsed(piece, parts[0], assignment) for piece in pieces)
    if hint is bool and text in ("true", "false"):
        return text == "true"
    if hint in (int, float, str) and (value := _number(text, hint)) is not None:
        return value
    raise UsageError(
        f"--set {assignment}: not a {getattr(hint, '__name__', hint)}", "see RUN/config.json of a run for how values look"
    )


def _number(text: str, hint: Any) -> Any:
    try:
        value = hint(text)
    except ValueError:
        return None
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _built(hint: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return restored(hint, value)
    if isinstance(value, list):
        return tuple(_built(typing.get_args(hint)[0] if typing.get_args(hint) else object, item) for item in value)
    return value
