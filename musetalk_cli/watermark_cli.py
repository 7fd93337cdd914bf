"""`musetalk detect`: parse, call one function, print. Imports nothing heavy at module level."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from musetalk_cli.config import PUBLIC_KEY, Runtime
from musetalk_cli.errors import InputError, MusetalkError, QualityGateError, UsageError

if TYPE_CHECKING:
    from musetalk_cli.watermark import Found

app = typer.Typer(rich_markup_mode=None)


def _path(text: str) -> Path:
    if not text:
        raise typer.BadParameter("its path is empty")
    return Path(text)


Clips = Annotated[list[Path], typer.Argument(metavar="CLIP...", parser=_path, help="Films, whole or cut, coded again or not.")]
Key = Annotated[
    str,
    typer.Option("--watermark-key", envvar="MUSETALK_WATERMARK_KEY", metavar="TEXT", help="The key that they were marked with."),
]
Seconds = Annotated[float, typer.Option("--seconds", min=1.0, metavar="S", help="Of each that are looked at, spread over it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]


@app.command()
def detect(clips: Clips, key: Key = PUBLIC_KEY, seconds: Seconds = 60.0, as_json: Json = False) -> None:
    """Whether each CLIP carries the invisible mark of `dub --watermark`. Needs neither the original nor a work folder.

    The score is minus the decimal logarithm of the chance that a film without the mark scores as much; marked from 3. A clip that is
    not marked may still be generated: the mark may be too weak after what was done to it.

    Exits 0 where all clips are marked, 7 where one is not, 3 where one cannot be read; the others are looked at all the same.
    """
    if not key:
        raise UsageError("is empty", "give the key, or leave it out for the public one", thing="--watermark-key")
    rows = list(_looked_at(clips, key, seconds, as_json=as_json))
    if as_json:
        typer.echo(json.dumps({"threshold": _threshold(), "clips": rows}, ensure_ascii=False))
    if any("error" in row for row in rows):
        raise typer.Exit(InputError.exit_code)
    if not all(row["marked"] for row in rows):
        raise typer.Exit(QualityGateError.exit_code)


def _threshold() -> float:
    from musetalk_cli.watermark import THRESHOLD

    return THRESHOLD


def _looked_at(clips: list[Path], key: str, seconds: float, *, as_json: bool) -> Iterator[dict[str, Any]]:
    """A row for each clip, told as it comes unless all are told as one object."""
    from musetalk_cli.session import as_faults
    from musetalk_cli.watermark import detect as look

    for clip in clips:
        try:
            with as_faults():
                found = look(clip, key, Runtime(), seconds=seconds)
        except InputError as error:
            yield _failed(clip, error, as_json=as_json)
            continue
        if not as_json:
            typer.echo(_line(clip, found))
        yield {"clip": str(clip), "marked": found.marked, "score": round(found.score, 2), "z": round(found.z, 2)} | {
            "offset_s": round(found.offset_s, 2),
            "faces": found.frames,
        }


def _line(clip: Path, found: "Found") -> str:
    if not found.frames:
        return f"{clip}: not marked (no face)"
    return f"{clip}: {'marked' if found.marked else 'not marked'} (score {found.score:.1f}, threshold {_threshold():g})"


def _failed(clip: Path, error: MusetalkError, *, as_json: bool) -> dict[str, Any]:
    if not as_json:
        typer.echo(f"{clip}: {error.about}; {error.cure}", err=True)
    return {"clip": str(clip), "error": {"code": error.code, "message": error.fact, "hint": error.cure}}
