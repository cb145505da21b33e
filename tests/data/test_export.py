"""A dataset that was written as transforms.json and COLMAP's text is the same again, read as either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import WRITERS, Original, original_of

from vqrf.data.builtin import built_in_scene
from vqrf.data.colmap import pose_from_view, view_from_pose
from vqrf.data.export import write_dataset
from vqrf.data.listing import Listing, Optics, Shot
from vqrf.data.load import is_dataset, list_photos, load_scene
from vqrf.data.scene import Scene, save_scene
from vqrf.lens import BROWN, CLOSED, Lens, names_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("original")
    save_scene(built_in_scene(n_train=4, n_test=2, side=16), folder)
    return original_of(folder, 16, 16, {"train": 1, "test": 1})


def readings(folder: Path) -> list[Scene]:
    """Of what was written: as transforms.json, where there is one, and as COLMAP's model."""
    scenes = []
    if (folder / "transforms.json").exists():
        scenes.append(load_scene(folder))
        (folder / "transforms.json").rename(folder / "aside")
    return [*scenes, load_scene(folder)]


def assert_same(scene: Scene, again: Scene) -> None:
    for split in ("train", "test"):
        for view, other in zip(getattr(scene, split), getattr(again, split), strict=True):
            np.testing.assert_array_equal(view.image, other.image)
            for right, got in zip(view.camera.rays(), other.camera.rays(), strict=True):
                np.testing.assert_allclose(got, right, atol=1e-6)


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_the_same_again(original: Original, layout: str, tmp_path: Path) -> None:
    WRITERS[layout](original, tmp_path / "data")
    assert write_dataset(list_photos(tmp_path / "data"), tmp_path / "out") == ()
    for again in readings(tmp_path / "out"):
        assert_same(load_scene(tmp_path / "data"), again)


def listing_with(lens: Lens | None, folder: Path, fy: float = 12.0) -> Listing:
    folder.mkdir()
    shots = []
    for i in range(3):
        PIL.Image.fromarray(np.full((8, 10, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
        PIL.Image.fromarray(np.full((8, 10), 255 * (i % 2), np.uint8)).save(folder / f"{i}_mask.png")
        pose = np.eye(4)
        pose[:3, 3] = i, 2, 3
        optics = Optics(fx=12.0, fy=fy, cx=4.5, cy=4.25, size=(10, 8), lens=lens)
        shots.append(Shot(folder / f"{i}.png", str(i), pose, optics, mask=folder / f"{i}_mask.png"))
    points = np.random.default_rng(0).normal(size=(60, 3))
    return Listing(folder, "made", tuple(shots), points=points)


@pytest.mark.parametrize("model", [None, *BROWN, *CLOSED])
def test_every_lens_comes_back(model: str | None, tmp_path: Path) -> None:
    numbers = {"EUCM": (0.5, 1.0), "FOV": (0.7,)}
    lens = (
        None if model is None else Lens(model, numbers.get(model, tuple(0.01 * (i + 1) for i in range(len(names_of(model))))))
    )
    listing = listing_with(lens, tmp_path / "data")
    strange = write_dataset(listing, tmp_path / "out")
    found = readings(tmp_path / "out")
    assert len(found) == 2 - len(strange)
    for scene in found:
        for view, shot in zip(scene.train, listing.shots, strict=True):
            expected = shot.optics.camera(shot.pose, (10, 8))
            np.testing.assert_allclose(view.camera.rays()[1], expected.rays()[1], atol=1e-6)


def test_masks_points_bounds_and_background_come_back(tmp_path: Path) -> None:
    listing = replace(listing_with(None, tmp_path / "data"), near=0.5, far=7.0, background=(0.0, 0.0, 0.0))
    write_dataset(listing, tmp_path / "out")
    again = list_photos(tmp_path / "out")
    assert (again.near, again.far, again.background) == (0.5, 7.0, (0.0, 0.0, 0.0))
    assert [shot.mask is not None for shot in again.shots] == [True] * 3
    (tmp_path / "out/transforms.json").unlink()
    again = list_photos(tmp_path / "out")
    np.testing.assert_array_equal(again.points, listing.points)
    assert [shot.mask is not None for shot in again.shots] == [True] * 3


def test_photos_of_one_name_stay_apart(tmp_path: Path) -> None:
    listing = listing_with(None, tmp_path / "data")
    write_dataset(replace(listing, shots=tuple(replace(shot, name="a") for shot in listing.shots)), tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out/images").iterdir()) == ["a.png", "a~1.png", "a~2.png"]


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1), st.integers(0, 9))
def test_a_pose_goes_through_colmaps_numbers(quaternion: list[float], seed: int) -> None:
    pose = pose_from_view([*quaternion, *np.random.default_rng(seed).normal(size=3)])
    np.testing.assert_allclose(pose_from_view(view_from_pose(pose)), pose, atol=1e-12)


def test_a_folder_is_a_dataset_by_its_layout(original: Original, tmp_path: Path) -> None:
    assert not is_dataset(tmp_path) and not is_dataset(tmp_path / "gone")
    (tmp_path / "transforms.json").write_text("{")
    assert is_dataset(tmp_path)
