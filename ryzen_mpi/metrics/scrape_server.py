"""GET /metrics, and nothing else: a few connections at a time, each with a time limit, in threads of their own."""

from __future__ import annotations

import socket
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

MOST_CONNECTIONS = 8
"""More at once are closed unanswered: a Prometheus or two need one each."""
PATIENCE_S = 5.0
"""For a client to say what it wants, and again to take the answer."""


class ScrapeServer:
    """Serves `registry` at `address`:`port` (0: a free one) until it is closed. Raises OSError where it cannot.

    `port` is the one it got. Requests are answered by daemon threads; whoever trains is never waited for, and waits
    for nobody.
    """

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        self._server = _Server(registry, address, port)
        self.port: int = self._server.server_port
        serve = partial(self._server.serve_forever, poll_interval=0.2)  # as long as close() may take
        threading.Thread(target=serve, name="metrics-server", daemon=True).start()

    def close(self) -> None:
        """Listens no more; harmless when repeated. An answer that is under way may go on to its end."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Its threads are daemons: nobody waits for a slow client, not even the end of a run."""

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        self.registry = registry
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Binds. HTTPServer's own also asks for the host's full name, which may take a resolver's patience."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Hands the connection to a thread, or closes it where there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:
        """What that thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket.socket, client_address: object) -> None:
        """Says nothing: a client that went away or was too slow is no event of a training."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE_S
    server_version, sys_version = "ryzen_mpi", ""

    def do_GET(self) -> None:
        """Answers; HEAD gets the same without the body."""
        if urlsplit(self.path).path != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, "only /metrics is here")
            return
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.server.registry)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing on the console of the training."""
