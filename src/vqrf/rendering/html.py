"""What the pages that are read, and not moved about in, have in common: one file, its style, its images, its tables.

A page loads nothing, from a network or from other files: images are data URIs, drawings are inline SVG, and a content policy in
its head forbids the rest. It has no script but the viewer's, where it shows a scene.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import PIL.Image

from vqrf.data.images import Bytes

MAX_IMAGE_BYTES = 4_000_000
"""All images of a page together; in base64 they take 4/3 of it. What does not fit as PNG becomes WebP."""

WEBP_QUALITIES = (95, 85, 70)
"""Tried in this order until an image fits its share of `MAX_IMAGE_BYTES`; the last is taken as it comes."""


def page_of(title: str, parts: Sequence[str], policy: str = "") -> bytes:
    """The file: its title, which is text, its parts, which are HTML, and what its policy allows besides images and styles."""
    allowed = "; ".join(filter(None, [_POLICY, policy]))
    page = _PAGE.format(title=escape(title), policy=allowed, style=_STYLE, body="\n".join(parts))
    return page.encode("utf-8", "backslashreplace")


def data_uri(image: Bytes, most: int) -> str:
    """An image [H,W,3] or [H,W] in the page. Lossless as long as it takes at most `most` bytes."""
    data, kind = encoded(image, "PNG"), "png"
    for quality in WEBP_QUALITIES:
        if len(data) <= most:
            break
        data, kind = encoded(image, "WEBP", quality), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encoded(image: Bytes, image_format: str, quality: int = 0) -> bytes:
    """An image [H,W,3] or [H,W] as a file of a format that Pillow names so; `quality` 0..100 is for one with loss."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, image_format, quality=quality)
    return buffer.getvalue()


def table_of(facts: Mapping[str, object]) -> str:
    """Names beside what they are, as a table."""
    lines = [f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>' for name, value in facts.items()]
    return f'<div class="scroll"><table class="facts"><tbody>{"".join(lines)}</tbody></table></div>'


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2430; --dim: #5b6675; --page: #f6f7f9; --card: #fff; --line: #dde1e7; --bar: #2f7d84;
  --test: #8a5fb0; --odd: #c4442d; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4e8ee; --dim: #9aa5b4; --page: #14181e; --card: #1d232b; --line: #333c48; --bar: #58b3ba;
  --test: #b493d6; --odd: #ef7c62; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 20px 0 6px; overflow-wrap: anywhere; }
.note, .cards span, figcaption span, .legend { color: var(--dim); font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 0; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.cards dt { color: var(--dim); font-size: 13px; }
.cards dd { margin: 0; }
.cards b { display: block; font-size: 24px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: 10px; }
@media (max-width: 760px) { .row { grid-template-columns: repeat(2, 1fr); } }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; }
img { display: block; width: 100%; height: auto; }
figcaption { padding: 6px 10px; border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 8px; align-items: center; }
.ramp { width: 180px; height: 12px; border-radius: 3px; border: 1px solid var(--line); }
vqrf-viewer { display: block; height: min(70vh, 620px); border-radius: 8px; overflow: hidden; }
vqrf-viewer > img { height: 100%; object-fit: contain; }
.chart { display: block; width: 100%; max-width: 760px; height: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 8px 4px; }
.chart text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
.chart rect { fill: var(--bar); }
.warnings { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--odd); border-radius: 8px;
  padding: 10px 16px 10px 34px; }
.drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 10px; margin-top: 8px; }
.drawings svg { display: block; width: 100%; height: auto; fill: none; stroke-width: 0.7; }
svg .train { stroke: var(--bar); } svg .test { stroke: var(--test); } svg .doubt { stroke: var(--odd); stroke-width: 1.4; }
svg .box { stroke: var(--ink); stroke-dasharray: 4 3; } svg .point { stroke: var(--dim); opacity: 0.5; }
b.train { color: var(--bar); } b.test { color: var(--test); } b.doubt { color: var(--odd); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; align-items: start; }
.sheet figcaption { font-size: 12px; overflow-wrap: anywhere; }
.odd { border-color: var(--odd); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); font-size: 14px; }
th, td { padding: 4px 14px; border-bottom: 1px solid var(--line); text-align: left; overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--dim); }
.facts th { overflow-wrap: normal; }
.scores td, .scores thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
tfoot td, tfoot th { font-weight: 600; color: var(--ink); }
"""
