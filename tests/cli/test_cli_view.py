"""The verbs that show, as a person calls them."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tiny import TINY, assert_same_field

from vqrf.cameras import cameras_within
from vqrf.cli import view as cli_view
from vqrf.cli.convert import AS_THEY_ARE, OwnRenders, load_to_compress
from vqrf.cli.main import main
from vqrf.codec.about import About, about_of
from vqrf.codec.bitstream import decode, encode
from vqrf.compression.paper import PaperPreset, tied_model
from vqrf.data.builtin import built_in_scene
from vqrf.data.images import bytes_from_colors, read_photo
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.preview import preview
from vqrf.fields.run import FIELD_FILE, load_run
from vqrf.fields.storage import load_field, save_field
from vqrf.interop import bytes_of_dvgo, files_of_vqrf, load_checkpoint, load_vqrf, zip_of_vqrf
from vqrf.kernels import has_native
from vqrf.rendering.film import orbit
from vqrf.rendering.page import page_with_scene
from vqrf.rendering.poster import first_view, poster_of, view_amid
from vqrf.rendering.render import own_scene, render
from vqrf.rendering.serve import SceneServer
from vqrf.training.stages import PRESETS


def vqrf(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process: exit code, what it printed, what it complained of."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def refuses(*arguments: object, saying: str) -> None:
    code, out, err = vqrf(*arguments)
    assert (code, out) == (2, ""), (out, err)
    assert saying in err.splitlines()[-1] and err.splitlines()[-1].startswith("vqrf: ")


@pytest.fixture
def file(ball_field: RadianceField, tmp_path: Path) -> Path:
    path = tmp_path / "ball.vqrf"
    path.write_bytes(encode(preview(ball_field)))
    return path


@pytest.fixture
def run(ball_field: RadianceField, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save_field(folder / FIELD_FILE, ball_field, notes={})
    return folder


def test_export_writes_the_page_and_replaces_none_unasked(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, _ = vqrf("export", file, page)
    assert code == 0 and str(page) in out
    field = expand(decode(file.read_bytes()))
    drawn = About(poster=poster_of(field, first_view(field)) if has_native() else None)
    assert page.read_bytes() == page_with_scene(file.read_bytes(), "ball.vqrf", drawn)
    refuses("export", file, page, saying="is there already; give --overwrite")
    assert vqrf("export", file, page, "--overwrite")[0] == 0


def test_a_page_whose_address_is_known_shows_a_picture_in_links_to_it(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "my page.html"
    assert vqrf("export", file, page, "--url", "https://example.org/s/?a=1&b")[0] == 0
    text = page.read_text()
    assert '<meta property="og:image" content="https://example.org/s/my%20page.jpg">' in text
    assert '<meta property="og:url" content="https://example.org/s/?a=1&amp;b">' in text
    picture = read_photo(tmp_path / "my page.jpg", 1, (1.0, 1.0, 1.0))[0]
    assert picture.shape == (630, 1200, 3) and picture.std() > 5
    for url in (
        "example.org",
        "javascript:alert(1)",
        "https://",
        "https://[::1",
        "https://a b",
        "https://a:99999999/",
        "https://a/\n",
    ):
        refuses("export", file, tmp_path / "b.html", "--url", url, saying="--url")


def test_export_writes_surfaces_of_files_and_of_run_folders(file: Path, run: Path, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh, the other program")
    pytest.importorskip("skimage", reason="needs scikit-image, which finds surfaces")
    for scene in (file, run):
        for name in ("ball.ply", "ball.glb"):
            code, out, err = vqrf("export", scene, tmp_path / name, "--overwrite")
            assert code == 0 and "triangles" in out, err
            assert trimesh.load(tmp_path / name, force="mesh").is_watertight
    assert vqrf("export", file, tmp_path / "points.ply", "--points", "--level", 0.2)[0] == 0
    assert isinstance(trimesh.load(tmp_path / "points.ply"), trimesh.PointCloud)
    refuses("export", file, tmp_path / "ball.ply", saying="is there already; give --overwrite")
    refuses("export", file, tmp_path / "new.glb", "--points", saying=".ply")
    for level in (1, 0, 1e-300, "nan", "inf"):
        refuses("export", file, tmp_path / "new.glb", "--level", level, saying="--level")
    refuses("export", file, tmp_path / "new.html", "--level", 0.2, saying="--level")
    refuses("export", file, tmp_path / "new.obj", saying=".glb")
    assert not list(tmp_path.glob("new.*"))


def test_export_writes_splats_and_says_what_they_lose(file: Path, run: Path, tmp_path: Path) -> None:
    for scene in (file, run):
        for name, words in (("ball.ply", ("--splats",)), ("ball.spz", ())):
            code, out, err = vqrf("export", scene, tmp_path / name, *words, "--overwrite")
            assert code == 0 and "splats; PSNR " in out and "against the scene itself" in out, err
    assert (tmp_path / "ball.ply").read_bytes().startswith(b"ply\nformat binary_little_endian")
    assert (tmp_path / "ball.spz").stat().st_size < (tmp_path / "ball.ply").stat().st_size / 4
    code, out, err = vqrf("export", file, tmp_path / "few.spz", "--max-splats", 50)
    assert code == 0 and " 50 splats of " in out and "% of what pictures show" in out, err
    refuses("export", file, tmp_path / "ball.spz", saying="is there already; give --overwrite")
    refuses("export", file, tmp_path / "new.spz", "--max-splats", 0, saying="--max-splats")
    for most in (9, 2_000_000):
        refuses("export", file, tmp_path / "new.glb", "--max-splats", most, saying="--max-splats")
    refuses("export", file, tmp_path / "new.glb", "--splats", saying="--splats")
    refuses("export", file, tmp_path / "new.ply", "--splats", "--points", saying="--splats")
    refuses("export", file, tmp_path / "new.ply", "--splats", "--level", 0.2, saying="--level")
    refuses("export", file, tmp_path / "new.spz", "--points", saying="--points")
    refuses("export", file, tmp_path / "new.spz", "--url", "https://example.org/", saying="--url")
    assert not list(tmp_path.glob("new.*"))


def test_export_writes_volumes_and_says_who_makes_openvdb_of_them(file: Path, run: Path, tmp_path: Path) -> None:
    for scene in (file, run):
        code, out, err = vqrf("export", scene, tmp_path / "ball.nvdb", "--overwrite")
        assert code == 0 and "voxels that absorb light" in out, err
    assert (tmp_path / "ball.nvdb").read_bytes().startswith(b"NanoVDB0")
    refuses("export", file, tmp_path / "ball.nvdb", saying="is there already; give --overwrite")
    refuses("export", file, tmp_path / "new.vdb", saying="new.nvdb, of which nanovdb_convert makes a .vdb")
    assert vqrf("export", run, tmp_path / "ball.glb", "--voxels")[0] == 0
    assert b"EXT_primitive_voxels" in (tmp_path / "ball.glb").read_bytes()
    for flags in (("--level", 0.2), ("--points",), ("--splats",), ("--voxels",), ("--url", "https://example.org/")):
        refuses("export", file, tmp_path / "new.nvdb", *flags, saying=flags[0])
    refuses("export", file, tmp_path / "new.glb", "--voxels", "--level", 0.2, saying="--level")
    refuses("export", file, tmp_path / "new.ply", "--voxels", "--splats", saying="--voxels")
    assert not list(tmp_path.glob("new.*"))


def test_render_writes_layers_beside_pictures(file: Path, tmp_path: Path) -> None:
    path = ("--path", "orbit", "--frames", 2, "--width", 16, "--height", 12)
    out = tmp_path / "views"
    assert vqrf("render", file, *path, "--out", out, "--layers", "alpha", "depth")[0] == 0
    names = [f"000{i}{ending}" for i in range(2) for ending in (".alpha.png", ".depth.png", ".png")]
    assert sorted(p.name for p in out.iterdir()) == names
    with PIL.Image.open(out / "0001.depth.png") as picture:
        assert picture.mode == "I;16"
    assert vqrf("render", file, *path, "--out", tmp_path / "more", "--layers", "depth", "--exr")[0] == 0
    assert sorted(p.suffix for p in (tmp_path / "more").iterdir()) == [".exr", ".exr", ".png", ".png"]
    refuses("render", file, *path, "--out", tmp_path / "clip.mp4", "--layers", "depth", saying="a film has none")
    refuses("render", file, *path, "--out", tmp_path / "no", "--exr", saying="--layers")


def test_a_layer_and_a_view_never_become_one_file(file: Path, tmp_path: Path) -> None:
    save_scene(built_in_scene(n_train=3, n_test=2, side=16), tmp_path / "data")
    listing = tmp_path / "data" / "transforms_test.json"
    tree = json.loads(listing.read_text())
    tree["frames"][1]["file_path"] = f"{tree['frames'][0]['file_path']}.depth.png"
    shutil.copy(tmp_path / "data/test/r_0.png", tmp_path / "data/test/r_0.depth.png")
    listing.write_text(json.dumps(tree))
    words = ("render", file, "--data", tmp_path / "data", "--layers", "depth", "--out")
    refuses(*words, tmp_path / "out", saying="r_0.depth.png: is the name of a view, and of a layer")
    assert not (tmp_path / "out").exists()
    assert vqrf(*words, tmp_path / "out", "--exr")[0] == 0 and len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize("verb", ["render", "info", "view", "convert"])
def test_what_is_said_of_a_checkpoint_is_refused_of_a_file_of_ours(verb: str, file: Path, tmp_path: Path) -> None:
    rest = {"render": ("--path", "orbit", "--out", tmp_path / "o"), "convert": (tmp_path / "o",)}.get(verb, ())
    refuses(verb, file, *rest, "--step", 0.25, "--near", 1, saying="--step and --near: said of a checkpoint of another program")
    assert not (tmp_path / "o").exists()


def test_the_field_of_a_run_folder_is_told_from_the_folder(run: Path) -> None:
    refuses("info", run / "field.safetensors", saying=f"give the folder, {run}")


def test_what_is_no_scene_is_not_exported_or_shown(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.vqrf"
    bad.write_bytes(file.read_bytes()[:-1])
    refuses("export", bad, tmp_path / "page.html", saying=f"{bad}: KEPT")
    refuses("view", bad, "--no-open", saying=f"{bad}: KEPT")
    refuses("view", tmp_path / "nothing.vqrf", saying="nothing.vqrf")
    refuses("view", tmp_path, saying=f"holds no {FIELD_FILE}")
    refuses("view", file, "--port", 65536, saying="--port")
    assert not (tmp_path / "page.html").exists()


def test_the_scene_at_an_address_is_shown_and_what_is_none_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SceneServer(lambda: file.read_bytes(), "far") as far:
        thread = threading.Thread(target=far.serve_forever)
        thread.start()
        try:
            visitor = Visitor(monkeypatch)
            assert vqrf("view", f"{far.url}scene.vqrf")[0] == 0
            refuses("view", f"{far.url}nothing.vqrf", saying=f"{far.url}nothing.vqrf: the server answers 404")
            refuses("view", far.url, saying=f"{far.url}: header at byte 0")
        finally:
            far.shutdown()
            thread.join()
    assert visitor.scenes == [file.read_bytes()]
    refuses("view", "http://127.0.0.1:1/a.vqrf", saying="http://127.0.0.1:1/a.vqrf: cannot be fetched")
    refuses("view", "http://[bad/a.vqrf", saying="http://[bad/a.vqrf")


class Visitor:
    """Stands in for the browser and for the person who ends the program: looks once, then presses Ctrl+C."""

    def __init__(self, patch: pytest.MonkeyPatch, look: Callable[[str], None] = lambda _: None) -> None:
        self.opened: list[str] = []
        self.scenes: list[bytes] = []

        def serve(server: SceneServer) -> None:
            thread = threading.Thread(target=super(SceneServer, server).serve_forever)
            thread.start()
            try:
                with urllib.request.urlopen(f"{server.url}scene.vqrf") as response:
                    self.scenes.append(response.read())
                look(server.url)
            finally:
                server.shutdown()
                thread.join()
            raise KeyboardInterrupt

        patch.setattr(SceneServer, "serve_forever", serve)
        patch.setattr("webbrowser.open", self.opened.append)


def test_view_serves_the_file_and_opens_the_browser_unless_told_not_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor(monkeypatch)
    code, out, _ = vqrf("view", file)
    assert code == 0 and visitor.scenes == [file.read_bytes()]
    assert len(visitor.opened) == 1 and visitor.opened[0] in out and visitor.opened[0].startswith("http://127.0.0.1:")
    assert vqrf("view", file, "--no-open")[0] == 0 and len(visitor.opened) == 1


def test_view_shows_a_run_folder_and_its_next_field(
    run: Path, ball_field: RadianceField, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[bytes] = []

    def look(url: str) -> None:
        save_field(run / FIELD_FILE, ball_field.with_background((0.0, 0.0, 0.0)), notes={})
        with urllib.request.urlopen(f"{url}scene.vqrf") as response:
            later.append(response.read())

    visitor = Visitor(monkeypatch, look)
    assert vqrf("view", run, "--no-open")[0] == 0
    assert visitor.scenes == [encode(preview(ball_field))]
    assert decode(later[0]).equation.background == (0, 0, 0)


@pytest.mark.parametrize("name", ["ball.tar", "ball.zip", "extreme_saving"])
def test_view_shows_a_checkpoint_of_another_program_and_says_what_it_does(
    name: str, trained: RadianceField, importance: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    small = tied_model(trained, importance, PaperPreset(n_codes=64)).pack()
    files = {"": bytes_of_dvgo(trained, "ball")} if path.suffix == ".tar" else {"": zip_of_vqrf(small)}
    for inner, data in (files if path.suffix else files_of_vqrf(small)).items():
        (path / inner).parent.mkdir(exist_ok=True)
        (path / inner).write_bytes(data)
    expected = preview(load_checkpoint(path, exact=False).field) if path.suffix == ".tar" else load_vqrf(path)
    visitor = Visitor(monkeypatch)
    code, out, err = vqrf("view", path, "--no-open")
    assert code == 0 and visitor.scenes == [encode(expected)]
    assert f"{path}: becomes a .vqrf file in memory" in err and "127.0.0.1" in out


def test_view_refuses_a_checkpoint_before_it_serves_anything(
    ball_field: RadianceField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ball.tar"
    whole = bytes_of_dvgo(ball_field, "ball")
    path.write_bytes(whole[: len(whole) // 2])
    visitor = Visitor(monkeypatch)
    refuses("view", path, "--no-open", saying=str(path))
    path.write_bytes(whole)
    refuses("view", path, "--no-open", "--step", 0, saying="--step")
    refuses("view", path, "--no-open", "--max-memory", "100kB", saying="memory")
    assert visitor.scenes == []


def test_a_port_that_is_taken_is_named(file: Path) -> None:
    with SceneServer(lambda: b"", "x") as other:
        refuses("view", file, "--no-open", "--port", other.server_address[1], saying="something else listens there")


def test_a_scene_that_becomes_no_file_while_it_is_shown_is_not_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = file.read_bytes()

    def look(url: str) -> None:
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}scene.vqrf", timeout=20)
        file.unlink()
        file.write_bytes(whole + whole)
        with urllib.request.urlopen(f"{url}scene.vqrf", timeout=20) as response:
            assert response.read() == whole + whole

    try:
        Visitor(monkeypatch, look)
        assert vqrf("view", file, "--no-open")[0] == 0
    finally:
        file.unlink()
        file.write_bytes(whole)


def test_render_draws_an_orbit_and_a_path_from_a_file(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "frames"
    size = ("--width", 40, "--height", 30)
    assert vqrf("render", file, "--path", "orbit", "--frames", 3, *size, "--out", out)[0] == 0
    field = expand(decode(file.read_bytes()))
    cameras = orbit(field.lattice, 3, (40, 30))
    assert sorted(path.name for path in out.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    for i, camera in enumerate(cameras):
        image = np.asarray(PIL.Image.open(out / f"{i:04}.png"))
        np.testing.assert_array_equal(image, bytes_from_colors(render(field, camera).rgb))
    frames = [{"transform_matrix": camera.pose.tolist()} for camera in cameras[:2]]
    path = tmp_path / "path.json"
    path.write_text(json.dumps({"fl_x": cameras[0].fx, "w": 40, "frames": frames}))
    assert vqrf("render", file, "--path", path, *size, "--out", tmp_path / "again")[0] == 0
    for name in ("0000.png", "0001.png"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_a_field_of_a_place_is_shown_from_where_its_photos_were_taken(
    ball_field: RadianceField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along paths, in the viewer and in own renders; of a run folder and of a file."""
    cameras = cameras_within((0.2, 0.0, 0.1), (1.5, 2.0), (10.0, 40.0), 12, 16, up=(0.0, -1.0, 0.0))
    amid = view_amid(cameras, (0.0, -1.0, 0.0))
    assert amid is not None
    run, file = tmp_path / "run", tmp_path / "ball.vqrf"
    run.mkdir()
    save_field(run / FIELD_FILE, ball_field, notes=amid.added_to({"up": [0.0, -1.0, 0.0]}))
    about = replace(amid, up=(0.0, -1.0, 0.0))
    visitor = Visitor(monkeypatch)
    assert vqrf("view", run, "--no-open")[0] == 0
    file.write_bytes(visitor.scenes[0])
    assert about_of(decode(visitor.scenes[0]).metadata) == about
    for scene, field in ((run, ball_field), (file, expand(decode(visitor.scenes[0])))):
        out = tmp_path / f"{scene.name} drawn"
        assert vqrf("render", scene, "--path", "orbit", "--frames", 3, "--width", 24, "--height", 24, "--out", out)[0] == 0
        for i, camera in enumerate(orbit(field.lattice, 3, (24, 24), (0.0, -1.0, 0.0), about)):
            expected = bytes_from_colors(render(field, camera).rgb)
            np.testing.assert_array_equal(np.asarray(PIL.Image.open(out / f"{i:04}.png")), expected)
    own = load_to_compress(run, None, AS_THEY_ARE, OwnRenders(own_views=3, own_side=16), True)[2]
    expected_own = own_scene(ball_field, 3, 16, about=about)
    for view, same in zip(own.train, expected_own.train, strict=True):
        np.testing.assert_array_equal(view.camera.pose, same.camera.pose)
    assert vqrf("convert", file, tmp_path / "again")[0] == 0
    assert about_of(load_run(tmp_path / "again")[1]) == about


def test_render_makes_a_film(file: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    out = tmp_path / "clip.mp4"
    words = ("render", file, "--path", "spiral", "--frames", 4, "--width", 64, "--height", 48, "--out", out)
    assert vqrf(*words)[0] == 0
    with av.open(str(out)) as container:
        assert len(list(container.decode(video=0))) == 4
    refuses(*words, saying="is there already")
    assert vqrf(*words, "--overwrite")[0] == 0
    assert vqrf(*words[:-1], tmp_path / "clip.MP4")[0] == 0 and (tmp_path / "clip.MP4").is_file()


def test_render_refuses_what_cannot_be(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refuses("render", file, "--out", out, saying="--data FOLDER, or --path")
    refuses("render", file, "--out", out, "--path", tmp_path / "none.json", saying="none.json")
    (tmp_path / "bad.json").write_text("{}")
    refuses("render", file, "--out", out, "--path", tmp_path / "bad.json", saying="bad.json: has no camera_path")
    for name in ("frames", "fps", "width", "height"):
        refuses("render", file, "--out", out, "--path", "orbit", f"--{name}", 0, saying=f"--{name}: expected at least 1")
    film = ("render", file, "--out", tmp_path / "a.mp4", "--path", "orbit")
    refuses(*film, "--width", 33, saying="even width and height")
    refuses(*film, "--width", 16386, "--height", 2, saying="at most 16384")
    refuses(*film, "--fps", 1001, saying="--fps: expected 1..1000")
    assert not out.exists() and not (tmp_path / "a.mp4").exists()


def test_a_training_that_is_watched_is_shown_and_ends_in_the_same_field(
    scene: Scene, trained: RadianceField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "demo", TINY)
    monkeypatch.setattr(cli_view, "WATCH_SECONDS", 0)
    shown: list[bytes] = []
    is_over = threading.Event()

    def visit(url: str) -> None:
        while not is_over.is_set():
            with urllib.request.urlopen(f"{url}scene.vqrf") as response:
                data = response.read()
            if data and data not in shown:
                shown.append(data)
            time.sleep(0.01)

    threads: list[threading.Thread] = []

    def open_browser(url: str) -> None:
        threads.append(threading.Thread(target=visit, args=(url,)))
        threads[0].start()

    # The visitor leaves before the server does.
    shutdown = SceneServer.shutdown

    def leave_first(server: SceneServer) -> None:
        is_over.set()
        threads[0].join()
        shutdown(server)

    monkeypatch.setattr("webbrowser.open", open_browser)
    monkeypatch.setattr(SceneServer, "shutdown", leave_first)
    save_scene(scene, tmp_path / "data")
    code, _, err = vqrf("train", tmp_path / "data", "--out", tmp_path / "run", "--preset", "demo", "--view")
    assert code == 0 and "in training at http://127.0.0.1:" in err
    assert len(shown) >= 2
    assert decode(shown[0]).lattice.shape != decode(shown[-1]).lattice.shape  # the coarse stage, then the fine one
    field, _ = load_field(tmp_path / "run" / FIELD_FILE)
    assert_same_field(field, trained)
