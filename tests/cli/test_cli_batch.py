"""The verb `batch`: each line of a manifest once, whatever fails or kills it, and one page of all."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_cli import refuses, succeeds, vqrf
from tiny import TINY, TINY_RATE, tiny_scene

from vqrf.cli import batch
from vqrf.cli.make import Make
from vqrf.cli.terminal import UsageError
from vqrf.codec.bitstream import encode, verify
from vqrf.compression import presets
from vqrf.data.scene import save_scene
from vqrf.fields.field import RadianceField
from vqrf.fields.preview import preview
from vqrf.training import stages


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, ball_field: RadianceField) -> Iterator[list[str]]:
    """In the place of the verb `make`: what it was asked for; it fails for photos that hold no photo."""
    asked: list[str] = []

    def run(verb: Make) -> None:
        asked.append(verb.photos.name)
        if verb.photos.is_dir() and not any(verb.photos.iterdir()):
            raise UsageError(f"{verb.photos}: is empty, as it were")
        small = replace(preview(ball_field), metadata={"test": {"psnr": 31.25}})
        verb.out.write_bytes(encode(small))
        verb.out.with_suffix(".html").write_text("a page")

    monkeypatch.setattr(Make, "run", run)
    yield asked


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for name in ("cup", "a & b", "empty"):
        (tmp_path / "captures" / name).mkdir(parents=True)
        if name != "empty":
            (tmp_path / "captures" / name / "photo.jpg").touch()
    path = tmp_path / "captures" / "all.txt"
    path.write_text("# of today\ncup\n\nempty  # nothing yet\na & b\n")
    return path


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    with (out / batch.ROWS_FILE).open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_what_fails_stops_nothing_and_is_tried_again(manifest: Path, tmp_path: Path, made: list[str]) -> None:
    out = tmp_path / "gallery"
    end = vqrf("batch", manifest, "--out", out)
    assert end.code == 2 and "made 2 of 3" in end.out
    assert "1 of 3 failed, first empty: " in end.err.splitlines()[-1] and "is empty, as it were" in end.err.splitlines()[-1]
    assert made == ["cup", "empty", "a & b"]
    assert rows_of(out)["cup"]["psnr"] == "31.25" and "is empty" in rows_of(out)["empty"]["fault"]
    page = (out / batch.GALLERY_FILE).read_text()
    assert page.count("<img") == 2 and 'href="a%20%26%20b.html"' in page and "a &amp; b" in page and "2 scenes" in page
    verify((out / "cup.vqrf").read_bytes())

    (manifest.parent / "empty" / "photo.jpg").touch()
    assert "made 3 of 3" in succeeds("batch", manifest, "--out", out).out
    assert made == ["cup", "empty", "a & b", "empty"]
    succeeds("batch", manifest, "--out", out)
    assert len(made) == 4
    succeeds("batch", manifest, "--out", out, "--overwrite")
    assert len(made) == 7


def test_killed_between_a_file_and_its_row_it_makes_the_file_again(
    manifest: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (manifest.parent / "empty" / "photo.jpg").touch()
    with monkeypatch.context() as patch:
        patch.setattr(batch, "metadata_of", lambda data: (_ for _ in ()).throw(KeyboardInterrupt))
        assert vqrf("batch", manifest, "--out", tmp_path / "out").code == 130
    assert "made 3 of 3" in succeeds("batch", manifest, "--out", tmp_path / "out").out
    assert made == ["cup", "cup", "empty", "a & b"]


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("", "names nothing"),
        ("# cup", "names nothing"),
        ("cup\ngone", "line 2: there is no gone"),
        ("cup\n./cup", "line 2: expected another name"),
        ("cup#2", "line 1: there is no cup#2"),
        ("cup\nc\0p", "line 2: no file can have a null character"),
    ],
)
def test_a_manifest_that_is_none_is_refused_before_anything_is_made(
    manifest: Path, tmp_path: Path, made: list[str], text: str, saying: str
) -> None:
    manifest.write_text(text)
    refuses("batch", manifest, "--out", tmp_path / "out", saying=(saying,))
    manifest.write_bytes(b"\xff\xfe")
    refuses("batch", manifest, "--out", tmp_path / "out", saying=("is no text",))
    assert not made and not (tmp_path / "out").exists()


def test_names_may_hold_what_begins_a_comment_elsewhere_and_editors_may_mark_the_text(
    manifest: Path, tmp_path: Path, made: list[str]
) -> None:
    (manifest.parent / "cup#2").mkdir()
    (manifest.parent / "cup#2" / "photo.jpg").touch()
    manifest.write_bytes(b"\xef\xbb\xbfcup\r\ncup#2 # the second\r\n")
    succeeds("batch", manifest, "--out", tmp_path / "out")
    assert made == ["cup", "cup#2"]


@pytest.mark.parametrize("rows", [b"\xff\xfe", b"name," + b"x" * 200_000])
def test_rows_that_are_damaged_are_told_of_by_their_file(manifest: Path, tmp_path: Path, made: list[str], rows: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / batch.ROWS_FILE).write_bytes(rows)
    refuses("batch", manifest, "--out", tmp_path / "out", saying=(f"{batch.ROWS_FILE}: is no CSV",))


@pytest.mark.slow
def test_datasets_and_run_folders_become_files_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages.PRESETS, "quick", TINY)
    monkeypatch.setitem(presets.PRESETS, "compact", replace(TINY_RATE, name="compact"))
    monkeypatch.setattr("vqrf.cli.make.training_of", lambda *_: ("quick", None))
    monkeypatch.setattr("vqrf.cli.make.usual_base", lambda *_: "dvgo")
    monkeypatch.setattr("vqrf.cli.make.tuning_of", lambda *_, **of: 40)
    save_scene(tiny_scene(), tmp_path / "thing")
    succeeds("train", tmp_path / "thing", "--out", tmp_path / "field", "--preset", "quick")
    (tmp_path / "all.txt").write_text("thing\nfield\n")
    succeeds("batch", tmp_path / "all.txt", "--out", tmp_path / "out", "--preset", "quick")
    for name in ("thing", "field"):
        verify((tmp_path / "out" / f"{name}.vqrf").read_bytes())
        assert "<vqrf-viewer" in (tmp_path / "out" / f"{name}.html").read_text()
    assert all(float(row["psnr"]) > 10 for row in rows_of(tmp_path / "out").values())
