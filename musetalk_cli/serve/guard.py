"""Who may speak to the server. In: any request. Out: those of the person who started it; everything else gets 403, and no word more.

    another Host            403   a name that an attacker let point to this machine (DNS rebinding)
    GET ?token=...          303   to the page without it, the token now in a cookie that scripts and other sites do not get
    no cookie, a wrong one  403   pictures, films and events included
    POST of another Origin  403   a form or script of another site

Knows nothing of what is asked for.
"""

import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_BYTES = 32
READING = ("GET", "HEAD")
HEADERS = {  # of every answer; the page itself comes from here alone, and no other site may frame or read it
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
}


def new_token() -> str:
    """For a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class Guard:
    """Around an ASGI app that listens on 127.0.0.1:`port`."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"} | ({"127.0.0.1", "localhost"} if port == 80 else set())
        self._cookie = f"musetalk-{port}"  # browsers keep one jar for all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # uvicorn refuses a WebSocket that nobody accepts
        answer = self._refusal(scope["method"], Headers(scope=scope), QueryParams(scope["query_string"]))
        if answer is not None:
            return await answer(scope, receive, send)
        return await self._app(scope, receive, _with_headers(send))

    def _refusal(self, method: str, headers: Headers, query: QueryParams) -> Response | None:
        """What is answered in the app's stead."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return Response(status_code=403)
        if method in READING and "token" in query:
            return self._welcome(query["token"])
        if not self._is_known(cookie_parser(headers.get("cookie", ""))):
            return Response(status_code=403)
        if method not in READING and (method != "POST" or headers.get("origin") != f"http://{host}"):
            return Response(status_code=403)
        return None

    def _welcome(self, token: str) -> Response:
        if not _same(token, self._token):
            return Response(status_code=403)
        answer = RedirectResponse("/", status_code=303, headers=HEADERS)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return answer

    def _is_known(self, cookies: Mapping[str, str]) -> bool:
        return _same(cookies.get(self._cookie, ""), self._token)


def _same(given: str, right: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return secrets.compare_digest(given.encode(errors="replace"), right.encode())


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
