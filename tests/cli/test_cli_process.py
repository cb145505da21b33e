"""The verbs `process` and `check`: plain photos become a dataset, and a dataset is looked at before it is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import PIL.Image
import pytest

from vqrf.cli.check import SPACES
from vqrf.cli.main import main
from vqrf.cli.process import SOURCE_FILE
from vqrf.data.images import photo_facts, upright_photo
from vqrf.data.placement import SpaceName
from vqrf.data.scene import save_scene
from vqrf.data.sfm import IMAGES_FOLDER, MODEL_FOLDER, WORK_FOLDER

sys.path.append(str(Path(__file__).parents[1] / "data"))
from corner import cameras_along, draw_corner, write_photos

CAMERAS = cameras_along(8, 160)


def failing(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The line that a command ends in that cannot be done."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("vqrf: ")
    return line


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "walk"
    write_photos(CAMERAS, folder)
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden.png").write_bytes(b"no photo")
    return folder


def test_photos_become_a_dataset_that_check_finds_nothing_wrong_with_but_that_it_is_small(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycolmap")
    out = tmp_path / "data"
    main(["process", str(photos), "--out", str(out), "--json", "--lens", "pinhole", "--threads", "2"])
    found = json.loads(capsys.readouterr().out)
    assert found["registered"] == [f"photo_{i:02}.png" for i in range(8)] and found["lost"] == []
    for file in photos.glob("photo*"):
        assert (out / IMAGES_FOLDER / file.name).read_bytes() == file.read_bytes()
    assert "holds a model already" in failing(capsys, "process", photos, "--out", out)

    main(["check", str(out), "--json", "--out", str(tmp_path / "check.html")])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layout"], facts["n_train"], facts["n_test"]) == ("COLMAP (sparse/0)", 7, 1)
    assert facts["sizes"] == [[160, 160]] and facts["n_points"] > 50 and facts["pixels_off"] < 1
    assert all("few photos" in line or "one side" in line for line in facts["warnings"])
    assert "<svg" in (tmp_path / "check.html").read_text()
    main(["check", str(out)])
    text = capsys.readouterr().out
    assert "7 to train on, 1 held out" in text and "odd: few photos" in text and SPACES[facts["space"]] in text
    assert set(SPACES) == set(get_args(SpaceName))


def test_an_interrupted_run_goes_on_and_takes_no_photo_twice(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap")
    out = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr("vqrf.data.sfm._match", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit):
            main(["process", str(photos), "--out", str(out), "--quiet"])
    assert (out / WORK_FOLDER / "database.db").is_file() and not (out / MODEL_FOLDER).exists()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("vqrf.cli.process.upright_photo", lambda path: pytest.fail(f"{path} is taken over again"))
        main(["process", str(photos), "--out", str(out), "--quiet"])
    assert (out / MODEL_FOLDER / "images.bin").is_file() and not (out / WORK_FOLDER).exists()


def test_what_cannot_be_processed_is_said_and_nothing_of_others_is_touched(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    assert "there is no such folder or film" in failing(capsys, "process", tmp_path / "none", "--out", tmp_path / "a")
    assert "holds no photos" in failing(capsys, "process", empty, "--out", tmp_path / "b")
    assert "no film (.mp4" in failing(capsys, "process", photos / "notes.txt", "--out", tmp_path / "c")
    for overwrite in ([], ["--overwrite"]):
        assert "holds precious.txt" in failing(capsys, "process", photos, "--out", full, *overwrite)
        assert "inside of the other" in failing(capsys, "process", photos, "--out", photos.parent, *overwrite)
        assert "inside of the other" in failing(capsys, "process", photos, "--out", photos / "data", *overwrite)
    assert (full / "precious.txt").read_text() == "mine" and len(list(photos.glob("photo*"))) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"], "nothing half-written"
    assert "--frames: expected 2.." in failing(capsys, "process", photos, "--out", tmp_path / "d", "--frames", 1)


def test_a_folder_of_our_own_is_made_anew_where_asked(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycolmap")
    gray, out = tmp_path / "gray", tmp_path / "data"
    gray.mkdir()
    for i in range(3):
        PIL.Image.new("RGB", (64, 64), (i, i, i)).save(gray / f"{i}.png")
    assert "0 keypoints each" in failing(capsys, "process", gray, "--out", out) and (out / SOURCE_FILE).exists()
    assert "give --overwrite" in failing(capsys, "process", photos, "--out", out)
    main(["process", str(photos), "--out", str(out), "--overwrite", "--quiet"])
    assert len(list((out / IMAGES_FOLDER).iterdir())) == 8 and (out / MODEL_FOLDER).is_dir()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_its_exif_turns_is_taken_over_upright(tmp_path: Path, orientation: int) -> None:
    image = PIL.Image.fromarray(draw_corner(CAMERAS[0])[:96])
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0xA405] = 26
    image.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    data, ending = upright_photo(tmp_path / "photo.jpg")
    (tmp_path / f"upright{ending}").write_bytes(data)
    with PIL.Image.open(tmp_path / "photo.jpg") as before, PIL.Image.open(tmp_path / f"upright{ending}") as after:
        assert after.getexif().get(0x0112, 1) == 1
        expected = np.asarray(PIL.ImageOps.exif_transpose(before), float)
        assert np.abs(np.asarray(after, float) - expected).mean() < 1.5
    assert (data == (tmp_path / "photo.jpg").read_bytes()) == (orientation == 1)
    width, height, focal = photo_facts(tmp_path / f"upright{ending}")
    assert (width, height) == ((160, 96) if orientation < 5 else (96, 160)) and focal == 26


def test_photos_of_all_kinds_are_taken_over_as_ones_that_every_program_reads(tmp_path: Path) -> None:
    image = draw_corner(CAMERAS[0])
    rgba = PIL.Image.fromarray(np.dstack([image, np.full(image.shape[:2], 128, np.uint8)]))
    for name, kind, ending in [("a.webp", rgba, ".jpg"), ("b.png", rgba, ".png"), ("c.bmp", rgba.convert("RGB"), ".png")]:
        kind.save(tmp_path / name)
        data, found = upright_photo(tmp_path / name)
        (tmp_path / f"out{ending}").write_bytes(data)
        with PIL.Image.open(tmp_path / f"out{ending}") as after:
            assert (found, after.mode, after.size) == (ending, "RGB", (160, 160))


def test_check_refuses_what_is_no_dataset_and_keeps_a_page_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scene: object
) -> None:
    assert "there is no such folder" in failing(capsys, "check", tmp_path / "none")
    assert "is no dataset" in failing(capsys, "check", tmp_path)
    save_scene(scene, tmp_path / "data")  # type: ignore[arg-type]
    (tmp_path / "page.html").write_text("mine")
    assert "is there already" in failing(capsys, "check", tmp_path / "data", "--out", tmp_path / "page.html")
    main(["check", str(tmp_path / "data"), "--out", str(tmp_path / "page.html"), "--overwrite"])
    assert "<svg" in (tmp_path / "page.html").read_text()
