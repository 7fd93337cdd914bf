"""The server from its start to its end. In: a folder, a port. Out: a URL with a token; InterruptedRun once a signal ends it.

Listens on 127.0.0.1 and nowhere else. The first signal closes the page and lets the running step finish, the second ends that too.
"""

import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from musetalk_cli.errors import InterruptedRun, MissingError, UsageError
from musetalk_cli.serve.orders import Settings
from musetalk_cli.signals import NOTICE

ADDRESS = "127.0.0.1"
GRACE_S = 2  # for answers under way: a browser may keep half a film waiting for ever
MOST_CONNECTIONS = 100


def run_server(folder: Path, port: int, settings: Settings, *, show: bool, told: Callable[[str], None]) -> None:
    """Until a signal; then raises InterruptedRun. told: is given the URL, once connections are taken. show: open it in a browser.

    Raises UsageError for what is no folder and for a port that is taken, MissingError without the extra `serve`.
    """
    try:
        import uvicorn

        from musetalk_cli.serve.app import Pages
        from musetalk_cli.serve.desk import Desk
        from musetalk_cli.serve.guard import Guard, new_token
    except ModuleNotFoundError as error:
        raise MissingError(f"{error.name} is not installed", "pip install 'musetalk[serve]'", thing="serve") from error

    desk, token = Desk(folder, settings), new_token()
    with _listening(port) as door, _signals_raise():
        port = door.getsockname()[1]
        pages = Pages(desk, closing=lambda: server.should_exit)
        config = uvicorn.Config(
            Guard(pages.app(), token, port),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = uvicorn.Server(config)
        url = f"http://{ADDRESS}:{port}/?token={token}"
        told(url)
        try:
            with _shown(url, show):
                server.run(sockets=[door])
        finally:
            if desk.tasks.at_work:
                os.write(2, NOTICE)
            desk.tasks.end()


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((ADDRESS, port))
            door.listen()
        except OSError as error:
            raise UsageError(
                f"port {port}: {error.strerror}", "choose another, or 0 for any that is free", thing="--port"
            ) from error
        yield door


@contextmanager
def _signals_raise() -> Iterator[None]:
    """InterruptedRun in this thread. uvicorn takes both signals while it serves, and hands them on when it has ended."""

    def answer(number: int, _: FrameType | None) -> None:
        raise InterruptedRun(number)

    before = {number: signal.signal(number, answer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown(url: str, wanted: bool) -> Iterator[None]:
    """In the user's browser, by way of a file that only the user may read: arguments of a program are seen by everyone on the machine."""
    if not wanted:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="musetalk-serve-") as folder:
        page = Path(folder) / "page.html"
        page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">', encoding="utf-8")
        if not webbrowser.open(page.as_uri()):
            print("no browser could be opened: open the URL by hand", file=sys.stderr)
        yield
