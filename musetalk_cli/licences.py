"""Licences of model files that ask something of whoever uses them. In: files to be fetched. Out: which of them nobody has accepted yet.

What was accepted stands in licences.json in the user's data folder, with the words that were shown: other words are asked for again.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from musetalk_cli.errors import UsageError
from musetalk_cli.places import data_folder
from musetalk_cli.reading import read_json
from musetalk_cli.work import sync

ASKING = {  # folder of the files -> why their licence is accepted by name; MIT, Apache and BSD ask for nothing before use
    "musetalkV15": "OpenRAIL-M restricts what the model may be used for",
    "musetalk": "OpenRAIL-M restricts what the model may be used for",
    "face-parse-bisent": "nobody states a licence for the weights, and their training set is for non-commercial research",
    "syncnet": "OpenRAIL++-M restricts what the model may be used for",
    "face-alignment": "nobody states a licence for the weights",
    "arcface": "for non-commercial research only",
}


@dataclass(frozen=True, slots=True)
class Licence:
    """Of the files in one folder of the weights."""

    name: str
    text: str  # in the words of those who publish them
    asks: str = ""  # why it is to be accepted; "": it is not

    def line(self) -> str:
        return f"{self.name}: {self.text}" + (f" [{self.asks}]" if self.asks else "")


def licence_of(path: str, text: str) -> Licence:
    """path: in the weights folder."""
    name = path.split("/")[0]
    return Licence(name, text, ASKING.get(name, ""))


def unaccepted(licences: Iterable[Licence]) -> list[Licence]:
    """Those that are to be accepted and were not yet, each once."""
    accepted = _read()
    return [one for one in dict.fromkeys(licences) if one.asks and accepted.get(one.name, {}).get("licence") != one.text]


def accept(licences: Iterable[Licence]) -> None:
    """Remember it, for good. Raises UsageError where the file cannot be written."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    accepted = {**_read(), **{one.name: {"licence": one.text, "accepted": now} for one in licences}}
    path = record()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(accepted, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(beside)
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", "choose another place by XDG_DATA_HOME", thing=str(path)
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def record() -> Path:
    """Where it stands what was accepted."""
    return data_folder() / "licences.json"


def _read() -> dict[str, dict[str, str]]:
    """A file that is none is as if nothing was accepted: it is asked again."""
    try:
        read = read_json(record())
    except (OSError, ValueError):
        return {}
    rows = read.items() if isinstance(read, dict) else ()
    return {name: row for name, row in rows if isinstance(row, dict)}
