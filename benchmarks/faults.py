"""An HTTP proxy that spoils a share of the requests that pass through it, for tests and benchmarks.

It is seeded: of each run of requests one is spoiled, at a place drawn by lot, and the kinds of faults take turns.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from web import QuietServer

Fault = Literal[
    "reset",
    "lost_answer",
    "stall",
    "status_403",
    "status_429",
    "status_503",
    "cut_answer",
    "cut_request",
    "short_answer",
]
FAULTS: tuple[Fault, ...] = (  # those that pass, and that a client can see
    "reset",  # the connection is reset before the store hears of the request
    "cut_answer",  # half of the body comes, under the Content-Length of the whole
    "status_503",
    "lost_answer",  # the store has done it, and the connection is reset before it can say so
    "stall",  # nothing comes for a while, then the connection ends
    "status_429",
    "cut_request",  # half of the body reaches the store
)
_STALL_SECONDS = 1.0
_UPSTREAM_SECONDS = 60.0
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


@dataclass
class FaultProxy:
    """What the proxy does and has done.

    Attributes:
        upstream: The address of the store behind it.
        one_in: Of so many requests one is spoiled; 0 spoils none.
        seed: Of the lot.
        kinds: The faults, which take turns.
        only: What the path of a request must hold to be counted and spoiled.
        address: Its own address.
        requests: How many came, by method.
        faults: How many were spoiled, by kind.
    """

    upstream: str
    one_in: int
    seed: int
    kinds: Sequence[Fault]
    only: str = ""
    address: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(self.seed)
        self._spoiled_at = 0

    def draw(self, method: str, path: str) -> Fault | None:
        """The fault of the next request, if any."""
        if self.only not in path:
            return None
        with self._lock:
            number = self.requests.total()
            self.requests[method] += 1
            if not self.one_in:
                return None
            if number % self.one_in == 0:
                self._spoiled_at = number + self._random.randrange(self.one_in)
            if number != self._spoiled_at:
                return None
            fault = self.kinds[self.faults.total() % len(self.kinds)]
            self.faults[fault] += 1
            return fault


@contextlib.contextmanager
def fault_proxy(
    upstream: str, *, one_in: int = 20, seed: int = 0, kinds: Sequence[Fault] = FAULTS
) -> Iterator[FaultProxy]:
    """A proxy in front of the server at `upstream`, `http://host:port`, until the end of the block."""
    proxy = FaultProxy(upstream, one_in, seed, tuple(kinds))
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with QuietServer(("127.0.0.1", 0), handler) as server:
        proxy.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield proxy
        finally:
            server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        pass

    def _pass_on(self) -> None:
        body = self._read_body()
        fault = self.proxy.draw(self.command, self.path)
        if fault == "reset":
            self._reset()
        elif fault == "stall":
            time.sleep(_STALL_SECONDS)
            self._reset()
        elif fault is not None and fault.startswith("status_"):
            self._answer(int(fault.rpartition("_")[2]), [("Retry-After", "1")], b"", 0)
        elif fault == "cut_request":
            self._ask_half(body)
            self._reset()
        else:
            self._answer_spoiled(fault, *self._ask(body))

    def _answer_spoiled(
        self, fault: Fault | None, status: int, headers: list[tuple[str, str]], content: bytes, size: int
    ) -> None:
        half = content[: len(content) // 2]
        if fault is None:
            self._answer(status, headers, content, size)
        elif fault == "short_answer" and content:  # as of a cache that holds a part and takes it for the whole
            self._answer(status, headers, half, len(half))
        elif fault == "cut_answer" and content:
            self._answer(status, headers, half, size)
            self.close_connection = True
        else:
            self._reset()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = _pass_on

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    def _connect(self) -> http.client.HTTPConnection:
        place = urlsplit(self.proxy.upstream)
        return http.client.HTTPConnection(place.hostname or "", place.port, timeout=_UPSTREAM_SECONDS)

    def _send(self, upstream: http.client.HTTPConnection, body: bytes, size: int) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                upstream.putheader(name, value)
        if body or self.command in ("PUT", "POST", "PATCH"):
            upstream.putheader("Content-Length", str(size))
        upstream.endheaders(body or None)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes, int]:
        """Status, headers, body and the size that the headers tell."""
        with contextlib.closing(self._connect()) as upstream:
            self._send(upstream, body, len(body))
            response = upstream.getresponse()
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
            content = response.read()
            size = int(response.getheader("Content-Length", 0)) if self.command == "HEAD" else len(content)
            return response.status, headers, content, size

    def _ask_half(self, body: bytes) -> None:
        with contextlib.closing(self._connect()) as upstream, contextlib.suppress(OSError):
            self._send(upstream, body[: len(body) // 2], len(body))

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, size: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """Close with a TCP reset: a linger time of 0 s."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
