"""A report on disk. In: a Report, a path. Out: one HTML file and JSON beside it, each whole or not at all. Knows nothing of measuring."""

import base64
import json
import os
from pathlib import Path

import cattrs

from musetalk_cli.errors import InputError
from musetalk_cli.reading import read_json
from musetalk_cli.report.page import page
from musetalk_cli.report.records import VERSION, Report
from musetalk_cli.work import sync

MOST_BYTES = 512 << 20  # curves of every frame of a two-hour film have 30 MB
NOT_READ = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError),
    *(cattrs.BaseValidationError, cattrs.StructureHandlerNotFoundError),
)
_records = cattrs.Converter()
_records.register_unstructure_hook(bytes, lambda data: base64.b64encode(data).decode())
_records.register_structure_hook(bytes, lambda text, _: base64.b64decode(text))


def paths(stem: Path) -> tuple[Path, Path]:
    """`{stem}.report.html` and `{stem}.report.json`."""
    return stem.with_name(f"{stem.name}.report.html"), stem.with_name(f"{stem.name}.report.json")


def write(report: Report, stem: Path) -> tuple[Path, Path]:
    """The two files, where `paths` says."""
    html, told = paths(stem)
    shown = page(report)
    _whole(told, as_json(report))
    _whole(html, shown)
    return html, told


def read(path: Path) -> Report:
    """What `write` wrote as JSON. Raises InputError for another file, or of another version."""
    try:
        told = read_json(path, MOST_BYTES)
        version = told["version"]
        if version == VERSION:
            return _records.structure(told, Report)
    except NOT_READ as error:
        raise InputError(f"{path}: no report", "give the .report.json that `musetalk report` wrote") from error
    raise InputError(f"{path}: a report of version {version}, this is {VERSION}", "measure it again: musetalk report FILM RESULT")


def as_json(report: Report) -> str:
    """Bytes as base64; what could not be measured is null."""
    return json.dumps(_records.unstructure(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _whole(path: Path, text: str) -> None:
    part = path.with_name(f"part.{path.name}")
    try:
        part.write_text(text, encoding="utf-8")
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)
