"""What a film's manifest says. In: what was decided of each shot. Out: a Statement, and with the files' hashes C2PA's manifest definition.

The same work gives the same words: no clock, no paths, nothing of the machine.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from musetalk_cli import __version__
from musetalk_cli.config import ModelConfig
from musetalk_cli.crop import Placement
from musetalk_cli.types import Decisions, Faces, Source

ALTERED = "org.musetalk.altered"  # assertion: what was altered, in this project's own words
AI_MODIFIED = "org.musetalk.ai-modified"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
HASH_BLOCK = 1 << 20


class Region(NamedTuple):
    """A part of the picture, source pixels. Never a list in a manifest: c2pa takes lists of small numbers for bytes."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Altered:
    """A stretch of one person's frames [start, stop) with a generated mouth."""

    shot: int
    track: int
    person: str  # of the cast map, "" where nobody was named
    consent: str  # what the cast map says of it
    start: int
    stop: int
    start_s: str  # seconds of the film's clock, exact
    stop_s: str
    region: Region  # nothing outside of it was changed in these frames

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "region": self.region._asdict()}


class Statement(NamedTuple):
    """Everything that the manifest says but the hashes of files, as JSON. Empty: the film is not signed."""

    text: str = ""


UNSIGNED = Statement()


def statement(
    film: Source, decisions: Sequence[Decisions], altered: Sequence[Altered], model: ModelConfig, language: str, *, marked: bool
) -> Statement:
    """The same for the same work. marked: the new mouths carry an invisible mark; with which key is not told."""
    told = {
        "v": 1,
        "tool": f"musetalk {__version__}",
        "ai_modified": True,
        "what": "lips were generated to fit another voice; the sound was replaced",
        "model": {"name": model.name, "files": [list(one) for one in model.weights]},
        "frames": film.frames,
        "fps": str(film.fps),
        "size": {"width": film.size[0], "height": film.size[1]},
        "shots": len(decisions),
        "language": language,
        "sound": "replaced",
        "watermark": marked,
        "altered": [one.as_json() for one in altered],
    }
    return Statement(json.dumps(told, sort_keys=True))


def altered_of(
    film: Source,
    decisions: Decisions,
    faces: Faces,
    names: Mapping[int, str],
    consents: Mapping[str, str],
) -> list[Altered]:
    """Of one shot, as the report lists it. names: of tracks. consents: of names."""
    found = []
    for one in decisions.verdicts:
        if one.what == "passed through":
            continue
        name = names.get(one.track, "")
        times = (str(film.time(one.start)), str(_end(film, one.stop)))
        region = _region(faces, one.track, one.start, one.stop, film.size)
        found.append(Altered(decisions.shot.index, one.track, name, consents.get(name, ""), one.start, one.stop, *times, region))
    return found


def _end(film: Source, stop: int) -> Fraction:
    """When the frame before `stop` has been shown."""
    return film.time(stop) if stop < film.frames else film.time(film.frames - 1) + 1 / film.fps


def _region(faces: Faces, track: int, start: int, stop: int, size: tuple[int, int]) -> Region:
    """The box of a face bounds what is blended."""
    rows = np.flatnonzero((faces.track == track) & (faces.frame >= start) & (faces.frame < stop))
    seen = [Placement.of(faces.box[row], faces.landmarks[row], float(faces.roll[row])).region(size) for row in rows]
    if not seen:
        return Region(0, 0, *size)
    x1, y1, x2, y2 = np.array(seen).T
    left, top = int(x1.min()), int(y1.min())
    return Region(left, top, int(x2.max()) - left, int(y2.max()) - top)


class FileHash(NamedTuple):
    """A file that went in."""

    role: str  # film | voice
    name: str
    bytes: int
    sha256: str


def hash_of(path: Path, role: str) -> FileHash:
    """Read once, in blocks."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            found.update(block)
    return FileHash(role, path.name, path.stat().st_size, found.hexdigest())


def definition(told: Statement, inputs: Sequence[FileHash], made: str, head: bytes, kind: str) -> dict[str, Any]:
    """c2pa-python's manifest definition. made: sha256 of the film before it is signed. head: bytes of it that C2PA does not hash. kind:
    its media type."""
    said = json.loads(told.text)
    named = _named(told.text, made, *(f"{one.sha256} {one.name}" for one in inputs))  # all that it says: names too
    film = inputs[0]
    said |= {"inputs": [one._asdict() for one in inputs], "head": head.hex()}
    agent = {"name": "musetalk", "version": __version__}
    changed = [_change(one) for one in said["altered"]]
    actions = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["film"]}},
        {
            "action": "c2pa.edited",
            "description": said["what"],
            "digitalSourceType": COMPOSITE,
            "softwareAgent": agent,
            "changes": changed,
        },
        {"action": "c2pa.dubbed", "description": "the sound was replaced by another voice", "softwareAgent": agent},
    ]
    if said["watermark"]:
        mark = "an invisible mark was put into the generated mouths"
        actions.append({"action": "c2pa.watermarked.unbound", "description": mark, "softwareAgent": agent})
    return {
        "label": f"urn:c2pa:{named}",
        "instance_id": f"xmp:iid:{named}",
        "claim_generator_info": [agent],
        "title": f"{film.name}, dubbed",
        "format": kind,
        "ingredients": [
            {
                "title": film.name,
                "format": kind,
                "instance_id": f"xmp:iid:{_named(film.sha256)}",
                "relationship": "parentOf",
                "label": "film",
            }
        ],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": AI_MODIFIED, "data": {key: said[key] for key in ("ai_modified", "what", "model", "tool")}},
            {"label": ALTERED, "data": said},
        ],
    }


def _named(*parts: str) -> uuid.UUID:
    """The same for the same parts; in the form of a random one, which c2pa insists on."""
    return uuid.UUID(bytes=hashlib.sha256("\0".join(parts).encode()).digest()[:16], version=4)


def _change(one: Mapping[str, Any]) -> dict[str, Any]:
    """C2PA's region of interest: when, and where in the picture."""
    region = Region(**one["region"])
    when = {"type": "npt", "start": f"{float(Fraction(one['start_s'])):.6f}", "end": f"{float(Fraction(one['stop_s'])):.6f}"}
    where: dict[str, Any] = {"type": "rectangle", "unit": "pixel", "origin": {"x": region.x, "y": region.y}}
    where |= {"width": region.width, "height": region.height}
    about = f"frames {one['start']} to {one['stop'] - 1}, shot {one['shot']}, {one['person'] or 'track ' + str(one['track'])}"
    return {"description": about, "region": [{"type": "temporal", "time": when}, {"type": "spatial", "shape": where}]}
