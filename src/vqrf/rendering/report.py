"""One self-contained page on what compression cost: pictures, scores, bytes, and the scene itself.

The chart is inline SVG. What else a page is made of is in `vqrf.rendering.html`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from vqrf.data.images import bytes_from_colors
from vqrf.files import write_atomically
from vqrf.geometry import Float32, Float64
from vqrf.rendering.evaluate import Evaluation
from vqrf.rendering.html import MAX_IMAGE_BYTES, data_uri, page_of, table_of
from vqrf.rendering.page import Exhibit

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
    scene: Exhibit | None = None,
) -> None:
    """Write the page.

    Args:
      path: the HTML file; written atomically.
      rows: a handful of test views; each has a score in `before` and in `after`.
      before, after: scores of the field and of what was decoded from the file; `after` knows the file's bytes
        and its sections.
      grid_bytes: of density and features as float32, what the file is measured against.
      settings: whatever names the run, shown as text; mappings within it, line by line.
      scene: the file's, which ends the page.

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
        f"<section><h2>Settings</h2>{table_of(_flat(settings))}</section>",
    ]
    if scene is not None:
        parts.append(f"<section><h2>Scene</h2>{scene.body}</section>")
    write_atomically(path, page_of(title, parts, scene.policy if scene else ""))


def _flat(settings: Mapping[str, object], within: str = "") -> dict[str, object]:
    """Each setting by itself, those within another by both names; without those that are not set."""
    lines: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines |= _flat(value, f"{within}{name}: ")
        elif value is not None:
            lines[f"{within}{name}"] = value
    return lines


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
            f'<figure><img src="{data_uri(image, image_bytes)}" {size} alt="{alt}">'
            f"<figcaption><b>{kind}</b> <span>{note}</span></figcaption></figure>"
        )
    return f'<h3>{escape(row.name)}</h3><div class="row">{"".join(figures)}</div>'


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


def _decibels(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "∞"


def _change(before: float, after: float, digits: int) -> str:
    if not math.isfinite(after - before):
        return "–"
    return f"{after - before:+.{digits}f}".replace("-", "−")
