"""The viewer in a real browser: what it draws against what `vqrf.render` draws, and what a person does with it.

Needs Chromium on the PATH; draws on the CPU, so pictures are small.
"""

from __future__ import annotations

import base64
import gzip
import http.server
import io
import json
import shutil
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from changed import changed
from oracles import harmonics, trilinear

from vqrf.cameras import Camera
from vqrf.codec.about import About
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import PRUNED
from vqrf.codec.container import SPACE_VERSION, VERSION, sections
from vqrf.codec.planes import PlanesField, shadows
from vqrf.codec.pyramid import PyramidField, build_nodes
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.preview import preview
from vqrf.geometry import Front, Lattice, Unbounded
from vqrf.rendering.evaluate import Evaluation, ViewScore, psnr
from vqrf.rendering.page import exhibit, page_with_scene, page_with_source
from vqrf.rendering.poster import first_view, poster_of
from vqrf.rendering.render import render
from vqrf.rendering.report import ReportRow, write_report
from vqrf.rendering.serve import SceneServer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")]

ROOT = Path(__file__).parents[2]
FLAGS = [
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--disable-background-networking",
]
VIEWER = "document.querySelector('vqrf-viewer')"
WAIT_MS = 60_000
EXACT_DB, FAST_DB = 40, 45


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Tab:
    """A page with a viewer, what it asked for, and what went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, url: str) -> Tab:
        self.page.goto(url)
        self.until(f"{VIEWER}.facts")
        return self

    def ask(self, expression: str, argument: Any = None) -> Any:
        return self.page.evaluate(expression, argument)

    def until(self, condition: str) -> None:
        """Wait. Playwright's own waiting evaluates texts in the page, which the page's policy forbids."""
        end = time.monotonic() + WAIT_MS / 1000
        while not self.ask(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def view(self) -> list[float]:
        """Target, yaw, pitch, distance."""
        return [float(number) for number in self.ask(f"{VIEWER}.stage.orbit.toString()").split(",")]

    def picture(self, camera: Camera) -> np.ndarray:
        """[H,W,3] in 0..1 of what the viewer sees through a camera."""
        intrinsics = {name: getattr(camera, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}
        text = self.ask(
            f"""async (camera) => {{
              const pixels = await {VIEWER}.stage.renderer.capture(camera)
              let text = ''
              for (const value of pixels) text += String.fromCharCode(value)
              return btoa(text)
            }}""",
            {"pose": camera.pose.ravel().tolist(), **intrinsics},
        )
        pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(camera.height, camera.width, 4)
        return pixels[..., :3] / np.float32(255)

    def await_rest(self) -> None:
        """Until the picture at rest is drawn once."""
        self.until(f"{VIEWER}.stage.progress().passes >= 1")


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 360, "height": 300}, reduced_motion="reduce")
    tab = Tab(context.new_page())
    yield tab
    context.close()
    assert tab.errors == []


@pytest.fixture
def export(tmp_path: Path) -> Callable[[bytes], str]:
    """Write a page with a file in it; its URL."""

    def write(data: bytes) -> str:
        path = tmp_path / "page.html"
        path.write_bytes(page_with_scene(data, "scene.vqrf"))
        return path.as_uri()

    return write


@pytest.fixture(scope="module")
def ball_file(ball_field: RadianceField) -> bytes:
    return encode(preview(ball_field))


def with_network(field: RadianceField, n_channels: int, frequencies: int, of_features: int = 0) -> RadianceField:
    """The same shape, coloured by a small random MLP."""
    rng = np.random.default_rng(0)
    sides = [n_channels * (1 + 2 * of_features) + 3 + 6 * frequencies, 32, 32, 3]
    layers = tuple(
        (
            (rng.standard_normal((out, inputs)) * (1.6 / inputs) ** 0.5).astype(np.float32),
            rng.standard_normal(out).astype(np.float32),
        )
        for inputs, out in pairwise(sides)
    )
    mixed = field.features @ rng.standard_normal((3, n_channels)).astype(np.float32)
    return changed(field, features=mixed, color_mlp=layers, feature_frequencies=of_features)


def looking_at(field: RadianceField, side: int, distance: float) -> Camera:
    """A square picture of the middle from an oblique place."""
    back = np.array([0.5, 0.62, 0.6]) / np.linalg.norm([0.5, 0.62, 0.6])
    right = np.cross([0, 0, 1], back) / np.linalg.norm(np.cross([0, 0, 1], back))
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], 1)
    pose[:3, 3] = distance * back
    return Camera(pose, 1.2 * side, 1.2 * side, side / 2, side / 2, side, side)


def in_front_of(field: RadianceField, camera: Camera) -> RadianceField:
    """The field between 1.5 and 15 before a camera, in a space moved and turned a little."""
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    pose = camera.pose @ turned
    pose[:3, 3] += [0.1, -0.2, 0.1]
    lattice = Lattice((-0.5, -0.5, 0.0), (0.5, 0.5, 0.9), field.lattice.shape, Front.looking(pose, 1.5, 1.0))
    return replace(field, lattice=lattice, equation=replace(field.equation, step_world=0.02))


def drawn_in(field: RadianceField) -> RadianceField:
    """The field with most of it outside of a small cube that is none of its middle, in a space turned a little."""
    c, s = 3 * np.cos(0.3), 3 * np.sin(0.3)
    space = Unbounded(((c, -s, 0.0, 0.2), (s, c, 0.0, -0.4), (0.0, 0.0, 3.0, 0.1), (0.0, 0.0, 0.0, 1.0)))
    lattice = Lattice((-1.9, -1.8, -1.95), (1.8, 1.9, 1.9), field.lattice.shape, space)
    return replace(field, lattice=lattice, equation=replace(field.equation, step_world=0.04))


# ---------------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("side", [96, 200])
@pytest.mark.parametrize("kind", ["rgb", "network", "wide", "frequencies", "inside", "front", "unbounded"])
def test_the_viewer_draws_what_the_renderer_draws(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField, kind: str, side: int
) -> None:
    field = {
        "rgb": ball_field,
        "inside": ball_field,
        "network": with_network(ball_field, 12, 2),
        "wide": with_network(ball_field, 7, 0),
        "frequencies": with_network(ball_field, 27, 2, 2),
        "unbounded": drawn_in(with_network(ball_field, 12, 2)),
        "front": in_front_of(with_network(ball_field, 12, 2), looking_at(ball_field, side, 3.2)),
    }[kind]
    data = encode(preview(field))
    camera = looking_at(field, side, 0.75 if kind == "inside" else 3.2)
    expected = render(expand(decode(data)), camera).rgb
    assert expected.std() > 0.03
    found = tab.open(export(data)).picture(camera)
    assert psnr(found, expected) >= EXACT_DB


@pytest.mark.parametrize("kind", ["network", "harmonics", "unbounded"])
def test_samples_that_share_a_colour_take_the_same_light_and_look_nearly_alike(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField, kind: str
) -> None:
    field = with_network(ball_field, 12, 2)
    data = encode(preview(drawn_in(field) if kind == "unbounded" else field))
    tab.open(export(with_harmonics(data) if kind == "harmonics" else data))
    camera = looking_at(field, 48, 3.2)
    intrinsics = {name: getattr(camera, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}
    pictures = []
    for share in (0, 0.1, 0.3, 2):
        pixels = tab.ask(
            f"""async ([camera, share]) => {{
              const {{ stage }} = {VIEWER}
              const {{ renderer }} = stage
              const {{ gl }} = renderer
              stage.setVisible(false)
              while (stage.isBusy) await new Promise((resolve) => setTimeout(resolve, 5))
              renderer.resizePicture(48, 48)
              renderer.drawPiece(renderer.picture, camera, {{ left: 0, right: 48, from: 0, to: 48 }}, 0, share)
              const pixels = new Float32Array(4 * 48 * 48)
              gl.readPixels(0, 0, 48, 48, gl.RGBA, gl.FLOAT, pixels)
              return Array.from(pixels)
            }}""",
            [{"pose": camera.pose.ravel().tolist(), **intrinsics}, share],
        )
        pictures.append(np.array(pixels, np.float32).reshape(48, 48, 4))
    exact, *others = pictures
    assert exact[..., :3].std() > 0.03
    for other in others:
        np.testing.assert_array_equal(other[..., 3], exact[..., 3])
    scores = [psnr(other[..., :3], exact[..., :3]) for other in others]
    assert np.inf > scores[0] >= scores[1] >= scores[2] and scores[0] > 35 and scores[1] > 28


def sealed(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A file of rows and section bytes, with every length and checksum as it must be."""
    rows = b"".join(
        row[:8] + struct.pack("<Q", len(body)) + row[16:24] + struct.pack("<II", zlib.crc32(body), 0) for row, body in parts
    )
    length = 32 + len(rows) + sum(len(body) for _, body in parts)
    version = SPACE_VERSION if any(row[:4] == b"SPAC" for row, _ in parts) else VERSION
    head = bytes.fromhex("8956515 20d0a1a0a".replace(" ", "")) + struct.pack("<HHIQI", *version, len(parts), length, 0)
    return head + struct.pack("<I", zlib.crc32(head + rows)) + rows + b"".join(body for _, body in parts)


def with_harmonics(data: bytes) -> bytes:
    """The file with its COLR saying: spherical harmonics."""
    parts, at = [], 32 + 32 * struct.unpack_from("<I", data, 12)[0]
    for row in (data[start : start + 32] for start in range(32, at, 32)):
        size = struct.unpack_from("<Q", row, 8)[0]
        body = data[at : at + size]
        at += size
        if row[:4] == b"COLR":
            row, body = row[:16] + struct.pack("<Q", 0) + row[24:], struct.pack("<HH", 0, 1) + bytes(4)
        parts.append((row, body))
    return sealed(parts)


def render_harmonics(field: RadianceField, camera: Camera, degree: int) -> np.ndarray:
    """The rendering equation once more, a sample at a time, with spherical harmonics for the colour."""
    origins, directions = (rays.astype(np.float64) for rays in camera.rays())
    lo, hi = np.array(field.lattice.lo), np.array(field.lattice.hi)
    with np.errstate(divide="ignore"):
        ends = (np.stack([lo, hi])[:, None] - origins) / directions
    enter = np.maximum(ends.min(0).max(1), field.equation.near)
    leave = ends.max(0).min(1)
    basis = harmonics(directions, degree)
    light, rgb = np.ones(len(origins)), np.zeros((len(origins), 3))
    for k in range(int(np.linalg.norm(hi - lo) / field.equation.step_world) + 1):
        distance = enter + k * field.equation.step_world
        live = (distance <= leave) & (light >= 1e-3)
        index = field.lattice.index_from_world((origins + distance[:, None] * directions)[live]).clip(0, None)
        density = trilinear(field.density, index)
        raised = density + field.equation.density_bias
        is_relu = field.equation.activation == "relu"
        alpha = 1 - (np.exp(-np.maximum(raised, 0)) if is_relu else 1 / (1 + np.exp(raised))) ** field.equation.interval
        weight = np.where(alpha > field.equation.alpha_threshold, light[live] * alpha, 0)
        features = trilinear(field.features, index).reshape(len(index), 3, (degree + 1) ** 2)
        total = np.einsum("nk,nck->nc", basis[live], features)
        color = np.maximum(0.5 + total, 0) if field.equation.shading == "sh_relu" else 1 / (1 + np.exp(-total))
        rgb[live] += np.where(weight > field.equation.alpha_threshold, weight, 0)[:, None] * color
        light[live] -= weight
    return (rgb + light[:, None] * field.equation.background).reshape(camera.height, camera.width, 3).astype(np.float32)


@pytest.mark.parametrize("degree", [1, 2])
def test_spherical_harmonics_are_drawn_as_the_format_says(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField, degree: int
) -> None:
    data = encode(preview(with_network(ball_field, 3 * (degree + 1) ** 2, 1)))
    camera = looking_at(ball_field, 96, 3.2)
    expected = render_harmonics(expand(decode(data)), camera, degree)
    found = tab.open(export(with_harmonics(data))).picture(camera)
    assert expected.std() > 0.05
    assert psnr(found, expected) >= FAST_DB


def test_a_plenoxels_field_is_drawn_as_the_format_says(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField
) -> None:
    mixed = ball_field.features @ np.random.default_rng(3).standard_normal((3, 27)).astype(np.float32) / 4
    density = (ball_field.density + ball_field.equation.density_bias) / 2
    plenoxels = {"density": density, "density_bias": 0.0, "shading": "sh_relu", "activation": "relu"}
    data = encode(preview(changed(ball_field, features=mixed, **plenoxels)))
    field, camera = expand(decode(data)), looking_at(ball_field, 96, 3.2)
    expected = render_harmonics(field, camera, 2)
    assert expected.std() > 0.05 and (expected < 0.02).mean() > 0.02  # some of it is black by the ReLU
    expected = expected.clip(0, 1)
    assert psnr(render(field, camera).rgb, expected) >= FAST_DB
    assert psnr(tab.open(export(data)).picture(camera), expected) >= FAST_DB


def as_pyramid(field: RadianceField, density_shift: float) -> PyramidField:
    """The field in steps of 1/20 on three levels: random numbers on the coarser ones, on the finest what is missing."""
    flat = preview(field)
    expanded = expand(flat)
    is_there = flat.partition != PRUNED
    target = np.concatenate([(expanded.density + density_shift)[..., None], expanded.features], -1)[is_there]
    rng = np.random.default_rng(7)
    nodes = build_nodes(is_there, 2)
    steps = np.full(target.shape[1], 0.05, np.float32)
    coarse = [rng.integers(-40, 41, (level.n_nodes, len(steps))).astype(np.int16) for level in nodes[:0:-1]]
    top, middle = (values * steps for values in coarse)
    middle = middle + top[nodes[1].parents].mean(1)
    finest = np.round((target - middle[nodes[0].parents].mean(1)) / steps).astype(np.int16)
    return PyramidField(
        lattice=flat.lattice,
        partition=is_there.astype(np.uint8),
        coefficients=(*coarse, finest),
        steps=steps,
        basis=None,
        color_mlp=flat.color_mlp,
        equation=replace(flat.equation, density_bias=flat.equation.density_bias - density_shift),
        empty_density=flat.empty_density + density_shift,
        metadata={},
    )


@pytest.mark.parametrize("kind", ["rgb", "network"])
def test_a_pyramid_is_drawn_as_its_levels_add_up(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField, kind: str
) -> None:
    field = ball_field if kind == "rgb" else with_network(ball_field, 6, 1)
    data, camera = encode(as_pyramid(field, 3.0)), looking_at(field, 96, 3.2)
    expected = render(expand(decode(data)), camera).rgb
    assert expected.std() > 0.03
    assert psnr(expected, render(expand(preview(field)), camera).rgb) > 30  # what the levels add up to is the ball
    assert psnr(tab.open(export(data)).picture(camera), expected) >= EXACT_DB
    tab.page.get_by_role("button", name="About").click()
    tab.page.get_by_text("For engineers").click()
    rows = tab.page.get_by_role("region", name="About the file").inner_text()
    sizes = tab.ask(f"{VIEWER}.facts.sections")
    level = next(section["bytes"] for section in sizes if section["name"] == "LEV2")
    assert f"LEV2\n{level} B" in rows and "codewords" not in rows


def as_stack(mask: np.ndarray, values: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, ...]:
    """Values [x,y,1,R] over a mask on two levels: random numbers on the coarser one, on the finer what is missing."""
    fine, coarse = build_nodes(mask, 1)
    above = np.random.default_rng(8).integers(-40, 41, (coarse.n_nodes, len(steps))).astype(np.int16)
    missing = values[mask] / steps - above[fine.parents].mean(1)
    return above, np.round(missing).astype(np.int16)


def as_planes(field: RadianceField, n_waves: int = 2, side: int = 16) -> PlanesField:
    """A ball as planes and lines, r^2 = (x^2 + y^2) 1 + z^2 1, with waves that are mixed into its features."""
    flat = preview(field)
    x = y = z = np.linspace(-1, 1, side)
    rng, ones = np.random.default_rng(5), np.ones
    densities = [40 - 90 * (x[:, None] ** 2 + y**2), -90 * z**2 * ones((len(x), 1)), np.zeros((len(y), len(z)))]
    pairs = ((x, y, z), (x, z, y), (y, z, x))
    planes, lines = [], []
    for density, (a, b, c) in zip(densities, pairs, strict=True):
        waves = [np.sin(4 * a[:, None] + 3 * b + k) for k in range(n_waves)]
        planes.append(np.stack([density, *waves], -1)[:, :, None])
        waves = [np.cos((3 + 2 * k) * c - k * np.pi / 2) for k in range(n_waves)]
        lines.append(np.stack([ones(len(c)), *waves], -1)[:, None, None])
    partition = np.ones((side, side, side), np.uint8)
    partition[0] = partition[:, :, -1] = PRUNED
    steps = np.full(1 + n_waves, 0.02, np.float32)
    stacks = [
        tuple(as_stack(mask, values, steps) for mask, values in zip(masks, made, strict=True))
        for masks, made in zip(shadows(partition), (planes, lines), strict=True)
    ]
    return PlanesField(
        lattice=replace(flat.lattice, shape=partition.shape),
        partition=partition,
        planes=stacks[0],
        lines=stacks[1],
        plane_steps=np.tile(steps, (3, 1)),
        line_steps=np.tile(steps, (3, 1)),
        mix=rng.standard_normal((3 * n_waves, flat.n_channels)).astype(np.float16),
        color_mlp=flat.color_mlp,
        equation=flat.equation,
        empty_density=flat.empty_density,
        metadata={},
    )


@pytest.mark.parametrize("kind", ["rgb", "network"])
def test_planes_and_lines_are_drawn_as_their_products_add_up(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField, kind: str
) -> None:
    field = ball_field if kind == "rgb" else with_network(ball_field, 6, 1)
    data, camera = encode(as_planes(field)), looking_at(field, 96, 3.2)
    expected = render(expand(decode(data)), camera).rgb
    assert expected.std() > 0.03 and (expected == expected[0, 0]).all(-1).mean() > 0.1  # a ball, and what is beside it
    assert psnr(tab.open(export(data)).picture(camera), expected) >= EXACT_DB
    tab.page.get_by_role("button", name="About").click()
    tab.page.get_by_text("For engineers").click()
    rows = tab.page.get_by_role("region", name="About the file").inner_text()
    sizes = {section["name"]: section["bytes"] for section in tab.ask(f"{VIEWER}.facts.sections")}
    assert f"PLN1\n{sizes['PLN1']} B" in rows and f"LIN0\n{sizes['LIN0']} B" in rows


def test_the_picture_at_rest_becomes_what_a_camera_sees(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    tab.open(export(ball_file)).await_rest()
    seen = tab.ask(
        f"""async () => {{
          const {{ stage }} = {VIEWER}
          const gl = stage.renderer.gl
          stage.renderer.show()
          const {{ width, height }} = stage.canvas
          const shown = new Uint8Array(4 * width * height)
          gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, shown)
          const pixels = await stage.renderer.capture(stage.camera())
          let worst = 0
          for (let row = 0; row < height; row++) for (let i = 0; i < 4 * width; i++)
            worst = Math.max(worst, Math.abs(shown[4 * width * row + i] - pixels[4 * width * (height - 1 - row) + i]))
          return {{ worst, size: [width, height], sizes: stage.progress() }}
        }}"""
    )
    assert seen["size"] == [seen["sizes"]["width"], seen["sizes"]["height"]] == [360, 300]
    assert seen["worst"] < 60  # edges are smoother at rest than in a single picture
    assert len(np.unique(PIL.Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB"))) > 100


WATCH_SHOWING = f"""
window.shown = []
const watch = () => {{
  const renderer = {VIEWER}?.stage?.renderer
  if (!renderer) return requestAnimationFrame(watch)
  const show = renderer.show.bind(renderer)
  renderer.show = () => {{
    const {{ picture, gl }} = renderer
    const {{ width, height }} = picture
    const last = window.shown.at(-1)
    if (last?.width !== width) {{
      const light = new Float32Array(4 * width * height)
      gl.bindFramebuffer(gl.FRAMEBUFFER, picture.framebuffer)
      gl.readPixels(0, 0, width, height, gl.RGBA, gl.FLOAT, light)
      window.shown.push({{ width, height, light: light.filter((_, i) => i % 4 === 3) }})
    }}
    show()
  }}
}}
requestAnimationFrame(watch)
"""


def test_each_picture_on_the_way_to_the_sharp_one_is_whole(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    tab.page.add_init_script(WATCH_SHOWING)
    tab.open(export(ball_file)).await_rest()
    shown = tab.ask("window.shown.map(({ width, height, light }) => [width, height, Object.values(light)])")
    assert [tuple(size) for *size, _ in shown] == [(45, 38), (90, 75), (180, 150), (360, 300)]
    whole = np.array(shown[-1][2]).reshape(300, 360)
    assert whole.std() > 0.1
    for width, height, light in shown[:-1]:  # a share of the light that is lacking in a strip would be 0 or an older picture's
        blocks = [np.array_split(rows, width, 1) for rows in np.array_split(whole, height, 0)]
        coarse = np.array([[block.mean() for block in row] for row in blocks])
        assert np.abs(np.array(light).reshape(height, width) - coarse).mean() < 0.03


# ---------------------------------------------------------------------------------------------------- the page and the server


WATCH_COMPILING = """
window.seen = []
const { linkProgram } = WebGL2RenderingContext.prototype
WebGL2RenderingContext.prototype.linkProgram = function (program) { window.seen.push('link'); linkProgram.call(this, program) }
const Plain = window.Worker
window.Worker = class extends Plain {
  constructor(url) { super(url); this.addEventListener('message', ({ data }) => window.seen.push(Object.keys(data)[0])) }
}
"""


def test_the_shader_is_compiled_before_the_field_is_there_and_only_once(
    tab: Tab, export: Callable[[bytes], str], ball_file: bytes
) -> None:
    tab.page.add_init_script(WATCH_COMPILING)
    tab.open(export(ball_file)).await_rest()
    assert tab.ask("window.seen") == ["link", "early", "link", "drawn"]


def test_planes_and_lines_that_take_long_are_shown_on_fewer_voxels_first(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField
) -> None:
    """All by one program: to compile another takes longer than to multiply out."""
    planes = as_planes(with_network(ball_field, 48, 0), n_waves=255, side=33)
    shape = planes.partition.shape
    assert planes.n_coded * planes.mix.size > 2**30
    tab.page.add_init_script(WATCH_COMPILING.replace("Object.keys(data)[0]", "data.drawn?.shape ?? Object.keys(data)[0]"))
    tab.open(export(encode(planes))).await_rest()
    tab.until("() => document.querySelector('vqrf-viewer').facts !== undefined")
    fewer = [[-(-side // stride) for side in shape] for stride in (4, 2)]
    assert tab.ask("window.seen") == ["link", "early", "link", *fewer, list(shape)]
    assert tab.ask("() => document.querySelector('vqrf-viewer').facts.shape") == list(shape)


def test_a_large_pyramid_is_shown_without_its_finest_level_first(
    tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField
) -> None:
    small = as_pyramid(with_network(ball_field, 9, 0), 0.0)
    partition = np.ones((97, 97, 97), np.uint8)
    coefficients = tuple(np.ones((level.n_nodes, 10), np.int16) for level in build_nodes(partition > 0, 2)[::-1])
    assert coefficients[-1].size > 2**23
    lattice = replace(small.lattice, shape=partition.shape)
    large = replace(small, lattice=lattice, partition=partition, coefficients=coefficients)
    tab.page.add_init_script(WATCH_COMPILING.replace("Object.keys(data)[0]", "data.drawn?.shape ?? Object.keys(data)[0]"))
    tab.open(export(encode(large)))
    tab.until("() => document.querySelector('vqrf-viewer').facts !== undefined")
    assert tab.ask("window.seen") == ["link", "early", "link", [49, 49, 49], [97, 97, 97]]


def test_the_exported_page_asks_nobody_for_anything(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    url = export(ball_file)
    with serving(lambda: ball_file) as server:
        tab.open(url).await_rest()
        own = list(tab.requests)
        blocked = tab.ask("url => fetch(url, { mode: 'no-cors' }).then(() => 'reached', () => 'blocked')", server.url)
    assert own[0] == url
    assert all(request.startswith("blob:") for request in own[1:])
    assert blocked == "blocked"


def test_a_report_ends_in_the_scene_which_asks_nobody_either(tab: Tab, tmp_path: Path, ball_file: bytes) -> None:
    before = Evaluation((ViewScore("a", 30.0, 0.9, 0.1),))
    after = replace(before, file_bytes=len(ball_file), sections={"header": 64})
    row = ReportRow("a", *np.zeros((3, 300, 400, 3), np.float32))
    field = expand(decode(ball_file))
    scene = exhibit(ball_file, "ball.vqrf", About(poster=poster_of(field, first_view(field))))
    path = tmp_path / "ball.report.html"
    write_report(path, title="ball", rows=[row], before=before, after=after, grid_bytes=1, settings={}, scene=scene)
    said: list[str] = []
    tab.page.on("console", lambda message: said.append(message.text))
    tab.page.goto(path.as_uri())
    tab.page.locator("vqrf-viewer").scroll_into_view_if_needed()
    tab.until(f"{VIEWER}.facts")
    tab.await_rest()
    assert said == [] and tab.requests[0] == path.as_uri() and all(url.startswith("blob:") for url in tab.requests[1:])
    at = tab.ask("scrollY")
    tab.page.mouse.move(180, 150)
    tab.page.mouse.wheel(0, -100)
    tab.until(f"scrollY < {at}")


def test_the_script_of_the_page_has_80_kb_which_a_server_sends_as_32(ball_file: bytes) -> None:
    """The page had 62 kB before it had a look and an interface of its own: what people may be asked to wait for is 80."""
    script = (ROOT / "src" / "vqrf" / "rendering" / "page" / "viewer.js").read_bytes()
    assert len(script) <= 80_000 and len(gzip.compress(script)) <= 32_000
    assert len(page_with_scene(ball_file, "scene.vqrf")) <= len(script) + len(base64.b64encode(ball_file)) + 2000


class serving:
    """A server in a thread."""

    def __init__(self, source: Callable[[], bytes | None], refresh_seconds: float = 0) -> None:
        self.server = SceneServer(source, "scene.vqrf", refresh_seconds=refresh_seconds)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> SceneServer:
        self.thread.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_a_served_page_shows_the_scene_and_another_that_its_address_names(tab: Tab, ball_file: bytes) -> None:
    with serving(lambda: ball_file) as server:
        tab.open(server.url)
        assert tab.ask(f"{VIEWER}.facts.bytes") == len(ball_file)
        tab.page.goto(f"{server.url}?src=elsewhere.vqrf")
        alert = tab.page.get_by_role("alert")
        alert.filter(has_text="elsewhere.vqrf cannot be fetched: the server answers 404").wait_for()


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_file_that_is_still_arriving_shows_its_coarse_levels(tab: Tab, ball_field: RadianceField, is_moved: bool) -> None:
    data = encode(as_pyramid(ball_field, 0.0))
    *_, (_, at, size) = sections(data)
    may_end = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_scene = self.path == "/scene.vqrf"
            parts = (
                [data[: at + size // 2], data[at + size // 2 :]] if is_scene else [page_with_source("scene.vqrf", "a scene")]
            )
            self.send_response(200)
            self.send_header("Content-Type", "model/vnd.vqrf" if is_scene else "text/html")
            self.send_header("Content-Length", str(sum(map(len, parts))))
            self.end_headers()
            for part in parts:
                self.wfile.write(part)
                self.wfile.flush()
                assert not is_scene or may_end.wait(WAIT_MS / 1000)

        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        tab.page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        tab.until(f"{VIEWER}.stage?.pass")
        camera = looking_at(ball_field, 96, 3.2)
        early = tab.picture(camera)
        assert tab.ask(f"{VIEWER}.facts === undefined") and "Loading" in tab.page.get_by_role("status").inner_text()
        assert tab.ask(f"!{VIEWER}.shadowRoot.querySelector('.progress').hidden")
        tab.ask(f"window.told = 0, {VIEWER}.addEventListener('load', () => told++), 0")
        if is_moved:
            tab.page.get_by_role("application").press("ArrowLeft")
        view = tab.view()
        may_end.set()
        tab.until(f"{VIEWER}.facts")
        tab.await_rest()
        halves = decode(data[: at + size // 2], truncated=True), decode(data)
        expected = [render(expand(half), camera).rgb for half in halves]
        for found, wanted in zip((early, tab.picture(camera)), expected, strict=True):
            assert psnr(found, wanted) >= EXACT_DB
        assert psnr(*expected) < EXACT_DB - 10 and tab.ask("told") == 1
        assert not is_moved or tab.view() == view
    finally:
        may_end.set()
        server.shutdown()
        server.server_close()


def test_a_newer_version_replaces_the_old_one_before_the_same_camera(tab: Tab, ball_field: RadianceField) -> None:
    versions: list[bytes | None] = [None]
    with serving(lambda: versions[0], refresh_seconds=0.2) as server:
        tab.page.goto(server.url)
        tab.page.get_by_role("status").filter(has_text="Waiting for scene.vqrf").wait_for()
        versions[0] = encode(preview(ball_field))
        tab.until(f"{VIEWER}.facts")
        tab.ask(f"{VIEWER}.stage.orbit.turn(1, 0)")
        view = tab.view()
        versions[0] = encode(preview(with_network(ball_field, 6, 0)))
        tab.until(f"{VIEWER}.facts.channels === 6")
        assert tab.view() == view


# -------------------------------------------------------------------------------------------------------------------- a person


def test_a_person_can_turn_move_zoom_and_come_back(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    start = tab.open(export(ball_file)).view()
    page, canvas = tab.page, tab.page.get_by_role("application")
    seen = [start]

    def changed(*which: int) -> None:
        now = tab.view()
        differing = [i for i in range(6) if not np.isclose(now[i], seen[-1][i])]
        assert differing and set(differing) <= set(which), (seen[-1], now)
        seen.append(now)

    def drag(button: str = "left") -> None:
        page.mouse.move(150, 120)
        page.mouse.down(button=button)
        page.mouse.move(190, 140)
        page.mouse.up(button=button)

    drag()
    changed(3, 4)
    drag("right")
    changed(0, 1, 2)
    page.mouse.wheel(0, 120)
    tab.until(f"{VIEWER}.stage.orbit.distance > {seen[-1][5]} + 1e-3")
    changed(5)
    for key, which in {"ArrowLeft": (3,), "ArrowUp": (4,), "w": (0, 1, 2), "d": (0, 1, 2), "e": (0, 1, 2), "-": (5,)}.items():
        canvas.press(key)
        changed(*which)
    tab.until("location.hash.startsWith('#view=')")
    tab.until(f"decodeURIComponent(location.hash) === '#view=' + {VIEWER}.stage.orbit")
    link, view = page.url, seen[-1]
    page.get_by_role("button", name="Reset the view").click()
    assert tab.view() == start
    page.goto("about:blank")
    assert tab.open(link).view() == view


@pytest.mark.parametrize("view", ["%", "%ff", "1,2", "NaN,0,0,0,0,1"])
def test_an_address_that_says_no_view_shows_the_scene_from_where_it_begins(
    view: str, tab: Tab, export: Callable[[bytes], str], ball_file: bytes
) -> None:
    url = export(ball_file)
    start = tab.open(url).view()
    tab.page.goto("about:blank")
    assert tab.open(f"{url}#view={view}").view() == start
    assert tab.page.get_by_role("alert").is_hidden() and not tab.errors


def test_two_fingers_zoom_and_one_turns(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    before = tab.open(export(ball_file)).view()
    touch = """(moves) => {
      const canvas = document.querySelector('vqrf-viewer').shadowRoot.querySelector('.surface')
      canvas.setPointerCapture = () => {}
      for (const [type, pointerId, clientX, clientY] of moves)
        canvas.dispatchEvent(new PointerEvent(type, { pointerId, clientX, clientY, pointerType: 'touch', buttons: 1 }))
    }"""
    tab.ask(touch, [("pointerdown", 7, 100, 100), ("pointermove", 7, 130, 100)])
    one = tab.view()
    assert one[3] != before[3] and one[5] == before[5]
    tab.ask(touch, [("pointerdown", 8, 230, 100), ("pointermove", 8, 330, 100)])
    two = tab.view()
    assert np.isclose(two[5], one[5] / 2, rtol=1e-3) and two[3] == one[3]


def test_background_size_and_facts_are_at_hand(tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField) -> None:
    scored = replace(preview(ball_field), metadata={"test": {"psnr": 31.25, "ssim": 0.97}})
    data = encode(scored)
    tab.open(export(data)).await_rest()
    page = tab.page
    corner = f"async () => Array.from((await {VIEWER}.stage.renderer.capture({VIEWER}.stage.camera())).slice(0, 3))"
    assert tab.ask(corner) == [255, 255, 255]
    panel = page.get_by_role("region", name="About the file")
    assert not panel.is_visible()
    page.get_by_role("button", name="About").click()
    assert "31.25 dB" in panel.inner_text() and f"{len(data) / 1000:.1f} kB" in panel.inner_text()
    assert "16 × 16 × 16" not in panel.inner_text()
    page.get_by_text("For engineers").click()
    assert "0.9700" in panel.inner_text() and "16 × 16 × 16" in panel.inner_text()
    page.get_by_label("Background").select_option("Black")
    tab.await_rest()
    assert tab.ask(corner) == [0, 0, 0]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == "scene.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_everything_that_can_be_used_has_a_name(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    tab.open(export(ball_file))
    page = tab.page
    scene = page.get_by_role("application", name="3-D scene scene.vqrf")
    assert "Drag, arrow keys: turn." in tab.ask(f"{VIEWER}.shadowRoot.getElementById('keys').textContent")
    assert scene.get_attribute("aria-describedby") == "keys"
    names = ["Reset the view", "Turn by itself", "Fly", "Copy a link to this view", "Full screen", "Help", "About"]
    for role, name in [*(("button", name) for name in names), ("toolbar", "Viewer")]:
        assert page.get_by_role(role, name=name, exact=True).count() == 1, name
    page.keyboard.press("Tab")
    assert tab.ask(f"{VIEWER}.shadowRoot.activeElement.className") == "surface"
    for name in names:
        page.keyboard.press("Tab")
        assert tab.ask(f"{VIEWER}.shadowRoot.activeElement.ariaLabel") == name
    page.keyboard.press("Enter")
    inside = [page.get_by_role("combobox", name=name) for name in ("Background",)]
    inside += [page.get_by_role("button", name="Save picture"), page.get_by_label("Open a .vqrf file")]
    assert all(part.count() == 1 for part in inside)


# ------------------------------------------------------------------------------------------------------------ when things fail


def choose(tab: Tab, name: str, data: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    tab.page.get_by_label("Open a .vqrf file").set_input_files(file)


def test_a_damaged_file_is_named_with_its_place_and_the_scene_before_stays(
    tab: Tab, export: Callable[[bytes], str], ball_file: bytes
) -> None:
    tab.open(export(ball_file))
    damaged = bytearray(ball_file)
    damaged[-1] ^= 1
    choose(tab, "bad.vqrf", bytes(damaged))
    alert = tab.page.get_by_role("alert")
    alert.filter(has_text="bad.vqrf cannot be shown: KEPT at byte").wait_for()
    assert "checksum mismatch" in alert.inner_text()
    assert tab.ask(f"{VIEWER}.facts.bytes") == len(ball_file)
    choose(tab, "good.vqrf", ball_file)
    alert.wait_for(state="hidden")
    tab.page.get_by_role("application", name="3-D scene good.vqrf").wait_for()


def network_of(width: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Layers of float16 zeros over three features and the direction as it stands."""
    sides = [(width, 6), (width, width), (3, width)]
    return tuple((np.zeros(side, np.float16), np.zeros(side[0], np.float16)) for side in sides)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step_world": 2e-9}, "step_world: a ray has"),
        ({"interval": 1e-30}, "interval: "),
        ({"color_mlp": network_of(4096), "step_world": 0.02}, "the network's 16814080 weights"),
        ({"near": 0.5}, None),
    ],
    ids=["samples without an end", "an interval of nothing", "a network 4096 wide", "what can be drawn"],
)
def test_what_is_whole_and_cannot_be_drawn_says_why_and_shows_no_shader(
    change: dict[str, Any], reason: str | None, tab: Tab, export: Callable[[bytes], str], ball_file: bytes
) -> None:
    tab.open(export(ball_file))
    small = decode(ball_file)
    layers = change.get("color_mlp", small.color_mlp)
    constants = {name: value for name, value in change.items() if name != "color_mlp"}
    choose(tab, "odd.vqrf", encode(replace(small, color_mlp=layers, equation=replace(small.equation, **constants))))
    if reason is None:
        tab.page.get_by_role("application", name="3-D scene odd.vqrf").wait_for()
        return
    alert = tab.page.get_by_role("alert")
    alert.filter(has_text=f"The file is whole, but cannot be drawn: {reason}").wait_for()
    assert tab.ask(f"{VIEWER}.facts.bytes") == len(ball_file)


def test_a_file_that_is_dropped_is_shown(
    tab: Tab, export: Callable[[bytes], str], ball_file: bytes, ball_field: RadianceField
) -> None:
    tab.open(export(ball_file))
    other = encode(preview(with_network(ball_field, 5, 0)))
    tab.ask(
        """(bytes) => {
          const data = new DataTransfer()
          data.items.add(new File([new Uint8Array(bytes)], 'other.vqrf'))
          document.querySelector('vqrf-viewer').dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true }))
        }""",
        list(other),
    )
    tab.until(f"{VIEWER}.facts.channels === 5")


def test_a_lost_context_is_rebuilt(tab: Tab, export: Callable[[bytes], str], ball_field: RadianceField) -> None:
    tab.open(export(encode(preview(with_network(ball_field, 12, 1))))).await_rest()
    camera = looking_at(ball_field, 48, 3.2)
    before = tab.picture(camera)
    tab.ask(f"window.loss = {VIEWER}.stage.renderer.gl.getExtension('WEBGL_lose_context'), window.loss.loseContext()")
    tab.page.get_by_role("status").filter(has_text="restoring").wait_for()
    tab.ask("window.loss.restoreContext()")
    tab.until(f"!{VIEWER}.stage.isLost")
    tab.await_rest()
    np.testing.assert_array_equal(tab.picture(camera), before)
    assert before.std() > 0.05


def test_graphics_that_are_lost_again_and_again_are_given_up_and_it_is_said(
    tab: Tab, export: Callable[[bytes], str], ball_file: bytes
) -> None:
    """As where the system stops a shader that takes too long: it was restored without an end, over an empty canvas."""
    tab.open(export(ball_file)).await_rest()
    tab.ask(
        f"""() => {{
          const {{ canvas, gl }} = {VIEWER}.stage.renderer
          const loss = gl.getExtension('WEBGL_lose_context')
          const again = (event) => event.defaultPrevented && setTimeout(() => loss.restoreContext())
          canvas.addEventListener('webglcontextlost', again)
          canvas.addEventListener('webglcontextrestored', () => loss.loseContext())
          loss.loseContext()
        }}"""
    )
    tab.page.get_by_role("alert").filter(has_text="cannot draw this scene").wait_for()
    assert tab.page.get_by_role("status").filter(has_text="restoring").count() == 0


def test_a_browser_without_webgl2_is_told_so(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    tab.page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    tab.page.goto(export(ball_file))
    tab.page.get_by_role("alert").filter(has_text="This browser has no WebGL2").wait_for()


def test_nothing_is_drawn_while_nobody_looks(tab: Tab, export: Callable[[bytes], str], ball_file: bytes) -> None:
    tab.open(export(ball_file))
    frames = f"{VIEWER}.stage.frames"
    tab.ask("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    tab.ask("document.dispatchEvent(new Event('visibilitychange'))")
    tab.until(f"!{VIEWER}.stage.isBusy")
    before = tab.ask(frames)
    tab.ask(f"{VIEWER}.stage.moved()")
    tab.page.wait_for_timeout(300)
    assert tab.ask(frames) == before
    tab.ask("Object.defineProperty(document, 'hidden', { value: false, configurable: true })")
    tab.ask("document.dispatchEvent(new Event('visibilitychange'))")
    tab.until(f"{frames} > {before}")


# ------------------------------------------------------------------------------------------------------------------ the bundle


def test_the_script_that_is_shipped_is_what_the_sources_build_to() -> None:
    if not (ROOT / "viewer" / "node_modules" / "esbuild").is_dir():
        pytest.skip("the packages that build the viewer are not installed: npm ci in viewer/")
    code = "import('./build.js').then(({ bundles }) => bundles()).then((made) => console.log(JSON.stringify(made)))"
    result = subprocess.run(["node", "-e", code], cwd=ROOT / "viewer", capture_output=True, text=True, check=True)
    shipped = (ROOT / "src" / "vqrf" / "rendering" / "page" / "viewer.js").read_text("utf-8")
    assert json.loads(result.stdout)["../src/vqrf/rendering/page/viewer.js"] == shipped
