"""What users of such programs met, each through the verb that they would type: the right value, or one line that helps.

Datasets and files are made here, of the smallest kind that shows the fault. What needs a training to show is in `tests/data`
and `tests/training`: here the right value is what `check` says of a dataset, or a known field from its cameras.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apart import MOST_BYTES, Apart, Ended
from PIL import Image
from test_bitstream import generate

from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import PRUNED
from vqrf.data.builtin import built_in_scene
from vqrf.data.scene import save_scene
from vqrf.geometry import Lattice

CONFORMANCE = Path(__file__).parents[2] / "conformance" / "valid"
Tree = dict[str, Any]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def thing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a field that has a picture from everywhere."""
    path = tmp_path_factory.mktemp("thing") / "a.vqrf"
    small = generate.make_field(0, (9, 9, 9), widths=[], n_channels=3)
    path.write_bytes(encode(replace(small, lattice=Lattice((-1.0,) * 3, (1.0,) * 3, (9, 9, 9)))))
    return path


def dataset(folder: Path, change: Callable[[Tree], object] = lambda tree: None, side: int = 16) -> Path:
    """12 training and 2 test photos in Blender's layout, of which `change` edits both listings."""
    save_scene(built_in_scene(n_train=12, n_test=2, side=side), folder)
    for split in ("train", "test"):
        path = folder / f"transforms_{split}.json"
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))
    return folder


def succeeds(end: Ended) -> Ended:
    assert end.code == 0 and "Traceback" not in end.err and end.peak_bytes <= MOST_BYTES, end
    return end


def refuses(end: Ended, *reasons: str) -> None:
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
    assert all(reason in end.err for reason in reasons) and len(end.err) < 800, end
    assert end.peak_bytes <= MOST_BYTES


def facts(apart: Apart, folder: Path) -> Tree:
    return dict(json.loads(succeeds(apart.run("check", folder, "--json")).out))


def pictures(apart: Apart, thing: Path, folder: Path, out: Path, *flags: object) -> list[np.ndarray]:
    succeeds(apart.run("render", thing, "--data", folder, "--out", out, *flags))
    return [np.asarray(Image.open(path)) for path in sorted(out.rglob("*.png"))]


# ---------------------------------------------------------------------------------------------------------- a number, a network


def test_a1_a_view_that_is_equal_to_its_photo_is_not_infinite(apart: Apart, thing: Path, tmp_path: Path) -> None:
    def with_white(tree: Tree) -> None:
        tree["background"] = "white"

    folder = dataset(tmp_path / "data", with_white)
    Image.new("RGB", (16, 16), "white").save(folder / "test" / f"{sorted((folder / 'test').iterdir())[0].stem}.png")
    small = generate.make_field(0, (4, 4, 4), widths=[], n_channels=3, partition=np.full((4, 4, 4), PRUNED, np.uint8))
    nothing = tmp_path / "nothing.vqrf"
    nothing.write_bytes(encode(small))
    scores = json.loads(succeeds(apart.run("eval", nothing, "--data", folder, "--json")).out)
    assert np.isfinite(scores["psnr"]) and scores["psnr"] < 60
    assert scores["n_equal"] == 1 and sum(view["psnr"] is None for view in scores["views"]) == 1


@pytest.mark.parametrize("path", sorted(CONFORMANCE.glob("*.vqrf")), ids=lambda path: path.stem)
def test_a2_every_valid_file_is_drawn_whatever_its_network(path: Path, apart: Apart, tmp_path: Path) -> None:
    orbit = ("--path", "orbit", "--frames", 1, "--width", 8, "--height", 8)
    succeeds(apart.run("render", path, *orbit, "--out", tmp_path / "o"))
    assert len(list((tmp_path / "o").iterdir())) == 1


# ------------------------------------------------------------------------------------------------------------ keys of a dataset


def test_a3_photos_cut_off_centre_are_drawn_as_the_cut(apart: Apart, thing: Path, tmp_path: Path) -> None:
    whole = dataset(tmp_path / "whole")

    def cut(tree: Tree) -> None:
        focal = 8 / np.tan(tree.pop("camera_angle_x") / 2)
        tree |= {"fl_x": focal, "fl_y": focal, "cx": 4.0, "cy": 8.0, "w": 12, "h": 16}

    part = dataset(tmp_path / "part", cut)
    for path in part.rglob("*.png"):
        Image.open(path).crop((4, 0, 16, 16)).save(path)
    expected = pictures(apart, thing, whole, tmp_path / "a")
    found = pictures(apart, thing, part, tmp_path / "b")
    assert len(found) == 2 and len({picture.tobytes() for picture in found}) == 2
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a[:, 4:], b)


def test_a3_each_photo_may_have_a_lens_of_its_own(apart: Apart, tmp_path: Path) -> None:
    def two(tree: Tree) -> None:
        focal = 8 / np.tan(tree.pop("camera_angle_x") / 2)
        for i, frame in enumerate(tree["frames"]):
            frame["fl_x"] = focal * (1 + i % 2)

    found = facts(apart, dataset(tmp_path / "data", two))
    assert len(found["fields_of_view"]) == 2


@pytest.mark.parametrize("key", ["k1", "k2", "p1"])
def test_a3_a_lens_that_bends_is_taken_as_one(key: str, apart: Apart, tmp_path: Path) -> None:
    found = facts(apart, dataset(tmp_path / "data", lambda tree: tree.update({"camera_model": "OPENCV", key: -0.05})))
    assert found["lenses"] != ["pinhole"]


@pytest.mark.parametrize("key", ["shutter_speed_lens", "fov_y_scale", "pose_convention", "is_equirect"])
def test_a3_a_key_that_may_change_the_picture_is_refused_by_name(key: str, apart: Apart, tmp_path: Path) -> None:
    refuses(apart.run("check", dataset(tmp_path / "data", lambda tree: tree.update({key: 1}))), key)


def test_a4_near_and_far_follow_a_world_of_any_size(apart: Apart, tmp_path: Path) -> None:
    def scaled(by: float) -> Callable[[Tree], None]:
        def change(tree: Tree) -> None:
            del tree["near"], tree["far"]
            for frame in tree["frames"]:
                for row in frame["transform_matrix"][:3]:
                    row[3] *= by

        return change

    found = {by: facts(apart, dataset(tmp_path / str(by), scaled(by))) for by in (1.0, 0.001, 1000.0)}
    for by, said in found.items():
        assert said["distance"] == pytest.approx(by * found[1.0]["distance"], rel=0.01)
        assert said["near"] < said["distance"] < said["far"] < 4 * said["distance"]


@pytest.mark.parametrize("kind", ["opencv", "world to camera"])
def test_a5_axes_of_another_program_are_doubted_before_an_hour_is_spent(kind: str, apart: Apart, tmp_path: Path) -> None:
    def turned(tree: Tree) -> None:
        for frame in tree["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose = pose * [1, -1, -1, 1] if kind == "opencv" else np.linalg.inv(pose)
            frame["transform_matrix"] = pose.tolist()

    end = apart.run("check", dataset(tmp_path / "data", turned))
    if end.code == 2:
        refuses(end, "--axes" if kind == "opencv" else "camera")
    else:
        assert "odd: " in succeeds(end).out


def test_a6_a_photo_that_lies_is_turned_as_its_camera_says(apart: Apart, tmp_path: Path) -> None:
    def upright(tree: Tree) -> None:
        tree |= {"w": 12, "h": 16}
        for frame in tree["frames"]:
            frame["file_path"] += ".jpg"

    folder = dataset(tmp_path / "data", upright)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in folder.rglob("*.png"):
        photo = Image.open(path).convert("RGB").crop((2, 0, 14, 16)).transpose(Image.Transpose.ROTATE_90)
        assert photo.size == (16, 12)
        photo.save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
    assert facts(apart, folder)["sizes"] == [[12, 16]]


def test_a9_masks_that_a_listing_names_are_used(apart: Apart, tmp_path: Path) -> None:
    def masked(tree: Tree) -> None:
        for frame in tree["frames"]:
            frame["mask_path"] = f"{frame['file_path']}_mask.png"

    folder = dataset(tmp_path / "data", masked)
    for path in list(folder.rglob("*.png")):
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(path.with_name(f"{path.stem}_mask.png"))
    found = facts(apart, folder)
    assert found["has_masks"] or found["has_opacity"]


def test_d4_a_listing_without_an_end_is_counted_before_it_is_read(apart: Apart, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data")
    path = folder / "transforms_train.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "frames": tree["frames"][:1] * 20_001}))
    refuses(apart.run("check", folder), "lists 20001 photos")
    path.write_text('{"camera_angle_x": 0.7, "frames": [' + "[]," * 5_000_000 + "[]]}")
    refuses(apart.run("check", folder), "values, the limit is")


# ------------------------------------------------------------------------------------------------ sizes, names, splits


def test_a7_views_of_one_basename_have_each_a_picture(apart: Apart, thing: Path, tmp_path: Path) -> None:
    """Two cameras of a rig number their photos alike."""

    def rig(tree: Tree) -> None:
        for i, frame in enumerate(tree["frames"]):
            frame["file_path"] = f"./rig/cam{i}/0000"

    folder = dataset(tmp_path / "data", rig)
    for i in range(12):
        (folder / "rig" / f"cam{i}").mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / "rig" / f"cam{i}" / "0000.png")
    found = pictures(apart, thing, folder, tmp_path / "o")
    assert len(found) == 2 and not np.array_equal(*found)


@pytest.mark.parametrize("size", [(4032, 3024), (3024, 4032), (1999, 1501)], ids=str)
def test_a8_photos_of_phones_are_read_as_they_are_averaged(
    size: tuple[int, int], apart: Apart, thing: Path, tmp_path: Path
) -> None:
    def jpeg(tree: Tree) -> None:
        for frame in tree["frames"]:
            frame["file_path"] += ".jpg"

    folder = dataset(tmp_path / "data", jpeg)
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", size, (90, 120, 30)).save(photo)
    for path in list(folder.rglob("*.png")):
        path.with_suffix(".jpg").hardlink_to(photo)
        path.unlink()
    assert facts(apart, folder)["sizes"] == [list(size)]
    scores = json.loads(succeeds(apart.run("eval", thing, "--data", folder, "--downscale", 70, "--json")).out)
    assert len(scores["views"]) == 2 and np.isfinite(scores["psnr"])


def sample(folder: Path, change: Callable[[Tree], object] = lambda tree: None) -> Path:
    """16 photos of 16x16 in one list, as instant-ngp's sample has them, which `change` edits."""
    dataset(folder)
    tree = json.loads((folder / "transforms_train.json").read_text())
    tree["frames"] = [dict(frame) for frame in (tree["frames"] * 2)[:16]]
    for split in ("train", "test"):
        (folder / f"transforms_{split}.json").unlink()
    (folder / "images").mkdir()
    for i, frame in enumerate(tree["frames"]):
        frame["file_path"] = f"images/{i:04}.jpg"
        Image.new("RGB", (16, 16), (16 * i, 90, 30)).save(folder / frame["file_path"])
    change(tree)
    (folder / "transforms.json").write_text(json.dumps(tree))
    return folder


def test_b_one_list_is_split_and_photos_that_are_gone_are_passed_over(apart: Apart, thing: Path, tmp_path: Path) -> None:
    whole = facts(apart, sample(tmp_path / "whole"))
    folder = sample(tmp_path / "part")
    for i in (1, 3, 5, 10):
        (folder / "images" / f"{i:04}.jpg").unlink()
    said = succeeds(apart.run("check", folder)).out
    assert "4 photos that are listed are not there: images/0001.jpg" in " ".join(said.split())
    scored = [
        json.loads(succeeds(apart.run("eval", thing, "--data", tmp_path / name, "--json")).out) for name in ("whole", "part")
    ]
    assert [len(scores["views"]) for scores in scored] == [2, 2]
    assert whole["hold_out"] != "own"


def test_b_photos_of_several_sizes_have_each_their_own(apart: Apart, thing: Path, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data")
    photo = sorted((folder / "test").iterdir())[1]
    Image.open(photo).resize((24, 24)).save(photo)
    assert sorted(facts(apart, folder)["sizes"]) == [[16, 16], [24, 24]]
    assert sorted(found.shape for found in pictures(apart, thing, folder, tmp_path / "o")) == [(16, 16, 3), (24, 24, 3)]


NAMES: dict[str, str] = {
    "backslashes": "images\\{:04}.jpg",
    "no ending": "images/{:04}",
    "another ending": "images/{:04}.png",
    "capitals": "./images/{:04}.JPG",
}


@pytest.mark.parametrize("case", NAMES)
def test_b_a_photo_is_found_by_what_other_systems_call_it(case: str, apart: Apart, tmp_path: Path) -> None:
    def renamed(tree: Tree) -> None:
        for i, frame in enumerate(tree["frames"]):
            frame["file_path"] = NAMES[case].format(i)

    plain, other = (facts(apart, sample(tmp_path / name, change)) for name, change in (("a", lambda _: None), ("b", renamed)))
    assert {**plain, "path": 0, "name": 0} == {**other, "path": 0, "name": 0}


def test_b_a_dataset_without_held_out_photos_is_told_so_by_eval(apart: Apart, thing: Path, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data")
    (folder / "transforms_test.json").rename(folder / "transforms_val.json")
    assert len(json.loads(succeeds(apart.run("eval", thing, "--data", folder, "--json")).out)["views"]) == 2
    (folder / "transforms_val.json").unlink()
    end = apart.run("eval", thing, "--data", folder, "--json")
    if end.code:
        refuses(end, "transforms_test.json")
    else:
        assert json.loads(end.out)["views"]


def test_b_photos_and_poses_that_are_none_are_named(apart: Apart, tmp_path: Path) -> None:
    def with_pose(rows: Any) -> Callable[[Tree], None]:
        return lambda tree: tree["frames"][1].update(transform_matrix=rows)

    poses = {"transposed": np.transpose(POSE).tolist(), "nan": [[float("nan")] * 4] * 4, "text": "1 0 0 0", "flat": [1, 2, 3]}
    for name, rows in poses.items():
        refuses(apart.run("check", dataset(tmp_path / name, with_pose(rows))), "frame 1")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "transforms_train.json").write_text("[]")
    refuses(apart.run("check", tmp_path / "list"), "expected a JSON object, got list")
    cmyk = dataset(tmp_path / "cmyk")
    photo = sorted((cmyk / "train").iterdir())[0]
    Image.new("CMYK", (16, 16)).save(photo, "JPEG")
    refuses(apart.run("check", cmyk), photo.name, "CMYK")
    photo.write_bytes(b"\x76\x2f\x31\x01" + bytes(60))  # the head of an EXR
    refuses(apart.run("check", cmyk), photo.name)


# ------------------------------------------------------------------------------------------------------------ paths of cameras

POSE = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3.0], [0, 0, 0, 1]]
FLAT = [value for row in POSE for value in row]
VIEW = {"camera_to_world": FLAT, "fov": 50.0, "aspect": 1}
PATHS: dict[str, tuple[Tree, str]] = {
    "a globe": ({"camera_type": "equirectangular", "camera_path": [VIEW]}, "equirectangular"),
    "keyframes alone": ({"keyframes": [VIEW]}, "keyframes"),
    "instant-ngp's own": ({"path": [{"R": [0, 0, 0, 1], "T": [0, 0, 0]}], "time": 0.0}, "instant-ngp"),
    "a matrix that is a text": ({"camera_path": [{**VIEW, "camera_to_world": str(FLAT)}]}, "camera 0: camera_to_world"),
    "no angle": ({"camera_path": [{"camera_to_world": FLAT}]}, "camera 0: fov"),
}


@pytest.mark.parametrize("case", PATHS)
def test_a10_a_path_that_is_not_drawn_says_so(case: str, apart: Apart, thing: Path, tmp_path: Path) -> None:
    tree, reason = PATHS[case]
    (tmp_path / "path.json").write_text(json.dumps(tree))
    refuses(apart.run("render", thing, "--path", tmp_path / "path.json", "--out", tmp_path / "o"), reason)
    assert not (tmp_path / "o").exists()


def test_a10_rows_of_a_matrix_and_centres_of_a_picture_are_honoured(apart: Apart, thing: Path, tmp_path: Path) -> None:
    focal = {"fl_x": 20.0, "fl_y": 20.0, "cy": 8.0, "h": 16}
    trees: dict[str, Tree] = {
        "whole": {**focal, "cx": 8.0, "w": 16, "frames": [{"file_path": "x", "transform_matrix": POSE}]},
        "rows": {**focal, "cx": 8.0, "w": 16, "frames": [{"file_path": "x", "transform_matrix": POSE[:3]}]},
        "own": {"frames": [{"file_path": "x", "transform_matrix": POSE, **focal, "cx": 8.0, "w": 16}]},
        "cut": {**focal, "cx": 4.0, "w": 12, "frames": [{"file_path": "x", "transform_matrix": POSE}]},
        "own cut": {**focal, "cx": 8.0, "w": 16, "frames": [{"file_path": "x", "transform_matrix": POSE, "cx": 4.0, "w": 12}]},
    }
    found = {}
    for name, tree in trees.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))
        size = ("--width", 12 if "cut" in name else 16, "--height", 16)
        succeeds(apart.run("render", thing, "--path", tmp_path / f"{name}.json", *size, "--out", tmp_path / name))
        found[name] = np.asarray(Image.open(tmp_path / name / "0000.png"))
    np.testing.assert_array_equal(found["rows"], found["whole"])
    np.testing.assert_array_equal(found["own"], found["whole"])
    np.testing.assert_array_equal(found["cut"], found["whole"][:, 4:])
    np.testing.assert_array_equal(found["own cut"], found["cut"])


# -------------------------------------------------------------------------------------------------------------- what is said


def test_a12_what_is_handed_in_by_mistake_is_named(apart: Apart, thing: Path, tmp_path: Path) -> None:
    (tmp_path / "splat.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\n")
    (tmp_path / "x.splat").write_bytes(bytes(64))
    (tmp_path / "x.ingp").write_bytes(b"\x78\x9c\x01\x00")
    (tmp_path / "empty.tar").write_bytes(b"")
    np.savez(tmp_path / "octree.npz", data_dim=np.int64(49), child=np.zeros((8, 2, 2, 2), np.int32))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "photos" / "a.jpg")
    reads = "checkpoints of DirectVoxGO"
    refuses(apart.run("info", tmp_path / "splat.ply"), "a PLY", reads)
    refuses(apart.run("info", tmp_path / "x.splat"), "not a .vqrf file", reads)
    refuses(apart.run("info", tmp_path / "x.ingp"), "snapshot of instant-ngp", reads)
    refuses(apart.run("info", tmp_path / "empty.tar"), "empty.tar")
    refuses(apart.run("info", tmp_path / "octree.npz"), "is no checkpoint that is read", "svox2", "data_dim.npy")
    refuses(apart.run("check", tmp_path / "photos"), "is no dataset", "vqrf process")
    refuses(apart.run("render", thing, "--path", "circle", "--out", tmp_path / "o"), "orbit, spiral or a JSON file")
    refuses(apart.run("info", "https://example.org/a.vqrf"), "example.org")
    refuses(apart.run("convert", thing, tmp_path / "out.ply"), ".tar (DirectVoxGO)")


def test_a12_a_checkpoint_that_lacks_something_is_told_what_by_view_as_by_info(apart: Apart, tmp_path: Path) -> None:
    np.savez(tmp_path / "ckpt.npz", links=np.zeros((2, 2, 2), np.int32))
    for verb in ("view", "info"):
        refuses(apart.run(verb, tmp_path / "ckpt.npz"), "ckpt.npz: density_data: is missing; there are links")


@pytest.mark.parametrize("verb", ["verify", "export"])
def test_a12_a_checkpoint_is_told_what_it_may_become(verb: str, apart: Apart, tmp_path: Path) -> None:
    np.savez(tmp_path / "ckpt.npz", links=np.zeros((2, 2, 2), np.int32))
    out = [tmp_path / "a.html"] if verb == "export" else []
    refuses(apart.run(verb, tmp_path / "ckpt.npz", *out), "a zip", "vqrf compress", "vqrf convert a run folder")


def test_a12_a_pose_that_is_mirrored_says_so(apart: Apart, tmp_path: Path) -> None:
    def mirrored(tree: Tree) -> None:
        for frame in tree["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[0] *= -1

    refuses(apart.run("check", dataset(tmp_path / "data", mirrored)), "mirrored", "determinant")


def test_b_a_photo_that_is_listed_and_gone_or_elsewhere_is_named(apart: Apart, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data")
    gone = sorted((folder / "test").iterdir())[0]
    gone.unlink()
    refuses(apart.run("eval", CONFORMANCE / "all_coded.vqrf", "--data", folder), gone.stem)
    for name in ("../secret", "/etc/passwd", "C:\\photos\\a.png"):

        def lead_out(tree: Tree, name: str = name) -> None:
            tree["frames"][0]["file_path"] = name

        refuses(apart.run("check", dataset(tmp_path / f"data{len(name)}", lead_out)), "frame 0")


def test_r_a_port_that_is_taken_and_flags_without_a_use_are_refused_in_a_line(apart: Apart, thing: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refuses(apart.run("view", thing, "--no-open", "--port", taken.getsockname()[1]), "something else listens there")
    for verb, flag in (("eval", "--seed"), ("eval", "--overwrite"), ("render", "--device"), ("render", "--seed")):
        refuses(apart.run(verb, thing, flag, 1), flag, "no such flag")
    for flags in (("--threads", "9" * 30), ("--threads", -1), ("--max-memory", "1e400GB"), ("--frames", "9" * 30)):
        refuses(apart.run("render", thing, "--path", "orbit", "--out", thing.with_name("o"), *flags), flags[0])
    refuses(apart.run("compress", thing, "--out", thing.with_name("b.vqrf")), "is compressed already")
