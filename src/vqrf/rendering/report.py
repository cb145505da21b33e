"""One self-contained page on what compression cost: pictures, scores, bytes.

The page loads nothing, from a network or from other files: images are data URIs, the chart is inline SVG, and
a content policy in its head forbids the rest. It has no script.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import PIL.Image

from vqrf.data.images import Bytes, bytes_from_colors
from vqrf.files import write_atomically
from vqrf.geometry import Float32, Float64
from vqrf.rendering.evaluate import Evaluation

MAX_IMAGE_BYTES = 4_000_000
"""All images of a page together; in base64 they take 4/3 of it. What does not fit as PNG becomes WebP."""

WEBP_QUALITIES = (95, 85, 70)
"""Tried in this order until an image fits its share of `MAX_IMAGE_BYTES`; the last is taken as it comes."""

ERROR_GAIN = 10
"""The error map shows an error of 1 / ERROR_GAIN of the range, or more, as the brightest colour."""


@dataclass(frozen=True, eq=False)
class ReportRow:
    """One test view as the page shows it; the three images are [H,W,3] float32 in 0..1.

    Attributes:
      name: of the view, as in the two evaluations.
      reference: the photo.
      field: rendered before compression.
      compressed: rendered from the file.
    """

    name: str
    reference: Float32
    field: Float32
    compressed: Float32


def write_report(
    path: str | Path,
    *,
    title: str,
    rows: Sequence[ReportRow],
    before: Evaluation,
    after: Evaluation,
    grid_bytes: int,
    settings: Mapping[str, object],
) -> None:
    """Write the page.

    Args:
      path: the HTML file; written atomically.
      rows: a handful of test views; each has a score in `before` and in `after`.
      before, after: scores of the field and of what was decoded from the file; `after` knows the file's bytes
        and its sections.
      grid_bytes: of density and features as float32, what the file is measured against.
      settings: whatever names the run, shown as text.

    Raises:
      ValueError: `after` has no bytes, `before` and `after` are of different views, or a row has no score.
      OSError: the file cannot be written.
    """
    if after.file_bytes is None or after.sections is None:
        raise ValueError("after: expected an evaluation with file_bytes and sections")
    names = [view.name for view in before.views]
    if names != [view.name for view in after.views]:
        raise ValueError("before and after: expected the same views in the same order")
    if missing := [row.name for row in rows if row.name not in names]:
        raise ValueError(f"rows: there is no score for {missing}")
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(before, after, after.file_bytes, grid_bytes),
        "<section><h2>Views</h2>" + _legend(),
        *(_row(row, before, after, MAX_IMAGE_BYTES // (4 * len(rows))) for row in rows),
        "</section>",
        f"<section><h2>Bytes by section</h2>{_chart(after.sections)}</section>",
        f"<section><h2>Scores by view</h2>{_score_table(before, after)}</section>",
        f"<section><h2>Settings</h2>{_settings_table(settings)}</section>",
    ]
    page = _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(parts))
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def error_colors(errors: Float32) -> Float64:
    """The colours [...,3] of values [...] in 0..1, from black to white: Green's cubehelix.

    Its perceived brightness rises evenly, so that it also reads in gray and without colour vision.

    Source: Green, "A colour scheme for the display of astronomical intensity images", 2011, eq. 2, with start
    0, 0.45 rotations, hue 1.6 and gamma 1: black, violet, pink, cream, white.
    """
    level = np.clip(np.asarray(errors, np.float64), 0, 1)
    angle = 2 * np.pi * (1 + 0.45 * level)
    amplitude = 1.6 * level * (1 - level) / 2
    weights = np.array([[-0.14861, 1.78277], [-0.29227, -0.90649], [1.97294, 0.0]])
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=-1) @ weights.T
    colors: Float64 = np.clip(level[..., None] + amplitude[..., None] * waves, 0, 1)
    return colors


def _summary(before: Evaluation, after: Evaluation, file_bytes: int, grid_bytes: int) -> str:
    cards = [
        ("file", f"{file_bytes / 1e6:.3f} MB", f"{file_bytes:,} bytes"),
        (
            "smaller by",
            f"{grid_bytes / file_bytes:.0f} ×",
            f"than its float32 grids, {grid_bytes / 1e6:.1f} MB",
        ),
        ("PSNR", f"{_decibels(after.psnr)} dB", f"{_change(before.psnr, after.psnr, 2)} dB from the field"),
        ("SSIM", f"{after.ssim:.4f}", f"{_change(before.ssim, after.ssim, 4)} from the field"),
    ]
    items = [f"<div><dt>{name}</dt><dd><b>{value}</b> <span>{note}</span></dd></div>" for name, value, note in cards]
    n_views = len(after.views)
    note = f"Means over {n_views} held-out view{'s' if n_views > 1 else ''}. MB = 10<sup>6</sup> bytes."
    return f'<dl class="cards">{"".join(items)}</dl><p class="note">{note}</p>'


def _legend() -> str:
    stops = bytes_from_colors(error_colors(np.linspace(0, 1, 17, dtype=np.float32)).astype(np.float32))
    ramp = ", ".join(f"rgb({r} {g} {b})" for r, g, b in stops.tolist())
    most = 1 / ERROR_GAIN
    return (
        '<div class="legend"><span>error, mean of |compressed − reference| over rgb:</span> <span>0</span>'
        f'<span class="ramp" style="background:linear-gradient(90deg, {ramp})"></span>'
        f"<span>≥ {most:g} of the range ({255 * most:.0f} of 255)</span></div>"
    )


def _row(row: ReportRow, before: Evaluation, after: Evaluation, image_bytes: int) -> str:
    scores = {
        "field": next(view for view in before.views if view.name == row.name),
        "compressed": next(view for view in after.views if view.name == row.name),
    }
    error = np.abs(row.compressed - row.reference).mean(-1)
    images = {
        "reference": bytes_from_colors(row.reference),
        "field": bytes_from_colors(row.field),
        "compressed": bytes_from_colors(row.compressed),
        "error": bytes_from_colors(error_colors(error * ERROR_GAIN).astype(np.float32)),
    }
    figures = []
    for kind, image in images.items():
        note = f"mean {error.mean():.4f}, shown × {ERROR_GAIN}" if kind == "error" else "held out"
        if kind in scores:
            note = f"{_decibels(scores[kind].psnr)} dB, SSIM {scores[kind].ssim:.4f}"
        size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
        alt = f"{kind} of view {escape(row.name)}"
        figures.append(
            f'<figure><img src="{_data_uri(image, image_bytes)}" {size} alt="{alt}">'
            f"<figcaption><b>{kind}</b> <span>{note}</span></figcaption></figure>"
        )
    return f'<h3>{escape(row.name)}</h3><div class="row">{"".join(figures)}</div>'


def _data_uri(image: Bytes, most: int) -> str:
    """Lossless as long as it takes at most `most` bytes."""
    data, kind = _encoded(image, "PNG"), "png"
    for quality in WEBP_QUALITIES:
        if len(data) <= most:
            break
        data, kind = _encoded(image, "WEBP", quality), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Bytes, image_format: str, quality: int = 0) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, image_format, quality=quality)
    return buffer.getvalue()


def _chart(sections: Mapping[str, int]) -> str:
    """Horizontal bars, in the order of the file, with bytes and share written beside them."""
    total, most = sum(sections.values()), max(1, *sections.values(), 1)
    line, left, length = 30, 150, 330
    bars = []
    for number, (name, size) in enumerate(sections.items()):
        y, width = number * line, max(1.0, length * size / most)
        share = 100 * size / max(total, 1)
        bars.append(
            f'<text x="{left - 10}" y="{y + 20}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y + 5}" width="{width:.1f}" height="20" rx="3"/>'
            f'<text x="{left + width + 8:.1f}" y="{y + 20}">{size:,} ({share:.1f} %)</text>'
        )
    label = "; ".join(f"{name}: {size} bytes" for name, size in sections.items())
    return (
        f'<svg class="chart" viewBox="0 0 640 {line * len(sections)}" role="img" '
        f'aria-label="{escape(label)}">'
        f'{"".join(bars)}</svg><p class="note">{total:,} bytes together.</p>'
    )


def _score_table(before: Evaluation, after: Evaluation) -> str:
    lines = [(escape(a.name), (a.psnr, b.psnr), (a.ssim, b.ssim)) for a, b in zip(before.views, after.views, strict=True)]
    lines.append(("mean", (before.psnr, after.psnr), (before.ssim, after.ssim)))
    cells = [
        f'<tr><th scope="row">{name}</th><td>{_decibels(p[0])}</td><td>{_decibels(p[1])}</td>'
        f"<td>{_change(*p, 2)}</td><td>{s[0]:.4f}</td><td>{s[1]:.4f}</td><td>{_change(*s, 4)}</td></tr>"
        for name, p, s in lines
    ]
    head = "<th>field</th><th>compressed</th><th>change</th>"
    return (
        '<div class="scroll"><table class="scores"><thead><tr><td></td><th colspan="3">PSNR, dB</th>'
        f'<th colspan="3">SSIM</th></tr><tr><th>view</th>{head}{head}</tr></thead>'
        f"<tbody>{''.join(cells[:-1])}</tbody><tfoot>{cells[-1]}</tfoot></table></div>"
    )


def _settings_table(settings: Mapping[str, object]) -> str:
    lines = [
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>' for name, value in settings.items()
    ]
    return f'<div class="scroll"><table><tbody>{"".join(lines)}</tbody></table></div>'


def _decibels(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "∞"


def _change(before: float, after: float, digits: int) -> str:
    if not math.isfinite(after - before):
        return "–"
    return f"{after - before:+.{digits}f}".replace("-", "−")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
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
  --ink: #1c2430; --dim: #5b6675; --page: #f6f7f9; --card: #fff; --line: #dde1e7; --bar: #2f7d84; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4e8ee; --dim: #9aa5b4; --page: #14181e; --card: #1d232b; --line: #333c48; --bar: #58b3ba; } }
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
.chart { display: block; width: 100%; max-width: 760px; height: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 8px 4px; }
.chart text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
.chart rect { fill: var(--bar); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); font-size: 14px; }
th, td { padding: 4px 14px; border-bottom: 1px solid var(--line); text-align: left; overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--dim); }
.scores td, .scores thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
tfoot td, tfoot th { font-weight: 600; color: var(--ink); }
"""
