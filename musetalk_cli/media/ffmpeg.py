"""The ffmpeg program as a child process. In: a graph built with ffmpeg-python. Out: files, and what it logged. Knows nothing of film.

Never a shell, never the network, never waiting at a prompt; a child does not outlive us.
"""

import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from musetalk_cli.errors import InputError, InternalError, MissingError, MusetalkError, RetryableError
from musetalk_cli.work import DISK_FAILS, DISK_FULL, disk_fault

PROTOCOLS = "file"  # a reference inside a film must not open a network connection
# Formats that hold a film or a voice themselves. Playlists (hls, dash, concat, imf, sdp), numbered pictures (image2), indexes to other files
# (vobsub) and devices (lavfi, v4l2) are left out: they would read what the user did not name.
FORMATS = ",".join(
    (
        "mov,mp4,matroska,webm,avi,mpegts,mpegtsraw,mpeg,mpegvideo,mxf,gxf,lxf,nut,flv,asf,asf_o,ogg,wtv,dv,rm,nuv,pva,gif,apng,yuv4mpegpipe",
        "ivf,obu,av1,h261,h263,h264,hevc,vvc,evc,m4v,vc1,dirac,dnxhd,mjpeg,cavsvideo",
        "wav,w64,aiff,caf,au,flac,mp3,aac,loas,ac3,eac3,ac4,dts,dtshd,truehd,mlp,amr,amrnb,amrwb,ape,tta,tak,wv,mpc,mpc8,dsf,iff,iamf",
        "voc,oma,spdif,sox,qcp,shn,gsm,g722,sbc,aptx,aptx_hd,codec2,lc3,qoa,osq,apac,ircam,nistsphere,paf,pvf,svx,avr,sds",
    )
)
AS_FILE = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}  # for whatever opens a file that a user gave
AS_FILE_ARGS = ("-protocol_whitelist", PROTOCOLS, "-format_whitelist", FORMATS)
LOG_LINES = 6  # of ffmpeg's last words in an error message
OLDEST = 5  # major version
LACKING = re.compile(r"Unknown encoder '([^']+)'")
STOPPED = 255  # its exit code after SIGTERM and SIGINT, and after an error of EPERM
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def run_ffmpeg(
    output: Any, *, purpose: str, repeated: Sequence[str] = (), unmapped: Path | None = None, loglevel: str = "error"
) -> str:
    """Run the graph whose last node is `output` (of ffmpeg-python) to its end and return its log.

    What ffmpeg-python cannot say: `repeated`, options of the output that stand there more than once; `unmapped`, one more input,
    the last, of which no stream is taken.

    The child has a session of its own, so that the first Ctrl-C does not reach it; whatever exception ends our waiting kills it,
    and so does our own death where the system knows how (Linux). Raises ResourceError on a full or failing disk, MissingError where
    this ffmpeg lacks an encoder, RetryableError where something ended it, InternalError where it fails otherwise: what may be wrong with
    the input is to be found out before.
    """
    *graph, target = ffmpeg.get_args(output)
    argv = [str(find_ffmpeg()), "-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", loglevel, *graph, *repeated, target]
    if unmapped is not None:
        argv += [*AS_FILE_ARGS, "-i", media_url(unmapped)]
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )
    try:
        log = child.communicate()[1].decode(errors="replace")
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        raise _fault_of(child.returncode, log, purpose, argv[0])
    return log


def _fault_of(code: int, log: str, purpose: str, program: str) -> MusetalkError:
    """What an exit code that is not 0, and the last words, mean to a user."""
    told = next((number for number in DISK_FULL | DISK_FAILS if os.strerror(number) in log), 0)
    number = errno.EFBIG if code == -signal.SIGXFSZ else told
    if fault := disk_fault(OSError(number, ""), f"ffmpeg could not {purpose}"):
        return fault
    asked_to_stop = code == STOPPED and os.strerror(errno.EPERM) not in log
    if code < 0 or asked_to_stop:
        by = "a signal" if asked_to_stop else signal.Signals(-code).name
        fact = f"ffmpeg could not {purpose}: it was ended by {by}"
        return RetryableError(fact, "look for what ended it, often too little memory; then run the same command again")
    if lacking := LACKING.search(log):
        return MissingError(
            f"{program}: this build of ffmpeg has no encoder {lacking.group(1)!r}, needed to {purpose}",
            "install a full build, or take this one off PATH: then the one that came with imageio-ffmpeg serves",
        )
    last = " | ".join(log.strip().splitlines()[-LOG_LINES:])
    return InternalError(
        f"ffmpeg could not {purpose}: {last}", "please report this with the command and `musetalk doctor --json`"
    )


@cache
def find_ffmpeg() -> Path:
    """The system's ffmpeg where one is on PATH, not older than 5, else the one that imageio-ffmpeg brings. Raises MissingError
    where neither is."""
    found = shutil.which("ffmpeg")
    if found and not _is_too_old(found):
        return Path(found)
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise MissingError(
            "there is no ffmpeg that runs on this machine",
            "install ffmpeg 5 or later, or pip install --force-reinstall imageio-ffmpeg",
        ) from error
    if shutil.which(program) is None:  # $IMAGEIO_FFMPEG_EXE is taken unseen
        raise MissingError(f"{program}: there is no such program", "let IMAGEIO_FFMPEG_EXE name an ffmpeg, or unset it")
    return Path(program)


def _is_too_old(program: str) -> bool:
    """Before 5 an MP4's tracks could begin at whole milliseconds only. Builds from git have no number and are taken as new."""
    said = subprocess.run(
        [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    ).stdout
    number = re.match(r"ffmpeg version n?(\d+)\.", said)
    return number is not None and int(number.group(1)) < OLDEST


def media_url(path: Path) -> str:
    """A name that libav takes for a file, whatever it begins with or holds: `-x.mp4`, `http:x.mp4`, `it's.mp4`."""
    url = f"file:{path.absolute()}"
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path.name!a}: the name is not in UTF-8", "rename the file or its folder") from error
    return url


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes ffmpeg, so that kill -9 on us ends it too."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child must not load anything

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask
