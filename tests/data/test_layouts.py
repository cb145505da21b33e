"""One scene, all layouts: the same photos, cameras and splits, whichever layout they come in."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from layouts import WRITERS, Original, original_of, write_colmap_binary, write_colmap_text, write_llff, write_nsvf

from vqrf.data.builtin import built_in_scene
from vqrf.data.listing import SceneError
from vqrf.data.load import list_photos, load_scene
from vqrf.data.scene import Scene, View, save_scene
from vqrf.lens import Lens

SHARED = Path(__file__).parents[3] / "shared" / "data"
LEGO = SHARED / "nerf_synthetic" / "lego"
needs_lego = pytest.mark.skipif(not LEGO.is_dir(), reason=f"needs the Synthetic-NeRF lego scene in {LEGO}")
each_layout = pytest.mark.parametrize("layout", WRITERS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Ten photos of 24x24 of the built-in scene, two of them for the test."""
    folder = tmp_path_factory.mktemp("original")
    save_scene(built_in_scene(n_train=8, n_test=2, side=24), folder)
    return original_of(folder, 24, 24, {"train": 1, "test": 1})


@pytest.fixture(scope="module")
def lego() -> Original:
    return original_of(LEGO, 800, 800, {"train": 45, "test": 60})


def assert_same_views(scene: Scene, original: Original) -> None:
    for split, views in (("train", scene.train), ("test", scene.test)):
        photos = [photo for photo in original.photos if photo.split == split]
        assert len(views) == len(photos)
        for view, photo in zip(views, photos, strict=True):
            _assert_same(view, original, photo.file, photo.pose)


def _assert_same(view: View, original: Original, file: Path, pose: np.ndarray) -> None:
    """Against NumPy on the original's own numbers."""
    rgba = np.asarray(PIL.Image.open(file).convert("RGBA"), np.float64) / 255
    exact = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    assert np.abs(view.image - 255 * exact).max() <= 0.5 + 1e-3
    rows, columns = np.mgrid[: original.height, : original.width] + 0.5
    x, y = (columns - original.width / 2) / original.focal, (rows - original.height / 2) / original.focal
    local = np.stack([x, -y, -np.ones_like(x)], -1).reshape(-1, 3)
    expected = local @ pose[:3, :3].T / np.linalg.norm(local, axis=-1, keepdims=True)
    origins, directions = view.camera.rays()
    assert np.abs(directions - expected).max() < 1e-5
    assert np.abs(origins - pose[:3, 3]).max() < 1e-5


@each_layout
def test_every_layout_gives_the_same_photos_cameras_and_splits(original: Original, layout: str, tmp_path: Path) -> None:
    WRITERS[layout](original, tmp_path)
    scene = load_scene(tmp_path)
    assert_same_views(scene, original)
    assert (scene.hold_out, scene.remarks) == ("own", ())
    assert len({view.name for view in scene.train + scene.test}) == 10


@each_layout
@needs_lego
def test_real_lego_is_the_same_in_every_layout(lego: Original, layout: str, tmp_path: Path) -> None:
    WRITERS[layout](lego, tmp_path)
    assert_same_views(load_scene(tmp_path), lego)


@needs_lego
def test_the_shared_writer_of_nsvf_is_read_alike(tmp_path: Path) -> None:
    script = SHARED / "tools" / "nsvf_from_blender.py"
    subprocess.run([sys.executable, script, LEGO, tmp_path, "--every-train", "50", "--every-test", "60"], check=True)
    assert_same_views(load_scene(tmp_path), original_of(LEGO, 800, 800, {"train": 50, "test": 60}))


@pytest.mark.parametrize("is_binary", [False, True])
def test_models_that_colmap_itself_writes_are_read(original: Original, is_binary: bool, tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    write_colmap_text(original, tmp_path)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse/0"))
    for i in range(3):
        model.add_point3D(np.array([0.1 * i, 0.2, 0.3]), pycolmap.Track(), np.zeros(3, np.uint8))
    for file in (tmp_path / "sparse/0").iterdir():
        file.unlink()
    (model.write_binary if is_binary else model.write_text)(str(tmp_path / "sparse/0"))
    assert (tmp_path / "sparse/0" / ("rigs.bin" if is_binary else "rigs.txt")).exists()
    assert_same_views(load_scene(tmp_path), original)
    points = list_photos(tmp_path).points
    assert points is not None
    np.testing.assert_allclose(np.sort(points, 0), [[0.0, 0.2, 0.3], [0.1, 0.2, 0.3], [0.2, 0.2, 0.3]])


# --- what captures are like


def test_of_several_models_the_one_with_the_most_photos_is_taken(original: Original, tmp_path: Path) -> None:
    write_colmap_text(replace(original, photos=original.photos[:3]), tmp_path)
    write_colmap_binary(original, tmp_path)
    scene = load_scene(tmp_path)
    assert_same_views(scene, original)
    assert scene.remarks == ("of 2 models the one with the most photos is taken: sparse/1",)


@pytest.mark.parametrize("place", ["sparse", "colmap/sparse/0", "dense/0/sparse", "sparse_txt/0", "."])
def test_models_are_found_where_programs_put_them(original: Original, place: str, tmp_path: Path) -> None:
    write_colmap_text(original, tmp_path)
    model = tmp_path / "sparse/0"
    photos = tmp_path / "images"
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    if place == "dense/0/sparse":
        photos.rename(tmp_path / "dense/0/images")
    for file in list(model.iterdir()):
        file.rename(tmp_path / place / file.name)
    if model.is_dir():
        model.rmdir()
    assert_same_views(load_scene(tmp_path), original)


def test_photos_of_a_model_that_are_not_there_and_such_that_are_in_none_are_passed_over(
    original: Original, tmp_path: Path
) -> None:
    write_colmap_text(original, tmp_path)
    (tmp_path / "images/002.png").rename(tmp_path / "images/unposed.png")
    scene = load_scene(tmp_path)
    assert len(scene.train) == 7
    assert scene.remarks == ("1 photos of the model are not there: 002.png",)


def test_cameras_are_scaled_to_the_files(original: Original, tmp_path: Path) -> None:
    write_colmap_text(original, tmp_path)
    text = (tmp_path / "sparse/0/cameras.txt").read_text()
    double = f"7 PINHOLE 48 48 {2 * original.focal!r} {2 * original.focal!r} 24 24\n"
    (tmp_path / "sparse/0/cameras.txt").write_text(text.splitlines()[0] + "\n" + double)
    assert_same_views(load_scene(tmp_path), original)


def test_a_camera_of_another_aspect_than_its_file_is_refused(original: Original, tmp_path: Path) -> None:
    write_colmap_text(original, tmp_path)
    (tmp_path / "sparse/0/cameras.txt").write_text(f"7 PINHOLE 24 32 {original.focal} {original.focal} 12 16\n")
    with pytest.raises(SceneError, match=r"000.png: is 24x24, and its camera is for 24x32"):
        load_scene(tmp_path)


@pytest.mark.parametrize(("write", "name"), [(write_colmap_text, "000"), (write_llff, "images/000")])
def test_folders_of_smaller_copies_are_taken_where_they_are_large_enough(
    original: Original, write: Callable[[Original, Path], None], name: str, tmp_path: Path
) -> None:
    write(original, tmp_path)
    for n in (2, 4):
        (tmp_path / f"images_{n}").mkdir()
        for file in (tmp_path / "images").iterdir():
            PIL.Image.open(file).reduce(n).save(tmp_path / f"images_{n}" / file.name)
    for side, downscale, n_read in [(24, 1, 1), (13, 1, 1), (12, 2, 2), (6, 4, 4), (3, 8, 4), (1, 24, 4)]:
        by_side = load_scene(tmp_path, side=side)
        by_factor = load_scene(tmp_path, downscale=downscale)
        for scene in (by_side, by_factor):
            assert scene.downscale == downscale
            assert scene.train[0].camera.fx == pytest.approx(original.focal / downscale)
            assert scene.train[0].name == name
        folder = tmp_path / (f"images_{n_read}" if n_read > 1 else "images")
        expected = PIL.Image.open(folder / "000.png").reduce(downscale // n_read)
        assert np.abs(np.asarray(expected, int) - by_side.train[0].image).max() <= 1
        np.testing.assert_array_equal(by_side.train[0].image, by_factor.train[0].image)


def test_a_folder_of_small_copies_alone_is_read_at_its_size(original: Original, tmp_path: Path) -> None:
    write_llff(original, tmp_path)
    (tmp_path / "images").rename(tmp_path / "images_4")
    rows = np.load(tmp_path / "poses_bounds.npy")
    rows[:, :15].reshape(-1, 3, 5)[:, :, 4] *= 4
    np.save(tmp_path / "poses_bounds.npy", rows)
    assert_same_views(load_scene(tmp_path), original)


@pytest.mark.parametrize(
    ("model", "numbers", "lens"),
    [
        ("SIMPLE_PINHOLE", "30 12 12", None),
        ("SIMPLE_RADIAL", "30 12 12 0.1", Lens("SIMPLE_RADIAL", (0.1,))),
        ("OPENCV", "30 30 12 12 0 0 0 0", None),
        ("OPENCV", "30 30 12 12 0.1 0.2 0.3 0.4", Lens("OPENCV", (0.1, 0.2, 0.3, 0.4))),
        ("OPENCV_FISHEYE", "30 30 12 12 0 0 0 0", Lens("OPENCV_FISHEYE", (0.0, 0.0, 0.0, 0.0))),
        ("EUCM", "30 30 12 12 0.5 1", Lens("EUCM", (0.5, 1.0))),
    ],
)
def test_every_camera_model_of_colmap_is_read(
    original: Original, model: str, numbers: str, lens: Lens | None, tmp_path: Path
) -> None:
    write_colmap_text(original, tmp_path)
    (tmp_path / "sparse/0/cameras.txt").write_text(f"7 {model} 24 24 {numbers}\n")
    camera = load_scene(tmp_path).train[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.lens) == (30, 30, 12, 12, lens)


def test_a_box_and_bounds_of_nsvf_are_read(original: Original, tmp_path: Path) -> None:
    write_nsvf(original, tmp_path)
    (tmp_path / "bbox.txt").write_text("-1 -2 -3 1 2 3 0.1\n")
    listing = list_photos(tmp_path)
    assert listing.box is not None
    assert (listing.near, listing.far) == (2.0, 6.0)
    np.testing.assert_array_equal(listing.box, [[-1, -2, -3], [1, 2, 3]])


def test_validation_photos_of_nsvf_are_left_out_where_there_is_a_test(original: Original, tmp_path: Path) -> None:
    write_nsvf(original, tmp_path)
    for folder, ending in (("pose", "txt"), ("rgb", "png")):
        (tmp_path / folder / f"0_0003.{ending}").rename(tmp_path / folder / f"1_0003.{ending}")
    scene = load_scene(tmp_path)
    assert (len(scene.train), len(scene.test)) == (7, 2)


def test_texts_of_colmap_by_other_programs_are_read(original: Original, tmp_path: Path) -> None:
    """With a mark at the beginning, without the lines of points, with folders in the lists."""
    WRITERS["colmap text"](original, tmp_path)
    model = tmp_path / "sparse/0"
    without(lambda line: len(line.split()) != 10 or line.startswith("#"), "sparse/0/images.txt")(tmp_path)
    for path in model.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for split in ("train", "test"):
        names = (tmp_path / f"{split}.txt").read_text().split()
        (tmp_path / f"{split}.txt").write_text("".join(f"images/{name}\n" for name in names))
    assert_same_views(load_scene(tmp_path), original)


# --- bad input

Spoil = Callable[[Path], object]


def text(name: str, content: str) -> Spoil:
    return lambda folder: (folder / name).write_text(content)


def data(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, at: int) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:at])


def row(**columns: float) -> Spoil:
    """Change numbers of the third row of poses_bounds.npy."""

    def apply(folder: Path) -> None:
        rows = np.load(folder / "poses_bounds.npy")
        for column, value in columns.items():
            rows[2, int(column[1:])] = value
        np.save(folder / "poses_bounds.npy", rows)

    return apply


def without(is_left_out: Callable[[str], bool], name: str) -> Spoil:
    """Leave lines out of a text."""

    def apply(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("".join(f"{line}\n" for line in lines if not is_left_out(line)))

    return apply


def npy(head: str, data: bytes = b"") -> Spoil:
    padded = head.encode().ljust(117) + b"\n"
    return lambda folder: (folder / "poses_bounds.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data
    )


BAD: dict[str, tuple[str, Spoil, str, str]] = {
    "cameras cut off": ("colmap binary", cut("sparse/1/cameras.bin", 40), "sparse/1/cameras.bin", "is cut off"),
    "two million cameras": (
        "colmap binary",
        data("sparse/1/cameras.bin", struct.pack("<Q", 2_000_000) + bytes(64)),
        "sparse/1/cameras.bin",
        "is cut off: it says that 2000000 follow",
    ),
    "two million cameras that are there": (
        "colmap binary",
        data("sparse/1/cameras.bin", struct.pack("<Q", 2_000_000) + bytes(48 * 2_000_000)),
        "sparse/1/cameras.bin",
        "lists 2000000 photos, the limit is 20000",
    ),
    "a camera model that is none": (
        "colmap binary",
        data("sparse/1/cameras.bin", struct.pack("<QIiQQ4d", 1, 7, 99, 24, 24, 1, 1, 1, 1)),
        "sparse/1/cameras.bin",
        "camera 7: model 99 is not known",
    ),
    "photos cut off": ("colmap binary", cut("sparse/1/images.bin", 300), "sparse/1/images.bin", "is cut off"),
    "photos cut off in their points": ("colmap binary", cut("sparse/1/images.bin", -30), "sparse/1/images.bin", "is cut off"),
    "no photos": ("colmap binary", data("sparse/1/images.bin", bytes(8)), "sparse/1/images.bin", "holds no photos"),
    "no end of a name": (
        "colmap binary",
        data("sparse/1/images.bin", struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 0, 0, 0, 7) + b"a" * 9000),
        "sparse/1/images.bin",
        "holds a name without an end",
    ),
    "a quaternion that is none": (
        "colmap text",
        text("sparse/0/images.txt", "1 0 0 0 0 0 0 0 7 000.png\n\n"),
        "sparse/0/images.txt",
        "photo 0 .*: its quaternion is none",
    ),
    "a translation of nan": (
        "colmap text",
        text("sparse/0/images.txt", "1 1 0 0 0 nan 0 0 7 000.png\n\n"),
        "sparse/0/images.txt",
        "photo 0 .*: a value is not finite",
    ),
    "a camera that is not there": (
        "colmap text",
        text("sparse/0/images.txt", "1 1 0 0 0 0 0 0 9 000.png\n\n"),
        "sparse/0",
        "photo '000.png': there is no camera 9",
    ),
    "a photo outside": (
        "colmap text",
        text("sparse/0/images.txt", "1 1 0 0 0 0 0 0 7 ../../secret.png\n\n"),
        "sparse/0",
        "photo '../../secret.png' leads out",
    ),
    "a line that is none": (
        "colmap text",
        text("sparse/0/images.txt", "1 1 0 0\n\n"),
        "sparse/0/images.txt",
        "photo 0: expected a number, a quaternion",
    ),
    "a camera of too few numbers": (
        "colmap text",
        text("sparse/0/cameras.txt", "7 OPENCV 24 24 1 2 3\n"),
        "sparse/0/cameras.txt",
        "OPENCV: expected 8 numbers, got 3",
    ),
    "a focal length of nan": (
        "colmap text",
        text("sparse/0/cameras.txt", "7 PINHOLE 24 24 nan 1 12 12\n"),
        "sparse/0/cameras.txt",
        "positive focal lengths",
    ),
    "a focal length of next to nothing": (
        "colmap text",
        text("sparse/0/cameras.txt", "7 PINHOLE 24 24 1e-300 1 12 12\n"),
        "sparse/0/cameras.txt",
        "positive focal lengths, 1e-12 to",
    ),
    "an endless side": (
        "colmap text",
        text("sparse/0/cameras.txt", "7 PINHOLE 99999999 24 1 1 12 12\n"),
        "sparse/0/cameras.txt",
        "image size: expected 1 to 1048576 pixels",
    ),
    "no photo there": (
        "colmap text",
        text("sparse/0/images.txt", "1 1 0 0 0 0 0 0 7 other.png\n\n"),
        "sparse/0",
        "none of its photos is there: other.png",
    ),
    "poses_bounds of another number": ("llff", lambda f: (f / "images/003.png").unlink(), "poses_bounds.npy", "has 10 rows"),
    "poses_bounds cut off": ("llff", cut("poses_bounds.npy", 700), "poses_bounds.npy", "is cut off: expected 10 rows"),
    "poses_bounds that is no array": ("llff", data("poses_bounds.npy", b"PK\3\4"), "poses_bounds.npy", "is no array of numpy"),
    "poses_bounds of objects": (
        "llff",
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (10, 17)}", b"cos\nsystem\n"),
        "poses_bounds.npy",
        r"expected \[N,17\] numbers",
    ),
    "poses_bounds that lies": (
        "llff",
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (19999, 17)}"),
        "poses_bounds.npy",
        "is cut off: expected 19999 rows, got 0 bytes",
    ),
    "poses_bounds without end": (
        "llff",
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 17)}"),
        "poses_bounds.npy",
        "lists 99999999999 photos",
    ),
    "poses_bounds with nan": ("llff", row(c3=np.nan), "poses_bounds.npy", "row 2: a value is not finite"),
    "poses_bounds that does not turn": ("llff", row(c0=3.0), "poses_bounds.npy", "row 2: pose is not rigid"),
    "poses_bounds without a focal length": ("llff", row(c14=0.0), "poses_bounds.npy", "row 2: .*positive focal"),
    "bounds in the wrong order": ("llff", row(c15=99.0, c16=1e13), "poses_bounds.npy", "bounds: expected 0 <= near < far"),
    "held out photos that are none": ("llff", text("test_img_id.txt", "3 99"), "test_img_id.txt", "numbers of photos, 0 to 9"),
    "a pose of words": ("nsvf", text("pose/0_0001.txt", "a b c"), "pose/0_0001.txt", "expected numbers"),
    "a pose of 9 numbers": ("nsvf", text("pose/0_0001.txt", "1 2 3\n" * 2), "pose/0_0001.txt", "expected 4 rows of 4"),
    "a pose of nan": ("nsvf", text("pose/0_0001.txt", "1 0 0 nan\n" * 4), "pose/0_0001.txt", "not finite"),
    "a pose that does not turn": ("nsvf", text("pose/0_0001.txt", "1 0 0 0\n" * 4), "pose/0_0001.txt", "last row"),
    "intrinsics of words": ("nsvf", text("intrinsics.txt", "focal 3"), "intrinsics.txt", "expected numbers"),
    "skewed pixels": ("nsvf", text("intrinsics.txt", "9 1 3\n0 9 3\n0 0 1"), "intrinsics.txt", "skewed pixels"),
    "no focal length up": (
        "nsvf",
        text("intrinsics.txt", "9 0 3\n0 0 3\n0 0 1"),
        "intrinsics.txt",
        "focal lengths, .*got 9.0, 0.0",
    ),
    "a pose without a place": ("nsvf", text("pose/0_0001.txt", "1 0 0\n0 1 0\n0 0 1"), "pose/0_0001.txt", "4 rows of 4"),
    "bounds that cross in a row": ("llff", row(_15=9.0), "poses_bounds.npy", "row 2: bounds: expected near < far, got 9"),
    "a camera twice": (
        "colmap text",
        text("sparse/0/cameras.txt", "7 PINHOLE 9 9 9 9 4 4\n7 PINHOLE 9 9 5 5 4 4\n"),
        "sparse/0/cameras.txt",
        "camera 7 is there twice",
    ),
    "points of some photos alone": (
        "colmap text",
        without(lambda line: not line.strip(), "sparse/0/images.txt"),
        "sparse/0/images.txt",
        "there is another photo",
    ),
    "lists of other names": (
        "colmap text",
        lambda folder: [(folder / f"{split}.txt").write_text("x.png\n") for split in ("train", "test")],
        "sparse/0",
        "train.txt names none of its photos",
    ),
    "a box that is none": ("nsvf", text("bbox.txt", "1 1 1 0 0 0"), "bbox.txt", "the lowest and the highest corner"),
    "bounds that are none": ("nsvf", text("near_and_far.txt", "6 2"), "near_and_far.txt", "expected two distances"),
    "no photos of the poses": ("nsvf", lambda f: (f / "rgb").rename(f / "other"), "pose", "no pose has a photo in rgb"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_dataset_of_any_layout_is_refused_by_file_and_reason_in_one_line(
    original: Original, case: str, tmp_path: Path
) -> None:
    layout, spoil, name, reason = BAD[case]
    WRITERS[layout](original, tmp_path)
    spoil(tmp_path)
    with pytest.raises(SceneError, match=reason) as caught:
        load_scene(tmp_path)
    assert caught.value.path == tmp_path / name
    assert "\n" not in str(caught.value)


def test_points_that_are_cut_off_are_used_as_far_as_they_go(original: Original, tmp_path: Path) -> None:
    write_colmap_binary(original, tmp_path)
    point = struct.pack("<Q3d3BdQ", 1, 0.5, 0.25, 0.125, 1, 2, 3, 0.5, 1) + struct.pack("<II", 1, 2)
    (tmp_path / "sparse/1/points3D.bin").write_bytes(struct.pack("<Q", 900) + 3 * point + point[:20])
    listing = list_photos(tmp_path)
    np.testing.assert_array_equal(listing.points, np.tile([0.5, 0.25, 0.125], (3, 1)))
    assert listing.remarks[-1].startswith("sparse/1/points3D.bin is cut off after")
    assert listing.remarks[-1].endswith("the 3 points before that are used")


@pytest.mark.parametrize("name", ["sparse/1/images.bin", "poses_bounds.npy", "pose/0_0000.txt"])
def test_links_that_lead_out_are_refused(original: Original, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    layout = {"s": "colmap binary", "p": "llff"}.get(name[0], "") if name != "pose/0_0000.txt" else "nsvf"
    WRITERS[layout](original, folder)
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(SceneError, match=r"is a link that leads out"):
        load_scene(folder)


def test_a_folder_of_no_layout_is_refused_by_what_is_in_it(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.mp4", "c.txt", "d.txt", "e.txt"):
        (tmp_path / name).touch()
    with pytest.raises(SceneError, match=r"is no dataset: it holds a.mp4, b.jpg, c.txt and 2 more; read is Blender \(.*NSVF"):
        load_scene(tmp_path)


@pytest.mark.parametrize(
    ("capture", "n_train", "n_test"),
    [
        ("colmap/coke", 49, 7),
        ("colmap/batmobile_rigs", 21, 4),
        ("masked/milk", 37, 6),
        ("transforms/fox", 43, 7),
        ("llff/fern", 17, 3),
        ("unbounded/table", 56, 8),
    ],
)
def test_real_captures_load_without_a_flag(capture: str, n_train: int, n_test: int) -> None:
    if not (SHARED / capture).is_dir():
        pytest.skip(f"needs the capture {SHARED / capture}")
    scene = load_scene(SHARED / capture, side=100)
    assert (len(scene.train), len(scene.test)) == (n_train, n_test)
