"""The page and the server: what is in the page, who may ask the server, and parts of a file."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqrf.codec.about import About
from vqrf.rendering.html import encoded
from vqrf.rendering.page import Link, page_with_scene, page_with_source
from vqrf.rendering.serve import HOST, SceneServer, _part

SCENE = bytes(range(256)) * 3


class Reader(HTMLParser):
    """Scripts, styles and the policy of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}, ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def one(self, tag: str, **wanted: str) -> tuple[dict[str, str | None], str]:
        ((attributes, text),) = [(a, t) for name, a, t in self.found if name == tag and wanted.items() <= a.items()]
        return attributes, text


def allowed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("name", ["lego.vqrf", '"><script>alert(1)</script>', "a&b'c"])
def test_the_page_holds_the_file_and_allows_only_its_own_script(name: str) -> None:
    reader = Reader(page_with_scene(SCENE, name))
    attributes, encoded = reader.one("script", id="scene")
    assert base64.b64decode(encoded) == SCENE and attributes["data-name"] == name
    policy = reader.one("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"] or ""
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts = [(a, text) for tag, a, text in reader.found if tag == "script" and "id" not in a]
    assert len(scripts) == 1 and not scripts[0][0]
    assert rules["script-src"] == allowed(scripts[0][1])
    assert rules["default-src"] == rules["connect-src"] == "'none'"
    assert all(not (a.get("src") or "").startswith(("http", "//")) for _, a, _ in reader.found)


def test_what_a_file_says_of_itself_is_text_on_its_page_whatever_it_is() -> None:
    bad = '"><script>alert(1)</script>'
    poster = encoded(np.full((8, 8, 3), 90, np.uint8), "WEBP", 50)
    about = About(title=bad, author=bad, licence=bad, description=f"{bad} & more", poster=poster)
    reader = Reader(
        page_with_scene(SCENE, "a.vqrf", about, Link(f"https://example.org/{bad}", f"https://example.org/{bad}.jpg"))
    )
    assert reader.one("title")[1] == reader.one("h1")[1] == bad
    metas = [attributes for tag, attributes, _ in reader.found if tag == "meta" and "content" in attributes]
    said = {attributes.get("name") or attributes.get("property"): attributes["content"] for attributes in metas}
    assert said["description"] == said["og:description"] == f"{bad} & more" and said["author"] == said["og:title"] == bad
    assert said["og:image"] == f"https://example.org/{bad}.jpg"
    assert len([tag for tag, attributes, _ in reader.found if tag == "script"]) == 2
    source = reader.one("img", slot="poster")[0]["src"] or ""
    assert base64.b64decode(source.removeprefix("data:image/webp;base64,")) == poster


def test_a_page_of_a_file_that_says_nothing_has_its_name_and_no_picture() -> None:
    reader = Reader(page_with_scene(SCENE, "a.vqrf"))
    assert reader.one("title")[1] == reader.one("h1")[1] == reader.one("meta", property="og:title")[0]["content"] == "a.vqrf"
    assert not [tag for tag, *_ in reader.found if tag == "img"]
    assert not [attributes for tag, attributes, _ in reader.found if attributes.get("property") == "og:image"]


def test_a_file_whose_name_is_no_text_has_a_page() -> None:
    assert Reader(page_with_scene(SCENE, "b\udcffd.vqrf")).one("script", id="scene")[0]["data-name"] == r"b\udcffd.vqrf"
    assert b"b\\udcffd" in page_with_source("scene.vqrf", "b\udcffd")


def test_the_page_of_a_server_asks_that_server_only() -> None:
    reader = Reader(page_with_source("scene.vqrf", "x", refresh_seconds=2.5))
    attributes, _ = reader.one("vqrf-viewer")
    assert attributes["src"] == "scene.vqrf" and attributes["refresh"] == "2.5"
    policy = reader.one("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"] or ""
    assert "connect-src 'self'" in policy


@contextmanager
def asking(source: Callable[[], bytes | None]) -> Iterator[Callable[..., tuple[int, bytes, dict[str, str]]]]:
    """A server in a thread, and a function that asks it."""
    with SceneServer(source, "x") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
            connection = http.client.HTTPConnection(*server.server_address[:2])
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            result = response.status, response.read(), dict(response.getheaders())
            connection.close()
            return result

        try:
            yield ask
        finally:
            server.shutdown()
            thread.join()


def test_the_server_gives_the_page_the_scene_and_nothing_else() -> None:
    with asking(lambda: SCENE) as ask:
        assert ask("/")[1] == page_with_source("scene.vqrf", "x")
        assert ask("/?src=elsewhere")[0] == 200
        status, body, headers = ask("/scene.vqrf")
        assert (status, body, headers["Content-Type"]) == (200, SCENE, "model/vnd.vqrf")
        assert ask("/scene.vqrf", "HEAD")[:2] == (200, b"")
        for path in ("/other", "/../pyproject.toml", "/scene.vqrf/", "/%2e%2e/"):
            assert ask(path)[0] == 404, path


def test_the_server_listens_on_this_machine_and_answers_only_to_its_name() -> None:
    with SceneServer(lambda: SCENE, "x") as server:
        assert server.server_address[0] == HOST == "127.0.0.1"
    with asking(lambda: SCENE) as ask:
        assert ask("/scene.vqrf", Host="localhost:80")[0] == 200
        for host in ("example.org", "example.org:80", "127.0.0.1.example.org:80", ""):
            assert ask("/scene.vqrf", Host=host)[:2] == (403, b""), host


def test_the_server_gives_parts() -> None:
    with asking(lambda: SCENE) as ask:
        status, body, headers = ask("/scene.vqrf", Range="bytes=10-19")
        assert (status, body, headers["Content-Range"]) == (206, SCENE[10:20], f"bytes 10-19/{len(SCENE)}")
        assert ask("/scene.vqrf", Range="bytes=-5")[1] == SCENE[-5:]
        assert ask("/scene.vqrf", Range="bytes=760-")[1] == SCENE[760:]
        status, _, headers = ask("/scene.vqrf", Range=f"bytes={len(SCENE)}-")
        assert status == 416 and headers["Content-Range"] == f"bytes */{len(SCENE)}"


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_part_is_a_slice(length: int, first: int, last: int) -> None:
    data = bytes(range(length))

    def part(header: str) -> bytes:
        found = _part(header, length)
        assert found is not None
        return data[found.start : found.stop]

    assert part(f"bytes={first}-{last}") == data[first : last + 1]
    assert part(f"bytes={first}-") == data[first:]
    assert part(f"bytes=-{last}") == (data[-last:] if last else b"")


def test_a_version_that_is_known_is_not_sent_again() -> None:
    versions: list[bytes | None] = [None]
    with asking(lambda: versions[0]) as ask:
        assert ask("/scene.vqrf")[0] == 204
        versions[0] = SCENE
        tag = ask("/scene.vqrf")[2]["ETag"]
        assert ask("/scene.vqrf", If_None_Match=tag)[:2] == (304, b"")
        versions[0] = SCENE[::-1]
        status, body, headers = ask("/scene.vqrf", If_None_Match=tag)
        assert (status, body) == (200, SCENE[::-1]) and headers["ETag"] != tag


def test_a_scene_that_cannot_be_read_is_not_found() -> None:
    def gone() -> bytes:
        raise FileNotFoundError

    with asking(gone) as ask:
        assert ask("/scene.vqrf")[0] == 404


def test_the_shipped_script_is_one_text_without_the_end_of_a_script_in_it() -> None:
    page = page_with_source("scene.vqrf", "x").decode()
    assert len(re.findall("</script>", page)) == 1
