"""Whether a training came to something: what is right passes, and each way to come to nothing is told apart from the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed import changed
from tiny import TINY, emptied

from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField
from vqrf.training.train import fit
from vqrf.training.verdict import judge, look, remarks_on


def with_poses(scene: Scene, turn: np.ndarray) -> Scene:
    """The scene with every pose multiplied from the right."""
    views = tuple(replace(view, camera=replace(view.camera, pose=view.camera.pose @ turn)) for view in scene.train)
    return replace(scene, train=views)


def scaled(scene: Scene, factor: float) -> Scene:
    """The scene in a world of another scale, its near and far as they were."""

    def moved(view: View) -> View:
        pose = view.camera.pose.copy()
        pose[:3, 3] *= factor
        return replace(view, camera=replace(view.camera, pose=pose))

    return replace(scene, train=tuple(moved(view) for view in scene.train))


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_a_field_of_its_photos_is_right(scene: Scene, trained: RadianceField, stage: str) -> None:
    assert judge(trained, scene, stage) is None
    assert remarks_on(scene) == []
    seen = look(trained, scene)
    assert seen.psnr > seen.psnr_of_color + 2 and seen.hit > 0.95 and seen.in_cells == 0 and not seen.is_empty


def test_a_field_of_nothing_is_told_and_one_of_photos_of_nothing_is_right(scene: Scene, trained: RadianceField) -> None:
    empty = emptied(trained)
    fault = judge(empty, scene, "coarse")
    assert fault is not None and fault.startswith("after the coarse stage nothing is left of the field: ")
    blank = tuple(replace(view, image=np.full_like(view.image, 255), opacity=None) for view in scene.train)
    assert judge(empty, replace(scene, train=blank), "fine") is None


def test_a_field_that_is_no_better_than_a_blank_picture_is_told(scene: Scene, trained: RadianceField) -> None:
    wrong = replace(trained, features=-3 * trained.features)
    fault = judge(wrong, scene, "fine")
    assert fault is not None and fault.startswith("the field is no better on its own photos than a blank picture (")


def test_rays_that_meet_nothing_are_told(scene: Scene, trained: RadianceField) -> None:
    seen = look(trained, scene)
    lattice, allowed = trained.lattice, np.asarray(trained.volume().cells).copy()
    allowed[:, :, lattice.shape[2] // 8 :] = 0
    part = replace(trained, allowed=allowed)
    assert look(part, scene).hit < 0.6 * seen.hit


def test_cameras_inside_of_walls_are_told(scene: Scene, trained: RadianceField) -> None:
    centre = np.array([trained.lattice.world_from_index(np.argwhere(trained.volume().cells)[0] + 0.5)])
    views = [
        replace(v, camera=replace(v.camera, pose=np.vstack([np.c_[v.camera.pose[:3, :3], centre.T], [0, 0, 0, 1]])))
        for v in scene.train[:4]
    ]
    assert look(trained, replace(scene, train=tuple(views))).in_cells == 1


@pytest.mark.parametrize("n_views", [1, 2])
def test_few_photos_are_remarked_and_blamed(scene: Scene, trained: RadianceField, n_views: int) -> None:
    few = replace(scene, train=scene.train[:n_views])
    (remark,) = remarks_on(few)
    assert f"only {n_views} training photo" in remark
    fault = judge(emptied(trained), few, "fine")
    assert fault is not None and "too few" in fault


def test_a_training_of_poses_with_the_axes_of_another_program_says_so(scene: Scene) -> None:
    turned = with_poses(scene, np.diag([1.0, -1.0, -1.0, 1.0]))
    fault = judge(fit(turned, TINY), turned, "fine")
    assert fault is not None and "OpenCV's axes" in fault


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_training_in_a_world_of_another_scale_says_how_far_the_cameras_stand(scene: Scene, factor: float) -> None:
    other = scaled(scene, factor)
    (remark,) = remarks_on(other)
    assert "from where they look, and near..far is" in remark
    fault = judge(fit(other, TINY), other, "fine")
    assert fault is not None and remark in fault


def test_photos_whose_pixels_count_nothing_but_where_the_field_is_right_are_right(scene: Scene, trained: RadianceField) -> None:
    spoilt = []
    for view in scene.train:
        image, weight = view.image.copy(), np.full(view.image.shape[:2], 255, np.uint8)
        image[::2], weight[::2] = 255 - image[::2], 0
        spoilt.append(replace(view, image=image, weight=weight))
    assert judge(trained, replace(scene, train=tuple(spoilt)), "fine") is None


def test_what_is_changed_is_seen(trained: RadianceField, scene: Scene) -> None:
    """A threshold above which nothing is sampled empties the field too."""
    assert look(changed(trained, alpha_threshold=0.999999), scene).psnr < look(trained, scene).psnr
