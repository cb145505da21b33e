"""The verb `make`: what goes in, what comes out, and what happens where it was stopped on the way."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from test_cli import refuses, succeeds, vqrf
from tiny import TINY, TINY_PLANES, TINY_RATE, tiny_scene

from vqrf.cli.make import ASKED_FILE, Base, Size, training_of, tuning_of, usual_base
from vqrf.cli.process import Process
from vqrf.codec.bitstream import decode, verify
from vqrf.codec.planes import PlanesField
from vqrf.codec.pyramid import PyramidField
from vqrf.compression import presets
from vqrf.compression.job import Job, Scored, Watch
from vqrf.compression.tuning import Tuning
from vqrf.data.placement import SpaceName
from vqrf.data.scene import save_scene
from vqrf.fields.field import RadianceField
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import describe_field, save_field
from vqrf.geometry import Unbounded
from vqrf.training import stages
from vqrf.training.loop import Model
from vqrf.training.patches import Eyes
from vqrf.training.stages import Components


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a second, whatever preset they are of."""
    for name in ("quick", "standard"):
        monkeypatch.setitem(stages.PRESETS, name, TINY)
    monkeypatch.setitem(stages.PRESETS, "tensorf-standard", replace(TINY, fine=replace(TINY.fine, components=Components(2, 4))))
    monkeypatch.setitem(presets.PRESETS, "compact", replace(TINY_RATE, name="compact"))
    monkeypatch.setitem(presets.PRESETS, "planes", TINY_PLANES)

    monkeypatch.setattr("vqrf.cli.make.PLANES_TRAINING", 100)
    monkeypatch.setattr("vqrf.cli.make.tuning_of", lambda size, **of: tuning_of(size, **of) and 40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("make") / "thing"
    save_scene(tiny_scene(), folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_photos_become_a_file_and_a_page_and_the_field_stays_for_other_sizes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.vqrf"
    succeeds("make", data, "--out", out, "--title", "A thing")
    assert "<title>A thing</title>" in (tmp_path / "a.html").read_text()
    assert names(tmp_path) == ["a.html", "a.report.html", "a.vqrf", "a.work"]
    verify(out.read_bytes())
    assert "<vqrf-viewer" in (tmp_path / "a.html").read_text() and "dB" in (tmp_path / "a.report.html").read_text()
    refuses("make", data, "--out", out, saying=("a.vqrf: is there already; give --overwrite",))
    refuses("make", data, "--out", out, "--preset", "quick", saying=("is of other photos or settings; give --overwrite",))

    field = tmp_path / "a.work" / "run" / FIELD_FILE
    before, first = field.stat().st_mtime_ns, out.read_bytes()
    succeeds("make", data, "--out", out, "--quality", 30, "--overwrite")
    assert field.stat().st_mtime_ns == before and len(out.read_bytes()) < len(first)
    succeeds("make", data, "--out", out, "--seed", 1, "--overwrite")
    assert field.stat().st_mtime_ns != before and out.read_bytes() != first


def test_a_file_of_another_size_begins_where_both_have_all_in_common(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends in the bytes that it has alone."""
    alone, first, second, work = (tmp_path / name for name in ("alone.vqrf", "a.vqrf", "b.vqrf", "a.work"))
    succeeds("make", data, "--out", alone, "--quality", 20)
    succeeds("make", data, "--out", first, "--quality", 70)
    assert {path.suffix for path in work.iterdir()} >= {".warm", ".json"}

    asked: list[tuple[str, int]] = []
    run = Tuning.run

    def watched(self: Tuning, stage: str, model: Model, steps: int, eyes: Eyes | None = None) -> None:
        checkpoint = self.checkpoints[stage].load()
        asked.append((stage, steps - (0 if checkpoint is None else checkpoint[1]["step"])))
        run(self, stage, model, steps, eyes)

    monkeypatch.setattr(Tuning, "run", watched)
    monkeypatch.setattr("vqrf.cli.make.Train.train", lambda *_: pytest.fail("is done already"))
    score = Job.score

    def scored(job: Job, small: RadianceField, watch: Watch, **how: bool) -> Scored:
        assert small is not job.field, "its scores are kept"
        return score(job, small, watch, **how)

    monkeypatch.setattr(Job, "score", scored)
    succeeds("make", data, "--out", second, "--work", work, "--quality", 20)
    assert dict(asked)["warm"] == 0 < dict(asked)["tune"]
    assert second.read_bytes() == alone.read_bytes() and first.is_file()
    refuses("make", data, "--out", first, "--work", work, saying=("a.vqrf: is there already",))


def test_one_that_was_stopped_anywhere_ends_in_the_same_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.vqrf", tmp_path / "a.vqrf"
    succeeds("make", data, "--out", whole)
    for place in ("vqrf.cli.make.Compress.run", "vqrf.cli.make.page_with_scene"):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            assert vqrf("make", data, "--out", out).code == 130
    for place in ("vqrf.cli.make.Train.train", "vqrf.cli.make.Compress.run"):
        monkeypatch.setattr(place, lambda *_: pytest.fail("is done already"))
    succeeds("make", data, "--out", out)
    assert out.read_bytes() == whole.read_bytes()
    refuses("make", data, "--out", out, saying=("is there already",))


def test_whatever_is_asked_for_has_a_preset_of_train() -> None:
    for size, base, space in product(get_args(Size), get_args(Base), get_args(SpaceName)):
        name = training_of(size, base, space)[0] or "standard"
        assert (name if base == "dvgo" else f"{base}-{name}") in stages.PRESETS


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ((), PlanesField),
        (("--base", "tensorf"), PlanesField),
        (("--base", "dvgo"), PyramidField),
        (("--preset", "quick"), PyramidField),
    ],
)
def test_a_thing_is_coded_as_planes_and_what_else_there_is_as_voxels(
    data: Path, tmp_path: Path, words: tuple[str, ...], kind: type
) -> None:
    out = tmp_path / "a.vqrf"
    succeeds("make", data, "--out", out, *words)
    assert isinstance(decode(out.read_bytes()), kind)


def test_a_place_and_a_draft_are_voxels_and_a_thing_is_planes() -> None:
    thing = tiny_scene()
    place = replace(thing, contrast=(0.0, 0.0, 0.0))
    assert [usual_base(size, thing) for size in get_args(Size)] == ["dvgo", "tensorf", "tensorf"]
    for scene in (place, replace(place, space="unbounded"), replace(thing, space="unbounded")):
        assert {usual_base(size, scene) for size in get_args(Size)} == {"dvgo"}
    assert training_of("standard", "tensorf", "unbounded") == (None, None)


def test_a_field_that_is_no_box_says_so_and_is_tuned_for_fewer_steps(ball_field: RadianceField, tmp_path: Path) -> None:
    there = replace(ball_field, lattice=replace(ball_field.lattice, space=Unbounded.around(np.zeros(3), 1.0)))
    for field, found in ((ball_field, None), (there, "unbounded")):
        save_field(tmp_path / FIELD_FILE, field, notes={})
        assert describe_field(tmp_path / FIELD_FILE).get("space") == found
    kinds = [(planes, place) for planes in (False, True) for place in (False, True)]
    steps = {size: [tuning_of(size, has_planes=a, is_place=b) for a, b in kinds] for size in get_args(Size)}
    assert steps == {"quick": [1500] * 4, "standard": [None, 2000, 3200, 3200], "large": [None] * 4}


def test_photos_without_cameras_get_them_first(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Process] = []

    def find(self: Process) -> None:
        asked.append(self)
        save_scene(tiny_scene(), self.out)

    monkeypatch.setattr(Process, "run", find)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"is never read here")
    succeeds("make", photos, "--out", tmp_path / "a.vqrf", "--seed", 3)
    assert [(each.photos, each.out, each.common.seed) for each in asked] == [(photos, tmp_path / "a.work" / "data", 3)]
    (photos / "b.jpg").write_bytes(b"another")
    refuses("make", photos, "--out", tmp_path / "a.vqrf", saying=("is of other photos",))


def test_what_cannot_be_made_is_said_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    for words, reason in (
        ((tmp_path / "none", "--out", tmp_path / "a.vqrf"), "there is no such folder or film"),
        ((data, "--out", tmp_path / "a.html"), "expected a name that ends in .vqrf"),
        ((data, "--out", data / "a.vqrf"), "outside of"),
        ((data, "--out", tmp_path / "b" / "a.vqrf"), "there is no folder"),
        ((data, "--out", tmp_path / "a.vqrf", "--work", data / "work"), "outside of"),
        ((data, "--out", tmp_path / "a.vqrf", "--quality", 3, "--max-drop", 1), "not both"),
    ):
        refuses("make", *words, saying=(reason,))
        assert not names(tmp_path)
    (tmp_path / "a.work").mkdir()
    (tmp_path / "a.work" / "precious.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        refuses("make", data, "--out", tmp_path / "a.vqrf", *more, saying=("holds what this command did not make",))
    assert names(tmp_path / "a.work") == ["precious.txt"]


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_a_record_of_an_earlier_call_that_is_damaged_is_named(data: Path, tmp_path: Path, record: bytes) -> None:
    (tmp_path / "a.work").mkdir()
    (tmp_path / "a.work" / ASKED_FILE).write_bytes(record)
    refuses("make", data, "--out", tmp_path / "a.vqrf", saying=(f"{ASKED_FILE}: is damaged; remove",))
    assert names(tmp_path / "a.work") == [ASKED_FILE]
