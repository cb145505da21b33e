"""Run folders from Python: what cannot be read is a StorageError that names its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vqrf.data.builtin import built_in_scene
from vqrf.data.scene import save_scene
from vqrf.fields.field import RadianceField
from vqrf.fields.run import FIELD_FILE, load_like, load_run
from vqrf.fields.storage import StorageError, save_field


def test_a_run_comes_back_with_its_notes(tmp_path: Path, ball_field: RadianceField) -> None:
    save_field(tmp_path / FIELD_FILE, ball_field, notes={"scene": "ball"})
    field, notes = load_run(tmp_path)
    np.testing.assert_array_equal(field.density, ball_field.density)
    assert notes == {"scene": "ball"}


def test_what_is_no_run_is_refused_by_its_name(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "is no run folder"), (tmp_path, f"holds no {FIELD_FILE}")):
        with pytest.raises(StorageError, match=reason) as caught:
            load_run(path)
        assert caught.value.path == path and str(caught.value).startswith(f"{path}: ")


def test_photos_are_read_as_the_notes_say_and_notes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    save_scene(built_in_scene(0, n_train=3, n_test=2, side=16), tmp_path / "data")
    scene = load_like({"downscale": 2, "hold_out": "own"}, tmp_path / "data", ("train", "test"), every=2)
    assert scene.downscale == 2 and len(scene.train) == 3 and len(scene.test) == 1
    assert load_like({"downscale": [], "background": 7, "masks": 1}, tmp_path / "data", ("test",)).downscale == 1
    with pytest.raises(StorageError, match="the notes beside the field: hold_out: expected own"):
        load_like({"hold_out": "1"}, tmp_path / "data", ("test",))
    with pytest.raises(ValueError, match="expected every at least 1 and downscale at least 0, got 0 and 0"):
        load_like({}, tmp_path / "data", ("test",), every=0)
