"""Datasets: what is read is what was photographed, and what is wrong is refused by name."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqrf.cameras import Camera
from vqrf.data import camera_json
from vqrf.data.builtin import built_in_scene
from vqrf.data.listing import COLORS, SceneError
from vqrf.data.load import load_scene
from vqrf.data.scene import Scene, View, camera_bounds, save_scene

LEGO = Path(__file__).parents[3] / "shared" / "data" / "nerf_synthetic" / "lego"
needs_lego = pytest.mark.skipif(not LEGO.is_dir(), reason=f"needs the Synthetic-NeRF lego scene in {LEGO}")

WIDTH, HEIGHT = 8, 6
ANGLE = 0.7


def pose_at(turn: float) -> np.ndarray:
    """4 units from the origin, looking at it, turned around z."""
    c, s = math.cos(turn), math.sin(turn)
    return np.array([[-s, 0, c, 4 * c], [c, 0, s, 4 * s], [0, 1, 0, 0], [0, 0, 0, 1.0]])


def random_rgba(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Random pixels, a third of them opaque and a third empty."""
    random = np.random.default_rng(seed)
    rgba = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[..., 3] = np.choose(random.integers(0, 3, (height, width)), [rgba[..., 3], 0, 255])
    return rgba


def listing_of(split: str, n_frames: int) -> dict[str, Any]:
    return {
        "camera_angle_x": ANGLE,
        "frames": [{"file_path": f"./{split}/r_{i}", "transform_matrix": pose_at(i).tolist()} for i in range(n_frames)],
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three training and two test views of 8x6 random pixels, as Blender writes them."""
    folder = tmp_path / "data"
    for split, n_frames in (("train", 3), ("test", 2)):
        (folder / split).mkdir(parents=True)
        (folder / f"transforms_{split}.json").write_text(json.dumps(listing_of(split, n_frames)))
        for i in range(n_frames):
            PIL.Image.fromarray(random_rgba(i)).save(folder / split / f"r_{i}.png")
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    """Apply `change` to what the split's JSON says."""
    path = folder / f"transforms_{split}.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def exact_composite(rgba: np.ndarray, n: int, background: float) -> np.ndarray:
    """The definition, pixel by pixel: mean of premultiplied colour, plus what the mean alpha lets through."""
    height, width = rgba.shape[0] // n, rgba.shape[1] // n
    out = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            block = rgba[row * n : row * n + n, column * n : column * n + n].reshape(-1, 4) / 255.0
            premultiplied = [block[:, c] @ block[:, 3] / len(block) for c in range(3)]
            out[row, column] = np.array(premultiplied) + (1 - block[:, 3].mean()) * background
    return out


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize(("background", "level"), [("white", 1.0), ("black", 0.0)])
def test_images_are_the_nearest_bytes_of_the_exact_composite(
    dataset: Path, downscale: int, background: Any, level: float
) -> None:
    scene = load_scene(dataset, downscale=downscale, background=background)
    assert scene.background == (level, level, level)
    for i, view in enumerate(scene.train):
        exact = exact_composite(random_rgba(i), downscale, level)
        assert np.abs(view.image - 255 * exact).max() <= 0.5 + 1e-3
        np.testing.assert_array_equal(view.colors(), view.image.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("downscale", [1, 2])
def test_a_view_knows_how_opaque_its_pixels_are(dataset: Path, downscale: int) -> None:
    for i, view in enumerate(load_scene(dataset, downscale=downscale, background="black").train):
        alpha = random_rgba(i)[..., 3].reshape(HEIGHT // downscale, downscale, WIDTH // downscale, downscale)
        assert view.opacity is not None
        np.testing.assert_allclose(view.opacity, alpha.mean((1, 3)), atol=0.501)


def test_photos_without_transparent_pixels_say_nothing_about_opacity(dataset: Path) -> None:
    for i in range(3):
        rgba = random_rgba(i)
        rgba[..., 3] = 255
        PIL.Image.fromarray(rgba).save(dataset / f"train/r_{i}.png")
    scene = load_scene(dataset)
    assert all(view.opacity is None for view in scene.train)
    assert all(view.opacity is not None for view in scene.test)


def test_what_is_opaque_is_held_exactly_whatever_the_background(dataset: Path) -> None:
    for alpha in ([], [np.full((HEIGHT, WIDTH, 1), 255, np.uint8)]):
        image = np.concatenate([random_rgba(0)[..., :3], *alpha], axis=-1)
        PIL.Image.fromarray(image).save(dataset / "train" / "r_0.png")
        for background in COLORS:
            scene = load_scene(dataset, splits=["train"], background=background)
            np.testing.assert_array_equal(scene.train[0].image, image[..., :3])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB"])
def test_other_eight_bit_images_read_as_pillow_converts_them(dataset: Path, mode: str) -> None:
    image = PIL.Image.fromarray(random_rgba(0)).convert(mode)
    for i in range(3):
        image.save(dataset / "train" / f"r_{i}.png")
    exact = exact_composite(np.asarray(image.convert("RGBA")), 1, 1.0)
    assert np.abs(load_scene(dataset, splits=["train"]).train[0].image - 255 * exact).max() <= 0.5 + 1e-3


def test_rounding_to_bytes_costs_less_than_0_02_decibel_at_35() -> None:
    random = np.random.default_rng(0)
    target = random.random((400, 400, 3))
    image = target + 10 ** (-35 / 20) * random.normal(size=target.shape)
    error, error_rounded = (np.mean((image - t) ** 2) for t in (target, np.rint(target * 255) / 255))
    assert abs(10 * math.log10(error_rounded / error)) < 0.02


@pytest.mark.parametrize("downscale", [1, 2])
def test_cameras_follow_camera_angle_x_at_every_scale(dataset: Path, downscale: int) -> None:
    for i, view in enumerate(load_scene(dataset, downscale=downscale).train):
        camera = view.camera
        assert (camera.width, camera.height) == (WIDTH // downscale, HEIGHT // downscale)
        assert (camera.cx, camera.cy) == (camera.width / 2, camera.height / 2)
        assert camera.fx == camera.fy == pytest.approx(camera.width / 2 / math.tan(ANGLE / 2), rel=1e-12)
        np.testing.assert_array_equal(camera.pose, pose_at(i))


def test_a_scene_knows_its_name_its_bounds_and_the_names_of_its_views(dataset: Path) -> None:
    scene = load_scene(dataset)
    assert (scene.name, scene.near, scene.far) == ("data", 2.0, 6.0)
    assert [view.name for view in scene.train] == ["train/r_0", "train/r_1", "train/r_2"]
    assert [view.name for view in scene.test] == ["test/r_0", "test/r_1"]


def test_only_the_splits_that_were_asked_for_are_opened(dataset: Path) -> None:
    for file in ((dataset / "train") / f"r_{i}.png" for i in range(3)):
        file.unlink()
    scene = load_scene(dataset, splits=("test",))
    assert (len(scene.train), len(scene.test)) == (0, 2)


def test_every_thins_the_test_split_alone(dataset: Path) -> None:
    (dataset / "test" / "r_1.png").unlink()
    scene = load_scene(dataset, every=2)
    assert ([view.name for view in scene.test], len(scene.train)) == (["test/r_0"], 3)


def test_file_path_may_carry_its_ending_and_dots_that_are_none(dataset: Path) -> None:
    (dataset / "train" / "r_0.png").rename(dataset / "train" / "frame.0001.png")
    PIL.Image.fromarray(random_rgba(1)[..., :3]).save(dataset / "train" / "r_1.webp", lossless=True)

    def change(tree: dict[str, Any]) -> None:
        names = ["./train/frame.0001", "train/r_1.webp", "train/r_2.png"]
        for frame, name in zip(tree["frames"], names, strict=True):
            frame["file_path"] = name

    rewrite(dataset, change)
    scene = load_scene(dataset, splits=["train"])
    assert [view.name for view in scene.train] == ["train/frame.0001", "train/r_1", "train/r_2"]
    np.testing.assert_array_equal(scene.train[1].image, random_rgba(1)[..., :3])


def assert_same_scene(a: Scene, b: Scene) -> None:
    assert (a.background, a.near, a.far) == (b.background, b.near, b.far)
    for x, y in zip(a.train + a.test, b.train + b.test, strict=True):
        assert x.name == y.name
        np.testing.assert_array_equal(x.image, y.image)
        np.testing.assert_array_equal(x.camera.pose, y.camera.pose)
        intrinsics = [(c.fx, c.fy, c.cx, c.cy, c.width, c.height) for c in (x.camera, y.camera)]
        assert intrinsics[0] == pytest.approx(intrinsics[1], rel=1e-12)


@pytest.mark.parametrize("background", ["white", "black"])
def test_a_saved_scene_loads_as_the_same_scene(dataset: Path, tmp_path: Path, background: Any) -> None:
    scene = load_scene(dataset, background=background)
    scene = Scene(scene.train, scene.test, scene.background, 0.1, 1 / 3, scene.name)
    save_scene(scene, tmp_path / "copy")
    assert_same_scene(scene, load_scene(tmp_path / "copy", background=background))


def test_the_built_in_scene_goes_through_a_folder_unchanged(tmp_path: Path) -> None:
    scene = built_in_scene(n_train=2, n_test=1, side=12)
    save_scene(scene, tmp_path)
    assert_same_scene(scene, load_scene(tmp_path))


def test_a_saved_scene_is_not_put_on_another_background(dataset: Path, tmp_path: Path) -> None:
    save_scene(load_scene(dataset, background="black"), tmp_path / "copy")
    with pytest.raises(SceneError, match="its images stand on 'black', not on 'white'"):
        load_scene(tmp_path / "copy", background="white")
    assert load_scene(tmp_path / "copy").background == (0.0, 0.0, 0.0)


def test_a_scene_that_the_format_cannot_say_is_not_saved(tmp_path: Path) -> None:
    camera = Camera(np.eye(4), 10, 10, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
    shifted = Camera(np.eye(4), 10, 10, WIDTH / 2 + 1, HEIGHT / 2, WIDTH, HEIGHT)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    a, b, away = View(camera, image, "a"), View(shifted, image, "b"), View(camera, image, "../away")
    for views, background, reason in [
        ((a, a), (1.0, 1.0, 1.0), "same name"),
        ((a, b), (1.0, 1.0, 1.0), "camera of view b"),
        ((a,), (0.5, 0.5, 0.5), "whole numbers"),
        ((away,), (1.0, 1.0, 1.0), "leads out"),
    ]:
        with pytest.raises(ValueError, match=reason):
            save_scene(Scene(views, (), background, 2.0, 6.0, "x"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_view_whose_opacity_does_not_fit_its_image_is_refused() -> None:
    camera, image = Camera(pose_at(0), 10.0, 10.0, 4.0, 3.0, WIDTH, HEIGHT), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(ValueError, match=r"opacity of view v: expected uint8 \[6, 8\], got uint8 \[8, 6\]"):
        View(camera, image, "v", np.zeros((WIDTH, HEIGHT), np.uint8))


def test_a_view_whose_image_does_not_fit_its_camera_is_refused() -> None:
    camera = Camera(np.eye(4), 10, 10, 4, 3, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="image of view v"):
        View(camera, np.zeros((WIDTH, HEIGHT, 3), np.uint8), "v")


# --- bad input

Break = Callable[[Path], object]


def set_frame(number: int, key: str, value: object) -> Break:
    return lambda folder: rewrite(folder, lambda tree: tree["frames"][number].__setitem__(key, value))


def set_key(key: str, value: object, split: str = "train") -> Break:
    return lambda folder: rewrite(folder, lambda tree: tree.__setitem__(key, value), split)


def text(content: str) -> Break:
    return lambda folder: (folder / "transforms_train.json").write_text(content)


def truncate(folder: Path) -> None:
    file = folder / "train" / "r_1.png"
    file.write_bytes(file.read_bytes()[:-40])


def png_claiming(width: int, height: int) -> Break:
    """A small file that says it is a large image."""
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return lambda folder: (folder / "train" / "r_1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT")


NAN_POSE = [[math.nan, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
STRETCHED_POSE = np.diag([1.0, 1.0, 1.1, 1.0]).tolist()
MIRRORED_POSE = np.diag([-1.0, 1.0, 1.0, 1.0]).tolist()
FAR_POSE = [[1, 0, 0, 1e308], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
HUGE_POSE = [[10**400, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
JSON_NAME, IMAGE_NAME = "transforms_train.json", "train/r_1.png"

BAD_DATASETS: dict[str, tuple[Break, str, str]] = {
    "no JSON": (lambda f: (f / JSON_NAME).unlink(), "", "has no photos to train on"),
    "not JSON": (text('{\n"frames": [}'), JSON_NAME, "is not JSON: Expecting value, line 2 column 12"),
    "not text": (lambda f: (f / JSON_NAME).write_bytes(b'{"a": "\xff\xfe"}'), JSON_NAME, "is not JSON"),
    "nested JSON": (text("[" * 100_000), JSON_NAME, "is not JSON"),
    "endless number": (text('{"camera_angle_x": ' + "1" * 10_000 + "}"), JSON_NAME, "is not JSON"),
    "a list": (text("[]"), JSON_NAME, "expected a JSON object, got list"),
    "no angle": (
        lambda f: rewrite(f, lambda tree: tree.pop("camera_angle_x")),
        JSON_NAME,
        "frame 0: there is no 'camera_angle_x' and no 'fl_x'",
    ),
    "angle in words": (set_key("camera_angle_x", "0.7"), JSON_NAME, "expected a number, got '0.7'"),
    "angle of pi": (set_key("camera_angle_x", 3.2), JSON_NAME, "between 0 and pi"),
    "angle not finite": (set_key("camera_angle_x", math.nan), JSON_NAME, "between 0 and pi"),
    "far before near": (set_key("far", 1.0), JSON_NAME, "expected 0 <= near < far"),
    "frames missing": (text('{"camera_angle_x": 0.7}'), JSON_NAME, "there is no list 'frames'"),
    "no frames": (set_key("frames", []), JSON_NAME, "there are no frames"),
    "empty test split": (
        set_key("frames", [], "test"),
        "transforms_test.json",
        "there are no frames",
    ),
    "frame is a number": (set_key("frames", [7]), JSON_NAME, "frame 0: there is no 'file_path'"),
    "no file_path": (set_frame(1, "file_path", None), JSON_NAME, "frame 1: there is no 'file_path'"),
    "parent folder": (
        set_frame(1, "file_path", "../r_0"),
        JSON_NAME,
        "frame 1: file_path '../r_0' leads out",
    ),
    "way out within": (
        set_frame(1, "file_path", "a/../../r_0"),
        JSON_NAME,
        "frame 1: file_path .* leads out",
    ),
    "absolute path": (set_frame(1, "file_path", "/etc/passwd"), JSON_NAME, "frame 1: file_path .* leads out"),
    "zero byte in path": (set_frame(1, "file_path", "r\0"), JSON_NAME, "frame 1: file_path .* is no name"),
    "half a surrogate in path": (
        set_frame(1, "file_path", "\ud800"),
        JSON_NAME,
        "frame 1: file_path .* is no name",
    ),
    "line break in path": (set_frame(1, "file_path", "a\nb"), JSON_NAME, "frame 1: file_path .* is no name"),
    "no pose": (set_frame(1, "transform_matrix", None), JSON_NAME, "frame 1: transform_matrix"),
    "pose of 2 rows": (
        set_frame(1, "transform_matrix", NAN_POSE[:2]),
        JSON_NAME,
        "frame 1: transform_matrix",
    ),
    "mirrored pose": (set_frame(1, "transform_matrix", MIRRORED_POSE), JSON_NAME, "frame 1: pose is mirrored"),
    "far pose": (set_frame(1, "transform_matrix", FAR_POSE), JSON_NAME, "frame 1: pose: 1e.308 is beyond the limit"),
    "NaN pose": (
        set_frame(2, "transform_matrix", NAN_POSE),
        JSON_NAME,
        "frame 2: pose has a value that is not",
    ),
    "huge pose": (set_frame(2, "transform_matrix", HUGE_POSE), JSON_NAME, "frame 2: transform_matrix"),
    "non-rigid pose": (
        set_frame(2, "transform_matrix", STRETCHED_POSE),
        JSON_NAME,
        "frame 2: pose is not rigid",
    ),
    "missing image": (lambda f: (f / IMAGE_NAME).unlink(), IMAGE_NAME, "there is no such image"),
    "truncated image": (truncate, IMAGE_NAME, "cannot be read: .*truncated"),
    "empty image": (lambda f: (f / IMAGE_NAME).write_bytes(b""), IMAGE_NAME, "is no image"),
    "text as image": (lambda f: (f / IMAGE_NAME).write_text("hello"), IMAGE_NAME, "is no image"),
    "colours of a printer": (
        lambda f: PIL.Image.fromarray(random_rgba(0)).convert("CMYK").save(f / IMAGE_NAME, "JPEG"),
        IMAGE_NAME,
        "expected rgb or gray, with or without alpha, got mode CMYK",
    ),
    "large image": (png_claiming(10_000, 10_000), IMAGE_NAME, "has more pixels than an image may have"),
    "huge image": (png_claiming(60_000, 60_000), IMAGE_NAME, "has more pixels than an image may have"),
}


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_a_bad_dataset_is_refused_by_file_and_reason_in_one_line(dataset: Path, case: str) -> None:
    breaks, name, reason = BAD_DATASETS[case]
    breaks(dataset)
    with pytest.raises(SceneError, match=reason) as caught:
        load_scene(dataset)
    assert caught.value.path == dataset / name
    assert str(caught.value) == f"{dataset / name}: {caught.value.reason}"
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_or_no_dataset_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, reason in [
        (tmp_path / "gone", "no such folder"),
        (file, "is no folder"),
        (tmp_path, "is no dataset"),
    ]:
        with pytest.raises(SceneError, match=reason) as caught:
            load_scene(path)
        assert caught.value.path == path


def test_json_beyond_the_limit_is_not_parsed(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_json, "MAX_JSON_BYTES", 100)
    with pytest.raises(SceneError, match="is larger than the limit of 100 bytes"):
        load_scene(dataset)


def test_a_downscale_that_leaves_no_pixel_is_refused(dataset: Path) -> None:
    with pytest.raises(SceneError, match="is 8x6, which cannot be downscaled by 7"):
        load_scene(dataset, downscale=7)


def test_a_downscale_that_does_not_divide_the_sides_drops_what_is_left_over(dataset: Path) -> None:
    view = load_scene(dataset, downscale=5).train[0]
    assert view.image.shape == (1, 1, 3)
    assert np.abs(view.image - 255 * exact_composite(random_rgba(0)[:5, :5], 5, 1.0)).max() <= 0.5 + 1e-3
    full, small = load_scene(dataset).train[0].camera, view.camera
    assert (small.fx, small.cx, small.cy) == pytest.approx((full.fx / 5, full.cx / 5, full.cy / 5))


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 100])
def test_photos_are_averaged_as_far_as_their_longer_side_stays_no_shorter(dataset: Path, side: int) -> None:
    PIL.Image.fromarray(random_rgba(1, 13, 31)).save(dataset / "train" / "r_1.png")
    for size, view in zip([(8, 6), (13, 31), (8, 6)], load_scene(dataset, side=side).train, strict=True):
        n = min(max(max(size) // side, 1), *size)
        assert (view.camera.width, view.camera.height) == (size[0] // n, size[1] // n)


def test_photos_of_any_size_have_each_their_own_camera(dataset: Path) -> None:
    PIL.Image.fromarray(random_rgba(1, HEIGHT, WIDTH)).save(dataset / "train" / "r_1.png")
    first, other, _ = (view.camera for view in load_scene(dataset).train)
    assert (first.width, first.height, other.width, other.height) == (8, 6, 6, 8)
    assert (other.cx, other.fx) == (3, pytest.approx(3 / math.tan(ANGLE / 2)))


@pytest.mark.parametrize("wrong", [{"downscale": 0}, {"every": 0}, {"splits": ()}, {"splits": ("val",)}])
def test_an_argument_out_of_range_is_the_callers_mistake(dataset: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        load_scene(dataset, **wrong)
    assert not isinstance(caught.value, SceneError)


def test_every_prefix_of_the_json_is_refused(dataset: Path) -> None:
    path = dataset / "transforms_train.json"
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(SceneError):
            load_scene(dataset, splits=["train"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=20,
)


@given(
    key=st.sampled_from(["camera_angle_x", "near", "far", "background", "frames", "file_path", "transform_matrix"]),
    value=json_values,
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_the_json_is_used_or_refused(dataset: Path, key: str, value: object) -> None:
    tree = listing_of("train", 2)
    (tree["frames"][1] if key in ("file_path", "transform_matrix") else tree)[key] = value
    (dataset / "transforms_train.json").write_text(json.dumps(tree))
    try:
        scene = load_scene(dataset, splits=["train"])
    except SceneError as error:
        assert "\n" not in str(error)
    else:
        assert len(scene.train) == 2


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_every_prefix_and_many_changes_of_an_image_are_refused_or_read(dataset: Path, image_format: str) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(random_rgba(1)[..., :3]).save(buffer, image_format)
    data = buffer.getvalue()
    random = np.random.default_rng(0)
    variants = [data[:length] for length in range(0, len(data), 3)]
    for place in random.integers(0, len(data), 150).tolist():
        changed = bytearray(data)
        changed[place] ^= int(random.integers(1, 256))
        variants.append(bytes(changed))
    for variant in variants:
        (dataset / "train" / "r_1.png").write_bytes(variant)
        try:
            assert len(load_scene(dataset, splits=["train"]).train) == 3
        except SceneError as error:
            assert error.path == dataset / IMAGE_NAME


# --- camera bounds


def test_camera_bounds_hold_every_pixel_of_every_frustum() -> None:
    scene = built_in_scene(n_train=6, n_test=0, side=150)
    lo, hi = camera_bounds(scene)
    slack = 1e-4 * scene.far
    reached_lo, reached_hi = np.full(3, np.inf), np.full(3, -np.inf)
    for view in scene.train:
        origins, directions = view.camera.rays()
        for distance in np.linspace(scene.near, scene.far, 5):
            points = origins + distance * directions
            reached_lo, reached_hi = (
                np.minimum(reached_lo, points.min(0)),
                np.maximum(reached_hi, points.max(0)),
            )
    assert (reached_lo >= lo - slack).all() and (reached_hi <= hi + slack).all()
    assert (np.abs(reached_lo - lo) <= slack).all() and (np.abs(reached_hi - hi) <= slack).all()


def test_camera_bounds_need_training_views() -> None:
    with pytest.raises(ValueError, match="no training views"):
        camera_bounds(Scene((), (), (1.0, 1.0, 1.0), 2.0, 6.0, "x"))


# --- real scenes


@needs_lego
def test_real_lego_reads_at_a_quarter_of_its_size() -> None:
    scene = load_scene(LEGO, splits=["test"], downscale=4, every=25)
    assert [view.name for view in scene.test] == ["test/r_0", "test/r_50", "test/r_100", "test/r_150"]
    with PIL.Image.open(LEGO / "test" / "r_50.png") as image:
        exact = exact_composite(np.asarray(image)[:200, 200:400], 4, 1.0)
    assert np.abs(scene.test[1].image[:50, 50:100] - 255 * exact).max() <= 0.5 + 1e-3
    assert scene.test[0].camera.fx == pytest.approx(1111.1110311937682 / 4)
