"""What is measured on where nobody names a film. In: seconds. Out: a 1080p25 film with one face, and voices as long. Made once, kept in
the cache. Knows nothing of stages."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from musetalk_cli.errors import MissingError
from musetalk_cli.session import cache_folder
from musetalk_cli.work import fingerprint

EXAMPLES = Path(__file__).parents[2] / "examples"  # of a checkout; an installed package has none
SIZE = (1920, 1080)
FPS = 25
MADE = 1  # raise when what is made changes


class Footage(NamedTuple):
    """A film, and two voices as long as it: the second is for the further language."""

    film: Path
    voice: Path
    other_voice: Path


def generated(seconds: float, folder: Path | None = None) -> Footage:
    """The example film, scaled and padded into 1920x1080 at 25 fps and repeated; its French voice, repeated, and the same from its
    middle on. folder: None: `bench` in the cache. Raises MissingError where this is no checkout."""
    film, voice = EXAMPLES / "film.mp4", EXAMPLES / "fr.wav"
    for path in (film, voice):
        if not path.is_file():
            raise MissingError(
                f"{path}: not there: an installed package comes without examples", "give a FILM, or run it in a checkout"
            )
    folder = folder or cache_folder() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    key = sha256(f"{MADE} {fingerprint(film)} {fingerprint(voice)} {seconds:g}".encode()).hexdigest()[:12]
    return Footage(
        _made(folder / f"film.{key}.mp4", film, seconds, _picture()),
        _made(folder / f"fr.{key}.wav", voice, seconds, {}),
        _made(folder / f"other.{key}.wav", voice, seconds, {"af": "asetrate=15200,aresample=16000"}),
    )


def _picture() -> dict[str, Any]:
    width, height = SIZE
    fit = f"scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1,setsar=1,fps={FPS}"
    bt709 = {f"color_{name}": "bt709" for name in ("primaries", "trc")} | {"colorspace": "bt709"}
    return {"vf": fit, "vcodec": "libx264", "preset": "veryfast", "crf": 18, "pix_fmt": "yuv420p", "acodec": "aac", **bt709}


def _made(path: Path, source: Path, seconds: float, options: dict[str, Any]) -> Path:
    """`source` again and again for so many seconds."""
    import ffmpeg

    from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg

    if path.exists():
        return path
    part = path.with_name(f"part.{os.getpid()}.{path.name}")
    try:
        looped = ffmpeg.input(media_url(source), **AS_FILE, stream_loop=-1)
        run_ffmpeg(looped.output(media_url(part), t=seconds, **options), purpose=f"make {path.name}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
