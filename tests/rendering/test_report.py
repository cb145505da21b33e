"""The page: complete, self-contained, harmless, and its pictures are the ones that were given."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqrf.data.images import bytes_from_colors
from vqrf.rendering import report as report_module
from vqrf.rendering.evaluate import Evaluation, ViewScore
from vqrf.rendering.html import table_of
from vqrf.rendering.page import exhibit
from vqrf.rendering.report import ReportRow, error_colors, write_report

VOID = {"meta", "img", "rect"}
NASTY = """<script>alert("x")</script>&'"""


class Page(HTMLParser):
    """Collects elements and text, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def row(name: str, side: int = 16) -> ReportRow:
    random = np.random.default_rng(len(name))
    reference, field, compressed = random.random((3, side, side + 4, 3)).astype(np.float32)
    return ReportRow(name, reference, field, compressed)


def arguments(names: list[str], side: int = 16) -> dict[str, Any]:
    before = tuple(ViewScore(name, 30.0 + i, 0.95, 0.1) for i, name in enumerate(names))
    after = tuple(ViewScore(name, 29.875 + i, 0.9412, 0.1) for i, name in enumerate(names))
    sections = {"header": 64, "codes": 300_000, NASTY: 12_345}
    return {
        "title": "a title",
        "rows": [row(name, side) for name in names],
        "before": Evaluation(before),
        "after": Evaluation(after, 312_409, sections),
        "grid_bytes": 62_481_800,
        "settings": {"preset": "paper", "command": NASTY, NASTY: 0.6},
    }


@pytest.fixture
def page(tmp_path: Path) -> Page:
    write_report(tmp_path / "report.html", **arguments(["test/r_0", "test/r_1"]))
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def image_of(attributes: dict[str, str | None]) -> np.ndarray:
    source = attributes["src"] or ""
    data = base64.b64decode(source.partition(";base64,")[2], validate=True)
    with PIL.Image.open(io.BytesIO(data)) as image:
        assert f"data:image/{(image.format or '').lower()}" == source.partition(";")[0]
        return np.asarray(image)


def test_the_page_shows_every_picture_that_was_given(page: Page) -> None:
    images = page.all("img")
    assert [image["alt"] for image in images] == [
        f"{kind} of view test/r_{i}" for i in range(2) for kind in ("reference", "field", "compressed", "error")
    ]
    for i in range(2):
        given_row = row(f"test/r_{i}")
        shown = [image_of(image) for image in images[4 * i : 4 * i + 4]]
        for image, colors in zip(shown, (given_row.reference, given_row.field, given_row.compressed), strict=False):
            np.testing.assert_array_equal(image, bytes_from_colors(colors))
        error = np.abs(given_row.compressed - given_row.reference).mean(-1)
        np.testing.assert_array_equal(shown[3], bytes_from_colors(error_colors(10 * error)))
        assert (images[4 * i]["width"], images[4 * i]["height"]) == ("20", "16")


def test_the_page_says_every_number(page: Page) -> None:
    text = " ".join(page.text)
    for number in [
        "0.312 MB",
        "312,409 bytes",
        "200 ×",
        "62.5 MB",
        "30.38 dB",
        "−0.12 dB",
        "0.9412",
        "−0.0088",
    ]:
        assert number in text, number
    for name, size, share in [
        ("header", "64", "0.0"),
        ("codes", "300,000", "96.0"),
        (NASTY, "12,345", "4.0"),
    ]:
        assert name in text and f"{size} ({share} %)" in text
    for score in ["30.00", "29.88", "31.00", "30.88"]:
        assert score in page.text
    assert all(setting in text for setting in ["preset", "paper", "command", NASTY, "0.6"])


def test_bars_are_as_long_as_sections_are_large(page: Page) -> None:
    widths = [float(bar["width"] or 0) for bar in page.all("rect")]
    assert widths[1] == max(widths) and widths[2] / widths[1] == pytest.approx(12_345 / 300_000, abs=1e-3)
    (chart,) = page.all("svg")
    assert chart["role"] == "img" and "codes: 300000 bytes" in (chart["aria-label"] or "")


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base", "form"} == set()
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "href" for name in attributes)
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_settings_within_settings_are_lines_and_what_is_not_set_is_none(tmp_path: Path) -> None:
    settings = {"rates": {"density": 0.15, "mlp": {"first": 1}}, "prune": None, "seed": 0}
    write_report(tmp_path / "report.html", **{**arguments(["v"]), "settings": settings})
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert [text[text.index(name) + 1] for name in ("rates: density", "rates: mlp: first", "seed")] == ["0.15", "1", "0"]
    assert "prune" not in text


def test_the_page_ends_in_the_scene_and_runs_nothing_but_the_viewer(tmp_path: Path) -> None:
    scene = exhibit(b"scene", "<a>.vqrf")
    write_report(tmp_path / "report.html", **arguments(["v"]), scene=scene)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert text.rindex("<vqrf-viewer") > text.rindex("<table")
    data, script = page.all("script")
    assert (data["type"], data["data-name"]) == ("application/octet-stream;base64", "<a>.vqrf") and script == {}
    (policy,) = [meta["content"] or "" for meta in page.all("meta") if meta.get("http-equiv")]
    allowed = dict(part.split(maxsplit=1) for part in policy.split("; "))
    content = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert allowed["script-src"] == f"'sha256-{digest}'" and allowed["default-src"] == "'none'"
    assert set(allowed) == {"default-src", "img-src", "style-src", "script-src", "worker-src"}


def test_the_style_reads_in_light_and_dark_and_on_a_small_screen(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", **arguments(["v"]))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    style = unescape(text.partition("<style>")[2].partition("</style>")[0])
    assert "prefers-color-scheme: dark" in style and "max-width: 760px" in style
    assert "@import" not in style and "url(" not in style
    used, defined = (set(re.findall(pattern, style)) for pattern in (r"var\((--\w+)\)", r"(--\w+):"))
    assert used == defined


@given(st.text())
def test_any_text_arrives_as_text(text: str) -> None:
    text = text.replace("\r", "").replace("\0", "").encode("utf-8", "ignore").decode()
    table = table_of({"name": text})
    assert "".join(Page(table).text) == "name" + text


def test_pictures_that_do_not_fit_are_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_arguments = arguments(["v"], side=64)
    write_report(tmp_path / "large.html", **given_arguments)
    monkeypatch.setattr(report_module, "MAX_IMAGE_BYTES", 40_000)
    write_report(tmp_path / "small.html", **given_arguments)
    large, small = ((tmp_path / name).read_text(encoding="utf-8") for name in ("large.html", "small.html"))
    assert "image/webp" not in large and "image/webp" in small and len(small) < len(large)
    for image in Page(small).all("img"):
        assert image_of(image).shape == (64, 68, 3)


def test_colours_of_errors_rise_from_black_to_white_in_brightness() -> None:
    colors = error_colors(np.linspace(0, 1, 101, dtype=np.float32))
    np.testing.assert_allclose(colors[[0, -1]], [[0, 0, 0], [1, 1, 1]], atol=1e-9)
    assert (np.diff(colors @ [0.30, 0.59, 0.11]) > 0).all()
    np.testing.assert_array_equal(error_colors(np.float32([-1, 7])), colors[[0, -1]])


def test_scores_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    good = arguments(["a", "b"])
    for change, reason in [
        ({"after": good["before"]}, "file_bytes and sections"),
        ({"before": Evaluation(good["before"].views[::-1])}, "same views"),
        ({"rows": [row("c")]}, r"no score for \['c'\]"),
    ]:
        with pytest.raises(ValueError, match=reason):
            write_report(tmp_path / "report.html", **{**good, **change})
    assert not list(tmp_path.iterdir())
