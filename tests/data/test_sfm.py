"""Poses of plain photos: found again, the same every time, also after an interruption; and what cannot be found is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from corner import cameras_along, misfit, write_photos
from hypothesis import given
from hypothesis import strategies as st

from vqrf.data.builtin import built_in_scene
from vqrf.data.check import reprojection_errors
from vqrf.data.colmap import list_observations
from vqrf.data.listing import SceneError
from vqrf.data.load import list_photos
from vqrf.data.scene import save_scene
from vqrf.data.sfm import IMAGES_FOLDER, MODEL_FOLDER, WORK_FOLDER, Registration, SfmConfig, find_poses, pairs_of

CONFIG = SfmConfig(lens="pinhole", threads=2)
CAMERAS = cameras_along(8, 200)


def find(folder: Path, config: SfmConfig = CONFIG, stop_at: str = "") -> tuple[Registration, list[tuple[str, int, int]]]:
    pytest.importorskip("pycolmap")
    said = []

    def report(stage: str, done: int, total: int) -> None:
        said.append((stage, done, total))
        if stage == stop_at:
            raise KeyboardInterrupt

    return find_poses(folder, config, report), said


def poses_of(folder: Path) -> dict[str, np.ndarray]:
    return {shot.name: shot.pose for shot in list_photos(folder).shots}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Registration, list[tuple[str, int, int]]]:
    """A dataset of eight photos of a corner, and what was said of it."""
    folder = tmp_path_factory.mktemp("sfm")
    write_photos(CAMERAS, folder / IMAGES_FOLDER)
    return folder, *find(folder)


def test_plain_photos_get_their_cameras_back(found: tuple[Path, Registration, list[tuple[str, int, int]]]) -> None:
    folder, registration, said = found
    names = [f"photo_{i:02}.png" for i in range(8)]
    assert (list(registration.registered), registration.lost, registration.others) == (names, (), ())
    assert len(registration.cameras) == 1 and "PINHOLE 200x200" in registration.cameras[0]
    assert registration.error < 1 and registration.n_points > 100
    angle, apart = misfit(list(poses_of(folder).values()), [camera.pose for camera in CAMERAS])
    assert angle < 0.5 and apart < 0.01
    stages = [stage for stage, *_ in said]
    assert stages == sorted(stages, key=["keypoints", "matches", "cameras"].index)
    assert ("matches", 28, 28) in said and said[-1] == ("cameras", 8, 8)
    assert sorted(path.name for path in folder.iterdir()) == [IMAGES_FOLDER, MODEL_FOLDER.split("/")[0]]


def test_the_points_of_the_model_lie_where_its_photos_show_them(
    found: tuple[Path, Registration, list[tuple[str, int, int]]], tmp_path: Path
) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    folder, registration, _ = found
    errors = reprojection_errors(list_photos(folder), list_observations(folder))
    assert len(errors) == 8 and max(errors.values()) < 1
    assert registration.error / 3 < np.mean(list(errors.values())) < 3 * registration.error
    shutil.copytree(folder / IMAGES_FOLDER, tmp_path / IMAGES_FOLDER)
    (tmp_path / MODEL_FOLDER).mkdir(parents=True)
    pycolmap.Reconstruction(folder / MODEL_FOLDER).write_text(tmp_path / MODEL_FOLDER)
    as_text = reprojection_errors(list_photos(tmp_path), list_observations(tmp_path))
    assert as_text == pytest.approx(errors, abs=1e-4)


@pytest.mark.parametrize("stage", ["keypoints", "matches", "cameras"])
def test_a_run_that_was_interrupted_ends_in_the_poses_of_one_that_was_not(
    found: tuple[Path, Registration, list[tuple[str, int, int]]], tmp_path: Path, stage: str
) -> None:
    write_photos(CAMERAS, tmp_path / IMAGES_FOLDER)
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, stop_at=stage)
    assert (tmp_path / WORK_FOLDER).is_dir() and not (tmp_path / MODEL_FOLDER).exists()
    with pytest.raises(SceneError, match="--overwrite"):
        find(tmp_path, SfmConfig(lens="opencv"))
    find(tmp_path)
    for name, pose in poses_of(found[0]).items():
        np.testing.assert_array_equal(poses_of(tmp_path)[name], pose)


def test_what_no_poses_come_of_is_said_and_leaves_no_model(tmp_path: Path) -> None:
    write_photos(CAMERAS[:2], tmp_path / "two" / IMAGES_FOLDER)
    flat, strange = (tmp_path / name / IMAGES_FOLDER for name in ("flat", "strange"))
    random = np.random.default_rng(0)
    for folder in (flat, strange):
        folder.mkdir(parents=True)
        for i in range(4):
            noise = random.integers(0, 255, (20, 20, 3), np.uint8) if folder == strange else np.full((20, 20, 3), 90, np.uint8)
            PIL.Image.fromarray(noise).resize((200, 200), PIL.Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    for name, reason in (("two", "2 photos"), ("flat", "0 keypoints each"), ("strange", "could be put together")):
        with pytest.raises(SceneError, match=reason):
            find(tmp_path / name)
        assert not (tmp_path / name / MODEL_FOLDER).exists()


@given(st.integers(0, 300), st.integers(0, 120), st.integers(1, 20), st.integers(2, 60))
def test_every_photo_is_compared_with_the_next_and_with_all_where_they_are_few(
    n: int, n_exhaustive: int, overlap: int, n_keys: int
) -> None:
    pairs = pairs_of(n, SfmConfig(n_exhaustive=n_exhaustive, overlap=overlap, n_keys=n_keys))
    assert pairs == sorted(set(pairs)) and all(0 <= i < j < n for i, j in pairs)
    assert set(pairs) >= {(i, i + 1) for i in range(n - 1)}
    if n <= n_exhaustive:
        assert len(pairs) == n * (n - 1) // 2
    else:
        assert len(pairs) <= n * overlap + n_keys**2
        assert n < 2 or (0, n - 1) in pairs, "a walk around a thing closes"


@pytest.mark.slow
def test_sixty_renders_of_the_built_in_scene_are_found_to_half_a_degree_and_a_hundredth(tmp_path: Path) -> None:
    scene = built_in_scene(n_train=60, n_test=1, side=320, backdrop="ground")
    save_scene(scene, tmp_path / "true")
    shutil.copytree(tmp_path / "true" / "train", tmp_path / "found" / IMAGES_FOLDER)
    registration, _ = find(tmp_path / "found", SfmConfig(threads=2))
    assert len(registration.registered) >= 58
    true = {view.name.split("/")[1]: view.camera.pose for view in scene.train}
    poses = poses_of(tmp_path / "found")
    angle, apart = misfit(list(poses.values()), [true[name] for name in poses])
    assert angle < 0.5 and apart < 0.01
