"""Voxels in glTF as CesiumJS draws them, by the lines of docs/commands.md, against what `vqrf.render` draws.

Needs Chromium on the PATH and CesiumJS in tests/rendering/cesium; draws on the CPU, so pictures are small.
"""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vqrf.cameras import Camera
from vqrf.cli.main import main
from vqrf.codec.about import About
from vqrf.codec.bitstream import decode, encode
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.preview import preview
from vqrf.geometry import Lattice
from vqrf.kernels.constants import Equation
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.render import render
from vqrf.rendering.surface import rotation_of, turn_up
from vqrf.rendering.vdb import fog_of
from vqrf.rendering.voxels import voxel_glb_of

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM, ROOT = shutil.which("chromium"), Path(__file__).parents[2]
ENGINE = Path(__file__).parent / "cesium" / "node_modules" / "@cesium" / "engine"
ESBUILD = ROOT / "viewer" / "node_modules" / ".bin" / "esbuild"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
    pytest.mark.skipif(not ESBUILD.exists(), reason="run npm ci in viewer/"),
    pytest.mark.skipif(not ENGINE.is_dir(), reason="CesiumJS is not installed: run npm ci in tests/rendering/cesium/"),
]

FLAGS = [
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--disable-background-networking",
]
WAIT_MS = 60_000
SIDE, UP, SCALE = 96, (0.6, 0.0, -0.8), 10
"""Pixels; what is up in the scene's world; metres of CesiumJS's a world unit."""
Z_UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
"""From a world whose y is up, as glTF's is, to one whose z is."""
RIGHT_DB, WRONG_DB, SAME_DB = 25, 18, 45
"""What a right picture has at least, and a wrong one at most; they had 27.4, and 15.2 at most. Inside of the egg the pictures
agree to some bytes. At its border CesiumJS interpolates opacities, which the field does not. Two pictures of its own of the
same voxels differ by up to 5 of 255 at one number in 500, in some runs."""

DRAWING = """
const canvas = document.querySelector('canvas')
const scene = new Cesium.Scene({ canvas })
scene.backgroundColor = Cesium.Color.WHITE
scene.rethrowRenderErrors = true
scene.msaaSamples = 1
const east = Cesium.Transforms.eastNorthUpToFixedFrame(Cesium.Cartesian3.fromDegrees(8.55, 47.37, 500))
const place = Cesium.Matrix4.multiplyByUniformScale(east, SCALE, new Cesium.Matrix4())

const vector = (numbers) => new Cesium.Cartesian3(...numbers)
const turned = (numbers) => Cesium.Matrix4.multiplyByPointAsVector(east, vector(numbers), new Cesium.Cartesian3())
function look({ fov, at, ahead, up }) {
  Object.assign(scene.camera.frustum, { fov, aspectRatio: 1 })
  const destination = Cesium.Matrix4.multiplyByPoint(place, vector(at), new Cesium.Cartesian3())
  scene.camera.setView({ destination, orientation: { direction: turned(ahead), up: turned(up) } })
}

async function tilesOf(url, { customShader }) {
  const provider = await Cesium.Cesium3DTilesVoxelProvider.fromUrl(url)
  return new Cesium.VoxelPrimitive({ provider, modelMatrix: place, customShader })
}

window.draw = async (camera, url, tileset) => {
  look(camera)
  const plain = await voxelsOf(url, place)
  const primitive = tileset ? await tilesOf(tileset, plain) : plain
  scene.primitives.removeAll()
  scene.primitives.add(primitive)
  let isLoaded = false
  primitive.allTilesLoaded.addEventListener(() => { isLoaded = true })
  for (let frame = 0; frame < 1000; frame++) {
    scene.initializeFrame()
    scene.render()
    if (isLoaded) return canvas.toDataURL()
    await new Promise(requestAnimationFrame)
  }
  throw new Error('the voxels were not loaded')
}
""".replace("SCALE", str(SCALE))
"""A page's script, after the lines of the guide."""
PAGE = f"""<!doctype html><meta charset=utf-8><link rel=icon href=data:,><style>body {{ margin: 0 }}</style>
<canvas width={SIDE} height={SIDE}></canvas>
<script>window.CESIUM_BASE_URL = '/cesium/'</script><script type=module src=bundle.js></script>"""


# ------------------------------------------------------------------------------------------------------- a file, and its world


@pytest.fixture(scope="module")
def field() -> RadianceField:
    """An egg with a bump, in the middle of nothing: red grows with x, green with y, blue with z. Voxels of three sides."""
    lattice = Lattice((-1.0, -0.8, -0.7), (1.2, 0.6, 0.6), (36, 25, 20))
    place = lattice.world_from_index(np.moveaxis(np.indices(lattice.shape), 0, -1))
    egg = 1 - np.linalg.norm((place - (0.1, -0.1, -0.15)) / (0.9, 0.55, 0.4), axis=-1)
    bump = 0.5 - np.linalg.norm((place - (0.5, 0.0, 0.25)) / 0.5, axis=-1)
    equation = Equation(-13.0, 0.5, 0.03, 0.2, 1e-4, (1.0, 1.0, 1.0))
    density = np.float32(60 * np.maximum(egg, bump) + 13)
    return RadianceField(lattice, density, np.float32(place * (3, 5, 7)), (), equation)


@pytest.fixture(scope="module")
def camera() -> Camera:
    """From where the egg shows three of its sides."""
    back = np.array([0.5, 0.62, 0.6]) / np.linalg.norm([0.5, 0.62, 0.6])
    right = np.cross([0, 0, 1], back) / np.linalg.norm(np.cross([0, 0, 1], back))
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, 3.2 * back], 1)
    return Camera(pose, 1.4 * SIDE, 1.4 * SIDE, SIDE / 2, SIDE / 2, SIDE, SIDE)


@pytest.fixture(scope="module")
def scene_file(field: RadianceField) -> bytes:
    return encode(preview(field, About(up=UP)))


@pytest.fixture(scope="module")
def glb(scene_file: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `vqrf export` writes."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "scene.vqrf").write_bytes(scene_file)
    main(["export", str(folder / "scene.vqrf"), str(folder / "scene.glb"), "--voxels"])
    return (folder / "scene.glb").read_bytes()


@pytest.fixture(scope="module")
def expected(scene_file: bytes, camera: Camera) -> np.ndarray:
    """[H,W,3] in 0..1, of our renderer."""
    return render(expand(decode(scene_file)), camera).rgb


def tree_and_voxels(glb: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """A file's JSON, and its voxels [Z,Y,X,4] along glTF's axes."""
    (length,) = struct.unpack_from("<I", glb, 12)
    tree = json.loads(glb[20 : 20 + length])
    x, y, z = tree["meshes"][0]["primitives"][0]["extensions"]["EXT_primitive_voxels"]["dimensions"]
    return tree, np.frombuffer(glb, np.uint8, offset=28 + length).reshape(z, y, x, 4)


# ----------------------------------------------------------------------------------------------------------------- CesiumJS


class Tab:
    """A page with CesiumJS in it, and what it asked for."""

    def __init__(self, page: Any, url: str, folder: Path) -> None:
        self.page, self.url, self.folder = page, url, folder
        self.requests: list[str] = []
        self.faults: list[str] = []
        page.context.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{url}/page.html")
        page.wait_for_function("Boolean(window.draw)")

    def picture(self, camera: Camera, glb: bytes, tileset: dict[str, Any] | None = None) -> np.ndarray:
        """[H,W,3] in 0..1, of voxels or of a tileset whose content they are, through a camera of the scene's world."""
        (self.folder / "scene.glb").write_bytes(glb)
        (self.folder / "tileset.json").write_text(json.dumps(tileset))
        turn = Z_UP @ rotation_of(turn_up(UP))
        vectors = {"at": camera.pose[:3, 3], "ahead": -camera.pose[:3, 2], "up": camera.pose[:3, 1]}
        seen = {name: (turn @ vector).tolist() for name, vector in vectors.items()}
        seen["fov"] = 2 * np.arctan(camera.width / 2 / camera.fx)
        url = self.page.evaluate("(args) => draw(...args)", [seen, "/scene.glb", tileset and "/tileset.json"])
        image = PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
        return np.asarray(image) / np.float32(255)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of a folder with CesiumJS, and a page of the guide's lines and ours."""
    folder = tmp_path_factory.mktemp("site")
    (lines,) = re.findall(r"^```js\n(import .*?)^```", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE | re.DOTALL)
    (folder / "page.js").write_text(lines + DRAWING)
    bundle = ["--bundle", "--format=esm", f"--alias:cesium={ENGINE}", f"--outfile={folder / 'bundle.js'}"]
    subprocess.run([ESBUILD, folder / "page.js", *bundle, "--log-level=warning"], check=True)
    (folder / "cesium").symlink_to(ENGINE / "Source")
    (folder / "page.html").write_text(PAGE)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def tab(site: tuple[str, Path]) -> Iterator[Tab]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = Tab(chromium.new_page(viewport={"width": SIDE, "height": SIDE}), *site)
        yield tab
        chromium.close()
    assert tab.faults == []


# -------------------------------------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def drawn(tab: Tab, camera: Camera, glb: bytes) -> np.ndarray:
    return tab.picture(camera, glb)


def test_cesium_draws_what_the_renderer_draws(drawn: np.ndarray, expected: np.ndarray) -> None:
    assert psnr(drawn, expected) >= RIGHT_DB


@pytest.mark.parametrize("wrong", ["nothing", "other colours", "other axes", "mirrored", "another up"])
def test_what_is_wrong_with_a_file_shows(
    wrong: str, tab: Tab, camera: Camera, glb: bytes, field: RadianceField, expected: np.ndarray
) -> None:
    voxels = tree_and_voxels(glb)[1]
    head = glb[: -voxels.nbytes]
    file = {
        "nothing": head + bytes(voxels.nbytes),
        "other colours": head + voxels[..., [1, 2, 0, 3]].tobytes(),
        "other axes": head + voxels.transpose(1, 2, 0, 3).tobytes(),
        "mirrored": head + voxels[::-1].tobytes(),
        "another up": voxel_glb_of(fog_of(field)),
    }[wrong]
    assert psnr(tab.picture(camera, file), expected) <= WRONG_DB


def test_cesium_also_reads_the_file_as_the_content_of_a_tileset(
    tab: Tab, camera: Camera, glb: bytes, drawn: np.ndarray
) -> None:
    """By its own reader of glTF, which takes from the file what a voxel holds, and from the tileset where it is."""
    tree, voxels = tree_and_voxels(glb)
    matrix = np.reshape(tree["nodes"][0]["matrix"], (4, 4)).T
    axes = matrix[:3, :3] * tree["extensions"]["KHR_implicit_shapes"]["shapes"][0]["box"]["size"] / 2
    box = Z_UP @ np.stack([matrix[:3, 3], axes[:, 0], -axes[:, 2], axes[:, 1]], 1)
    z, y, x, _ = voxels.shape
    content = {"uri": "scene.glb", "extensions": {"3DTILES_content_voxels": {"dimensions": [x, z, y], "class": "voxel"}}}
    tiling = {"subdivisionScheme": "OCTREE", "subtreeLevels": 1, "availableLevels": 1, "subtrees": {"uri": "subtree.json"}}
    subtree = {"tileAvailability": {"constant": 1}, "contentAvailability": [{"constant": 1}]}
    subtree["childSubtreeAvailability"] = {"constant": 0}
    (tab.folder / "subtree.json").write_text(json.dumps(subtree))
    root = {"boundingVolume": {"box": box.T.ravel().tolist()}, "geometricError": 0, "refine": "REPLACE"}
    tileset = {
        "asset": {"version": "1.1"},
        "extensionsUsed": ["3DTILES_content_voxels"],
        "extensionsRequired": ["3DTILES_content_voxels"],
        "schema": tree["extensions"]["EXT_structural_metadata"]["schema"],
        "geometricError": 1,
        "root": {**root, "content": content, "implicitTiling": tiling},
    }
    assert psnr(tab.picture(camera, glb, tileset), drawn) >= SAME_DB


def test_nothing_is_asked_of_another_host(tab: Tab, drawn: np.ndarray) -> None:
    assert f"{tab.url}/scene.glb" in tab.requests
    assert [url for url in tab.requests if not url.startswith((f"{tab.url}/", "data:", "blob:"))] == []
