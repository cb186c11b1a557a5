"""The page's server: a few addresses, GET alone, nothing from outside, nothing written.

No part of a request ever becomes a path: files are those of this package, read at the start, and runs have identities.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ryzen_mpi.errors import UserError
from ryzen_mpi.watch.answers import WINDOWS, one_run, overview
from ryzen_mpi.watch.finding import Runs
from ryzen_mpi.watch.gates import Gates

FILES = {
    "index.html": "text/html; charset=utf-8",
    "watch.css": "text/css; charset=utf-8",
    "watch.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "uplot/uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "uplot/uPlot.min.css": "text/css; charset=utf-8",
}
HEADERS = {
    # 'self' and nothing else: no inline script or style, no other host; trusted-types: no text ever becomes markup
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

Scope = MutableMapping[str, Any]


def make_app(runs: Runs, gates: Gates, host: str) -> Callable[..., Awaitable[None]]:
    """The application; `host` is the address that it is served at."""
    content = {name: files("ryzen_mpi.watch").joinpath("static", name).read_bytes() for name in FILES}

    def static(name: str) -> Callable[[Request], Response]:
        return lambda _: Response(content[name], headers={"content-type": FILES[name]})

    def all_runs(_: Request) -> Response:
        return _json(overview(runs, gates))

    def run(request: Request) -> Response:
        watched = runs.get(request.path_params["identity"])
        if watched is None:
            return _json({"error": "no such run"}, 404)
        window = request.query_params.get("window", "0")
        steps = int(window) if window in map(str, WINDOWS) else 0
        return _json(one_run(watched, request.query_params.get("since", ""), steps))

    routes = [Route("/", static("index.html")), Route("/api/runs", all_runs), Route("/api/runs/{identity}", run)]
    routes += [Route(f"/static/{name}", static(name)) for name in FILES if name != "index.html"]
    return _Guard(Starlette(routes=routes), allowed_hosts(host))


def _json(content: Any, status: int = 200) -> Response:
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def allowed_hosts(host: str) -> frozenset[str]:
    """Names that a request may call this server by, beside plain addresses: a page of another name that resolves to
    this machine (DNS rebinding) is turned away."""
    return frozenset(name.lower() for name in ("localhost", host, socket.gethostname(), socket.getfqdn()))


def is_allowed(value: str, names: frozenset[str]) -> bool:
    """Whether the Host header `value` is one of `names`, or an address; whatever the port, as ssh -L changes it."""
    name = value.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Guard:
    """Turns away what is no GET and what calls this server by another's name; adds HEADERS to every answer."""

    def __init__(self, app: Any, names: frozenset[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])

        async def guarded(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        if not is_allowed(headers.get(b"host", b"").decode("latin-1"), self._names):
            answer = _json({"error": "this server is not known by that name"}, 421)
        elif scope["method"] not in ("GET", "HEAD"):
            answer = _json({"error": "only GET"}, 405)
        else:
            await self._app(scope, receive, guarded)
            return
        await answer(scope, receive, guarded)


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address. Raises UserError where it can't be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"{host} is no address of this machine: {error.strerror}", "--host 127.0.0.1") from None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        raise UserError(f"{host} port {port} can't be had: {error.strerror}", "--port 0 takes a free one") from None
    return made


def serve(app: Any, made: socket.socket) -> None:
    """Answers until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, date_header=False, ws="none",
        lifespan="off", timeout_graceful_shutdown=2,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once it has closed
        uvicorn.Server(config).run(sockets=[made])
