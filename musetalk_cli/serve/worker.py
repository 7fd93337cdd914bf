"""A process that does one Order. In: a Request, a line of JSON on stdin. Out: the run's events as JSON lines on stdout, and how it ended.

A process of its own, as every run of the command has: it stops at a signal as the command does, it takes its memory with it, and what
kills it does not kill the page. stdin stays open as long as the server lives; its end stops the work as SIGTERM does, twice.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import IO, Any

from musetalk_cli.errors import MusetalkError
from musetalk_cli.progress import OnEvent
from musetalk_cli.serve.orders import FAILED, FINISHED, NOTE, Order, Request, Settings, from_json, leave_note, problem_of
from musetalk_cli.session import as_faults

BETWEEN_S = 1.0  # two signals at once would be one


def main() -> None:
    """The process."""
    request = from_json(sys.stdin.readline(), Request)
    threading.Thread(target=_stop_with_server, daemon=True).start()
    order, settings = request.order, request.settings.of(request.order)
    with _private_stdout() as out:
        try:
            with as_faults():
                found = WORK[order.kind](order, settings, partial(_tell, out))
        except MusetalkError as error:
            _tell(out, {"event": FAILED, "problem": asdict(problem_of(error))})
            raise SystemExit(error.exit_code) from error
        _tell(out, {"event": FINISHED, "found": found})


def _stop_with_server() -> None:
    while os.read(0, 4096):
        pass
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(BETWEEN_S)


@contextmanager
def _private_stdout() -> Iterator[IO[str]]:
    """What libraries print goes to stderr, and never between two events."""
    out = open(os.dup(1), "w", encoding="utf-8")  # noqa: SIM115 closed below
    os.dup2(2, 1)
    try:
        yield out
    finally:
        with suppress(BrokenPipeError):
            out.close()


def _tell(out: IO[str], record: Mapping[str, Any]) -> None:
    """A server that is gone hears nothing, and stops the work in its own way."""
    with suppress(BrokenPipeError):
        out.write(json.dumps(record, default=str) + "\n")
        out.flush()


def _inspect(order: Order, settings: Settings, told: OnEvent) -> Mapping[str, Any]:
    """Its sheet is drawn again, its cast map only where that is asked for."""
    from musetalk_cli.api import inspect

    film, overwrite = order.path(order.film), order.overwrite
    return inspect(film, config=settings.choices, place=settings.place, overwrite=overwrite, redraw=True, on_event=told).as_json()


def _dub(order: Order, settings: Settings, told: OnEvent) -> Mapping[str, Any]:
    """Leaves a note while it is not done: the first event comes when the work folder is held."""
    from musetalk_cli.api import dub

    film, place = order.path(order.film), settings.place
    work, noted = place.folder(film), False

    def heard(record: Mapping[str, Any]) -> None:
        nonlocal noted
        if not noted:
            leave_note(work, order)
            noted = True
        told(record)

    found = dub(
        film,
        order.path(order.voice) if order.voice else None,
        order.path(order.output) if order.output else None,
        cast=order.path(order.cast) if order.cast else None,
        language=order.language,
        config=settings.choices,
        place=place,
        hands=settings.hands,
        overwrite=order.overwrite,
        on_event=heard,
    )
    (work / NOTE).unlink(missing_ok=True)
    return found.as_json()


def _verify(order: Order, settings: Settings, told: OnEvent) -> Mapping[str, Any]:
    """Tells nothing on the way."""
    from musetalk_cli.api import verify

    original = settings.choices.original_audio
    found = verify(order.path(order.film), order.path(order.output), original_audio=original)
    return {**found.as_json(), "lines": found.lines()}


WORK = {"inspect": _inspect, "dub": _dub, "verify": _verify}

if __name__ == "__main__":
    main()
