"""The viewer on this machine: a server for one scene, which answers nobody else.

It listens on 127.0.0.1 only, and refuses requests that name another host, so that no page of the web can reach it through a
name that points here. A scene may change while it is served (a field that is trained): each version has its own ETag.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vqrf import __version__
from vqrf.rendering.page import page_with_source

HOST = "127.0.0.1"
SCENE_PATH = "/scene.vqrf"
MEDIA_TYPE = "model/vnd.vqrf"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Source = Callable[[], bytes | None]
"""Gives the bytes of the scene as they are now; None while there are none yet."""


class SceneServer(ThreadingHTTPServer):
    """Serves a scene and the page that shows it.

    Args:
      source: asked at each request for the scene.
      name: of the scene, for a person.
      port: 0 takes one that is free.
      refresh_seconds: how often the page asks for a newer version; 0: never.

    Raises:
      OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, source: Source, name: str, port: int = 0, refresh_seconds: float = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.source = source
        self.page = page_with_source(SCENE_PATH.lstrip("/"), name, refresh_seconds)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: SceneServer
    server_version = f"vqrf/{__version__}"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is the user's."""

    def _respond(self, *, with_body: bool) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        path = self.path.partition("?")[0]
        if host not in (HOST, "localhost"):
            self._send(HTTPStatus.FORBIDDEN, b"", {})
        elif path == "/":
            self._send(HTTPStatus.OK, self.server.page, {"Content-Type": "text/html; charset=utf-8"}, with_body)
        elif path == SCENE_PATH:
            self._send_scene(with_body)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"", {})

    def _send_scene(self, with_body: bool) -> None:
        try:
            data = self.server.source()
        except OSError:
            self._send(HTTPStatus.NOT_FOUND, b"", {})
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
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


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
