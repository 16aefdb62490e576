"""Run a web application on a socket that is already bound, and say when it is ready."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from starlette.types import ASGIApp

from penala.errors import EndpointError

LOOPBACK = "127.0.0.1"
_BACKLOG = 1024
_WATCH_S = 5.0


def log_to_stderr() -> None:
    """Write log lines to standard error, which is the process's log file."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("httpx", "httpcore", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def listen_on_port(port: int) -> socket.socket:
    """Return a listening TCP socket on loopback; raise EndpointError when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run may linger
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        what = f"port {port} cannot be used: {error.strerror}"
        raise EndpointError(
            what, fix="stop the program that holds it, or delete the endpoint and choose another"
        ) from error
    return listener


def listen_on_path(path: Path) -> socket.socket:
    """Return a listening unix domain socket that only this user may connect to; an old one in its place is replaced.

    The kernel takes at most 107 bytes of path: give a short relative one.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


def run(app: ASGIApp, listener: socket.socket, ready: Path) -> None:
    """Answer on `listener` until SIGTERM, or until the file `ready` is removed, with its workspace for example.

    The file is there from when requests are taken. Requests under way at the end are answered first; whoever asked for
    the end bounds that time.
    """
    import uvicorn

    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, proxy_headers=False, ws="none", http="h11"
    )
    ready.touch()  # the kernel already queues connections
    threading.Thread(target=_end_without, args=(ready,), name="watch", daemon=True).start()
    uvicorn.Server(config).run(sockets=[listener])


def _end_without(ready: Path) -> None:
    while ready.exists():
        time.sleep(_WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)
