"""Checkpoints: saved when due, loaded as saved, and refused where they belong to other photos or settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqrf.data.scene import Scene
from vqrf.fields.storage import Arrays, StorageError
from vqrf.training import checkpoint as checkpoint_module
from vqrf.training.checkpoint import Checkpoint, fingerprint


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_checkpoint_is_saved_when_it_is_due_and_holds_what_was_saved_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(checkpoint_module.time, "monotonic", clock)
    checkpoint = Checkpoint(tmp_path / "checkpoint", "abc", seconds=30)
    assert checkpoint.load() is None
    collected = []

    def collect(step: int) -> tuple[Arrays, dict[str, Any]]:
        collected.append(step)
        return {"a": np.full(3, step), "none": np.zeros(0, np.uint8), "scalar": np.array(step)}, {"step": step}

    for step, clock.now in enumerate([0, 29, 31, 32, 60, 62]):
        checkpoint.save_if_due(lambda: collect(step))  # noqa: B023 (called at once)
    assert collected == [2, 5]
    arrays, state = Checkpoint(tmp_path / "checkpoint", "abc").load() or ({}, {})
    assert state == {"step": 5}
    np.testing.assert_array_equal(arrays["a"], np.full(3, 5))
    assert arrays["none"].shape == (0,)
    checkpoint.remove()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "took", "a_second", "pause"), [(30, 1, 1e6, 30), (30, 5, 1e6, 100), (0, 5, 1e6, 0), (30, 1, 100, None)]
)
def test_saves_take_no_more_than_their_share_of_time_and_disk(
    seconds: float, took: float, a_second: float, pause: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, written = Clock(), {"a": np.zeros(8600, np.uint8)}
    monkeypatch.setattr(checkpoint_module, "WRITTEN_A_SECOND", a_second)
    monkeypatch.setattr(checkpoint_module.time, "monotonic", clock)
    checkpoint, collected = Checkpoint(tmp_path / "checkpoint", "abc", seconds=seconds), []

    def collect() -> tuple[Arrays, dict[str, Any]]:
        clock.now += took
        collected.append(clock.now)
        return written, {}

    clock.now = seconds
    checkpoint.save_if_due(collect)
    if pause is None:
        pause = (tmp_path / "checkpoint").stat().st_size / a_second
        assert pause > seconds
    for clock.now in (collected[0] + pause - 0.1, collected[0] + pause):
        checkpoint.save_if_due(collect)
    assert len(collected) == 2


def test_a_checkpoint_of_other_settings_or_with_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    Checkpoint(path, "abc", seconds=0).save_if_due(lambda: ({"a": np.arange(99)}, {"step": 1}))
    with pytest.raises(StorageError, match=rf"^{path}: .*--overwrite"):
        Checkpoint(path, "abd").load()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=rf"^{path}: .*checksum"):
        Checkpoint(path, "abc").load()


def with_camera(scene: Scene, **change: Any) -> Scene:
    view = scene.train[3]
    changed = replace(view, camera=replace(view.camera, **change))
    return replace(scene, train=(*scene.train[:3], changed, *scene.train[4:]))


def with_pixel(scene: Scene) -> Scene:
    image = scene.train[3].image.copy()
    image[5, 6, 1] ^= 1
    return replace(scene, train=(*scene.train[:3], replace(scene.train[3], image=image), *scene.train[4:]))


def test_a_fingerprint_tells_whatever_training_sees_apart(scene: Scene) -> None:
    pose = scene.train[3].camera.pose.copy()
    pose[0, 3] += 1e-9
    settings = {"config": {"steps": 3}, "seed": 0}
    others = [
        (with_pixel(scene), settings),
        (with_camera(scene, pose=pose), settings),
        (with_camera(scene, fx=scene.train[3].camera.fx + 1e-9), settings),
        (with_camera(scene, cy=1.0), settings),
        (replace(scene, train=scene.train[:-1]), settings),
        (replace(scene, train=scene.train[::-1]), settings),
        (replace(scene, near=scene.near / 2), settings),
        (replace(scene, far=scene.far * 2), settings),
        (replace(scene, background=(0.0, 0.0, 0.0)), settings),
        (scene, settings | {"seed": 1}),
        (scene, settings | {"config": {"steps": 4}}),
    ]
    prints = [fingerprint(scene, settings), *(fingerprint(*other) for other in others)]
    assert len(set(prints)) == len(prints)
    unseen = replace(scene, test=(), name="another")
    assert fingerprint(unseen, json.loads(json.dumps(settings))) == prints[0]
