"""The verbs that show: pictures and films of a scene, a page that holds it, a server on this machine."""

from __future__ import annotations

import errno
import threading
import time
import urllib.parse
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import tyro

from vqrf.bars import progress_bar
from vqrf.cameras import Camera, Z
from vqrf.cli.convert import (
    AS_THEY_ARE,
    ImportFlags,
    ImportOptions,
    expect_of_checkpoint,
    load_field_of,
    open_checkpoint,
    sampling_of,
)
from vqrf.cli.progress import reading_bar
from vqrf.cli.terminal import (
    NO_LIMITS,
    LimitFlags,
    UsageError,
    Writing,
    WritingFlags,
    expect_counts,
    expect_writable,
    load_any,
    named,
    read_bytes,
    say,
    tell,
)
from vqrf.codec.about import About, about_of
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import Compressed
from vqrf.data.images import bytes_from_colors, jpeg_from_image
from vqrf.data.scene import View as PhotoView
from vqrf.fields.field import RadianceField, drawing_fault_of, expand
from vqrf.fields.preview import preview
from vqrf.fields.run import FIELD_FILE, about_of_notes, load_like, load_run, up_of
from vqrf.files import is_url, read_file, read_url, write_atomically
from vqrf.geometry import Lattice
from vqrf.hub import address_of, choose_scene, fetch, is_hub, open_repository
from vqrf.interop import is_checkpoint, is_vqrf, load_vqrf
from vqrf.kernels import has_native, select
from vqrf.memory import decoding_budget, expect_room
from vqrf.rendering.film import PathError, even, load_path, orbit, spiral, writing_clip
from vqrf.rendering.layers import layer_files
from vqrf.rendering.page import Link, page_with_scene
from vqrf.rendering.poster import camera_of, first_view, is_drawn_soon, is_expanded_soon, poster_of
from vqrf.rendering.render import Image, render, save_image
from vqrf.rendering.serve import SceneServer, Source
from vqrf.rendering.splats import MOST, splat_ply_of, splats_of, spz_of
from vqrf.rendering.surface import LEAST_LEVEL, LEVEL, glb_of, ply_of, surface_of
from vqrf.rendering.vdb import fog_of, nvdb_of
from vqrf.rendering.voxels import voxel_glb_of

CLIP_SUFFIX = ".mp4"
PICTURE_SUFFIX = ".png"
PAGE_SUFFIXES, SURFACE_SUFFIXES, SPLAT_SUFFIX, VOLUME_SUFFIX = (".html", ".htm"), (".ply", ".glb"), ".spz", ".nvdb"
OPENVDB_SUFFIX = ".vdb"
"""Of OpenVDB, which is not written; NanoVDB's own tools make it of NanoVDB."""
OUTPUT_SUFFIXES = {".mp4", ".gif", ".mov", ".webm", ".avi", ".mkv", ".png", ".jpg", ".jpeg", ".webp", ".exr", ".tif", ".tiff"}
"""Endings of names that people mean as one film or picture."""
MAX_FRAMES, MAX_PICTURE_SIDE = 100_000, 1 << 15
MAX_CLIP_SIDE, MAX_FPS = 1 << 14, 1000
"""Of a film: what encoders of H.264 take, and more than a screen shows."""
BYTES_OF_PIXEL = 64
"""Bytes of a picture's pixel, while it is drawn and written."""
MAX_PORT = 65535
REFRESH_SECONDS = 5.0
"""How often the page asks whether there is a newer field."""
WATCH_SECONDS = 20.0
"""Training between two fields that are shown; each takes it a second."""


@dataclass(frozen=True)
class Render:
    """Render a scene into PNG files or a film: from the cameras of a dataset, or along a camera path."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file, a run folder, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    out: Path
    """Folder for the images. With --path it may also be a film, NAME.mp4."""
    data: Path | None = None
    """Dataset folder, whose cameras are used. Not needed with --path."""
    path: str | None = None
    """Camera path: orbit, spiral, or a JSON file, which is a camera path of nerfstudio or a transforms.json of Blender."""
    frames: int = 120
    """Number of pictures along an orbit or a spiral."""
    fps: int = 30
    """Pictures per second of the film."""
    width: int = 800
    """Width of the pictures along a path, in pixels."""
    height: int = 800
    """Height of the pictures along a path, in pixels."""
    split: Literal["train", "test"] = "test"
    """Which photos of the dataset to use."""
    every: int = 1
    """Use only every n-th view of the test split."""
    downscale: int = 0
    """Average n x n pixels into one. 0: as in training."""
    layers: tuple[Literal["alpha", "depth"], ...] = ()
    """Write also the opacity or the depth, or both, of each picture beside it: NAME.alpha.png and NAME.depth.png."""
    exr: bool = False
    """Write the layers as floats, in one NAME.exr."""
    options: ImportFlags = AS_THEY_ARE
    common: WritingFlags = Writing()

    def run(self) -> None:
        self._expect_output()
        field, notes, _ = load_field_of(self.scene, self.options, self.data, self.split, quiet=self.common.quiet)
        views = self._views_along_path(field.lattice, about_of_notes(notes))
        if views is None:
            if self.data is None:
                raise UsageError("expected cameras: give --data FOLDER, or --path orbit, spiral or FILE")
            expect_counts(self.every, self.downscale)
            with reading_bar(self.common.quiet) as report:
                scene = load_like(notes, self.data, (self.split,), self.downscale, self.every, report)
            field = field.with_background(scene.background)
            views = pictures_of(getattr(scene, self.split))
        for name in views:
            for layer in self.layers if not self.exr else ():
                if (other := name.removesuffix(PICTURE_SUFFIX) + f".{layer}{PICTURE_SUFFIX}") in views:
                    raise UsageError(f"{other}: is the name of a view, and of a layer of another: give --exr")
        largest = max(camera.width * camera.height for camera in views.values())
        expect_room(BYTES_OF_PIXEL * largest, None, f"a picture of {largest} pixels")
        if self._is_clip:
            expect_writable(self.out, self.common)
        elif self.out.exists() and any(self.out.iterdir()) and not self.common.overwrite:
            raise UsageError(f"{self.out}: is not empty; give --overwrite")
        volume = field.volume()
        with ExitStack() as stack:
            if self._is_clip:
                clip = stack.enter_context(writing_clip(self.out, (self.width, self.height), self.fps))
            else:
                self.out.mkdir(parents=True, exist_ok=True)
            advance = stack.enter_context(progress_bar("render", len(views), self.common.quiet))
            for name, camera in views.items():
                image = render(volume, camera)
                if self._is_clip:
                    clip.add(image.rgb)
                else:
                    self._save(image, self.out / name)
                advance(1, "")
        what = f"a film of {len(views)}" if self._is_clip else f"{len(views)}"
        say(self.common.quiet, f"wrote {what} images to {self.out}")

    @property
    def _is_clip(self) -> bool:
        """Whether a film is asked for, and not a folder of pictures."""
        return self.path is not None and self.out.suffix.lower() == CLIP_SUFFIX

    def _save(self, image: Image, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(image.rgb, path)
        if self.layers:
            for ending, data in layer_files(image, self.layers, self.exr).items():
                write_atomically(path.with_name(path.name.removesuffix(PICTURE_SUFFIX) + ending), data)

    def _expect_output(self) -> None:
        """Refuse, before anything is read, a name whose ending would be that of a file which is not written."""
        if self.layers and self._is_clip:
            raise UsageError("--layers: a film has none; give a folder for PNG files")
        if self.exr and not self.layers:
            raise UsageError("--exr: expected --layers alpha, depth or both, which it is for")
        endings = {CLIP_SUFFIX} if self.path is not None else set()
        if self.out.suffix.lower() in OUTPUT_SUFFIXES - endings and not self.out.is_dir():
            film = "" if self._is_clip else f", or with --path a film NAME{CLIP_SUFFIX}"
            raise UsageError(f"{self.out}: {self.out.suffix} is not written; give a folder for PNG files{film}")

    def _views_along_path(self, lattice: Lattice, about: About) -> dict[str, Camera] | None:
        """Cameras by the name of their picture, or None if no path is asked for."""
        if self.path is None:
            return None
        for name in ("frames", "fps", "width", "height"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name}: expected at least 1, got {getattr(self, name)}")
        if self.frames > MAX_FRAMES or max(self.width, self.height) > MAX_PICTURE_SIDE:
            most = f"--frames {MAX_FRAMES}, --width and --height {MAX_PICTURE_SIDE}"
            raise UsageError(f"expected at most {most}, got {self.frames} of {self.width}x{self.height}")
        if self.fps > MAX_FPS:
            raise UsageError(f"--fps: expected 1..{MAX_FPS}, got {self.fps}")
        size = (self.width, self.height)
        if self._is_clip and not (even(size) and max(size) <= MAX_CLIP_SIDE):
            needs = f"a film needs an even width and height, at most {MAX_CLIP_SIDE}"
            raise UsageError(f"{self.out}: {needs}, got {self.width}x{self.height}")
        is_made = self.path in ("orbit", "spiral")
        if not is_made and not Path(self.path).exists():
            raise UsageError(f"--path {self.path}: expected orbit, spiral or a JSON file, and there is no such file")
        try:
            if is_made:
                cameras = (orbit if self.path == "orbit" else spiral)(lattice, self.frames, size, about.up or Z, about)
            else:
                cameras = load_path(self.path, size)
        except PathError as error:
            raise UsageError(str(error)) from None
        if len(cameras) > MAX_FRAMES:
            raise UsageError(f"--path {self.path}: has {len(cameras)} cameras, the limit is {MAX_FRAMES}")
        return {f"{i:04}.png": camera for i, camera in enumerate(cameras)}


@dataclass(frozen=True)
class View:
    """Show a scene in the browser. When the file changes, the page shows the new one."""

    scene: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH|URL")]
    """A .vqrf file or its address (https:// or hf://USER/NAME), a run folder,
    or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    port: int = 0
    """Port on 127.0.0.1. 0: any free port."""
    open: bool = True
    """Open the browser."""
    options: ImportFlags = AS_THEY_ARE
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise UsageError(f"--port: expected 0..{MAX_PORT}, got {self.port}")
        source, name = source_of(self.scene, self.options)
        with open_server(source, name, self.port) as server:
            say(False, f"{self.scene}: at {server.url} until Ctrl+C")
            if self.open:
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print()


@dataclass(frozen=True)
class Export:
    """Write one HTML page that holds a scene and needs no network; or, for other programs, its surface, splats or volume."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file; for all but a page also a run folder."""
    out: tyro.conf.Positional[Path]
    """File to write. Its ending selects the kind: .html; .ply or .glb for a surface; .spz for Gaussian splats;
    .nvdb for a volume that absorbs light and has colours, as NanoVDB."""
    url: str | None = None
    """Address at which you will publish the page.
    Links to it then show a picture, which is written beside the page as a .jpg."""
    level: float | None = None
    """For a surface: the share of the light, between 0 and 1, that the field absorbs there within one voxel's length.
    Without it, 0.5."""
    points: bool = False
    """For a .ply: write points on the surface, without triangles."""
    splats: bool = False
    """For a .ply: write Gaussian splats, an approximation of the scene, whose PSNR against it is printed."""
    max_splats: int | None = None
    """For splats: write no more than these. Of what is seen, that which adds most to pictures is kept. Without it, 2000000."""
    voxels: bool = False
    """For a .glb: write voxels with colour and opacity, without a surface, by the draft EXT_primitive_voxels."""
    overwrite: bool = False
    """Replace an output that exists already."""
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        ending = self.out.suffix.lower()
        self._expect_ending(ending)
        if ending in PAGE_SUFFIXES:
            self._write_page()
        elif self.splats or ending == SPLAT_SUFFIX:
            self._write_splats(is_ply=ending == ".ply")
        elif self.voxels or ending == VOLUME_SUFFIX:
            self._write_volume(is_glb=ending == ".glb")
        else:
            self._write_surface(is_glb=ending == ".glb")

    def _expect_ending(self, ending: str) -> None:
        """Refuse a name whose ending is of no kind, or of another than what was asked for."""
        endings = (*PAGE_SUFFIXES, *SURFACE_SUFFIXES, SPLAT_SUFFIX, VOLUME_SUFFIX)
        if ending == OPENVDB_SUFFIX:
            nano = self.out.with_suffix(VOLUME_SUFFIX)
            raise UsageError(f"{self.out}: is not written; write {nano}, of which nanovdb_convert makes a {OPENVDB_SUFFIX}")
        if ending not in endings:
            raise UsageError(f"{self.out}: expected a name that ends in {', '.join(endings)}")
        if self.level is not None and (self.splats or self.voxels or ending not in SURFACE_SUFFIXES):
            raise UsageError(f"--level: expected a surface, and a name that ends in .ply or .glb, got {self.out}")
        if self.points and ending != ".ply":
            raise UsageError(f"--points: expected a name that ends in .ply, got {self.out}")
        if self.splats and (self.points or ending not in (".ply", SPLAT_SUFFIX)):
            raise UsageError(f"--splats: expected a name that ends in .ply or {SPLAT_SUFFIX}, and no --points, got {self.out}")
        if self.max_splats is not None and not (self.splats or ending == SPLAT_SUFFIX):
            raise UsageError(f"--max-splats: expected splats, a .ply with --splats or a {SPLAT_SUFFIX}, got {self.out}")
        if self.max_splats is not None and self.max_splats < 1:
            raise UsageError(f"--max-splats: expected at least 1, got {self.max_splats}")
        if self.voxels and ending != ".glb":
            raise UsageError(f"--voxels: expected a name that ends in .glb, got {self.out}")
        if self.url is not None and ending not in PAGE_SUFFIXES:
            raise UsageError(f"--url: expected a name that ends in {' or '.join(PAGE_SUFFIXES)}, got {self.out}")

    def _write_page(self) -> None:
        link = None if self.url is None else link_of(self.url, self.out)
        data = read_bytes(self.scene)
        with named(self.scene):
            small = decode(data, max_bytes=decoding_budget())
            expect_drawable(small)
        expect_writable(self.out, Writing(overwrite=self.overwrite))
        picture = self.out.with_suffix(PREVIEW_SUFFIX)
        if link:
            expect_writable(picture, Writing(overwrite=self.overwrite))
        about = about_of(small.metadata)
        if link:
            with named(self.scene):
                about, image = _pictured(about, small)
            write_atomically(picture, image)
        else:
            about = _with_poster(about, small)
        page = page_with_scene(data, self.scene.name, about, link)
        write_atomically(self.out, page)
        say(False, f"{self.out}: {len(page)} bytes, {len(data)} of them the scene's")

    def _write_surface(self, is_glb: bool) -> None:
        level = LEVEL if self.level is None else self.level
        if not LEAST_LEVEL <= level < 1:
            raise UsageError(f"--level: expected a value between {LEAST_LEVEL:g} and 1, got {level:g}")
        expect_writable(self.out, Writing(overwrite=self.overwrite))
        field, notes, _ = load_any(self.scene)
        with named(self.scene):
            surface = surface_of(field, level)
        data = glb_of(surface, about_of_notes(notes).up or Z) if is_glb else ply_of(surface, with_faces=not self.points)
        write_atomically(self.out, data)
        triangles = "" if self.points else f" and {len(surface.faces)} triangles"
        say(False, f"{self.out}: {len(data)} bytes, {len(surface.vertices)} points{triangles}")

    def _write_splats(self, is_ply: bool) -> None:
        expect_writable(self.out, Writing(overwrite=self.overwrite))
        field, notes, _ = load_any(self.scene)
        with named(self.scene):
            about = about_of_notes(notes)
            splats, kept = splats_of(field, about, self.max_splats or MOST)
            data = (splat_ply_of if is_ply else spz_of)(splats, about.up or Z)
        write_atomically(self.out, data)
        n = len(splats.positions)
        left_out = f" of {kept.n_seen}, with {kept.share:.2%} of what pictures show" if n < kept.n_seen else ""
        say(False, f"{self.out}: {len(data)} bytes, {n} splats{left_out}; PSNR {kept.psnr:.2f} dB against the scene itself")

    def _write_volume(self, is_glb: bool) -> None:
        expect_writable(self.out, Writing(overwrite=self.overwrite))
        field, notes, _ = load_any(self.scene)
        with named(self.scene):
            fog = fog_of(field)
            data = voxel_glb_of(fog, about_of_notes(notes).up or Z) if is_glb else nvdb_of(fog)
        write_atomically(self.out, data)
        say(False, f"{self.out}: {len(data)} bytes, {int(fog.absorbs.sum())} voxels that absorb light")


def _pictured(about: About, small: Compressed) -> tuple[About, bytes]:
    """With a poster, where there is none, and a JPEG for links to the page.

    Raises:
      ValueError: the field has no first view.
    """
    field, up = expand(small), up_of(about, notes_of(small))
    view = about.view or first_view(field, up)
    if about.poster is None:
        about = replace(about, poster=poster_of(field, view, up))
    return about, jpeg_from_image(bytes_from_colors(render(field, camera_of(view, PREVIEW_SIZE, up)).rgb))


def _with_poster(about: About, small: Compressed) -> About:
    """With a poster, where there is none, if that takes seconds at most; nobody asked for one."""
    if about.poster is not None or not has_native() or not is_expanded_soon(small):  # without the core it would want PyTorch
        return about
    field, up = expand(small), up_of(about, notes_of(small))
    if not is_drawn_soon(field) or select().fault(field.volume()) is not None:
        return about
    try:
        return replace(about, poster=poster_of(field, about.view or first_view(field, up), up))
    except ValueError:  # no first view: as nothing is said of where to begin
        return about


PREVIEW_SIZE = 1200, 630
"""Pixels of the picture that a link to a page shows: what the programs that show links ask for."""
PREVIEW_SUFFIX = ".jpg"


def link_of(url: str, page: Path) -> Link:
    """Where a page and its picture will stand.

    Args:
      url: of the page, or of the folder that it will be in, with a slash at the end.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:  # brackets that close nothing, a port that is none
        is_address = False
    if not is_address or " " in url or not url.isprintable():
        raise UsageError(f"--url {url}: expected an address that begins with https://")
    picture = urllib.parse.quote(page.with_suffix(PREVIEW_SUFFIX).name)
    return Link(url, urllib.parse.urljoin(url, picture))


def notes_of(small: Compressed) -> dict[str, Any]:
    """How the field of a file was trained, as it says."""
    notes = small.metadata.get("training")
    return notes if isinstance(notes, dict) else {}


def pictures_of(views: Sequence[PhotoView]) -> dict[str, Camera]:
    """Cameras by the name of their picture: without the folders that all views share, so that no two become one file.

    Raises:
      UsageError: two views have one name.
    """
    parts = [[part for part in PurePosixPath(view.name).parts if part not in ("/", "..")] for view in views]
    shared = min(len(path) - 1 for path in parts)
    while any(path[:shared] != parts[0][:shared] for path in parts):
        shared -= 1
    names = ["/".join(path[shared:]) for path in parts]
    pictures: dict[str, Camera] = {}
    for name, view in zip(names, views, strict=True):
        if f"{name}.png" in pictures:
            raise UsageError(f"{view.name}: two views have this name, and there is one file for both")
        pictures[f"{name}.png"] = view.camera
    return pictures


def expect_drawable(small: Compressed) -> None:
    """Refuse what no page can show."""
    if fault := drawing_fault_of(small):
        raise ValueError(f"cannot be drawn: {fault}")


def open_server(source: Source, name: str, port: int) -> SceneServer:
    """A server at the port, or a reason in words why there is none."""
    try:
        return SceneServer(source, name, port, REFRESH_SECONDS)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"--port {port}: something else listens there; give another, or none for one that is free"
            ) from None
        if error.errno == errno.EACCES:
            raise UsageError(f"--port {port}: is not for everybody here; give one from 1024 on") from None
        raise


def source_of(scene: str, options: ImportOptions = AS_THEY_ARE) -> tuple[Source, str]:
    """What a file, a run folder, a checkpoint or an address shows, and what it is called."""
    path = Path(scene)
    expect_of_checkpoint(path, options)
    is_far = is_url(scene) or is_hub(scene)
    if not is_far and is_checkpoint(path):
        return source_of_checkpoint(path, options), path.resolve().name
    if not is_far and path.is_dir():
        return source_of_run(path), path.resolve().name
    data, name = _fetched(scene) if is_far else (read_bytes(path), path.resolve().name)
    with named(scene):
        expect_drawable(decode(data, max_bytes=decoding_budget()))
    return (lambda: data) if is_far else source_of_file(path), name


def _fetched(address: str) -> tuple[bytes, str]:
    """What the web or the hub has at an address, and what it is called."""
    with named(address):
        if not is_hub(address):
            name = PurePosixPath(urllib.parse.urlsplit(address).path).name
            return read_url(address), urllib.parse.unquote(name) or "scene.vqrf"
        meant = address_of(address)
        found = open_repository(meant)
        path = choose_scene(found, meant.path)
        return fetch(found, path), PurePosixPath(path).name


def source_of_file(path: Path) -> Source:
    """The bytes of a file, read again when it changes."""
    return _renewed(path, lambda: read_file(path))


def source_of_run(run: Path) -> Source:
    """The field of a run folder as the bytes of a .vqrf; made anew when the field is."""
    load_run(run)

    def make() -> bytes:
        field, notes = load_run(run)
        return encode(preview(field, about_of_notes(notes)))

    return _renewed(run / FIELD_FILE, make)


def source_of_checkpoint(path: Path, options: ImportOptions) -> Source:
    """The field of a checkpoint as the bytes of a .vqrf; made at once, so that what is wrong is said before it is served."""
    is_compressed = is_vqrf(path)

    def make() -> bytes:
        if is_compressed:
            small: Compressed = load_vqrf(path, corners=options.corners, sampling=sampling_of(path, options))
        else:
            field = open_checkpoint(path, options, exact=False).field
            with named(path):
                small = preview(field)
        with named(path):
            expect_drawable(small)
            return encode(small)

    how = "with its own values" if is_compressed else "with every value that can be seen in a byte"
    source = _renewed(path, make)
    source()
    tell(False, f"{path}: becomes a .vqrf file in memory, {how}")  # not of one that is refused, which is told in one line
    return source


def _renewed(path: Path, make: Callable[[], bytes]) -> Source:
    """What `make` gives, asked again where the file is another: requests share the bytes, and one that waits holds no copy."""
    made: tuple[tuple[int, int, int], bytes] | None = None

    def source() -> bytes | None:
        nonlocal made
        state = path.stat()
        mark = state.st_mtime_ns, state.st_size, state.st_ino
        if made is None or made[0] != mark:
            made = None
            made = mark, make()
        return made[1]

    return source


@contextmanager
def showing(name: str, about: About) -> Iterator[Callable[[Callable[[], RadianceField]], None]]:
    """Show a field in the browser while it is trained, beginning where it says: yields what `fit` takes as `watch`."""
    latest: list[bytes] = []
    last = time.monotonic()

    def watch(field: Callable[[], RadianceField]) -> None:
        nonlocal last
        if latest and time.monotonic() - last < WATCH_SECONDS:
            return
        latest[:] = [encode(preview(field(), about))]
        last = time.monotonic()

    with SceneServer(lambda: latest[0] if latest else None, name, refresh_seconds=REFRESH_SECONDS) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        tell(False, f"in training at {server.url}")
        webbrowser.open(server.url)
        try:
            yield watch
        finally:
            server.shutdown()
            thread.join()
