"""`<vqrf-viewer>` as developers use it, in pages of theirs: its interface, its manners, and many of it at once."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqrf.cli.meta import presented
from vqrf.codec.about import About, about_of
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import canonical_json
from vqrf.codec.container import with_section
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.preview import preview
from vqrf.rendering.page import page_with_scene
from vqrf.rendering.show import show

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM, NODE = shutil.which("chromium"), shutil.which("node")
VIEWER = Path(__file__).parents[2] / "viewer"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
    pytest.mark.skipif(not (VIEWER / "node_modules" / "esbuild").is_dir(), reason="run npm ci in viewer/"),
]

FLAGS = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--js-flags=--expose-gc"]
WAIT_MS = 60_000
HARMLESS = "GPU stall", "Canvas2D: Multiple readback", "status of 404"
"""What the browser says of tests that read pixels, or ask for what is not there."""
PAGE = """<!doctype html><meta charset=utf-8><link rel=icon href=data:,>
<style>body{{margin:0;{style}}}vqrf-viewer{{width:300px;height:200px}}</style>
{body}<script type=module src=/vqrf-viewer.js></script>"""
ONE = "<vqrf-viewer src=/ball.vqrf {attributes}></vqrf-viewer>"


@pytest.fixture(scope="module")
def site(ball_field: RadianceField, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of a folder with the module, a scene that says what it is, and one that says nothing."""
    folder = tmp_path_factory.mktemp("site")
    code = "import('./build.js').then(({ bundles }) => bundles()).then((made) => console.log(JSON.stringify(made)))"
    made = subprocess.run([str(NODE), "-e", code], cwd=VIEWER, capture_output=True, text=True, check=True)
    (folder / "vqrf-viewer.js").write_text(json.loads(made.stdout)["dist/vqrf-viewer.js"])
    plain = encode(preview(ball_field))
    about = presented(About(title="A <b>ball</b>", author="A. N.", licence="CC0", pitch=(-5.0, 60.0)), expand(decode(plain)))
    (folder / "plain.vqrf").write_bytes(plain)
    (folder / "ball.vqrf").write_bytes(with_section(plain, "META", canonical_json(about.added_to({}))))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


Opener = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, site: tuple[str, Path]) -> Iterator[Opener]:
    """Open a page of this body; nothing may fail in it, and no context may be lost."""
    faults: list[str] = []
    contexts = []

    def open_page(body: str, style: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 640, "height": 480}, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type in ("warning", "error") else None)
        url, folder = site
        (folder / "page.html").write_text(PAGE.format(body=body, style=style))
        page.goto(f"{url}/page.html")
        page.evaluate("window.viewer = document.querySelector('vqrf-viewer')")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not any(known in fault for known in HARMLESS)] == []


def one(attributes: str = "") -> str:
    return ONE.format(attributes=attributes)


def await_load(page: Any) -> None:
    page.wait_for_function("viewer.facts && viewer.stage.pass")


def wheel(page: Any) -> None:
    page.mouse.move(150, 100)
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(200)


# ------------------------------------------------------------------------------------------------------------- its interface


def test_facts_have_names_that_stay_and_say_what_the_file_says(opened: Opener, site: tuple[str, Path]) -> None:
    page = opened(one())
    await_load(page)
    facts = page.evaluate("viewer.facts")
    assert set(facts) | {"psnr", "ssim"} == {
        *(
            "name",
            "bytes",
            "title",
            "author",
            "licence",
            "description",
            "shape",
            "channels",
            "voxels",
            "colour",
            "psnr",
            "ssim",
        ),
        *("sections", "metadata", "decodeMs", "texturesMs"),
    }
    data = (site[1] / "ball.vqrf").read_bytes()
    small = decode(data)
    assert (facts["name"], facts["bytes"], facts["title"]) == ("ball.vqrf", len(data), "A <b>ball</b>")
    assert facts["shape"] == [16, 16, 16] and facts["voxels"] == small.n_coded + small.n_kept and facts["colour"] == "rgb"
    assert facts["metadata"] == small.metadata and [part["name"] for part in facts["sections"]][:2] == ["HEAD", "META"]
    assert page.get_by_role("application", name="3-D scene A <b>ball</b>").count() == 1
    page.get_by_role("button", name="About").click()
    panel = page.get_by_role("region", name="About the file")
    assert "A <b>ball</b>" in panel.inner_text() and "CC0" in panel.inner_text() and panel.locator("b").count() == 0


def test_events_tell_how_it_goes(opened: Opener) -> None:
    page = opened("")
    seen = page.evaluate("""async () => {
      const { VqrfViewer } = await import('/vqrf-viewer.js')
      const viewer = window.viewer = document.createElement('vqrf-viewer')
      const seen = []
      const types = ['load', 'progress', 'error', 'camerachange']
      for (const type of types) viewer.addEventListener(type, (e) => seen.push([type, e.detail]))
      const done = (type) => new Promise((resolve) => viewer.addEventListener(type, resolve, { once: true }))
      viewer.src = '/ball.vqrf'
      document.body.append(viewer)
      await done('load')
      viewer.camera = { position: [3, 0, 1], target: [0, 0, 0] }
      while (!viewer.stage.pass) await new Promise(requestAnimationFrame)
      const isOurs = viewer instanceof VqrfViewer
      viewer.src = '/nothing.vqrf'
      await done('error')
      return { isOurs, seen: seen.map(([type, detail]) => [type, detail instanceof Error ? detail.message : detail]) }
    }""")
    assert seen["isOurs"]
    types = [kind for kind, _ in seen["seen"]]
    shares = [detail["share"] for kind, detail in seen["seen"] if kind == "progress"]
    assert types.index("progress") < types.index("load") < len(types) - 1 - types[::-1].index("camerachange")
    assert shares == sorted(shares) and shares[-1] == 1
    assert "/nothing.vqrf cannot be fetched: the server answers 404" in seen["seen"][-1][1]
    moved = [detail for kind, detail in seen["seen"] if kind == "camerachange"][-1]
    np.testing.assert_allclose(moved["position"], [3, 0, 1], atol=1e-9)


def test_properties_reflect_attributes(opened: Opener) -> None:
    page = opened("")
    page.wait_for_function("Boolean(customElements.get('vqrf-viewer'))")
    page.evaluate("window.viewer = document.createElement('vqrf-viewer')")
    for name, attribute, value in [
        *((name, name, "x") for name in ("label", "poster", "background", "refresh", "distance", "pitch", "hash")),
        *(("bare", "bare", True), ("autoRotate", "auto-rotate", True), ("interaction", "interaction", "ctrl")),
    ]:
        page.evaluate("([name, value]) => { viewer[name] = value }", [name, value])
        assert page.evaluate("(name) => viewer.getAttribute(name)", attribute) == ("" if value is True else value)
        assert page.evaluate("(name) => viewer[name]", name) == value
    page.evaluate("viewer.bare = viewer.autoRotate = false, viewer.label = null")
    assert page.evaluate("[viewer.bare, viewer.hasAttribute('auto-rotate'), viewer.hasAttribute('label')]") == [False] * 3
    assert page.evaluate("(viewer.interaction = 'nonsense', viewer.interaction)") == "auto"


def test_limits_of_the_file_and_of_the_attributes_hold(opened: Opener) -> None:
    page = opened(one())
    await_load(page)
    pitch = "(viewer.stage.orbit.turn(0, 3), viewer.stage.orbit.pitch * 180 / Math.PI)"
    assert abs(page.evaluate(pitch) - 60) < 1e-6
    page.evaluate("viewer.pitch = '0 30', viewer.distance = '2, 3'")
    assert abs(page.evaluate(pitch) - 30) < 1e-6
    page.evaluate("viewer.camera = { position: [9, 0, 0], target: [0, 0, 0] }")
    np.testing.assert_allclose(page.evaluate("viewer.camera.position"), [3, 0, 0], atol=1e-9)
    wrong = "() => { try { viewer.camera = { position: [1, NaN, 0] } } catch (error) { return error.name } }"
    assert page.evaluate(wrong) == "TypeError"


def test_a_picture_can_be_had_of_any_size(opened: Opener) -> None:
    page = opened(one("background='#ff0000'"))
    await_load(page)
    pixels = page.evaluate("""async () => {
      const image = await createImageBitmap(await viewer.capture({ width: 64, height: 48 }))
      const canvas = new OffscreenCanvas(64, 48)
      const context = canvas.getContext('2d')
      context.drawImage(image, 0, 0)
      return [image.width, image.height, ...context.getImageData(0, 0, 1, 1).data, ...context.getImageData(32, 24, 1, 1).data]
    }""")
    assert pixels[:6] == [64, 48, 255, 0, 0, 255] and pixels[6:] != [255, 0, 0, 255]


# --------------------------------------------------------------------------------------------------------------- its manners


def test_a_poster_is_there_before_the_scene_and_gone_after(opened: Opener) -> None:
    page = opened(one())
    page.wait_for_function("viewer.shadowRoot.querySelector('.poster').src.startsWith('data:image/webp')")
    await_load(page)
    page.wait_for_function("getComputedStyle(viewer.shadowRoot.querySelector('.poster')).opacity === '0'")


@pytest.mark.parametrize(
    ("interaction", "is_long", "zooms", "scrolls"),
    [("auto", True, False, True), ("auto", False, True, False), ("ctrl", False, False, False), ("none", True, False, True)],
)
def test_the_wheel_is_the_pages_unless_it_is_meant_for_the_scene(
    opened: Opener, interaction: str, is_long: bool, zooms: bool, scrolls: bool
) -> None:
    page = opened(one(f"interaction={interaction}"), style="height:3000px" if is_long else "overflow:hidden")
    await_load(page)
    distance = "viewer.stage.orbit.distance"
    before = page.evaluate(distance)
    wheel(page)
    assert (page.evaluate(distance) != before, page.evaluate("scrollY") > 0) == (zooms, scrolls)
    page.evaluate("scrollTo(0, 0)")
    if interaction == "auto" and is_long:  # a click hands over the wheel, a pointer that leaves hands it back
        page.mouse.click(150, 100)
        wheel(page)
        assert page.evaluate(distance) != before and page.evaluate("scrollY") == 0
        page.mouse.move(500, 400)
        wheel(page)
        assert page.evaluate("scrollY") > 0
    if interaction == "ctrl":
        page.get_by_role("status").filter(has_text="Hold Ctrl to zoom").wait_for()
        wheel_with_ctrl = "new WheelEvent('wheel', { deltaY: 100, ctrlKey: true, cancelable: true })"
        page.evaluate(f"viewer.shadowRoot.querySelector('.surface').dispatchEvent({wheel_with_ctrl})")
        assert page.evaluate(distance) != before
    touches = {("auto", True): "pan-y", ("auto", False): "none", ("ctrl", False): "pan-x pan-y", ("none", True): "auto"}
    assert page.evaluate("viewer.shadowRoot.querySelector('.surface').style.touchAction") == touches[interaction, is_long]


def test_nobody_moves_a_viewer_without_interaction(opened: Opener) -> None:
    page = opened(one("interaction=none"))
    await_load(page)
    before = page.evaluate("viewer.camera")
    page.mouse.move(100, 100)
    page.mouse.down()
    page.mouse.move(180, 120)
    page.mouse.up()
    page.mouse.dblclick(150, 100)
    page.get_by_role("application").press("ArrowLeft")
    assert page.evaluate("viewer.camera") == before


def test_a_double_click_goes_to_what_is_there(opened: Opener) -> None:
    page = opened(one("src=/plain.vqrf").replace("src=/ball.vqrf ", ""))
    await_load(page)
    before = page.evaluate("viewer.camera")
    page.mouse.dblclick(8, 8)  # nothing is there
    assert page.evaluate("viewer.camera") == before
    page.mouse.dblclick(150, 100)
    page.wait_for_function("!viewer.stage.orbit.goal")
    after = page.evaluate("viewer.camera")
    assert np.linalg.norm(np.subtract(after["position"], after["target"])) < 0.7 * np.linalg.norm(
        np.subtract(before["position"], before["target"])
    )
    assert np.linalg.norm(after["target"]) > 0.1  # on the ball, not in its middle


def test_the_scene_turns_by_itself_until_it_is_touched(opened: Opener) -> None:
    page = opened(one("auto-rotate"), reduced_motion="no-preference")
    await_load(page)
    page.wait_for_function("!viewer.paused")
    yaw = page.evaluate("viewer.stage.orbit.yaw")
    page.wait_for_function(f"viewer.stage.orbit.yaw !== {yaw}")
    assert page.get_by_role("button", name="Turn by itself", pressed=True).count() == 1
    page.mouse.click(20, 20)
    assert page.evaluate("viewer.paused")
    page.get_by_role("application").press("Space")
    assert not page.evaluate("viewer.paused")
    page.evaluate("viewer.pause()")


def test_a_scene_does_not_turn_by_itself_for_those_who_prefer_stillness(opened: Opener) -> None:
    page = opened(one("auto-rotate"))
    await_load(page)
    page.wait_for_timeout(300)
    assert page.evaluate("viewer.paused && viewer.stage.turning !== 'smoothly'")


def test_help_about_and_errors_open_and_close_by_keys(opened: Opener) -> None:
    page = opened(one())
    await_load(page)
    page.mouse.click(20, 20)
    scene, helping = page.get_by_role("application"), page.get_by_role("region", name="Help")
    scene.press("?")
    assert helping.is_visible() and "turn" in helping.inner_text()
    page.keyboard.press("Escape")
    assert helping.is_hidden()
    page.get_by_role("button", name="About").press("Enter")
    assert page.get_by_role("region", name="About the file").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("viewer.shadowRoot.activeElement.ariaLabel") == "About"
    page.evaluate("viewer.load(new Uint8Array(40), 'bad.vqrf')")
    page.get_by_role("alert").filter(has_text="bad.vqrf cannot be shown").wait_for()
    page.get_by_role("alert").get_by_role("button", name="Close").click()
    assert page.get_by_role("alert").is_hidden()


def away(page: Any, before: dict[str, list[float]]) -> list[bool]:
    """Whether the camera stands elsewhere than before, and whether it looks elsewhere."""
    now = page.evaluate("viewer.camera")
    return [not np.allclose(now[name], before[name], atol=1e-6) for name in ("position", "target")]


def test_keys_alone_are_enough_to_fly_and_to_come_back(opened: Opener) -> None:
    page = opened(one("src=/plain.vqrf").replace("src=/ball.vqrf ", ""))
    await_load(page)
    scene, button = page.get_by_role("application"), page.get_by_role("button", name="Fly")
    page.evaluate("window.told = [], viewer.addEventListener('camerachange', ({ detail }) => told.push(detail))")
    scene.press("?")
    assert "fly" in page.get_by_role("region", name="Help").inner_text()
    page.keyboard.press("Escape")
    scene.press("v")
    assert button.get_attribute("aria-pressed") == "true" and "Esc" in page.get_by_role("status").inner_text()
    before = page.evaluate("viewer.camera")
    scene.press("ArrowLeft")
    assert away(page, before) == [False, True]
    ahead = np.subtract(before["target"], before["position"])
    now = page.evaluate("viewer.camera")
    assert np.cross(ahead, np.subtract(now["target"], now["position"]))[2] > 0  # it looks to the left
    scene.press("w")
    assert away(page, now) == [True, True]
    assert page.evaluate("told.at(-1)") == page.evaluate("viewer.camera")
    before = page.evaluate("viewer.camera")
    page.mouse.move(150, 100)
    page.mouse.down()
    page.mouse.move(180, 120)
    page.mouse.up()
    assert away(page, before) == [False, True]
    page.keyboard.press("Escape")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate("viewer.shadowRoot.activeElement.className") == "surface"
    before = page.evaluate("viewer.camera")
    scene.press("ArrowLeft")
    assert away(page, before) == [True, False]
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    page.evaluate("viewer.play()")  # turns the scene, and not who flies
    assert button.get_attribute("aria-pressed") == "false"
    scene.press("v")
    assert page.evaluate("viewer.paused")
    page.evaluate("viewer.interaction = 'none'")
    assert button.is_hidden()


def test_nobody_flies_beyond_the_limits(opened: Opener) -> None:
    page = opened(one("distance='2 3' pitch='0 30'"))
    await_load(page)
    center = page.evaluate("viewer.camera.target")
    scene = page.get_by_role("application")
    scene.press("v")
    places = []
    for key in ("w", "s", "a", "q", "ArrowUp"):
        page.keyboard.down(key)
        page.wait_for_timeout(300)
        page.keyboard.up(key)
        camera = page.evaluate("viewer.camera")
        place, gaze = (np.subtract(camera["position"], other) for other in (center, camera["target"]))
        distance = np.linalg.norm(place)
        assert 2 - 1e-6 <= distance <= 3 + 1e-6
        for height in (place[2] / distance, gaze[2] / np.linalg.norm(gaze)):
            assert -1e-6 <= height <= 0.5 + 1e-6
        places.append(tuple(np.round([*place, *gaze], 6)))
    assert len(set(places)) == 5


def test_a_pointer_leaves_no_frame_and_a_key_shows_one(opened: Opener) -> None:
    page = opened(one())
    await_load(page)
    is_framed = "viewer.shadowRoot.querySelector('.surface').matches(':focus-visible')"
    page.mouse.click(20, 20)
    assert page.evaluate("viewer.shadowRoot.activeElement.className") == "surface" and not page.evaluate(is_framed)
    page.mouse.click(400, 400)
    page.keyboard.press("Tab")
    page.evaluate("viewer.shadowRoot.querySelector('.surface').focus()")
    assert page.evaluate(is_framed)


@pytest.mark.parametrize("width", [390, 240])
def test_what_can_be_pressed_is_large_enough_for_a_thumb(opened: Opener, width: int) -> None:
    page = opened(one(f"style='width:{width}px;height:500px' hash"), has_touch=True)
    await_load(page)
    page.get_by_role("button", name="About").click()
    parts = "viewer.shadowRoot.querySelectorAll('button, select, summary, .file')"
    boxes = page.evaluate(
        f"Array.from({parts}, (e) => e.getBoundingClientRect()).map(({{ width, height }}) => [width, height])"
    )
    assert len([box for box in boxes if min(box) > 0]) >= 8
    assert all(min(box) >= 44 for box in boxes if min(box) > 0)


# -------------------------------------------------------------------------------------------------------------- many of them


def test_24_viewers_in_one_page_all_show_their_picture(opened: Opener) -> None:
    small = "<vqrf-viewer bare src=/plain.vqrf style='display:inline-block;width:100px;height:90px;min-height:0'></vqrf-viewer>"
    page = opened(small * 24)
    page.wait_for_function("Array.from(document.querySelectorAll('vqrf-viewer')).every((viewer) => viewer.stage?.pass)")
    seen = page.evaluate("""async () => {
      const colors = new Set()
      const live = []
      for (const viewer of document.querySelectorAll('vqrf-viewer')) {
        live.push(Boolean(viewer.stage.renderer))
        const shown = [...viewer.shadowRoot.querySelectorAll('.surface canvas')].filter((canvas) => !canvas.hidden)
        colors.add(shown.length)
      }
      return { live: live.filter(Boolean).length, shown: [...colors] }
    }""")
    assert 0 < seen["live"] <= 6 and seen["shown"] == [1]
    spread = page.evaluate("""() => {
      const lent = Array.from(document.querySelectorAll('vqrf-viewer')).filter(({ stage }) => !stage.renderer)
      return lent.map((viewer) => {
        const canvas = viewer.shadowRoot.querySelector('.surface canvas')
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
        return new Set(new Uint32Array(data.buffer)).size
      })
    }""")
    assert len(spread) >= 18 and min(spread) > 50  # stills are pictures
    page.evaluate("window.viewer = Array.from(document.querySelectorAll('vqrf-viewer')).find(({ stage }) => !stage.renderer)")
    page.evaluate("viewer.camera = { position: [2, 2, 2], target: [0, 0, 0] }")
    page.wait_for_function("viewer.stage.renderer && viewer.stage.pass")


def test_viewers_that_come_and_go_leave_no_context_and_no_memory_behind(opened: Opener) -> None:
    page = opened("<main></main>")
    page.wait_for_function("Boolean(customElements.get('vqrf-viewer'))")
    sizes = page.evaluate("""async () => {
      const sizes = []
      for (let i = 0; i < 200; i++) {
        const viewer = document.createElement('vqrf-viewer')
        viewer.src = '/plain.vqrf'
        document.querySelector('main').append(viewer)
        if (i % 10 === 0) while (!viewer.stage.share) await new Promise((resolve) => setTimeout(resolve, 5))
        viewer.remove()
        if (i % 50 === 49) {
          await new Promise((resolve) => setTimeout(resolve, 100))
          gc()
          sizes.push(performance.memory.usedJSHeapSize)
        }
      }
      return sizes
    }""")
    assert sizes[-1] < 1.5 * sizes[0] + 2e6
    page.evaluate("window.viewer = document.createElement('vqrf-viewer')")
    page.evaluate("viewer.src = '/plain.vqrf', document.body.append(viewer)")
    await_load(page)


def test_what_is_destroyed_can_be_used_again_and_what_is_moved_stays(opened: Opener) -> None:
    page = opened(one() + "<main></main>")
    await_load(page)
    page.evaluate("document.querySelector('main').append(viewer)")
    page.wait_for_timeout(100)
    assert page.evaluate("Boolean(viewer.facts && viewer.stage.renderer)")
    page.evaluate("viewer.destroy()")
    assert page.evaluate("[viewer.facts, viewer.stage, viewer.shadowRoot.querySelectorAll('canvas').length]") == [None, None, 0]
    page.evaluate("viewer.src = '/plain.vqrf'")
    await_load(page)
    before = page.evaluate("viewer.camera.position")
    page.mouse.move(100, 100)
    page.mouse.down()
    page.mouse.move(160, 110)
    page.mouse.up()
    assert page.evaluate("viewer.camera.position") != before


# ------------------------------------------------------------------------------------------------------- in others' programs


def test_it_can_be_imported_where_there_is_no_dom(site: tuple[str, Path]) -> None:
    code = "import(process.argv[1]).then((module) => console.log(Object.keys(module).join()))"
    path = str(site[1] / "vqrf-viewer.js")
    (site[1] / "package.json").write_text('{"type": "module"}')
    found = subprocess.run([str(NODE), "-e", code, path], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "VqrfViewer"


def test_a_strict_program_in_typescript_knows_its_names(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "vqrf-viewer").symlink_to(VIEWER)
    (tmp_path / "right.ts").write_text(
        """
import { VqrfViewer, type Facts } from 'vqrf-viewer'
import { decode, dequantize, FormatError } from 'vqrf-viewer/decode'
const viewer: VqrfViewer = document.createElement('vqrf-viewer')
viewer.addEventListener('load', ({ detail: facts }: { detail: Facts }) => console.log(facts.title, facts.psnr?.toFixed()))
viewer.addEventListener('camerachange', ({ detail }) => detail?.position[2])
viewer.camera = { position: [1, 2, 3], target: [0, 0, 0] }
viewer.interaction = 'ctrl'
viewer.capture({ width: 9 }).then((blob: Blob) => blob.size)
const field = decode(new Uint8Array())
if ('codebook' in field) dequantize(field.codebook)
else if ('levels' in field) field.levels[0]?.coefficients
else field.stacks[0]?.[0]?.coefficients
console.log(new FormatError instanceof Error)
""".replace("new FormatError instanceof Error", "FormatError.name")
    )
    (tmp_path / "wrong.ts").write_text("""
import { VqrfViewer } from 'vqrf-viewer'
export const wrong = (viewer: VqrfViewer) => { viewer.interaction = 'sometimes' }
""")

    def check(name: str) -> str:
        command = [
            str(VIEWER / "node_modules" / ".bin" / "tsc"),
            "--noEmit",
            "--strict",
            "--module",
            "nodenext",
            "--target",
            "es2022",
        ]
        return subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True).stdout

    assert check("right.ts") == ""
    assert "'\"sometimes\"' is not assignable" in check("wrong.ts")


STRICT = """
import { StrictMode, useState } from 'react'
import { createRoot } from 'react-dom/client'
import 'vqrf-viewer/react'
const seen = window.seen = []
function App() {
  const [src, setSrc] = useState('/ball.vqrf')
  Object.assign(window, { setSrc })
  return src && <vqrf-viewer src={src} autoRotate interaction="none" onload={({ detail }) => seen.push(detail.name)} />
}
createRoot(document.querySelector('main')).render(<StrictMode><App /></StrictMode>)
"""


def test_react_in_strict_mode_sets_properties_hears_events_and_takes_it_away(opened: Opener, site: tuple[str, Path]) -> None:
    if not (VIEWER / "node_modules" / "react-dom").is_dir():
        pytest.skip("React is not installed")
    folder = site[1]
    (folder / "app.jsx").write_text(STRICT)
    command = [str(VIEWER / "node_modules" / ".bin" / "esbuild"), str(folder / "app.jsx"), "--bundle", "--jsx=automatic"]
    alias = f"--alias:vqrf-viewer/react={folder / 'vqrf-viewer.js'}"
    environment = {**os.environ, "NODE_PATH": str(VIEWER / "node_modules")}
    subprocess.run([*command, "--format=esm", alias, f"--outfile={folder / 'app.js'}"], env=environment, check=True)
    page = opened("<main></main><script type=module src=/app.js></script>")
    page.wait_for_function("window.seen?.length === 1")
    page.evaluate("window.viewer = document.querySelector('vqrf-viewer')")
    assert page.evaluate("[viewer.autoRotate, viewer.interaction, seen[0]]") == [True, "none", "ball.vqrf"]
    page.evaluate("setSrc('/plain.vqrf')")
    page.wait_for_function("seen.length === 2")
    page.evaluate("setSrc('')")
    page.wait_for_function("!viewer.isConnected && !viewer.stage.renderer")


def test_the_example_in_react_is_right_in_strict_typescript(tmp_path: Path) -> None:
    if not (VIEWER / "node_modules" / "@types" / "react").is_dir():
        pytest.skip("the types of React are not installed")
    (tmp_path / "node_modules" / "@types").mkdir(parents=True)
    for name, place in {"vqrf-viewer": VIEWER, "@types/react": VIEWER / "node_modules" / "@types" / "react"}.items():
        (tmp_path / "node_modules" / name).symlink_to(place)
    (tmp_path / "node_modules" / "csstype").symlink_to(VIEWER / "node_modules" / "csstype")
    shutil.copy(VIEWER / "examples" / "react.tsx", tmp_path)
    flags = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--jsx", "react-jsx"]
    command = [str(VIEWER / "node_modules" / ".bin" / "tsc"), *flags, "react.tsx"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == ""


AXE = """async () => {
  const { violations } = await axe.run(document)
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 80)).join(' ')}`)
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_page_and_component(browser: Any, site: tuple[str, Path], tmp_path: Path, scheme: str) -> None:
    axe = VIEWER / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed")
    data = (site[1] / "ball.vqrf").read_bytes()
    path = tmp_path / "page.html"
    path.write_bytes(page_with_scene(data, "ball.vqrf", about_of(decode(data).metadata)))
    options: dict[str, Any] = {"color_scheme": scheme, "reduced_motion": "reduce", "bypass_csp": True}
    context = browser.new_context(viewport={"width": 640, "height": 480}, **options)
    page = context.new_page()
    page.goto(path.as_uri())
    page.evaluate("window.viewer = document.querySelector('vqrf-viewer')")
    await_load(page)
    page.add_script_tag(path=str(axe))
    for action in ("", "facts", "help"):
        if action:
            page.evaluate(f"viewer.shadowRoot.querySelector('[data-do={action}]').click()")
        assert page.evaluate(AXE) == [], action
    page.evaluate("viewer.load(new Uint8Array(40), 'bad.vqrf')")
    page.get_by_role("alert").filter(has_text="bad.vqrf").wait_for()
    assert page.evaluate(AXE) == []
    context.close()


def test_a_notebook_shows_a_scene_in_a_frame_that_reaches_nothing(opened: Opener, site: tuple[str, Path]) -> None:
    page = opened(show(site[1] / "ball.vqrf", height=200)._repr_html_())
    frame = page.frames[1]
    while not frame.evaluate("document.querySelector('vqrf-viewer').stage?.pass"):
        page.wait_for_timeout(100)
    assert (
        frame.evaluate("(() => { try { return parent.document.title } catch (error) { return error.name } })()")
        == "SecurityError"
    )


def test_what_is_published_is_all_that_package_json_names() -> None:
    package = json.loads((VIEWER / "package.json").read_text())
    named = [package[key] for key in ("main", "module", "types", "unpkg")]
    for target in package["exports"].values():
        named += [target] if isinstance(target, str) else list(target.values())
    made = subprocess.run(["npm", "pack", "--dry-run", "--json"], cwd=VIEWER, capture_output=True, text=True, check=True)
    published = {entry["path"] for entry in json.loads(made.stdout[made.stdout.index("[\n") :])[0]["files"]}
    assert {name.removeprefix("./") for name in named} <= published
    assert {
        "examples/plain.html",
        "examples/react.tsx",
        "examples/gallery.html",
        "examples/slide.html",
        "README.md",
    } <= published
