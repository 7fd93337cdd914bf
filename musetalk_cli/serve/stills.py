"""A frame of a film as a picture. In: a film, a second of its clock. Out: JPEG. Made by ffmpeg in a process of its own, within limits."""

import tempfile
from pathlib import Path
from typing import Any

import ffmpeg

from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg

MOST_PX = 1920
CPU_S = 30  # a 4K frame far behind its keyframe takes 2 s of one core
ROUNDING_S = 0.0005  # a second that was written with three digits still means the frame that begins at it
QUALITY = 3  # of ffmpeg's 2 to 31; lower is better


def still_of(video: Path, second: float, width_px: int) -> bytes:
    """The first frame that is shown at that second of the film's own timestamps or later: of a film and its dub, which have the same
    timestamps, the same frame. No wider than width_px, as it is to be seen.

    Raises InputError where there is none.
    """
    at = max(second - ROUNDING_S, 0)
    film: Any = ffmpeg.input(media_url(video), ss=f"{at:.6f}", seek_timestamp=1, **AS_FILE, threads=1)["V:0"]
    square = film.filter("scale", "trunc(iw*sar/2)*2", "ih").filter("setsar", "1")
    small = square.filter("scale", f"min({min(width_px, MOST_PX)},iw)", "-2", flags="area")
    with tempfile.TemporaryDirectory(prefix="musetalk-still-") as folder:
        to = Path(folder) / "still.jpg"
        told = ffmpeg.output(small, media_url(to), **{"frames:v": 1, "q:v": QUALITY, "f": "image2", "update": 1})
        try:
            run_ffmpeg(told.global_args("-timelimit", str(CPU_S)), purpose="show a frame")
            return to.read_bytes()
        except (InternalError, FileNotFoundError) as error:
            raise InputError(f"no frame can be shown at {second:.3f} s", "choose an earlier second", thing=video.name) from error
