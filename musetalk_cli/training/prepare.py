"""`musetalk prepare`: a folder of videos to a training set. In: RAW, settings. Out: SET, and the hours before and after.

    SET/samples/NAME/     see training.dataset
    SET/manifest.jsonl    a line for every face that was followed, kept or not, with the reason
    SET/videos/*.json     what became of each video, written when its samples are there: a stopped run goes on after these
    SET/prepare.json      the settings; a set is made with one kind of them

Videos are divided among processes; what is wrong with one, even that it kills its process, never stops the others.
"""

import ctypes
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import cattrs

from musetalk_cli.errors import InputError, MissingError, RetryableError, UsageError
from musetalk_cli.reading import is_plain_name, read_json
from musetalk_cli.signals import Stop
from musetalk_cli.training.dataset import FPS, SAMPLES_DIR, UNFINISHED
from musetalk_cli.training.prepare_video import (
    RECORDS_DIR,
    PrepareConfig,
    Task,
    Tools,
    TrackRecord,
    Video,
    VideoRecord,
    identity_of,
    prepare_video,
    size_of,
    unreadable,
)

if TYPE_CHECKING:
    from musetalk_cli.models.whisper_encoder import WhisperEncoder

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".ogv", ".3gp"),
}
MANIFEST, SETTINGS = "manifest.jsonl", "prepare.json"
RECORD_CURE = "delete it and run the same command again"
EVERY_S = 5.0  # between two lines of progress
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# glibc 2.36 raises its threshold for mmap to the largest block ever freed; pictures that several threads share then tear its heaps,
# and a process grows by 125 KB a 720p frame (22 GB in two hours). With the threshold fixed it stays at 430 MB.
M_MMAP_THRESHOLD, MMAP_FROM_BYTES = -3, 1 << 17  # <malloc.h>


@dataclass(frozen=True, slots=True)
class Summary:
    """The supplement's Table 1 of one set, and what it does not show."""

    dataset: str
    hours_raw: float
    hours_face: float  # with face tracks, long and large enough
    hours_kept: float  # after sync filtering
    samples: int
    identities: int
    val_samples: int
    val_identities: int
    videos: int
    unreadable: int
    dropped: dict[str, int]  # tracks by reason, without its numbers

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        head = ("dataset", "hours raw", "hours with face tracks", "after sync filtering", "samples", "identities")
        hours = [f"{value:.3f}" for value in (self.hours_raw, self.hours_face, self.hours_kept)]
        row = (self.dataset, *hours, str(self.samples), str(self.identities))
        widths = [max(len(a), len(b)) for a, b in zip(head, row, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in (head, row)]
        held = f"held out: {self.val_samples} samples of {self.val_identities} identities"
        reasons = [f"dropped: {count} x {reason}" for reason, count in sorted(self.dropped.items(), key=lambda row: -row[1])]
        bad = [f"{self.unreadable} of {self.videos} videos could not be read: see {MANIFEST}"] if self.unreadable else []
        return [*table, held, *reasons, *bad]


def prepare(
    raw: Path,
    out: Path,
    config: PrepareConfig,
    *,
    workers: int = 0,
    stop: Stop | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Prepares all videos of `raw`, a folder or one file, into `out`, going on where an earlier run stopped.

    workers: processes; 0: one a core. stop: asked between two videos. Raises InputError where there is no video, UsageError where
    the set was made with other settings, InterruptedRun after the running videos once stop was requested.
    """
    stop = stop or Stop()
    videos = list_videos(raw)
    for video in videos:
        identity_of(video.source, config.identity)
    with _sole_writer(out):
        _same_settings(out, raw.resolve().name, config)
        _clean(out)
        open_tools(config)  # here first: what is missing is no fault of the videos
        waiting = [video for video in videos if not _is_done(out, video)]
        waiting.sort(key=lambda video: -size_of(video.path))
        report = _Progress(videos, waiting, say)
        try:
            for record in run_all(waiting, out, config, workers or os.cpu_count() or 1, stop):
                _write_record(out, record)
                report.done(record)
        finally:
            records = read_records(out)
            _write_whole(out / MANIFEST, "".join(json.dumps(asdict(line)) + "\n" for row in records for line in row.tracks))
        stop.check()
    return summary(raw.resolve().name, records)


def list_videos(raw: Path) -> list[Video]:
    """Every video below `raw`, or `raw` itself, by path. Raises InputError where there is none."""
    if raw.is_file():
        return [Video(raw, raw.name, _safe(raw.stem))]
    paths = sorted(path for path in raw.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not paths:
        raise InputError(f"{raw}: holds no video", f"give a folder with videos ({' '.join(sorted(VIDEO_SUFFIXES))})")
    sources = [path.relative_to(raw).as_posix() for path in paths]
    plain = [_safe(path.stem) for path in paths]
    stems = [stem if plain.count(stem) == 1 else f"{stem}.{_digest(source)}" for stem, source in zip(plain, sources, strict=True)]
    return [Video(*row) for row in zip(paths, sources, stems, strict=True)]


def summary(dataset: str, records: Sequence[VideoRecord]) -> Summary:
    """Hours, samples and identities of what was prepared."""
    lines = [line for record in records for line in record.tracks]
    kept, judged = [line for line in lines if line.kept], [line for line in lines if line.judged]
    val = [line for line in kept if line.split == "val"]
    dropped: dict[str, int] = {}
    for line in lines:
        if not line.kept:
            kind = re.split(r"[:,]| \d", line.reason.removeprefix(f"{Path(line.source).name}: "))[0]
            dropped[kind] = dropped.get(kind, 0) + 1
    return Summary(
        dataset=dataset,
        hours_raw=sum(record.seconds for record in records) / 3600,
        hours_face=_hours(judged),
        hours_kept=_hours(kept),
        samples=len(kept),
        identities=len({line.identity for line in kept}),
        val_samples=len(val),
        val_identities=len({line.identity for line in val}),
        videos=len(records),
        unreadable=sum(record.unreadable for record in records),
        dropped=dropped,
    )


def run_all(videos: Sequence[Video], out: Path, config: PrepareConfig, workers: int, stop: Stop) -> Iterator[VideoRecord]:
    """The records of all videos as they are finished. A video whose process dies is tried once more alone, then given up."""
    broken = yield from _run_pool(videos, out, config, workers, stop)
    while broken and not stop.requested:
        suspects, rest = broken[:workers], broken[workers:]
        for video in suspects:
            if stop.requested:
                return
            dead = yield from _run_pool([video], out, config, 1, stop)
            if dead:
                yield unreadable(video, "its process was killed twice: out of memory, or the decoder crashed", config)
        broken = yield from _run_pool(rest, out, config, workers, stop)


def _run_pool(
    videos: Sequence[Video], out: Path, config: PrepareConfig, workers: int, stop: Stop
) -> Generator[VideoRecord, None, list[Video]]:
    """Records until all are done, a process dies or stop is requested. Returns what is left after a death, first those that ran."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(out, config))
    waiting = list(videos)
    running: dict[Future[VideoRecord], Video] = {}
    try:
        while running or (waiting and not stop.requested):
            while waiting and len(running) < workers and not stop.requested:
                running[pool.submit(_work, waiting[0])] = waiting[0]
                waiting.pop(0)
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                record = future.result()
                del running[future]
                yield record
    except BrokenProcessPool:
        return [*running.values(), *waiting]
    finally:
        pool.shutdown(wait=not running, cancel_futures=True)
        for child in multiprocessing.active_children() if running else ():
            child.kill()
    return []


class _Worker:
    """What a process opens once."""

    out: Path
    config: PrepareConfig
    tools: Tools


def _start_worker(out: Path, config: PrepareConfig) -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our parent says what becomes of it
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no orphans after kill -9 on our parent
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_FROM_BYTES)
    cv2.setNumThreads(1)
    if config.speech:
        import torch

        torch.set_num_threads(1)
    _Worker.out, _Worker.config, _Worker.tools = out, config, open_tools(config)


def _work(video: Video) -> VideoRecord:
    return prepare_video(Task(video, _Worker.out, _Worker.tools, _Worker.config))


def open_tools(config: PrepareConfig) -> Tools:
    """Whisper and the sync expert that the settings name. Raises MissingError or UsageError where there are none."""
    if not config.speech:
        return Tools(None, None)
    from musetalk_cli.training.sync import open_expert

    return Tools(_open_whisper(config.whisper), open_expert(config.sync))


def _open_whisper(folder: str) -> "WhisperEncoder":
    if not folder:
        from musetalk_cli.models.lite import load_lite_whisper
        from musetalk_cli.weights import embedded_lite

        return load_lite_whisper(embedded_lite())
    import torch

    from musetalk_cli.models.whisper import load_whisper

    for name in ("model.safetensors", "pytorch_model.bin"):
        if (Path(folder) / name).is_file():
            return load_whisper(Path(folder) / "config.json", Path(folder) / name, torch.device("cpu"), torch.float32)
    raise MissingError(f"{folder}: holds no model.safetensors of whisper-tiny", "leave --whisper out to use the embedded one")


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    for name in (SAMPLES_DIR, RECORDS_DIR):
        (out / name).mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RetryableError(f"{out}: another `musetalk prepare` writes it", "wait for it, or choose another SET") from None
    try:
        yield
    finally:
        lock.release()


def _same_settings(out: Path, dataset: str, config: PrepareConfig) -> None:
    """Raises UsageError where the set was begun with other settings."""
    now = json.loads(json.dumps({"dataset": dataset, **asdict(config)}))
    path = out / SETTINGS
    before = json.loads(path.read_text()) if path.exists() else now
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        told = ", ".join(f"{key} {before.get(key)!r} (now {now[key]!r})" for key in changed)
        raise UsageError(f"{out}: was begun with {told}", "use the same settings, or choose another SET")
    _write_whole(path, json.dumps(now, indent=1) + "\n")


def _clean(out: Path) -> None:
    """Without what a killed run left unfinished."""
    for folder in (out / SAMPLES_DIR, out / RECORDS_DIR):
        for path in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _record_path(out: Path, source: str) -> Path:
    return out / RECORDS_DIR / f"{_safe(Path(source).stem)}.{_digest(source)}.json"


def _is_done(out: Path, video: Video) -> bool:
    """Whether an earlier run finished this very file; samples of another file under its name are taken away."""
    path = _record_path(out, video.source)
    if not path.exists():
        return False
    record = _read_record(path)
    if record.size == size_of(video.path):
        return True
    for line in record.tracks:
        if line.kept:
            shutil.rmtree(out / SAMPLES_DIR / line.name, ignore_errors=True)
    path.unlink()
    return False


def read_records(out: Path) -> list[VideoRecord]:
    """What became of every video that is finished, by path."""
    records = [_read_record(path) for path in (out / RECORDS_DIR).glob("*.json") if not path.name.startswith(UNFINISHED)]
    return sorted(records, key=lambda record: record.source)


def _read_record(path: Path) -> VideoRecord:
    try:
        record = cattrs.structure(read_json(path), VideoRecord)
    except (OSError, ValueError, TypeError, AttributeError, cattrs.BaseValidationError) as error:
        raise InputError(f"{path}: no record of a video", RECORD_CURE) from error
    if not all(is_plain_name(line.name) for line in record.tracks if line.kept):  # what is taken away lies in our folder
        raise InputError(f"{path}: a sample's name is a path", RECORD_CURE)
    return record


def _write_record(out: Path, record: VideoRecord) -> None:
    _write_whole(_record_path(out, record.source), json.dumps(asdict(record), indent=1) + "\n")


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_name(f"{UNFINISHED}{path.name}")
    beside.write_text(text)
    os.replace(beside, path)


class _Progress:
    """A line now and then: how far, how fast, how long still."""

    def __init__(self, videos: Sequence[Video], waiting: Sequence[Video], say: Callable[[str], None] | None) -> None:
        self._say, self._total, self._done = say or (lambda _: None), len(videos), len(videos) - len(waiting)
        self._bytes, self._left = 0, max(sum(size_of(video.path) for video in waiting), 1)
        self._seconds, self._begun, self._said = 0.0, time.monotonic(), 0.0
        if self._done:
            self._say(f"{self._done} of {self._total} videos were finished before")

    def done(self, record: VideoRecord) -> None:
        self._done, self._bytes, self._seconds = self._done + 1, self._bytes + record.size, self._seconds + record.seconds
        if record.unreadable:
            self._say(f"{record.source}: {record.tracks[0].reason}")
        now = time.monotonic()
        if now - self._said < EVERY_S and self._done < self._total:
            return
        self._said, took = now, now - self._begun
        left = took * (self._left - self._bytes) / max(self._bytes, 1)
        self._say(f"{self._done} of {self._total} videos, {self._seconds / took * FPS:.0f} frames/s, {left / 60:.1f} min left")


def _hours(lines: Sequence[TrackRecord]) -> float:
    return sum(line.frames for line in lines) / FPS / 3600


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "video"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()
