"""The viewer on this machine: a server for one scene, which answers nobody else.

It listens on 127.0.0.1 only, and refuses requests that name another host, so that no page of the web can reach it through a
name that points here. A scene may change while it is served (a field that is trained): each version has its own ETag.

Whatever a client does, nothing is said on the terminal. A request has to be there within `REQUEST_SECONDS`, an answer has to be
taken within `ANSWER_SECONDS`, and of `MAX_CONNECTIONS` that are open the one that has waited longest for its request makes room
for the next.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vqrf import __version__
from vqrf.rendering.page import page_with_source

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
USUAL_PORT = 80
"""Which browsers leave out of an address, and of the name of the host that they ask."""

SCENE_PATH = "/scene.vqrf"
MEDIA_TYPE = "model/vnd.vqrf"
REQUEST_SECONDS = 10.0
"""For a whole request, and between two of one connection: the page asks for a newer scene more often."""
ANSWER_SECONDS = 120.0
MAX_CONNECTIONS = 64
WAITING_CONNECTIONS = 128
"""Those that the system keeps while none is taken: browsers and tests open many at once."""

MAX_REASON_BYTES = 1000

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_HOST = re.compile(r"([^:]*)(?::(\d{1,5}))?")

Source = Callable[[], bytes | None]
"""Gives the bytes of the scene as they are now; None while there are none yet. What it raises is said to who asks."""


class SceneServer(ThreadingHTTPServer):
    """Serves a scene and the page that shows it.

    Args:
      source: asked at each request for the scene, by one thread at a time.
      name: of the scene, for a person.
      port: 0 takes one that is free.
      refresh_seconds: how often the page asks for a newer version; 0: never.

    Raises:
      OSError: the port is taken, or is not for everybody.

    Safe for untrusted clients.
    """

    daemon_threads = True
    request_queue_size = WAITING_CONNECTIONS

    def __init__(self, source: Source, name: str, port: int = 0, refresh_seconds: float = 0) -> None:
        self._lock = threading.Lock()
        self._n_open = 0
        self._waiting: dict[Any, None] = {}  # connections without a whole request, the longest first
        super().__init__((HOST, port), _Handler)
        self._source, self._source_lock = source, threading.Lock()
        self.page = page_with_source(SCENE_PATH.lstrip("/"), name, refresh_seconds)

    @property
    def url(self) -> str:
        port = self.server_address[1]
        return f"http://{HOST}/" if port == USUAL_PORT else f"http://{HOST}:{port}/"

    def server_bind(self) -> None:
        """Bind as a plain server does: one of HTTP asks name servers what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the terminal is the user's, and clients come and go as they like."""

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_full = self._n_open >= MAX_CONNECTIONS
            oldest = next(iter(self._waiting), None) if is_full else None
            if oldest is not None:
                del self._waiting[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread finds it closed, and ends
            if is_full and oldest is None:
                self.shutdown_request(request)
                return
            self._n_open += 1
            self._waiting[request] = None
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, connection: Any) -> None:
        with self._lock:
            self._n_open -= 1
            self._waiting.pop(connection, None)

    def mark(self, connection: Any, *, is_waiting: bool) -> None:
        """Say whether a connection waits for a request, or has one."""
        with self._lock:
            if is_waiting:
                self._waiting[connection] = None
            else:
                self._waiting.pop(connection, None)

    def scene(self) -> bytes | None:
        with self._source_lock:
            return self._source()


class _Timely(io.RawIOBase):
    """What a client sends, as long as it comes before the deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: SceneServer
    server_version = f"vqrf/{__version__}"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._timely = _Timely(self.connection)
        self.rfile = io.BufferedReader(self._timely)

    def handle_one_request(self) -> None:
        self._timely.deadline = time.monotonic() + REQUEST_SECONDS
        self.server.mark(self.connection, is_waiting=True)
        super().handle_one_request()

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is the user's."""

    def _respond(self, *, with_body: bool) -> None:
        self.server.mark(self.connection, is_waiting=False)
        self.connection.settimeout(ANSWER_SECONDS)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # what would follow is no request
        path = self.path.partition("?")[0]
        if not _is_ours(self.headers.get_all("Host") or []):
            self._send(HTTPStatus.FORBIDDEN, b"", {})
        elif path == "/":
            self._send(HTTPStatus.OK, self.server.page, {"Content-Type": "text/html; charset=utf-8"}, with_body)
        elif path == SCENE_PATH:
            self._send_scene(with_body)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"", {})

    def _send_scene(self, with_body: bool) -> None:
        try:
            data = self.server.scene()
        except Exception as error:  # whatever it is, it is said to who asks, and the next who asks may have more luck
            status = HTTPStatus.NOT_FOUND if isinstance(error, OSError) else HTTPStatus.INTERNAL_SERVER_ERROR
            reason = str(error).encode("ascii", "backslashreplace")[:MAX_REASON_BYTES]
            self._send(status, reason, {"Content-Type": "text/plain"}, with_body)
            return
        if data is None:
            self._send(HTTPStatus.NO_CONTENT, b"", {})
            return
        tag = f'"{zlib.crc32(data):08x}-{len(data)}"'
        headers = {"Content-Type": MEDIA_TYPE, "ETag": tag, "Accept-Ranges": "bytes"}
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", {"ETag": tag})
            return
        part = _part(self.headers.get("Range"), len(data))
        if part is None:
            self._send(HTTPStatus.OK, data, headers, with_body)
        elif not part:
            self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", {"Content-Range": f"bytes */{len(data)}"})
        else:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
            self._send(HTTPStatus.PARTIAL_CONTENT, data[part.start : part.stop], headers, with_body)

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str], with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _is_ours(hosts: list[str]) -> bool:
    """Whether a request names this machine, once, with any port: another may be led here by who works on it.

    >>> [_is_ours([host]) for host in ("127.0.0.1", "LOCALHOST:80", "example.org", "localhost.example.org:80", "")]
    [True, True, False, False, False]
    """
    if len(hosts) != 1:
        return False
    found = _HOST.fullmatch(hosts[0].strip().lower())
    return found is not None and found[1] in NAMES


def _part(header: str | None, length: int) -> range | None:
    """The bytes that a Range header asks for: None for all of them, an empty range for one that is not there.

    >>> _part("bytes=2-5", 10), _part("bytes=-3", 10), _part("bytes=10-", 10), _part("lines=1-2", 10)
    (range(2, 6), range(7, 10), range(0, 0), None)
    """
    found = _RANGE.fullmatch(header or "")
    if not found or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return range(max(length - int(last), 0), length) if int(last) else range(0)
    start, end = int(first), min(int(last), length - 1) if last else length - 1
    return range(start, end + 1) if start <= end else range(0)
