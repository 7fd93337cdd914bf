"""What `dub` does first with a film or a voice, under fire. In: small media files, a seed. Out: Findings.

Each case is a fork of a process that has imported everything: a native crash, or a limit that is passed, ends that one alone. Each
case follows from (seed, number).
"""

import contextlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzz.media import Seed, broken
from musetalk_cli.config import DemuxConfig, Runtime
from musetalk_cli.errors import InternalError, MusetalkError
from musetalk_cli.media.audio import SPEECH_HZ, speech_blocks
from musetalk_cli.stages.s1_demux import demux

WALL_S = 10.0  # of a case, on a processor that is its own
BUSY = 4  # so many times that, where it had less of the processor than WALL_S
MORE_BYTES = 1 << 30  # of address space, beyond what the loaded program has
RSS_BYTES = 768 << 20  # resident at the most, the loaded program included


class MediaFinding(NamedTuple):
    seed: int
    number: int
    name: str
    what: str
    where: str
    data: bytes


class _Running(NamedTuple):
    number: int
    seed: Seed
    data: bytes
    began: float
    told: int  # a pipe


def cases(
    seeds: Sequence[Seed], seed: int, start: int, stop: int, jobs: int, folder: Path
) -> Iterator[tuple[int, MediaFinding | None]]:
    """Cases [start, stop): how many are behind us, and what was wrong with one."""
    running: dict[int, _Running] = {}
    number = start
    done = set(range(start))
    reached = start
    while number < stop or running:
        while number < stop and len(running) < jobs:
            chance = Random((seed << 40) + number)
            chosen = chance.choice(seeds)
            data = broken(chosen.data, chance)
            pid, told = _begin(chosen, data, folder / f"case-{number}{Path(chosen.name).suffix}")
            running[pid] = _Running(number, chosen, data, time.monotonic(), told)
            number += 1
        for pid, found in _ended(running):
            one = running.pop(pid)
            done.add(one.number)
            (folder / f"case-{one.number}{Path(one.seed.name).suffix}").unlink(missing_ok=True)
            while reached in done:
                done.discard(reached)
                reached += 1
            what = None if found is None else MediaFinding(seed, one.number, one.seed.name, *found, one.data)
            yield reached, what


def ask(path: Path, *, is_film: bool) -> str:
    """What a dub does first: "" where it ended as it may, else what was wrong, in two lines."""
    try:
        if is_film:
            demux(path, config=DemuxConfig(), runtime=Runtime("cpu"), out=path.parent)
        for _ in speech_blocks(path, 30 * SPEECH_HZ):
            pass
    except InternalError as error:
        return _told(error)
    except MusetalkError as error:
        str(error)
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is what we look for
        return _told(error)
    return ""


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:200]!a}\n{where}"


def _begin(seed: Seed, data: bytes, path: Path) -> tuple[int, int]:
    path.write_bytes(data)
    told, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _child(path, seed.is_film, tell)
    os.close(tell)
    return pid, told


def _child(path: Path, is_film: bool, tell: int) -> None:
    """Never returns."""
    try:
        os.setsid()  # what it starts ends with it
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        found = ask(path, is_film=is_film)
        most_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if not found and most_rss > RSS_BYTES:
            found = f"memory: {most_rss >> 20} MiB\n"
        os.write(tell, found.encode("ascii", "replace")[:4000])
    finally:
        os._exit(0)


def _ended(running: dict[int, _Running]) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """Those that came to an end, or are brought to one."""
    select.select([one.told for one in running.values()], [], [], 0.2)
    for pid, one in list(running.items()):
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if not ended and not _is_over(pid, one):
            continue
        late = not ended
        if late:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
        said = os.read(one.told, 4096).decode()
        os.close(one.told)
        if late:
            yield (
                pid,
                (f"hang: no end after {time.monotonic() - one.began:.0f} s", f"{used.ru_utime + used.ru_stime:.1f} s of work"),
            )
        elif os.WIFSIGNALED(status):
            yield pid, (f"crash: {signal.Signals(os.WTERMSIG(status)).name}", "native")
        else:
            what, _, where = said.partition("\n")
            yield pid, (what, where) if said else None


def _is_over(pid: int, one: _Running) -> bool:
    """Past its time: of the clock where it works or waits for nothing, else of its own."""
    gone = time.monotonic() - one.began
    if gone < WALL_S:
        return False
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") >= WALL_S:
            return True
    return gone >= BUSY * WALL_S
