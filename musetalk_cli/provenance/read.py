"""What a film says of its making, and whether it is to be believed. In: a film. Out: Provenance.

Read by c2pa's own reader, offline. Beyond what it checks, the film's first box must be the one that was signed: C2PA leaves it out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from musetalk_cli.errors import InputError
from musetalk_cli.provenance.identity import own_anchor
from musetalk_cli.provenance.jumbf import MOST_BYTES, envelope_is_whole
from musetalk_cli.provenance.sign import BESIDE, MEDIA_TYPES, SETTINGS, SIDECAR, head_of
from musetalk_cli.provenance.statement import ALTERED, Altered, FileHash, Region
from musetalk_cli.reading import parse_fraction

UNTRUSTED = "signingCredential.untrusted"
FOREIGN = "a manifest of another tool"
UNKNOWN = "?"
MOST_LINES = 12  # of altered stretches in a summary; all are in JSON


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the manifest of a film says. trusted: its signer's authority is known here."""

    film: Path
    signer: str
    trusted: bool
    faults: tuple[str, ...]  # C2PA's codes, and this project's own; none: the film is as it was signed
    tool: str
    model: str
    model_files: tuple[tuple[str, str], ...]  # (name, sha256)
    inputs: tuple[FileHash, ...]
    altered: tuple[Altered, ...]
    watermark: bool  # the new mouths are said to carry an invisible mark

    @property
    def intact(self) -> bool:
        return not self.faults

    def as_json(self) -> dict[str, object]:
        inputs = [one._asdict() for one in self.inputs]
        altered = [one.as_json() for one in self.altered]
        return {**asdict(self), "film": str(self.film), "intact": self.intact, "inputs": inputs, "altered": altered}

    def lines(self) -> list[str]:
        """For people."""
        state = "as it was signed" if self.intact else f"NOT as it was signed: {', '.join(self.faults)}"
        if self.faults == (FOREIGN,):
            state = "as it was signed, by another tool: of a dub it says nothing"
        known = "known here" if self.trusted else "not known here: a name that anyone could have written"
        rows = [
            f"{self.film.name}: {state}",
            f"  signed by   {self.signer} ({known})",
            f"  altered by  {self.tool}, model {self.model}",
        ]
        if self.tool == UNKNOWN:  # of a dub nothing is said, or nothing that can be read
            return [_printable(row) for row in rows[:2]]
        rows += [f"  made from   {one.role} {one.name}, sha256 {one.sha256}" for one in self.inputs]
        rows.append(f"  altered     {_count(len(self.altered), 'stretch', 'stretches')} of faces; the sound was replaced")
        rows += [f"    {_when(one)}  {_who(one)}" for one in self.altered[:MOST_LINES]]
        if len(self.altered) > MOST_LINES:
            rows.append(f"    and {len(self.altered) - MOST_LINES} more; --json lists all")
        if self.watermark:
            rows.append("  watermark   an invisible mark in the new mouths; `musetalk detect` looks for it")
        return [_printable(row) for row in (*rows, *self._consents())]

    def _consents(self) -> Iterator[str]:
        for person in dict.fromkeys(one.person for one in self.altered if one.person):
            consent = next(one.consent for one in self.altered if one.person == person)
            yield f"  consent     {person}: {consent or 'no reference was given'}"


def read_provenance(film: Path) -> Provenance | None:
    """None: the film carries no manifest. Raises InputError for a file that cannot be read."""
    kind = MEDIA_TYPES.get(film.suffix.lower())
    if kind is None:
        return None
    place = _place_of(film)
    if not place.is_file():
        return None
    report = _report(film, kind, None if place == film else _beside(place))
    return None if report is None else _told(film, report)


def _beside(sidecar: Path) -> bytes:
    if sidecar.stat().st_size > MOST_BYTES:
        raise InputError(f"{sidecar}: no manifest is so large", "give the one that was written beside the film")
    return sidecar.read_bytes()


def _report(film: Path, kind: str, beside: bytes | None) -> dict[str, Any] | None:
    import c2pa

    settings = {**SETTINGS, **({"trust": {"user_anchors": anchor}} if (anchor := own_anchor()) else {})}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            film.open("rb") as file,
            c2pa.Reader(kind, file, beside, context) as reader,
        ):
            found: dict[str, Any] = json.loads(reader.json())
            return found
    except c2pa.C2paError as error:
        if "ManifestNotFound" in str(error) or "no JUMBF" in str(error):
            return None
        return {"fault": str(error).split(":")[0][:80]}
    except OSError as error:
        raise InputError(f"{film}: {error.strerror}", "give a film that can be read") from error


def _told(film: Path, report: Mapping[str, Any]) -> Provenance:
    """What a damaged manifest says is not told."""
    manifest = report.get("manifests", {}).get(report.get("active_manifest"), {})
    faults = list(_faults(film, report, manifest))
    signature = manifest.get("signature_info", {})
    about = _About(UNKNOWN, UNKNOWN, (), (), (), False)
    said = _said(manifest)
    try:
        about = _about(said) if said or not manifest else about
    except (AttributeError, KeyError, TypeError, ValueError):
        faults.append("its words cannot be read")
    return Provenance(
        film,
        f"{signature.get('common_name', '?')}, {signature.get('issuer', '?')}",
        report.get("validation_state") == "Trusted",
        tuple(dict.fromkeys(faults)),
        *about,
    )


def _faults(film: Path, report: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    if "fault" in report:
        yield f"unreadable manifest ({report['fault']})"
    found = [one["code"] for one in report.get("validation_status", []) if one["code"] != UNTRUSTED]
    yield from found
    if manifest and not found and report.get("validation_state") not in ("Valid", "Trusted"):
        yield f"state {report.get('validation_state')}"
    said = _said(manifest)
    if manifest and not said:
        yield FOREIGN
    if said and said.get("head") != head_of(film).hex():
        yield "the file's first box is another one"
    if said and not envelope_is_whole(_place_of(film)):
        yield "the manifest's envelope was changed"


def _place_of(film: Path) -> Path:
    return film.with_name(film.name + SIDECAR) if film.suffix.lower() in BESIDE else film


def _said(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """This project's own assertion."""
    found = next((one.get("data") for one in manifest.get("assertions", []) if one.get("label") == ALTERED), None)
    return found if isinstance(found, dict) else {}


class _About(NamedTuple):
    tool: str
    model: str
    model_files: tuple[tuple[str, str], ...]
    inputs: tuple[FileHash, ...]
    altered: tuple[Altered, ...]
    watermark: bool


def _about(said: Mapping[str, Any]) -> _About:
    model = said["model"]
    return _About(
        str(said["tool"]),
        str(model["name"]),
        tuple((str(name), str(digest)) for name, digest in model["files"]),
        tuple(_input(one) for one in said["inputs"]),
        tuple(_altered(one) for one in said["altered"]),
        bool(said.get("watermark", False)),
    )


def _input(one: Mapping[str, Any]) -> FileHash:
    told = FileHash(**one)
    _check((told.role, told.name, told.sha256), (told.bytes,))
    return told


def _altered(one: Mapping[str, Any]) -> Altered:
    told = Altered(**{**one, "region": Region(**one["region"])})
    _check((told.person, told.consent, told.start_s, told.stop_s), (told.shot, told.track, told.start, told.stop, *told.region))
    for seconds in (told.start_s, told.stop_s):
        parse_fraction(seconds)
    return told


def _check(words: Sequence[object], numbers: Sequence[object]) -> None:
    """Anybody can sign a manifest that says it is ours."""
    if not (all(type(one) is str for one in words) and all(type(one) is int for one in numbers)):
        raise TypeError("a word or a number is of another kind")


def _printable(row: str) -> str:
    """Names come from who signed; a terminal would obey control characters."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in row)


def _when(one: Altered) -> str:
    return f"{float(Fraction(one.start_s)):9.3f} to {float(Fraction(one.stop_s)):9.3f} s, frames {one.start} to {one.stop - 1}"


def _who(one: Altered) -> str:
    where = f"{one.region.width}x{one.region.height} at {one.region.x},{one.region.y}"
    return f"{one.person or f'track {one.track}'} in shot {one.shot}, within {where}"


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
