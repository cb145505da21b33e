"""How fast the viewer is without a graphics card, and how close to the renderer: `python benchmarks/viewer.py FILE.vqrf`.

Opens the page that `vqrf export` makes in headless Chromium, which draws on the CPU. Prints, for a window of 1280x800, the
time from opening to the poster, to the first whole picture (of a large file: without its finest level), to one at a quarter
of the sides and to the sharp one, and the decoder's share of it; frames a second of a camera that moves, at the size that the
viewer chooses in that window and at 256x256; PSNR against `vqrf.render` at 96x96 and 200x200. A picture that is not there
after `--patience` seconds is not waited for. `--harmonics` reads the features of a file with 12 or 27 channels as harmonics:
the colours mean nothing, but what they cost is that of a file made for it. `--supersplat FOLDER` measures SuperSplat's viewer
in the same run, which gets the file as splats (`vqrf export --splats`) from a server on this machine; FOLDER is
node_modules/@playcanvas/supersplat-viewer/public.
"""

from __future__ import annotations

import argparse
import base64
import http.server
import shutil
import statistics
import struct
import sys
import tempfile
import threading
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from vqrf.cameras import Z
from vqrf.codec.about import about_of
from vqrf.codec.bitstream import decode
from vqrf.codec.contents import metadata_of
from vqrf.fields.field import expand
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.film import orbit
from vqrf.rendering.page import page_with_scene
from vqrf.rendering.render import render
from vqrf.rendering.splats import splat_ply_of, splats_of

FLAGS = [
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--disable-background-networking",
]
SIDE = 256
WINDOW = {"width": 1280, "height": 800}
N_OPENINGS = 3
MOVING_SECONDS = 4
N_FRAMES = 90
N_VIEWS = 3

OPENING = """async (patience) => {
  const times = {}
  const see = (name) => { times[name] ??= performance.now() }
  while (performance.now() < 1000 * patience && !times.sharp) {
    const viewer = document.querySelector('vqrf-viewer')
    const poster = document.querySelector('vqrf-viewer > img')
    if (poster?.complete && poster.naturalWidth) see('poster')
    const { share, pass } = viewer?.stage ?? {}
    if (viewer?.facts) see('decoded')
    if (share) see('first')
    if (share >= 1 / 4) see('quarter')
    if (pass) see('sharp')
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  const { facts } = document.querySelector('vqrf-viewer')
  return { ...times, decoding: facts?.decodeMs, textures: facts?.texturesMs }
}"""

SUPERSPLAT = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="index.css">
<style>html, body { height: 100%; margin: 0 }</style><body><script type="module">
import { createViewer } from './index.js'
const [radius, height] = PLACE
const angles = Array.from({ length: 9 }, (_, i) => i * Math.PI / 4)
const around = angles.map((angle) => [radius * Math.sin(angle), height, radius * Math.cos(angle)])
const values = { position: around.flat(), target: around.flatMap(() => [0, 0, 0]), fov: around.map(() => 50) }
const turn = {
  ...{ name: 'turn', duration: 12, frameRate: 30, loopMode: 'repeat', interpolation: 'spline', smoothness: 1 },
  keyframes: { times: around.map((_, i) => 45 * i), values },
}
const off = { enabled: false }
const settings = {
  version: 2, tonemapping: 'none', highPrecisionRendering: false, background: { color: [1, 1, 1] },
  postEffectSettings: {
    sharpness: { ...off, amount: 0 }, bloom: { ...off, intensity: 0.1, blurLevel: 2 },
    grading: { ...off, brightness: 1, contrast: 1, saturation: 1, tint: [1, 1, 1] },
    vignette: { ...off, intensity: 0.5, inner: 0.3, outer: 0.75, curvature: 1 }, fringing: { ...off, intensity: 0.5 },
  },
  animTracks: [turn], cameras: [{ initial: { position: around[0], target: [0, 0, 0], fov: 50 } }], annotations: [],
  startMode: 'animTrack',
}
window.viewer = await createViewer({ container: document.body, settings, contentUrl: 'scene.ply', renderer: 'webgl' })
</script>
"""

OPENING_SUPERSPLAT = """async (patience) => {
  const loaded = () => window.viewer?.state.loaded
  while (performance.now() < 1000 * patience && !loaded()) await new Promise((resolve) => setTimeout(resolve, 2))
  return loaded() ? performance.now() : null
}"""

MOVING_SUPERSPLAT = """async (seconds) => {
  const { app, state } = viewer
  const place = () => app.root.findComponent('camera').entity.getPosition().toString()
  let frames = 0
  let last
  app.on('frameend', () => {
    if (place() !== last) frames++
    last = place()
  })
  state.animationPaused = false
  const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds))
  await wait(seconds / 2)
  const [start, before] = [performance.now(), frames]
  await wait(seconds)
  const { width, height } = document.querySelector('canvas')
  return { rate: 1000 * (frames - before) / (performance.now() - start), width, height }
}"""

MOVING = """async (seconds) => {
  const { stage } = document.querySelector('vqrf-viewer')
  const turn = async (seconds) => {
    const [start, before] = [performance.now(), stage.frames]
    while (performance.now() - start < 1000 * seconds) {
      stage.orbit.turn(0.02, 0)
      stage.moved()
      await new Promise(requestAnimationFrame)
    }
    return 1000 * (stage.frames - before) / (performance.now() - start)
  }
  await turn(seconds / 2)  // until the size has settled
  const rate = await turn(seconds)
  const { width, height } = stage.progress()
  return { rate, width, height }
}"""

READY = """async () => {
  const viewer = document.querySelector('vqrf-viewer')
  while (!(viewer.stage?.frames && !viewer.stage.isBusy)) await new Promise((resolve) => setTimeout(resolve, 1))
}"""

TURNING = """async (n) => {
  const { stage } = document.querySelector('vqrf-viewer')
  const { renderer, orbit } = stage
  stage.setVisible(false)
  const { width, height } = stage.size
  renderer.resizePicture(width, height)
  const start = performance.now()
  for (let i = 0; i < n; i++) {
    orbit.turn(2 * Math.PI / n, 0)
    renderer.drawPiece(renderer.picture, orbit.camera(width, height), { left: 0, right: width, from: 0, to: height })
    renderer.show()
    await renderer.finished()
  }
  return { rate: 1000 * n / (performance.now() - start), size: [width, height] }
}"""

CAPTURE = """async (camera) => {
  const pixels = await document.querySelector('vqrf-viewer').stage.renderer.capture(camera)
  let text = ''
  for (const value of pixels) text += String.fromCharCode(value)
  return btoa(text)
}"""


def with_harmonics(data: bytes) -> bytes:
    """The file with its COLR saying: spherical harmonics."""
    n = struct.unpack_from("<I", data, 12)[0]
    rows, bodies, at = [], [], 32 + 32 * n
    for row in (data[start : start + 32] for start in range(32, at, 32)):
        size = struct.unpack_from("<Q", row, 8)[0]
        body, raw = data[at : at + size], row[16:24]
        at += size
        if row[:4] == b"COLR":
            body, raw = struct.pack("<HH", 0, 1) + bytes(4), bytes(8)
        rows.append(row[:8] + struct.pack("<Q", len(body)) + raw + struct.pack("<II", zlib.crc32(body), 0))
        bodies.append(body)
    table, content = b"".join(rows), b"".join(bodies)
    head = data[:16] + struct.pack("<QI", 32 + len(table) + len(content), 0)
    return head + struct.pack("<I", zlib.crc32(head + table)) + table + content


def opened(chromium: Any, url: str, window: dict[str, int]) -> Any:
    """A page of the window's size, whose scene does not begin to turn by itself."""
    page = chromium.new_context(viewport=window, reduced_motion="reduce").new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("vqrf-viewer", state="attached")
    return page


def print_opening(chromium: Any, url: str, patience: float) -> None:
    for _ in range(N_OPENINGS):
        page = opened(chromium, url, WINDOW)
        times = page.evaluate(OPENING, patience)
        print(", ".join(f"{name} {value:.0f} ms" for name, value in times.items() if value is not None))
        moving = page.evaluate(MOVING, MOVING_SECONDS)
        print(f"moving: {moving['rate']:.1f} frames/s of {moving['width']}x{moving['height']}")
        page.context.close()


class Files(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a word of each."""

    def log_message(self, format: str, *args: object) -> None: ...


def print_supersplat(chromium: Any, viewer: Path, data: bytes, patience: float) -> None:
    """SuperSplat's viewer, by its own files, with splats of the same scene."""
    about = about_of(metadata_of(data))
    splats, kept = splats_of(expand(decode(data)), about)
    with tempfile.TemporaryDirectory() as folder:
        public = Path(folder)
        for name in ("index.js", "index.css"):
            shutil.copy(viewer / name, public / name)
        (public / "scene.ply").write_bytes(splat_ply_of(splats, about.up or Z))
        distance = 1.6 * float(np.linalg.norm(np.ptp(splats.positions, 0)))
        (public / "index.html").write_text(SUPERSPLAT.replace("PLACE", str([distance, 0.4 * distance])))
        n_bytes = sum(path.stat().st_size for path in public.iterdir())
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"SuperSplat: {len(splats.positions)} splats, {kept.psnr:.1f} dB to the field; {n_bytes} bytes")
        for _ in range(N_OPENINGS):
            page = chromium.new_context(viewport=WINDOW, reduced_motion="reduce").new_page()
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/", wait_until="commit")
            first = page.evaluate(OPENING_SUPERSPLAT, patience)
            moving = page.evaluate(MOVING_SUPERSPLAT, MOVING_SECONDS)
            print(f"first {first:.0f} ms; moving: {moving['rate']:.1f} frames/s of {moving['width']}x{moving['height']}")
            page.context.close()
        server.shutdown()


def compare(page: Any, data: bytes, side: int) -> list[float]:
    """PSNR of the viewer's pictures against the renderer's."""
    field = expand(decode(data))
    volume = field.volume()
    scores = []
    for camera in orbit(field.lattice, N_VIEWS, (side, side)):
        intrinsics = {name: getattr(camera, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}
        pixels = base64.b64decode(page.evaluate(CAPTURE, {"pose": camera.pose.ravel().tolist(), **intrinsics}))
        found = np.frombuffer(pixels, np.uint8).reshape(side, side, 4)[..., :3] / np.float32(255)
        scores.append(psnr(found, render(volume, camera).rgb))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--harmonics", action="store_true")
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--supersplat", type=Path)
    options = parser.parse_args()
    data = options.file.read_bytes()
    shown = with_harmonics(data) if options.harmonics else data
    chromium_path = shutil.which("chromium") or sys.exit("there is no chromium on the PATH")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_bytes(page_with_scene(shown, options.file.name, about_of(metadata_of(shown))))
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        print(f"file {len(shown)} bytes, page {path.stat().st_size} bytes")
        print_opening(chromium, path.as_uri(), options.patience)
        if options.supersplat:
            print_supersplat(chromium, options.supersplat, data, options.patience)
        page = opened(chromium, path.as_uri(), {"width": SIDE, "height": SIDE})
        page.evaluate(READY)
        n = N_FRAMES if options.harmonics or decode(data).equation.shading != "mlp" else N_FRAMES // 10
        rates = [page.evaluate(TURNING, n) for _ in range(3)]
        print(f"{statistics.median(result['rate'] for result in rates):.1f} frames/s at {rates[0]['size']}")
        if not options.harmonics:
            for side in (96, 200):
                print(f"{side}x{side}: " + ", ".join(f"{score:.2f} dB" for score in compare(page, data, side)))
        chromium.close()


if __name__ == "__main__":
    main()
