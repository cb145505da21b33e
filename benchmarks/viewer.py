"""How fast the viewer is without a graphics card, and how close to the renderer: `python benchmarks/viewer.py FILE.vqrf`.

Opens the page that `vqrf export` makes in headless Chromium, which draws on the CPU. Prints the time from opening to the first
picture, and the decoder's share of it; frames a second of a turning camera at 256x256; PSNR against `vqrf.render` at 96x96 and
200x200. `--harmonics` reads the features of a file with 12 or 27 channels as spherical harmonics: the colours mean nothing, but
what they cost is that of a file made for it.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import statistics
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from vqrf.codec.bitstream import decode
from vqrf.fields.field import expand
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.film import orbit
from vqrf.rendering.page import page_with_scene
from vqrf.rendering.render import render

FLAGS = [
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--disable-background-networking",
]
SIDE = 256
N_OPENINGS = 3
N_FRAMES = 90
N_VIEWS = 3

FIRST_PICTURE = """async () => {
  const viewer = document.querySelector('vqrf-viewer')
  while (!(viewer.stage?.frames && !viewer.stage.isBusy)) await new Promise((resolve) => setTimeout(resolve, 1))
  return { picture: performance.now(), decode: viewer.facts.decodeMs, textures: viewer.facts.texturesMs }
}"""

TURNING = """async (n) => {
  const { stage } = document.querySelector('vqrf-viewer')
  const { renderer, orbit } = stage
  stage.setVisible(false)
  const { width, height } = stage.canvas
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


def measure_opening(chromium: Any, url: str) -> list[dict[str, float]]:
    results = []
    for _ in range(N_OPENINGS):
        page = chromium.new_context(viewport={"width": SIDE, "height": SIDE}).new_page()
        page.goto(url, wait_until="commit")
        page.wait_for_selector("vqrf-viewer", state="attached")
        results.append(page.evaluate(FIRST_PICTURE))
        page.context.close()
    return results


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
    options = parser.parse_args()
    data = options.file.read_bytes()
    shown = with_harmonics(data) if options.harmonics else data
    chromium_path = shutil.which("chromium") or sys.exit("there is no chromium on the PATH")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_bytes(page_with_scene(shown, options.file.name))
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        print(f"file {len(shown)} bytes, page {path.stat().st_size} bytes")
        for result in measure_opening(chromium, path.as_uri()):
            print(", ".join(f"{name} {value:.0f} ms" for name, value in result.items()))
        page = chromium.new_context(viewport={"width": SIDE, "height": SIDE}).new_page()
        page.goto(path.as_uri())
        page.evaluate(FIRST_PICTURE)
        n = N_FRAMES if options.harmonics or decode(data).equation.shading != "mlp" else N_FRAMES // 10
        rates = [page.evaluate(TURNING, n) for _ in range(3)]
        print(f"{statistics.median(result['rate'] for result in rates):.1f} frames/s at {rates[0]['size']}")
        if not options.harmonics:
            for side in (96, 200):
                print(f"{side}x{side}: " + ", ".join(f"{score:.2f} dB" for score in compare(page, data, side)))
        chromium.close()


if __name__ == "__main__":
    main()
