"""What the page asks and what it gets. In: requests that the guard let through. Out: JSON, pictures, films, events. Only calls.

GET  /                    the page, /page.css, /page.js
GET  /api/folder          films, voices and results that can be chosen
GET  /api/film?name=      where the work on a film stands: what is kept, a dub that was stopped, its cast, its contact sheet
POST /api/inspect         start looking for shots and faces
POST /api/cast            who gets which voice: written to the cast map
POST /api/dub             start, or go on
POST /api/stop            after the running step; once more: at once
GET  /api/events          server-sent: the State of what is under way, whenever it changes
GET  /api/result?name=    shots and score of a result, and of which film
GET  /file/NAME           a file of the folder, in ranges
GET  /face/FILM/NAME      a person of a cast
GET  /still/NAME?at=      a frame as JPEG
GET  /report/NAME         the report of a result, in a sandbox
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, TypeVar

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from musetalk_cli.errors import MusetalkError, RetryableError, UsageError
from musetalk_cli.serve.casting import Change
from musetalk_cli.serve.desk import Desk
from musetalk_cli.serve.orders import DubWish, InspectWish, VerifyWish, from_json, problem_of
from musetalk_cli.session import fault_of

MOST_BODY = 1_000_000  # bytes; a cast of a thousand people has 100 kB
LOOK_S = 0.2  # between two looks for news
BEAT_S = 15.0  # a line without a meaning, so that nothing on the way takes a quiet stream for dead
STILLS_AT_ONCE = 2
# What lies in the folder may come from anyone. Opened by itself it gets an origin of its own, which has no cookie, and no script but the
# report's, whose page has a stricter policy within.
FILE_POLICY = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'"
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CastWish:
    """What a page sends."""

    film: str
    version: str
    persons: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Pages:
    """The routes, around one Desk. closing: whether the server is about to end, which ends the streams of events."""

    desk: Desk
    closing: Callable[[], bool]
    stills: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STILLS_AT_ONCE))

    def app(self) -> Starlette:
        routes = [
            Route("/", self.page),
            Route("/page.css", self.style),
            Route("/page.js", self.script),
            Route("/api/folder", self.folder),
            Route("/api/film", self.film),
            Route("/api/inspect", self.inspect, methods=["POST"]),
            Route("/api/cast", self.cast, methods=["POST"]),
            Route("/api/dub", self.dub, methods=["POST"]),
            Route("/api/verify", self.verify, methods=["POST"]),
            Route("/api/stop", self.stop, methods=["POST"]),
            Route("/api/events", self.events),
            Route("/api/result", self.result),
            Route("/file/{name}", self.file),
            Route("/face/{film}/{name}", self.face),
            Route("/still/{name}", self.still),
            Route("/report/{name}", self.report),
        ]
        faults: dict[Any, Any] = {MusetalkError: _told, Exception: _told, HTTPException: _without_words}
        return Starlette(routes=routes, exception_handlers=faults)

    async def page(self, request: Request) -> Response:
        return Response(_template("page.html"), media_type="text/html")

    async def style(self, request: Request) -> Response:
        return Response(_template("page.css"), media_type="text/css")

    async def script(self, request: Request) -> Response:
        return Response(_template("page.js"), media_type="text/javascript")

    async def folder(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self.desk.folder.listing))

    async def film(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self.desk.standing, _asked(request, "name")))

    async def inspect(self, request: Request) -> Response:
        wish = await _wish(request, InspectWish)
        await run_in_threadpool(self.desk.inspect, wish)
        return _json(self.desk.tasks.state())

    async def cast(self, request: Request) -> Response:
        wish = await _wish(request, CastWish)
        return _json(await run_in_threadpool(self.desk.change_cast, wish.film, wish.version, wish.persons))

    async def dub(self, request: Request) -> Response:
        wish = await _wish(request, DubWish)
        await run_in_threadpool(self.desk.dub, wish)
        return _json(self.desk.tasks.state())

    async def verify(self, request: Request) -> Response:
        wish = await _wish(request, VerifyWish)
        await run_in_threadpool(self.desk.verify, wish)
        return _json(self.desk.tasks.state())

    async def stop(self, request: Request) -> Response:
        self.desk.tasks.stop()
        return _json(self.desk.tasks.state())

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._news(), media_type="text/event-stream")

    async def result(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self.desk.result, _asked(request, "name")))

    async def file(self, request: Request) -> Response:
        path = await run_in_threadpool(self.desk.folder.medium, request.path_params["name"])
        return FileResponse(path, headers={"content-security-policy": FILE_POLICY})

    async def face(self, request: Request) -> Response:
        film, name = request.path_params["film"], request.path_params["name"]
        return FileResponse(await run_in_threadpool(self.desk.still_of_person, film, name), media_type="image/jpeg")

    async def still(self, request: Request) -> Response:
        name, at, width = request.path_params["name"], _number(request, "at"), int(_number(request, "width", 1280))
        async with self.stills:
            data = await run_in_threadpool(self.desk.still, name, at, width)
        return Response(data, media_type="image/jpeg")

    async def report(self, request: Request) -> Response:
        path = await run_in_threadpool(self.desk.report, request.path_params["name"])
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    async def _news(self) -> AsyncIterator[str]:
        seen, quiet_s = -1, 0.0
        while not self.closing():
            tasks = self.desk.tasks
            if tasks.version != seen:
                state = tasks.state()
                seen, quiet_s = state.version, 0.0
                yield f"data: {_as_json(state)}\n\n"
            elif quiet_s > BEAT_S:
                quiet_s = 0.0
                yield ":\n\n"
            await asyncio.sleep(LOOK_S)
            quiet_s += LOOK_S


async def _told(request: Request, error: Exception) -> Response:
    """What the page shows: the thing, the fact, the cure."""
    fault = error if isinstance(error, MusetalkError) else fault_of(error)
    status = 409 if isinstance(fault, RetryableError) else 400 if isinstance(error, MusetalkError) else 500
    return JSONResponse({"problem": asdict(problem_of(fault))}, status_code=status)


async def _without_words(request: Request, error: Exception) -> Response:
    return Response(status_code=error.status_code if isinstance(error, HTTPException) else 500)


async def _wish(request: Request, kind: type[T]) -> T:
    """The body of a POST. Raises UsageError for what no page of ours sends."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise UsageError("too much was sent", "load the page again")
    try:
        return from_json(body, kind)
    except ValueError as error:
        raise UsageError("what was sent is not understood", "load the page again") from error


def _asked(request: Request, name: str) -> str:
    return request.query_params.get(name, "")


def _number(request: Request, name: str, usual: float | None = None) -> float:
    text = request.query_params.get(name, "" if usual is None else str(usual))
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e7:  # no number at all is not, either
        raise UsageError(f"{name}={text!r}: is no such number", "load the page again")
    return number


def _json(record: Any) -> Response:
    return Response(_as_json(record), media_type="application/json")


def _as_json(record: Any) -> str:
    return json.dumps(asdict(record), default=str)


@cache
def _template(name: str) -> str:
    """With the greys and the wipe of the report's page."""
    loader = ChoiceLoader([PackageLoader("musetalk_cli.serve"), PackageLoader("musetalk_cli.report")])
    return Environment(loader=loader, autoescape=False, undefined=StrictUndefined).get_template(name).render()
