"""`transforms.json`, and what instant-ngp and nerfstudio write into Blender's: honoured, refused by name, or harmless."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vqrf.cameras import Camera
from vqrf.data.listing import SceneError
from vqrf.data.load import SceneOptions, load_scene
from vqrf.lens import Lens

SHARED = Path(__file__).parents[3] / "shared" / "data"
FOX = SHARED / "transforms" / "fox"
needs_fox = pytest.mark.skipif(not FOX.is_dir(), reason=f"needs instant-ngp's fox in {FOX}")

WIDTH, HEIGHT = 8, 6
N_PHOTOS = 9


def pose_at(turn: float) -> list[list[float]]:
    """4 units from the origin, looking at it, turned around z."""
    c, s = math.cos(turn), math.sin(turn)
    return [[-s, 0, c, 4 * c], [c, 0, s, 4 * s], [0, 1, 0, 0], [0, 0, 0, 1]]


def tree_of(**keys: Any) -> dict[str, Any]:
    frames = [{"file_path": f"images/{i:04}.jpg", "transform_matrix": pose_at(i)} for i in range(N_PHOTOS)]
    return {"frames": frames, **({"fl_x": 10.0} | keys)}


def write(folder: Path, tree: dict[str, Any], name: str = "transforms.json") -> Path:
    """The dataset: its JSON, and a photo for each frame that is not there yet."""
    for i, frame in enumerate(tree["frames"]):
        file = folder / frame["file_path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            PIL.Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8)).save(file)
    (folder / name).write_text(json.dumps(tree))
    return folder


def cameras(folder: Path, **how: Any) -> list[Camera]:
    """Of all photos, in the order of their names."""
    scene = load_scene(folder, **how)
    return [view.camera for view in sorted(scene.train + scene.test, key=lambda view: view.name)]


def intrinsics(camera: Camera) -> tuple[float, ...]:
    return camera.fx, camera.fy, camera.cx, camera.cy


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"fl_x": 10}, (10, 10, 4, 3)),
        ({"fl_y": 12, "fl_x": None}, (12, 12, 4, 3)),
        ({"fl_x": 10, "fl_y": 7.5, "cx": 3.5, "cy": 2.25}, (10, 7.5, 3.5, 2.25)),
        ({"fl_x": None, "camera_angle_x": 2 * math.atan(0.5)}, (8, 8, 4, 3)),
        ({"fl_x": None, "camera_angle_x": 2 * math.atan(0.5), "camera_angle_y": 2 * math.atan(0.25)}, (8, 12, 4, 3)),
        ({"fl_x": None, "x_fov": math.degrees(2 * math.atan(0.5))}, (8, 8, 4, 3)),
        ({"fl_x": 10, "camera_angle_x": 0.1}, (10, 10, 4, 3)),
        ({"w": 16.0, "h": 12, "fl_x": 10, "cx": 6, "cy": 7}, (5, 5, 3, 3.5)),
        ({"w": 80, "h": 60, "fl_x": None, "camera_angle_x": 2 * math.atan(0.5)}, (8, 8, 4, 3)),
        ({"k1": 0.0, "k2": 0, "p1": 0.0, "p2": 0.0, "camera_model": "OPENCV"}, (10, 10, 4, 3)),
    ],
)
@pytest.mark.parametrize("is_of_frames", [False, True])
def test_what_the_json_says_of_the_lens_is_what_the_cameras_have(
    tmp_path: Path, keys: dict[str, Any], expected: tuple[float, ...], is_of_frames: bool
) -> None:
    tree = tree_of(**({"fl_x": 99.0} if is_of_frames else keys))
    if is_of_frames:
        tree.pop("fl_x")
        for frame in tree["frames"]:
            frame |= {"fl_x": 10.0} | keys
    for camera in cameras(write(tmp_path, tree)):
        assert intrinsics(camera) == pytest.approx(expected, rel=1e-12)
        assert (camera.width, camera.height) == (WIDTH, HEIGHT)


def test_every_frame_may_have_a_lens_and_a_size_of_its_own(tmp_path: Path) -> None:
    tree = tree_of()
    tree["frames"][1] |= {"fl_x": 20.0, "cx": 1.0}
    PIL.Image.fromarray(np.zeros((12, 4, 3), np.uint8)).save(_made(tmp_path / "images") / "0002.jpg")
    first, second, third, *_ = cameras(write(tmp_path, tree))
    assert intrinsics(first) == (10, 10, 4, 3)
    assert intrinsics(second) == (20, 20, 1, 3)
    assert (*intrinsics(third), third.width, third.height) == (10, 10, 2, 6, 4, 12)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_what_is_averaged_down_has_its_camera_averaged_down(tmp_path: Path) -> None:
    tree = tree_of(fl_x=10, fl_y=9, cx=3, cy=2, w=16, h=12)
    for camera in cameras(write(tmp_path, tree), downscale=2):
        assert (*intrinsics(camera), camera.width, camera.height) == (2.5, 2.25, 0.75, 0.5, 4, 3)


def test_the_same_keys_are_read_in_blenders_layout(tmp_path: Path) -> None:
    tree = tree_of(fl_x=10, fl_y=9, cx=3, cy=2, camera_angle_x=0.3, aabb_scale=4)
    for split in ("train", "test"):
        write(tmp_path, tree, f"transforms_{split}.json")
    for camera in cameras(tmp_path):
        assert intrinsics(camera) == (10, 9, 3, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("k4", 0.1),
        ("camera_model", "ORTHOPHOTO"),
        ("camera_model", ["OPENCV"]),
        ("k1", "0.1"),
        ("rolling_shutter", [0, 0, 0, 0]),
        ("lens_shift", 0.1),
        ("fov_degrees", 50),
        ("from_mitsuba", True),
        ("coordinate_system", "opencv"),
        ("latlong", True),
        ("width", 8),
        ("K", [[10, 0, 4], [0, 10, 3], [0, 0, 1]]),
        ("ftheta_p0", 0.1),
        ("split", "test"),
        ("is_bad", True),
        ("cam2world", [[1.0]]),
        ("roll", 5.0),
        ("is_fisheye", "false"),
        ("fl_y", 0),
    ],
)
@pytest.mark.parametrize("is_of_frames", [False, True])
def test_a_key_that_could_change_the_picture_is_refused_by_name(
    tmp_path: Path, key: str, value: Any, is_of_frames: bool
) -> None:
    tree = tree_of()
    (tree["frames"][3] if is_of_frames else tree)[key] = value
    named = {"fl_y": "focal"}.get(key, key)
    with pytest.raises(SceneError, match=("frame 3: .*" if is_of_frames else "") + named):
        load_scene(write(tmp_path, tree))


@pytest.mark.parametrize("side", ["w", "h"])
def test_pixels_of_an_image_of_which_one_side_is_said_are_refused_and_angles_are_not(tmp_path: Path, side: str) -> None:
    missing = "h" if side == "w" else "w"
    with pytest.raises(SceneError, match=f"frame 0: {missing}: is missing, and "):
        load_scene(write(tmp_path, tree_of(**{side: 2 * WIDTH})))
    angle = tree_of(**{side: 2 * WIDTH, "fl_x": None, "camera_angle_x": 2 * math.atan(0.5)})
    assert intrinsics(cameras(write(tmp_path, angle))[0]) == pytest.approx((8, 8, 4, 3))


def test_a_key_that_comes_twice_is_refused_wherever_it_is(tmp_path: Path) -> None:
    write(tmp_path, tree_of())
    for key, value in (("fl_x", "20"), ("frames", "[]"), ("transform_matrix", "[]")):
        twice = json.dumps(tree_of()).replace(f'"{key}":', f'"{key}": {value}, "{key}":', 1)
        (tmp_path / "transforms.json").write_text(twice)
        with pytest.raises(SceneError, match=f"the key '{key}' comes twice in one object"):
            load_scene(tmp_path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"camera_angle_x": 0.1}, "an angle of view that differ"),
        ({"fl_y": 10, "camera_angle_y": 2.5}, "an angle of view that differ"),
        ({"cx": 500.0, "cy": 3.0}, "principal point outside"),
        ({"cx": 4.0, "cy": -0.5}, "principal point outside"),
        ({"camera_angle_x": 2 * math.atan(0.4), "cx": 0.0, "cy": 6.0}, ""),
    ],
)
def test_what_does_not_go_together_is_said_once_for_all_photos(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    remarks = load_scene(write(tmp_path, tree_of(**keys))).remarks
    assert len(remarks) == bool(words) and all(
        words in remark and remark.startswith(f"{N_PHOTOS} photos (") for remark in remarks
    )


def test_cameras_of_one_and_the_same_pose_are_told_so(tmp_path: Path) -> None:
    tree = tree_of()
    for frame in tree["frames"]:
        frame["transform_matrix"] = pose_at(0)
    with pytest.raises(SceneError, match="one and the same pose"):
        load_scene(write(tmp_path, tree))


K = {"k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4}
FISHEYE = {"k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4, "p1": 0.0}


@pytest.mark.parametrize(
    ("keys", "lens"),
    [
        (K, Lens("FULL_OPENCV", (0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0))),
        (K | {"k3": 0.5, "camera_model": "OPENCV"}, Lens("FULL_OPENCV", (0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0))),
        ({"k1": 0.1, "camera_model": "SIMPLE_RADIAL"}, Lens("FULL_OPENCV", (0.1, 0, 0, 0, 0, 0, 0, 0))),
        (K | {"k4": 0.6, "camera_model": "FULL_OPENCV"}, Lens("FULL_OPENCV", (0.1, 0.2, 0.3, 0.4, 0, 0.6, 0, 0))),
        (FISHEYE | {"camera_model": "OPENCV_FISHEYE"}, Lens("OPENCV_FISHEYE", (0.1, 0.2, 0.3, 0.4))),
        (FISHEYE | {"is_fisheye": True}, Lens("OPENCV_FISHEYE", (0.1, 0.2, 0.3, 0.4))),
        ({"camera_model": "EQUIRECTANGULAR"}, Lens("EQUIRECTANGULAR")),
        ({"k1": 0.0, "is_fisheye": False}, None),
    ],
)
def test_lenses_that_bend_are_read(tmp_path: Path, keys: dict[str, Any], lens: Lens | None) -> None:
    assert {camera.lens for camera in cameras(write(tmp_path, tree_of(**keys)))} == {lens}


def test_pixels_that_a_lens_does_not_see_have_no_weight(tmp_path: Path) -> None:
    view = load_scene(write(tmp_path, tree_of(fl_x=5, k1=-0.4))).train[0]
    assert view.weight is not None
    assert set(np.unique(view.weight)) == {0, 255}
    np.testing.assert_array_equal(np.flatnonzero(view.weight == 0), view.camera.blind_pixels())


def test_keys_that_are_harmless_are_passed_over_and_others_that_look_so_with_a_remark(tmp_path: Path) -> None:
    tree = tree_of(aabb_scale=4, applied_transform=[[1, 0, 0, 0]], author="x")
    for frame in tree["frames"]:
        frame |= {"sharpness": 31.0, "colmap_im_id": 3, "depth_file_path": "depth/1.png", "author": "y", "weather": "fine"}
    scene = load_scene(write(tmp_path, tree))
    assert scene.remarks == ("keys that are not known were passed over: 'author', 'weather'",)


def test_every_eighth_photo_is_held_out_by_name(tmp_path: Path) -> None:
    tree = tree_of()
    tree["frames"].reverse()
    scene = load_scene(write(tmp_path, tree))
    assert [view.name for view in scene.test] == ["images/0008", "images/0000"]
    assert len(scene.train) == 7


@pytest.mark.parametrize(("hold_out", "n_test"), [("", 2), ("8", 2), ("0", 0), ("own", 0), ("3", 3), ("20", 1)])
def test_the_user_says_how_many_photos_are_held_out(tmp_path: Path, hold_out: str, n_test: int) -> None:
    scene = load_scene(write(tmp_path, tree_of()), options=SceneOptions(hold_out=hold_out))
    assert (len(scene.test), len(scene.train)) == (n_test, N_PHOTOS - n_test)
    again = load_scene(tmp_path, options=SceneOptions(hold_out=scene.hold_out))
    assert [view.name for view in again.test] == [view.name for view in scene.test]


@pytest.mark.parametrize("hold_out", ["1", "-1", "many", "9" * 99, "2.5"])
def test_a_hold_out_that_cannot_be_is_refused(tmp_path: Path, hold_out: str) -> None:
    with pytest.raises(ValueError, match="hold_out: expected own, sector, 0, or a number from 2"):
        load_scene(write(tmp_path, tree_of()), options=SceneOptions(hold_out=hold_out))


def test_a_sector_of_the_cameras_is_held_out(tmp_path: Path) -> None:
    tree = tree_of()
    tree["frames"] = [
        {"file_path": f"images/{i:04}.jpg", "transform_matrix": pose_at(2 * math.pi * (5 * i % 24) / 24)} for i in range(24)
    ]
    scene = load_scene(write(tmp_path, tree), options=SceneOptions(hold_out="sector"))
    assert sorted(round(math.degrees(math.atan2(*view.camera.pose[[1, 0], 3]))) for view in scene.test) == [0, 15, 30]
    assert (len(scene.train), scene.hold_out) == (21, "sector")


def test_val_is_taken_where_blenders_layout_has_no_test(tmp_path: Path) -> None:
    write(tmp_path, tree_of(), "transforms_train.json")
    assert load_scene(tmp_path).hold_out == "8"
    write(tmp_path, {**tree_of(), "frames": tree_of()["frames"][:2]}, "transforms_val.json")
    scene = load_scene(tmp_path)
    assert (len(scene.train), len(scene.test), scene.hold_out) == (N_PHOTOS, 2, "own")


def test_lists_of_names_are_the_split(tmp_path: Path) -> None:
    names = [frame["file_path"] for frame in tree_of()["frames"]]
    scene = load_scene(write(tmp_path, tree_of(train_filenames=names[:4], val_filenames=names[4:6], test_filenames=[])))
    assert [len(scene.train), len(scene.test)] == [4, 2]
    scene = load_scene(write(tmp_path, tree_of(train_filenames=names[:4], val_filenames=names[4:6], test_filenames=names[7:8])))
    assert [view.name for view in scene.test] == ["images/0007"]


def test_lists_may_spell_names_otherwise_and_hold_out_what_is_in_both(tmp_path: Path) -> None:
    tree = tree_of()
    names = [f"./{frame['file_path']}" for frame in tree["frames"]]
    tree |= {"train_filenames": names[:8], "test_filenames": [name.replace("/", "\\") for name in names[6:8]]}
    scene = load_scene(write(tmp_path, tree))
    assert (len(scene.train), len(scene.test)) == (6, 2)
    assert scene.remarks == (
        "2 photos are in the lists of both splits, and held out: images/0006.jpg, images/0007.jpg",
        "1 photos are in no list of a split, and not used",
    )


def test_lists_that_hold_out_all_or_name_nothing_are_refused_by_what_they_name(tmp_path: Path) -> None:
    tree = tree_of()
    names = [frame["file_path"] for frame in tree["frames"]]
    with pytest.raises(SceneError, match="no photos to train on"):
        load_scene(write(tmp_path, {**tree, "train_filenames": names[:3], "test_filenames": names[:3]}))
    with pytest.raises(SceneError, match=r"no frame has a name of train_filenames, which begins with 'a.jpg'"):
        load_scene(write(tmp_path, {**tree, "train_filenames": ["a.jpg"]}))


def test_a_photo_that_is_listed_with_two_poses_is_told_of(tmp_path: Path) -> None:
    tree = tree_of()
    write(tmp_path, tree)
    tree["frames"] += [{**tree["frames"][0], "transform_matrix": pose_at(0.5)}, dict(tree["frames"][1])]
    assert load_scene(write(tmp_path, tree)).remarks == ("1 photos are listed with several poses: images/0000",)


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_names_are_found_however_their_accents_are_written_and_may_have_any_blank(tmp_path: Path, listed: str) -> None:
    """macOS writes accents as signs of their own, and a narrow blank before AM and PM."""
    tree = tree_of()
    for i, frame in enumerate(tree["frames"]):
        frame["file_path"] = unicodedata.normalize("NFD" if listed == "NFC" else "NFC", f"images/caf\u00e9 {i}\u202fPM.jpg")
    write(tmp_path, tree)
    for frame in tree["frames"]:
        frame["file_path"] = unicodedata.normalize(listed, frame["file_path"])
    (tmp_path / "transforms.json").write_text(json.dumps(tree))
    scene = load_scene(tmp_path)
    assert len(scene.train) == 7 and scene.remarks == ()


def test_photos_that_are_listed_and_missing_are_skipped_with_a_remark(tmp_path: Path) -> None:
    folder = write(tmp_path, tree_of())
    for i in (1, 3, 4, 5):
        (folder / f"images/{i:04}.jpg").unlink()
    scene = load_scene(folder)
    assert len(scene.train) + len(scene.test) == N_PHOTOS - 4
    (remark,) = scene.remarks
    assert remark == ("4 photos that are listed are not there: images/0001.jpg, images/0003.jpg, images/0004.jpg and 1 more")


def test_a_dataset_none_of_whose_photos_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text(json.dumps(tree_of()))
    with pytest.raises(SceneError, match=r"none of the photos that it lists is there: images/0000.jpg, .* and 6 more"):
        load_scene(tmp_path)


@pytest.mark.parametrize("listed", ["images/{}", "images\\{}.png", "./images/{}.JPG", "images/{}.jpeg"])
def test_endings_that_are_missing_or_others_than_the_files_are_found(tmp_path: Path, listed: str) -> None:
    folder = write(tmp_path, tree_of())
    tree = tree_of()
    for i, frame in enumerate(tree["frames"]):
        frame["file_path"] = listed.format(f"{i:04}")
    (folder / "transforms.json").write_text(json.dumps(tree))
    assert [view.image[0, 0, 0] // 10 for view in load_scene(folder).train] == [1, 2, 3, 4, 5, 6, 7]


def test_poses_of_three_rows_and_with_scaled_axes_are_read(tmp_path: Path) -> None:
    tree = tree_of()
    tree["frames"][0]["transform_matrix"] = pose_at(0)[:3]
    tree["frames"][1]["transform_matrix"] = (np.array(pose_at(1)) * [2, 2, 2, 1]).tolist()
    for i, camera in enumerate(cameras(write(tmp_path, tree))):
        np.testing.assert_allclose(camera.pose, pose_at(i), atol=1e-12)


def test_scenes_that_move_are_refused_by_name(tmp_path: Path) -> None:
    tree = tree_of()
    for i, frame in enumerate(tree["frames"]):
        frame["time"] = i / N_PHOTOS
    for name in ("transforms.json", "transforms_train.json"):
        with pytest.raises(SceneError, match=r"D-NeRF"):
            load_scene(write(tmp_path, tree, name))


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write(_made(tmp_path / "data"), tree_of())
    outside = tmp_path / "secret.jpg"
    (folder / "images/0003.jpg").rename(outside)
    (folder / "images/0003.jpg").symlink_to(outside)
    with pytest.raises(SceneError, match=r"0003.jpg: is a link that leads out"):
        load_scene(folder)
    (folder / "images/0003.jpg").unlink()
    (folder / "transforms.json").rename(tmp_path / "other.json")
    (folder / "transforms.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(SceneError, match=r"transforms.json: is a link that leads out"):
        load_scene(folder)


def test_photos_that_take_too_much_memory_together_are_refused_before_one_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, tree_of())
    file = folder / "images/0001.jpg"
    PIL.Image.fromarray(np.zeros((2000, 2000, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:700])  # its head is whole
    with pytest.raises(SceneError, match=r"to hold 9 photos takes 84.0 MB"):
        load_scene(folder, max_bytes=1 << 20)


def test_endless_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text('{"frames": [' + "[]," * 5_000_000 + "[]]}")
    with pytest.raises(SceneError, match=r"holds .* values, the limit is"):
        load_scene(tmp_path)
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 1, "frames": [{}] * 20_001}))
    with pytest.raises(SceneError, match=r"lists 20001 photos, the limit is 20000"):
        load_scene(tmp_path)


@needs_fox
def test_instant_ngps_fox_loads_without_a_flag() -> None:
    scene = load_scene(FOX, downscale=10)
    assert (len(scene.train), len(scene.test)) == (43, 7)
    assert scene.remarks[0].startswith("17 photos that are listed are not there: ")
    camera = scene.train[0].camera
    assert (camera.width, camera.height, camera.cx) == (108, 192, pytest.approx(55.4558))
    assert camera.lens == Lens("FULL_OPENCV", (0.0578421, -0.0805099, -0.000980296, 0.00015575, 0, 0, 0, 0))
