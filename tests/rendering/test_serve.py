"""Whatever a client does, the server says nothing on the terminal, goes on, and keeps no more than its share."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from vqrf.rendering import serve
from vqrf.rendering.serve import SCENE_PATH, SceneServer

SCENE = bytes(range(256)) * 40


@contextmanager
def serving(source: Callable[[], bytes | None] = lambda: SCENE) -> Iterator[tuple[SceneServer, io.StringIO]]:
    """A server in a thread, and what the process says meanwhile on either stream."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), SceneServer(source, "x") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server, said
        finally:
            server.shutdown()
            thread.join()


def connect(server: SceneServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_address[1]), 20)


def ask(server: SceneServer, request: bytes) -> bytes:
    """All that comes for some bytes, until the server closes."""
    answer = b""
    with connect(server) as client:
        client.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                answer += part
    return answer


def request_of(server: SceneServer, path: str = SCENE_PATH, *lines: str, host: str | None = None) -> bytes:
    host = f"127.0.0.1:{server.server_address[1]}" if host is None else host
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "Connection: close", "", ""]).encode("latin-1")


def is_well(server: SceneServer) -> bool:
    with urllib.request.urlopen(f"{server.url}{SCENE_PATH.lstrip('/')}", timeout=20) as response:
        return bool(response.read() == SCENE)


def test_a_client_that_goes_away_is_nothing_to_speak_of() -> None:
    with serving(lambda: SCENE * 2000) as (server, said):
        for _ in range(20):
            client = connect(server)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, as of a tab that is closed
            client.sendall(request_of(server))
            client.recv(10)
            client.close()
        assert ask(server, request_of(server)).endswith(SCENE)
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((f"Range: bytes=-{'9' * 5000}",), b"200"),
        ((f"Range: bytes={'9' * 18}-",), b"416"),
        ((f"Range: bytes=0-{'9' * 18}",), b"206"),
        (("Range: bytes=\xb2-",), b"200"),
        (("If-None-Match: \xff",), b"200"),
        (("Host: 127.0.0.1",), b"403"),
        (("Content-Length: 10",), b"200"),
    ],
    ids=str,
)
def test_odd_headers_are_answered(lines: tuple[str, ...], status: bytes) -> None:
    with serving() as (server, said):
        assert ask(server, request_of(server, SCENE_PATH, *lines)).split()[1] == status
        assert is_well(server)
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", b"200"),
        ("LOCALHOST", b"200"),
        ("localhost:1", b"200"),
        ("127.0.0.1:x", b"403"),
        ("[::1]:80", b"403"),
        ("a@127.0.0.1", b"403"),
        ("127.0.0.1.example.org", b"403"),
        ("", b"403"),
    ],
)
def test_a_host_is_this_machine_with_or_without_a_port(host: str, status: bytes) -> None:
    """Browsers leave out port 80."""
    with serving() as (server, _):
        assert ask(server, request_of(server, host=host)).split()[1] == status


def test_the_address_of_port_80_is_as_browsers_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with SceneServer(lambda: SCENE, "x") as server:
        monkeypatch.setattr(serve, "USUAL_PORT", server.server_address[1])
        assert server.url == "http://127.0.0.1/"


def test_half_a_request_is_not_waited_for_even_if_it_comes_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 0.6)
    with serving() as (server, said):
        silent, dribbling = connect(server), connect(server)
        silent.sendall(b"GET / HTTP/1.1\r\nHost")
        closed_at = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while time.monotonic() < closed_at:
                dribbling.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() < closed_at
        assert silent.recv(1000) == b""
        silent.close()
        dribbling.close()
        assert is_well(server)
    assert said.getvalue() == ""


def test_of_too_many_connections_those_that_ask_nothing_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 8)
    before = threading.active_count()
    with serving() as (server, said):
        idle = [connect(server) for _ in range(60)]
        for client in idle:
            client.sendall(b"GET ")
        assert is_well(server)
        assert threading.active_count() - before <= 8 + 3
        assert sum(_is_closed(client) for client in idle) >= 60 - 8
        for client in idle:
            client.close()
    assert said.getvalue() == ""


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(0.5)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_many_at_once_are_all_answered() -> None:
    with serving() as (server, _):
        results: list[bool] = []
        threads = [threading.Thread(target=lambda: results.append(is_well(server))) for _ in range(300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 300


@pytest.mark.parametrize(
    ("error", "status"),
    [(FileNotFoundError("gone"), b"404"), (ValueError("is damaged \ud800\n"), b"500"), (MemoryError(), b"500")],
)
def test_a_scene_that_cannot_be_read_is_said_to_who_asks(error: Exception, status: bytes) -> None:
    def fail() -> bytes:
        raise error

    with serving(fail) as (server, said):
        answer = ask(server, request_of(server))
        assert answer.split()[1] == status
        assert status == b"404" or answer.endswith(str(error).encode("ascii", "backslashreplace"))
        assert ask(server, request_of(server, "/")).split()[1] == b"200"
    assert said.getvalue() == ""


def test_noise_is_no_reason_to_end() -> None:
    rng = random.Random(0)
    with serving() as (server, said):
        whole = request_of(server, SCENE_PATH, "Range: bytes=1-2")
        for _ in range(200):
            noise = bytearray(whole)
            for _ in range(rng.choice((1, 3, 20))):
                noise[rng.randrange(len(noise))] = rng.randrange(256)
            with connect(server) as client:
                client.sendall(bytes(noise[: rng.randrange(1, len(noise) + 1)]))
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass
        assert is_well(server)
    assert said.getvalue() == ""
