"""Photos as pixels: turned as the dataset's cameras are, 16 bits rounded, masked as the user says, on any colour."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vqrf.data.images import read_head, read_photo
from vqrf.data.listing import SceneError, color_name, color_of
from vqrf.data.load import SceneOptions, load_scene
from vqrf.data.photos import Masks
from vqrf.data.scene import View, save_scene

WIDTH, HEIGHT = 12, 8


def random_photo(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def dataset(folder: Path, photos: list[PIL.Image.Image], exif: int | None = None, **keys: Any) -> Path:
    """A transforms.json of these photos; `masks` are written beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for i, photo in enumerate(photos):
        tags = PIL.Image.Exif()
        if exif is not None:
            tags[0x0112] = exif
        photo.save(folder / f"{i}.png", exif=tags)
        pose = [[1, 0, 0, i], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose})
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 10.0, **keys, "frames": frames}))
    return folder


def views(folder: Path, masks: Masks = Masks(), **how: Any) -> tuple[View, ...]:  # noqa: B008 (frozen)
    return load_scene(folder, options=SceneOptions(hold_out="0", masks=masks), **how).train


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_photo_is_turned_where_the_dataset_speaks_of_the_turned_size(tmp_path: Path, orientation: int) -> None:
    stored = PIL.Image.fromarray(random_photo())
    is_sideways = orientation in (5, 6, 7, 8)
    width, height = (HEIGHT, WIDTH) if is_sideways else (WIDTH, HEIGHT)
    folder = dataset(tmp_path, [stored], exif=orientation, w=width, h=height, cx=2.5, cy=3.5)
    (view,) = views(folder)
    assert (view.camera.cx, view.camera.cy, view.camera.width, view.camera.height) == (2.5, 3.5, width, height)
    from PIL import ImageOps

    expected = ImageOps.exif_transpose(PIL.Image.open(folder / "0.png")) if is_sideways else stored
    np.testing.assert_array_equal(view.image, np.asarray(expected))


def test_a_photo_stays_as_it_is_stored_where_the_dataset_speaks_of_that_size(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [PIL.Image.fromarray(random_photo())], exif=6, w=WIDTH, h=HEIGHT)
    scene = load_scene(folder)
    np.testing.assert_array_equal(scene.train[0].image, random_photo())
    assert scene.remarks == ()


@pytest.mark.parametrize("keys", [{}, {"w": 8, "h": 8}])
def test_where_the_size_does_not_tell_there_is_a_remark(tmp_path: Path, keys: dict[str, int]) -> None:
    width = keys.get("w", WIDTH)
    folder = dataset(tmp_path, [PIL.Image.fromarray(random_photo(0, width, 8))] * 2, exif=6, **keys)
    scene = load_scene(folder)
    np.testing.assert_array_equal(scene.train[0].image, random_photo(0, width, 8))
    (remark,) = scene.remarks
    assert remark.startswith("2 photos (0, 1) say by EXIF that they are to be turned; taken as they are stored")


def test_gray_of_16_bits_is_rounded_and_not_clipped(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    (view,) = views(dataset(tmp_path, [PIL.Image.fromarray(levels)]))
    np.testing.assert_array_equal(view.image, np.rint(levels / 257)[..., None].astype(np.uint8).repeat(3, -1))


@pytest.mark.parametrize(("name", "rgb"), [("white", (255,) * 3), ("black", (0,) * 3), ("#10f080", (16, 240, 128))])
def test_transparent_pixels_show_any_colour(tmp_path: Path, name: str, rgb: tuple[int, ...]) -> None:
    rgba = np.concatenate([random_photo(), np.zeros((HEIGHT, WIDTH, 1), np.uint8)], -1)
    rgba[0, 0, 3] = 255
    scene = load_scene(dataset(tmp_path, [PIL.Image.fromarray(rgba)]), background=name)
    assert scene.background == pytest.approx([level / 255 for level in rgb])
    np.testing.assert_array_equal(scene.train[0].image[1:], np.broadcast_to(rgb, (HEIGHT - 1, WIDTH, 3)))
    np.testing.assert_array_equal(scene.train[0].image[0, 0], rgba[0, 0, :3])


def test_behind_opaque_photos_is_their_plain_border_or_their_mean_colour(tmp_path: Path) -> None:
    """Nobody said what is behind them; where a training photo saw nothing, white would be a hole in a table."""
    photos = [random_photo(seed) for seed in range(3)]
    folder = dataset(tmp_path / "a", [PIL.Image.fromarray(photo) for photo in photos])
    mean = load_scene(folder, options=SceneOptions(hold_out="0")).background
    np.testing.assert_allclose(mean, np.mean(photos, (0, 1, 2)) / 255, atol=0.51 / 255)
    assert mean == color_of(color_name(mean))
    for level in (255, 0):
        for photo in photos:
            photo[[0, -1]] = photo[:, [0, -1]] = level
        plain = load_scene(dataset(tmp_path / str(level), [PIL.Image.fromarray(photo) for photo in photos]))
        assert plain.background == (level / 255,) * 3
    half = np.concatenate([photos[0], np.full((HEIGHT, WIDTH, 1), 128, np.uint8)], -1)
    assert load_scene(dataset(tmp_path / "c", [PIL.Image.fromarray(half)])).background == (1.0, 1.0, 1.0)
    said = load_scene(dataset(tmp_path / "d", [PIL.Image.fromarray(random_photo())], background="#102030"))
    assert color_name(said.background) == "#102030"


@pytest.mark.parametrize("corner", [(0, 0, 0), (1, 1, 0), (0, 0, 1)])
def test_a_field_learns_opaque_photos_on_a_colour_that_they_do_not_show(tmp_path: Path, corner: tuple[int, int, int]) -> None:
    """All pixels but a few are on the other side of the cube of colours."""
    photo = np.where(corner, random_photo() // 2, 255 - random_photo() // 2).astype(np.uint8)
    photo[0, 0] = np.multiply(corner, 255)
    folder = dataset(tmp_path / "a", [PIL.Image.fromarray(photo)])
    scene = load_scene(folder)
    assert scene.contrast == scene.learnt_on == corner
    assert load_scene(folder, background="white").contrast == corner, "what is shown behind it is another matter"
    save_scene(scene, tmp_path / "copy")
    again = load_scene(tmp_path / "copy")
    assert (again.background, again.contrast) == (scene.background, scene.contrast)
    assert load_scene(dataset(tmp_path / "b", [PIL.Image.fromarray(photo)], background="white")).contrast is None
    half = np.concatenate([photo, np.full((HEIGHT, WIDTH, 1), 128, np.uint8)], -1)
    assert load_scene(dataset(tmp_path / "c", [PIL.Image.fromarray(half)])).contrast is None


def test_masked_pixels_that_do_not_count_are_not_in_the_mean_colour(tmp_path: Path) -> None:
    photo = random_photo()
    photo[:, : WIDTH // 2] = (10, 20, 30)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : WIDTH // 2] = 255
    folder = dataset(tmp_path / "data", [PIL.Image.fromarray(photo)])
    (tmp_path / "masks").mkdir()
    PIL.Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    scene = load_scene(folder, options=SceneOptions(hold_out="0", masks=Masks(tmp_path / "masks", mean="ignored")))
    assert color_name(scene.background) == "#0a141e"


def test_a_background_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="background: expected white, black or #rrggbb, got 'pink'"):
        load_scene(dataset(tmp_path, [PIL.Image.fromarray(random_photo())]), background="pink")


def test_photos_of_an_iphone_are_read_where_their_package_is_there_and_else_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dataset(tmp_path, [PIL.Image.fromarray(random_photo(0, 64, 64))])
    tree = json.loads((folder / "transforms.json").read_text())
    tree["frames"][0]["file_path"] = "0.heic"
    (folder / "transforms.json").write_text(json.dumps(tree))
    (folder / "0.png").rename(folder / "0.heic")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(SceneError, match=r"0.heic: needs pillow-heif: pip install 'vqrf\[heic\]'"):
            load_scene(folder)
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(PIL.Image.fromarray(np.full((64, 64, 3), 90, np.uint8))).save(folder / "0.heic", quality=90)
    assert np.abs(load_scene(folder).train[0].image.astype(int) - 90).max() <= 3


# --- masks


def soft_mask(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Nothing on the border, everything in the middle, half between."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 255
    mask[height // 4, width // 4 : -(width // 4)] = 128
    return mask


def masked_dataset(folder: Path, mask: np.ndarray) -> Path:
    dataset(folder, [PIL.Image.fromarray(random_photo(i)) for i in range(3)])
    tree = json.loads((folder / "transforms.json").read_text())
    for i, frame in enumerate(tree["frames"]):
        frame["mask_path"] = f"masks/{i}.png"
        (folder / "masks").mkdir(exist_ok=True)
        PIL.Image.fromarray(mask).save(folder / f"masks/{i}.png")
    (folder / "transforms.json").write_text(json.dumps(tree))
    return folder


def assert_is_background(view: View, i: int, mask: np.ndarray) -> None:
    share = mask[..., None] / 255
    assert np.abs(view.image - (random_photo(i) * share + 255 * (1 - share))).max() <= 1
    assert view.opacity is not None and view.weight is None
    np.testing.assert_array_equal(view.opacity, mask)


def test_a_mask_of_a_thing_is_its_opacity(tmp_path: Path) -> None:
    scene = load_scene(masked_dataset(tmp_path, soft_mask()))
    for i, view in enumerate(scene.train):
        assert_is_background(view, i, soft_mask())
    assert scene.masked == "background"
    assert scene.remarks == (
        "masks of 3 of 3 photos: what they hide is background, as they keep 0 % of the photos' borders (--masked)",
    )


def test_what_masks_hide_is_ignored_where_asked_or_where_they_keep_the_borders(tmp_path: Path) -> None:
    for i, (mask, masks) in enumerate([(soft_mask(), Masks(mean="ignored")), (255 - soft_mask(), Masks())]):
        for seed, view in enumerate(views(masked_dataset(tmp_path / str(i), mask), masks)):
            np.testing.assert_array_equal(view.image, random_photo(seed))
            np.testing.assert_array_equal(view.weight, mask)
            assert view.opacity is None


def test_masks_may_be_inverted(tmp_path: Path) -> None:
    for i, view in enumerate(views(masked_dataset(tmp_path, 255 - soft_mask()), Masks(is_inverted=True))):
        assert_is_background(view, i, soft_mask())


def test_masks_are_averaged_with_their_photos(tmp_path: Path) -> None:
    folder = masked_dataset(tmp_path, soft_mask())
    blocks = soft_mask().reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
    (view, *_) = views(folder, downscale=2)
    np.testing.assert_allclose(view.opacity, blocks, atol=0.6)
    (view, *_) = views(folder, Masks(mean="ignored"), downscale=2)
    np.testing.assert_allclose(view.weight, blocks, atol=0.6)


@pytest.mark.parametrize(("mode", "name"), [("1", "bits"), ("P", "palette"), ("L", "gray"), ("LA", "alpha")])
def test_photos_of_few_colours_are_read(tmp_path: Path, mode: str, name: str) -> None:
    photo = PIL.Image.fromarray(np.where(soft_mask() > 100, 255, 0).astype(np.uint8))
    (view,) = views(dataset(tmp_path / name, [photo.convert(mode)]))
    np.testing.assert_array_equal(view.image[..., 0], np.asarray(photo))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("is_mask", [False, True])
def test_a_file_of_several_pictures_is_no_photo_and_no_mask(tmp_path: Path, kind: str, is_mask: bool) -> None:
    folder = masked_dataset(tmp_path, soft_mask())
    first, *others = (PIL.Image.fromarray(random_photo(i)) for i in range(3))
    name = "masks/0.png" if is_mask else "0.png"
    first.save(folder / name, kind, save_all=True, append_images=others)
    with pytest.raises(SceneError, match=f"{name}: holds several pictures"):
        views(folder)


def test_a_phones_second_picture_is_passed_over(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [PIL.Image.fromarray(random_photo())])
    PIL.Image.fromarray(random_photo()).save(
        folder / "0.png", "MPO", save_all=True, append_images=[PIL.Image.new("RGB", (4, 3))]
    )
    assert len(views(folder)) == 1


@pytest.mark.parametrize("level", [0, 1, 60])
def test_masks_that_keep_nothing_are_refused_by_their_brightest_pixel(tmp_path: Path, level: int) -> None:
    mask = (soft_mask() > 0).astype(np.uint8) * level
    with pytest.raises(SceneError, match=f"masks/0.png: keeps nothing: its brightest pixel is {level} of 255"):
        views(masked_dataset(tmp_path / "a", mask))
    with pytest.raises(SceneError, match="keeps nothing"):
        views(masked_dataset(tmp_path / "b", 255 - mask), Masks(is_inverted=True))


def test_a_mask_of_another_shape_and_one_that_is_the_photo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"masks/0.png: is 24x8, and its photo is 12x8"):
        views(masked_dataset(tmp_path / "a", soft_mask(2 * WIDTH, HEIGHT)))
    folder = dataset(tmp_path / "b", [PIL.Image.fromarray(random_photo())])
    with pytest.raises(SceneError, match=r"0.png: is the photo itself"):
        views(folder, Masks(folder=folder))


def test_a_mask_of_another_size_is_brought_to_its_photo(tmp_path: Path) -> None:
    (view, *_) = views(masked_dataset(tmp_path, soft_mask(4 * WIDTH, 4 * HEIGHT)))
    assert view.opacity is not None
    np.testing.assert_array_equal(view.opacity[3:-2, 3:-3], 255)
    np.testing.assert_array_equal(view.opacity[:2], 0)


@pytest.mark.parametrize("pattern", ["{}.png.png", "{}.png", "{}.jpg"])
def test_a_folder_of_masks_goes_by_the_names_of_photos(tmp_path: Path, pattern: str) -> None:
    folder = dataset(tmp_path / "data", [PIL.Image.fromarray(random_photo(i)) for i in range(3)])
    (tmp_path / "masks").mkdir()
    for i in range(2):
        PIL.Image.fromarray(soft_mask()).save(tmp_path / "masks" / pattern.format(i), quality=100)
    scene = load_scene(folder, options=SceneOptions(hold_out="0", masks=Masks(folder=tmp_path / "masks")))
    assert scene.remarks[0].startswith("masks of 2 of 3 photos")
    assert scene.train[0].opacity is not None and scene.train[2].opacity is not None
    assert abs(int(scene.train[0].opacity[0, 0])) < 9 and scene.train[2].opacity.min() == 255


def test_a_folder_of_masks_without_one_and_a_mask_that_is_not_there_are_refused(tmp_path: Path) -> None:
    folder = masked_dataset(tmp_path / "data", soft_mask())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match="empty: has no mask of any photo"):
        views(folder, Masks(folder=tmp_path / "empty"))
    (folder / "masks/1.png").unlink()
    with pytest.raises(SceneError, match=r"masks/1.png: there is no such mask"):
        views(folder)


def test_masks_beside_a_model_of_colmap_are_found(tmp_path: Path) -> None:
    from layouts import Original, Photo, write_colmap_text

    photos = []
    for i in range(3):
        PIL.Image.fromarray(random_photo(i)).save(tmp_path / f"{i}.png")
        pose = np.eye(4)
        pose[2, 3], pose[0, 3] = 4, math.sin(i)
        photos.append(Photo(tmp_path / f"{i}.png", "train", pose))
    folder = tmp_path / "data"
    write_colmap_text(Original(tuple(photos), 10.0, WIDTH, HEIGHT), folder)
    (folder / "masks").mkdir()
    for i in range(3):
        PIL.Image.fromarray(soft_mask()).save(folder / "masks" / f"{i:03}.png.png")
    for i, view in enumerate(views(folder)):
        assert_is_background(view, i, soft_mask())


def test_a_small_file_of_many_pixels_is_refused_before_they_are_read(tmp_path: Path) -> None:
    """As white as a mask may be, and as large as no photo of a byte in two thousand pixels is."""
    for side, is_bomb in ((2000, False), (5000, True)):
        path = tmp_path / f"{side}.png"
        PIL.Image.new("1", (side, side)).save(path)
        assert path.stat().st_size * 2048 < side * side
        if is_bomb:
            with pytest.raises(SceneError, match="as no photo has"):
                read_head(path)
        else:
            assert read_head(path).size == (side, side)


def test_exif_that_is_damaged_is_passed_over_without_a_word(tmp_path: Path) -> None:
    dataset(tmp_path, [PIL.Image.fromarray(random_photo())])
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    file = tmp_path / "0.png"
    damaged = exif.tobytes()[:-8]
    PIL.Image.fromarray(random_photo()).save(file, "JPEG", exif=damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(views(tmp_path)) == 1


def test_the_head_of_a_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    PIL.Image.fromarray(random_photo()).save(file)
    file.write_bytes(file.read_bytes()[:60])
    assert read_head(file).size == (WIDTH, HEIGHT)


def test_a_png_says_by_exif_how_it_is_turned(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(random_photo()).save(tmp_path / "a.png", exif=exif)
    assert read_head(tmp_path / "a.png").orientation == 6


def test_a_photo_that_asks_for_too_much_memory_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> None:
        raise MemoryError

    PIL.Image.fromarray(random_photo()).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", ask)
    with pytest.raises(SceneError, match=r"a\.png: cannot be read: it asks for too much memory"):
        read_photo(tmp_path / "a.png", 1, (1.0, 1.0, 1.0))


def test_a_folder_with_a_link_to_itself_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "poses_bounds.npy").symlink_to("poses_bounds.npy")
    with pytest.raises(SceneError, match=r"is no dataset: it holds poses_bounds\.npy;"):
        load_scene(tmp_path)
