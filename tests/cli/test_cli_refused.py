"""What the command line refuses: bad data, files and flags in one line, and what is there already is kept."""

# ruff: noqa: F811 (fixtures of test_cli are parameters here)

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from changed import changed
from test_cli import compressed, data, refuses, run, scene, succeeds, tiny_presets, unchanged, vqrf  # noqa: F401 (fixtures)

from vqrf.cli.train import METRICS_FILE
from vqrf.codec.bitstream import decode, encode
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import load_field


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """A copy of the dataset that may be spoiled."""
    return Path(shutil.copytree(data, tmp_path / "copy"))


# Bad data


def edit(split: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    def apply(folder: Path) -> Path:
        path = folder / f"transforms_{split}.json"
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))
        return path

    return apply


def replaced(name: str, make: Callable[[bytes], bytes | None]) -> Callable[[Path], Path]:
    """Put other bytes in the place of a file, or none."""

    def apply(folder: Path) -> Path:
        path = folder / name
        new = make(path.read_bytes())
        path.unlink()
        if new is not None:
            path.write_bytes(new)
        return path

    return apply


def removed(name: str) -> Callable[[Path], Path]:
    """Remove a file; what is wrong then is the folder."""

    def apply(folder: Path) -> Path:
        (folder / name).unlink()
        return folder

    return apply


def set_pose(tree: dict[str, Any], row: int, column: int, value: float) -> None:
    tree["frames"][1]["transform_matrix"][row][column] = value


def no_dataset(folder: Path) -> Path:
    for path in folder.glob("*.json"):
        path.unlink()
    return folder


def no_folder(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def spoil(split: str) -> dict[str, tuple[Callable[[Path], Path], str]]:
    image, listing = f"{split}/r_1.png", f"transforms_{split}.json"
    return {
        "missing image": (replaced(image, lambda _: None), "no such image"),
        "truncated image": (replaced(image, lambda old: old[: len(old) // 2]), "cannot be read"),
        "image that is none": (replaced(image, lambda _: b"text"), "is no image"),
        "JSON that is not JSON": (replaced(listing, lambda old: old[:-5]), "not JSON"),
        "missing JSON": (removed(listing), "has no photos"),
        "no frames": (edit(split, lambda tree: tree["frames"].clear()), "no frames"),
        "pose that is not a number": (edit(split, lambda tree: set_pose(tree, 0, 3, float("nan"))), "not finite"),
        "pose that is not rigid": (edit(split, lambda tree: set_pose(tree, 0, 0, 3.0)), "not rigid"),
        "no dataset": (no_dataset, "is no dataset"),
        "no folder": (no_folder, "no such folder"),
    }


def command_of(verb: str, data: Path, run: Path, compressed: Path, out: Path) -> tuple[object, ...]:
    return {
        "train": ("train", data, "--out", out / "run", "--preset", "demo"),
        "compress": ("compress", run, "--data", data, "--out", out / "scene.vqrf", "--preset", "demo"),
        "eval": ("eval", compressed, "--data", data),
        "render": ("render", compressed, "--data", data, "--out", out / "images"),
    }[verb]


UNSCORED = ("compress", "test", "missing JSON")
"""Nothing to score with is no fault of what is learnt from: a file is made, and has no score."""

BAD_DATA = [
    (verb, split, case)
    for verb, split in (("train", "train"), ("compress", "train"), ("compress", "test"), ("eval", "test"), ("render", "test"))
    for case in spoil(split)
    if (verb, split, case) != UNSCORED
]


@pytest.mark.parametrize(("verb", "split", "case"), BAD_DATA)
def test_bad_data_is_refused_before_anything_is_written(
    verb: str, split: str, case: str, copy: Path, run: Path, compressed: Path, tmp_path: Path
) -> None:
    change, reason = spoil(split)[case]
    named = change(copy)
    out = tmp_path / "out"
    out.mkdir()
    refuses(*command_of(verb, copy, run, compressed, out), saying=(named, reason))
    assert list(out.iterdir()) == []


def test_a_file_is_made_where_the_list_of_held_out_photos_is_missing(
    copy: Path, run: Path, compressed: Path, tmp_path: Path
) -> None:
    removed("transforms_test.json")(copy)
    said = succeeds(*command_of("compress", copy, run, compressed, tmp_path), "--steps", 2).out
    assert "holds no photos out, so the file will have no score" in said and "on photos that it learnt from" in said
    assert (tmp_path / "scene.vqrf").is_file()


def test_images_too_small_to_score_are_refused(run: Path, data: Path) -> None:
    refuses("eval", run, "--data", data, "--downscale", 6, saying=("test/r_0", "8x8", "11x11"))


# Bad files


BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda _: b"hello\n" * 9,
    "nothing": lambda _: b"",
    "half of one": lambda data: data[: len(data) // 2],
    "one with a changed byte": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "one and a byte more": lambda data: data + b"\0",
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("verb", ["info", "verify", "eval", "render"])
def test_a_file_that_is_no_vqrf_is_refused(verb: str, case: str, compressed: Path, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.vqrf"
    bad.write_bytes(BAD_FILES[case](compressed.read_bytes()))
    command = (verb, bad) if verb in ("info", "verify") else command_of(verb, data, bad, bad, tmp_path)
    with unchanged(tmp_path):
        refuses(*command, saying=(bad,))


def test_what_is_not_there_or_is_something_else_is_refused(compressed: Path, run: Path, data: Path, tmp_path: Path) -> None:
    gone, empty, file = tmp_path / "gone", tmp_path / "empty", tmp_path / "a.vqrf"
    empty.mkdir()
    with unchanged(tmp_path):
        for verb in ("info", "verify"):
            refuses(verb, gone, saying=(gone, "No such file"))
        refuses("eval", gone, "--data", data, saying=(gone, "No such file"))
        refuses("info", empty, saying=(empty, FIELD_FILE))
        refuses("eval", empty, "--data", data, saying=(empty, FIELD_FILE))
        refuses("verify", run, saying=(run, "is a folder"))
        for field, reason in ((gone, "is no run folder"), (compressed, "is compressed already")):
            refuses("compress", field, "--data", data, "--out", file, saying=(field, reason))
        refuses("compress", empty, "--data", data, "--out", file, saying=(empty, FIELD_FILE))
        refuses("train", data, "--out", compressed, "--preset", "demo", saying=(compressed,))


def test_a_damaged_field_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(run, tmp_path / "run"))
    content = bytearray((damaged / FIELD_FILE).read_bytes())
    content[len(content) // 2] ^= 4
    (damaged / FIELD_FILE).write_bytes(content)
    with unchanged(tmp_path):
        for command in (("info", damaged), ("eval", damaged, "--data", data)):
            refuses(*command, saying=(damaged / FIELD_FILE, "damaged"))
        refuses("compress", damaged, "--data", data, "--out", tmp_path / "a", saying=(damaged / FIELD_FILE, "damaged"))


LIES: list[dict[str, Any]] = [
    {},
    {"training": [1]},
    {"training": {"downscale": "x"}},
    {"training": {"downscale": -2, "background": 3}},
    {"sections": 1, "bytes": "x"},
]


@pytest.mark.parametrize("metadata", LIES, ids=str)
def test_what_a_file_says_of_itself_is_not_believed(
    metadata: dict[str, Any], compressed: Path, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.vqrf"
    file.write_bytes(encode(replace(decode(compressed.read_bytes()), metadata=metadata)))
    assert json.loads(succeeds("eval", file, "--data", data, "--json").out)["psnr"] > 10
    assert json.loads(succeeds("info", file, "--json").out)["bytes"] == file.stat().st_size
    succeeds("info", file)


@pytest.mark.parametrize("change", [{"alpha_threshold": 0.0}, {"alpha_threshold": 1.5}, {"alpha_threshold": -1.0}], ids=str)
def test_a_file_whose_constants_make_no_field_is_refused(
    change: dict[str, float], compressed: Path, data: Path, tmp_path: Path
) -> None:
    small = decode(compressed.read_bytes())
    file = tmp_path / "a.vqrf"
    file.write_bytes(encode(changed(small, **change)))
    refuses("eval", file, "--data", data, saying=(file, "alpha_threshold"))


# Bad flags


BAD_FLAGS: dict[str, tuple[str, tuple[object, ...], str]] = {
    "prune above 1": ("compress", ("--prune", 1.5), "prune"),
    "keep above prune": ("compress", ("--preset", "paper", "--keep", 0.9, "--prune", 0.5), "keep"),
    "prune that is not a number": ("compress", ("--prune", "nan"), "prune"),
    "no codes": ("compress", ("--preset", "paper", "--codes", 0), "--codes: expected 1..65536"),
    "too many codes": ("compress", ("--preset", "paper", "--codes", 65537), "--codes: expected 1..65536"),
    "a flag of another preset": ("compress", ("--preset", "compact", "--keep", 0.5), "--keep: the preset compact"),
    "eyes of a preset whose bits have no price": (
        "compress",
        ("--preset", "paper", "--tune-for", "perceptual"),
        "--tune-for: the preset paper",
    ),
    "steps below 0": ("compress", ("--steps", -1), "steps"),
    "downscale below 0": ("train", ("--downscale", -1), "--downscale"),
    "downscale that leaves no pixel": ("train", ("--downscale", 49), "48x48"),
    "downscale of an evaluation": ("eval", ("--downscale", 49), "48x48"),
    "every 0th view": ("eval", ("--every", 0), "--every"),
    "every 0th image": ("render", ("--every", 0), "--every"),
    "background that the images do not stand on": ("train", ("--background", "black"), "stand on 'white'"),
    **{
        f"{flag} {value} of {verb}": (verb, (flag, value), flag)
        for flag, value in (("--threads", -1), ("--seed", -1), ("--seed", 1 << 64))
        for verb in ("train", "compress", "render", "eval")
    },
    "a device that is none": ("train", ("--device", "abacus"), "--device abacus"),
    "a device that is none, to compress": ("compress", ("--device", "abacus"), "--device abacus"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_flags_out_of_range_are_refused(case: str, data: Path, run: Path, compressed: Path, tmp_path: Path) -> None:
    verb, flags, reason = BAD_FLAGS[case]
    refuses(*command_of(verb, data, run, compressed, tmp_path), *flags, saying=(reason,))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--preset", "nonsense"), ("--seed", "many"), ("--nonsense",)], ids=str)
def test_words_that_are_none_end_with_code_2_and_no_traceback(
    flags: tuple[str, ...], data: Path, run: Path, compressed: Path, tmp_path: Path
) -> None:
    for verb in ("train", "compress"):
        outcome = vqrf(*command_of(verb, data, run, compressed, tmp_path), *flags)
        assert outcome.code == 2 and "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_without_pytorch_training_says_what_to_install(
    data: Path, run: Path, compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for verb in ("train", "compress"):
        refuses(*command_of(verb, data, run, compressed, tmp_path), saying=("PyTorch", "pip install torch"))
    assert list(tmp_path.iterdir()) == []


# What is there already, and what cannot be written


def test_a_trained_field_is_not_overwritten_unless_asked_for(data: Path, run: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    with unchanged(tmp_path):
        refuses("train", data, "--out", mine, "--preset", "demo", "--seed", 1, saying=(mine, "--overwrite"))
        refuses("train", data, "--out", mine, "--overwrite", "--threads", -1, saying=("--threads",))
        refuses("train", tmp_path / "gone", "--out", mine, "--overwrite", saying=(tmp_path / "gone",))
    succeeds("train", data, "--out", mine, "--preset", "demo", "--seed", 1, "--overwrite")
    assert load_field(mine / FIELD_FILE)[1]["seed"] == 1
    assert len((mine / METRICS_FILE).read_text().splitlines()) == 2


def test_a_file_a_report_or_images_are_not_overwritten_unless_asked_for(
    data: Path, run: Path, compressed: Path, tmp_path: Path
) -> None:
    file, report, images = tmp_path / "a.vqrf", tmp_path / "a.report.html", tmp_path / "images"
    compress = ("compress", run, "--data", data, "--out", file, "--preset", "demo", "--steps", 1)
    draw = ("render", compressed, "--data", data, "--out", images)
    images.mkdir()
    for mine in (file, report, images / "mine"):
        mine.write_text("mine")
        with unchanged(tmp_path):
            refuses(
                *(draw if mine.parent == images else compress),
                saying=(mine if mine.parent != images else images, "--overwrite"),
            )
        if mine != images / "mine":
            mine.unlink()
    file.write_text("mine")
    report.write_text("mine")
    succeeds(*compress, "--overwrite")
    succeeds("verify", file)
    assert "<html" in report.read_text()
    succeeds(*draw, "--overwrite")
    assert (images / "mine").read_text() == "mine" and (images / "r_0.png").exists()


def test_an_output_that_cannot_be_written_is_found_before_the_work(data: Path, run: Path, tmp_path: Path) -> None:
    here = ("compress", run, "--data", data, "--preset", "demo")
    with unchanged(tmp_path):
        refuses(*here, "--out", tmp_path, saying=(tmp_path, "is a folder"))
        refuses(*here, "--out", tmp_path / "no" / "a.vqrf", saying=(tmp_path / "no" / "a.vqrf", "no folder"))
        refuses(*here, "--out", tmp_path / "a.vqrf", "--report", tmp_path / "no" / "a.html", saying=("a.html", "no folder"))
        refuses(*here, "--out", tmp_path / "a.html", saying=(tmp_path / "a.html", "ends in .vqrf"))
        refuses(*here, "--out", tmp_path / "a.vqrf", "--report", tmp_path / "a.vqrf", saying=("a.vqrf", "its report"))
        refuses("render", run, "--data", data, "--out", run / FIELD_FILE, saying=(run / FIELD_FILE,))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_found_before_the_work(data: Path, run: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refuses("compress", run, "--data", data, "--out", tmp_path / "a.vqrf", saying=(tmp_path / "a.vqrf", "cannot be written"))
    tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which stands for a full disk")
def test_a_full_disk_leaves_nothing(data: Path, run: Path, compressed: Path) -> None:
    before = {name for name in os.listdir("/dev") if "full" in name}  # noqa: PTH208 (names alone)
    refuses(
        "compress", run, "--data", data, "--out", "/dev/full", "--preset", "demo", "--steps", 40, "--quiet",
        saying=("/dev/full", "No space left"),
    )  # fmt: skip
    refuses("render", compressed, "--data", data, "--out", "/dev/full", saying=("/dev/full",))
    refuses("train", data, "--out", "/dev/full", "--preset", "demo", saying=("/dev/full",))
    assert {name for name in os.listdir("/dev") if "full" in name} == before  # noqa: PTH208


def test_a_disk_that_fills_up_leaves_no_half_written_file(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "a.vqrf"
    monkeypatch.setattr(os, "fsync", fail)
    command = ("compress", run, "--data", data, "--out", file, "--preset", "demo", "--steps", 1, "--quiet")
    refuses(*command, saying=(file, "No space left"))
    assert list(tmp_path.iterdir()) == []
    refuses("train", data, "--out", tmp_path / "run", "--preset", "demo", saying=("No space left", tmp_path / "run"))
    assert not any((tmp_path / "run").iterdir())
