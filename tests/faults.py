"""A proxy before an S3 server that does what networks and busy services do: seeded faults, and outages."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

# Refused or broken before the server hears of it; done, with an answer that is lost or cut short; done slowly.
FAULTS: Final = ("500", "503", "reset", "lost", "truncated", "slow")
_REFUSALS: Final = {
    "500": ("InternalError", "We encountered an internal error. Please try again."),
    "503": ("SlowDown", "Please reduce your request rate."),
    "400": ("ExpiredToken", "The provided token has expired."),
}
_SLOW_SECONDS: Final = 0.2
_HOP: Final = {"connection", "keep-alive", "transfer-encoding"}


class Proxy(ThreadingHTTPServer):
    """What is done to requests, and how often what was.

    Attributes:
        share: of requests that meet a fault.
        always: what meets every request, if anything: "reset" is an outage.
        only: what the path and query of those must contain that meet it.
        on_put: called with "before", "within" and "after", the path and the body of a PUT: before the server hears of
            it, when it has half of the body, and when it has answered. Its exception ends the request there.
        allows: what a policy allows, by method and path, if there is one. As on AWS it denies what is absent, too:
            who may not list the whole bucket is not told what is.
    """

    daemon_threads = True

    def __init__(self, target: str, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(target)
        self.target = (parts.hostname or "", parts.port or 80)
        self.share = share
        self.always: str | None = None
        self.only = ""
        self.on_put: Callable[[str, str, bytes], None] | None = None
        self.allows: Callable[[str, str], bool] | None = None
        self.met: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, path: str) -> str | None:
        """What the next request meets."""
        with self._lock:
            drawn = self._rng.choice(FAULTS) if self._rng.random() < self.share else None
            if self.always is not None and self.only in path:
                drawn = self.always
            self.met[drawn or "none"] += 1
            return drawn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are nothing to speak of."""


@contextmanager
def faulty(target: str, *, share: float = 0.2, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy before an endpoint."""
    with Proxy(target, share, seed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *words: Any) -> None:
        """Tests look at what comes of it."""

    def _serve(self) -> None:
        fault = self.server.fault(self.path)
        if fault == "reset":
            self._reset()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault in _REFUSALS:
            self._refuse(int(fault), *_REFUSALS[fault])
            return
        if self.server.allows is not None and not self.server.allows(self.command, self.path):
            self._refuse(403, "AccessDenied", "Access Denied")
            return
        answer, data = self._forwarded(body)
        if self.server.allows is not None and answer.status == HTTPStatus.NOT_FOUND:
            self._refuse(403, "AccessDenied", "Access Denied")
            return
        if fault == "lost" or (fault == "truncated" and not data):
            self._reset()
            return
        self._answer(answer, data, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's own names

    def _forwarded(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(*self.server.target, timeout=60)
        half = len(body) // 2
        try:
            self._pass("before", body)
            # The signature covers the host that the client asked.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.endheaders(body[:half] or None)
            self._pass("within", body)
            if body:
                connection.send(body[half:])
            answer = connection.getresponse()
            data = answer.read()
            self._pass("after", body)
            return answer, data
        finally:
            connection.close()

    def _pass(self, moment: str, body: bytes) -> None:
        if self.command == "PUT" and self.server.on_put is not None:
            self.server.on_put(moment, self.path, body)

    def _answer(self, answer: http.client.HTTPResponse, data: bytes, fault: str | None) -> None:
        self.send_response(answer.status)
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        half = len(data) // 2
        self.wfile.write(data[:half])
        if fault == "truncated":
            self._reset()
            return
        if fault == "slow":
            self.wfile.flush()
            time.sleep(_SLOW_SECONDS)
        self.wfile.write(data[half:])

    def _refuse(self, status: int, code: str, message: str) -> None:
        data = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        """End the connection as a router does that lost it: with a reset."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
