"""Rows through a net in batches, on a GPU with copies beside the work. In: rows on the CPU, a function. Out: its answers on the CPU.

    upload stream     rows 2 ---- rows 3 ----
    work                  answer 1 ---- answer 2 ---- answer 3
    download stream                     rows 1 ------ rows 2

One copy up and one down for each array and batch, between pinned memory and the GPU, so that neither waits for the other.
Knows nothing of what is computed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

BATCHES_AHEAD = 2  # given to the GPU and not yet taken back


class Made(NamedTuple):
    """On the device. finite: a boolean of no dimension, which nobody has waited for."""

    rows: Tensor
    finite: Tensor


class Answer(NamedTuple):
    """On the CPU: of these rows."""

    rows: slice
    made: Tensor
    finite: bool


Run = Callable[..., Made]


@contextmanager
def as_memory_error() -> Iterator[None]:
    """torch's out-of-memory as Python's own, which callers can catch without torch."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(str(error).splitlines()[0]) from error


def answers(run: Run, given: Sequence[Tensor], device: torch.device, at_once: int) -> Iterator[Answer]:
    """given: arrays of the same N rows on the CPU. run: from part of each, on the device, to as many rows; it may be given more."""
    splits = splits_of(len(given[0]), at_once)
    return _on_gpu(run, given, device, splits, at_once) if device.type == "cuda" else _on_cpu(run, given, splits)


def splits_of(rows: int, at_once: int) -> list[slice]:
    """All rows in order."""
    return [slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once)]


def filled(part: Tensor, rows: int) -> Tensor:
    """(n, ...) -> (rows, ...), the last one again and again."""
    return torch.cat([part, part[-1:].expand(rows - len(part), *part.shape[1:])]) if len(part) < rows else part


def size_for(rows: int, at_once: int) -> int:
    """How many of them a batch is filled up to: cuDNN looks for its fastest kernels once for each size, so there should be few."""
    return min(at_once, 1 << (rows - 1).bit_length())


def _on_cpu(run: Run, given: Sequence[Tensor], splits: Sequence[slice]) -> Iterator[Answer]:
    for rows in splits:
        with torch.inference_mode():
            made = run(*(array[rows] for array in given))
        yield Answer(rows, made.rows, bool(made.finite))


class _Landing(NamedTuple):
    """On its way to pinned memory."""

    rows: slice
    made: Tensor
    finite: Tensor
    landed: torch.cuda.Event


def _on_gpu(run: Run, given: Sequence[Tensor], device: torch.device, splits: Sequence[slice], at_once: int) -> Iterator[Answer]:
    pinned = [array.pin_memory() for array in given]
    up, down, work = _stream(device), _stream(device), torch.cuda.current_stream(device)
    flying: deque[_Landing] = deque()
    for rows in splits:
        count = rows.stop - rows.start
        with torch.inference_mode():
            with torch.cuda.stream(up):
                parts = [array[rows].to(device, non_blocking=True) for array in pinned]
            work.wait_stream(up)
            for part in parts:
                part.record_stream(work)  # its memory is not given away before the work is done
            made = run(*(filled(part, size_for(count, at_once)) for part in parts))
            flying.append(_download(made, rows, count, down, work))
        if len(flying) > BATCHES_AHEAD:
            yield _taken(flying.popleft())
    while flying:
        yield _taken(flying.popleft())


def _stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def _download(made: Made, rows: slice, count: int, down: torch.cuda.Stream, work: torch.cuda.Stream) -> _Landing:
    down.wait_stream(work)
    with torch.cuda.stream(down):
        host = [torch.empty(on_gpu.shape, dtype=on_gpu.dtype, pin_memory=True) for on_gpu in (made.rows[:count], made.finite)]
        for there, on_gpu in zip(host, (made.rows[:count], made.finite), strict=True):
            there.copy_(on_gpu, non_blocking=True)
            on_gpu.record_stream(down)
        landed: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        landed.record(down)
    return _Landing(rows, host[0], host[1], landed)


def _taken(landing: _Landing) -> Answer:
    landing.landed.synchronize()
    return Answer(landing.rows, landing.made, bool(landing.finite))
