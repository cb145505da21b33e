"""No file takes more than its budget, every verb agrees on what can be drawn, and no two results become one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bitstream import generate
from test_cli import refuses, succeeds, unchanged, vqrf

from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import CODED, Compressed, CompressedField, Quantized
from vqrf.codec.pyramid import PyramidField
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.field import RadianceField
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import load_arrays, save_arrays, save_field
from vqrf.geometry import Lattice

PLAIN = generate.make_field(0, (4, 5, 6), widths=[], n_channels=3)
DEEP = generate.make_field(0, (4, 5, 6), n_channels=3, widths=[12, 8, 8, 3])
ORBIT = ("--path", "orbit", "--frames", 1, "--width", 16, "--height", 16)
EXIT_BAD_INPUT = 2


def written(small: Compressed, path: Path) -> Path:
    path.write_bytes(encode(small))
    return path


def great(side: int) -> CompressedField:
    """A lattice of nothing, whose file is small."""
    partition = np.zeros((side,) * 3, np.uint8)
    none = replace(PLAIN.density, levels=np.zeros(0, np.uint8))
    kept = replace(PLAIN.kept, levels=np.zeros((0, 3), np.uint8))
    lattice = Lattice((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (side,) * 3)
    return replace(PLAIN, lattice=lattice, partition=partition, density=none, kept=kept, codes=np.zeros(0, np.int32))


def great_pyramid(side: int) -> PyramidField:
    """The same as a pyramid of one level, with values at one corner."""
    partition = np.zeros((side,) * 3, np.uint8)
    partition[0, 0, 0] = CODED
    return generate.make_pyramid(0, (side,) * 3, n_levels=1, n_latents=3, partition=partition, widths=[])


def constants(**change: Any) -> Compressed:
    return replace(PLAIN, equation=replace(PLAIN.equation, **change))


def box(lo: tuple[float, float, float], hi: tuple[float, float, float]) -> Compressed:
    return replace(PLAIN, lattice=Lattice(lo, hi, PLAIN.lattice.shape))


def steep(small: CompressedField) -> tuple[tuple[Any, Any], ...]:
    """Its layers, each of which is finite, and whose products are infinite: what a sigmoid makes of two of them is NaN."""
    scale, none = np.float32([1e17]), np.float32([0])
    return tuple((Quantized(np.full(weight.shape, 3, np.uint16), scale, none), bias) for weight, bias in small.color_mlp)


UNDRAWABLE: dict[str, tuple[Compressed, str]] = {
    "a box that is a place in float32": (box((0.0, 0.0, 1.0), (1.0, 1.0, 1.0 + 1e-12)), "one place in float32"),
    "a box beyond float32": (box((-1e308,) * 3, (1e308,) * 3), "bounds"),
    "a box as wide as the universe": (box((-1e30,) * 3, (1e30,) * 3), "bounds"),
    "a box of nothing": (box((0.0,) * 3, (1e-30,) * 3), "bounds"),
    "two billion steps": (constants(step_world=2e-9), "step_world"),
    "steps beyond whole numbers": (constants(step_world=1e-30), "step_world"),
    "a threshold that is none": (constants(alpha_threshold=0.0), "alpha_threshold"),
    "a threshold of everything": (constants(alpha_threshold=1.0), "alpha_threshold"),
    "an interval of nothing": (constants(interval=1e-38), "interval"),
    "values beyond float32": (replace(PLAIN, density=replace(PLAIN.density, scale=np.float32([3e38]))), "not finite"),
    "values whose differences are": (replace(PLAIN, density=replace(PLAIN.density, scale=np.float32([1e35]))), "density"),
    "features whose sums are": (replace(PLAIN, kept=replace(PLAIN.kept, scale=np.float32([1e35]))), "features"),
    "layers whose sums are": (replace(DEEP, color_mlp=steep(DEEP)), "color_mlp"),
}


@pytest.mark.parametrize("case", UNDRAWABLE)
def test_what_cannot_be_drawn_is_refused_by_every_verb_alike_and_info_says_so(case: str, tmp_path: Path) -> None:
    """Such a file still decodes: that promise is older."""
    small, reason = UNDRAWABLE[case]
    path = written(small, tmp_path / "a.vqrf")
    for words in (
        ("verify", path),
        ("verify", path, "--strict"),
        ("render", path, *ORBIT, "--out", tmp_path / "out"),
        ("convert", path, tmp_path / "run"),
        ("convert", path, tmp_path / "a.zip"),
        ("convert", path, tmp_path / "again.vqrf"),
        ("export", path, tmp_path / "a.html"),
        ("view", path, "--no-open"),
    ):
        outcome = vqrf(*words)
        assert outcome.code == EXIT_BAD_INPUT and outcome.err.count("\n") == 1, outcome
        assert reason in outcome.err + outcome.out, words
    assert reason in json.loads(succeeds("info", path, "--json").out)["cannot_be_drawn"]
    assert [each.name for each in tmp_path.iterdir()] == ["a.vqrf"]


@pytest.mark.parametrize("path", ["orbit", "spiral"])
def test_the_largest_and_the_least_box_have_cameras_around_them(path: str, tmp_path: Path) -> None:
    words = ("--path", path, "--frames", 2, "--width", 8, "--height", 8)
    for i, size in enumerate((2.0**40, 2.0**-40)):
        small = constants(step_world=size / 50)
        for j, low in enumerate((0.0, -size)):
            lattice = Lattice((low,) * 3, (size,) * 3, small.lattice.shape)
            file = written(replace(small, lattice=lattice), tmp_path / "a.vqrf")
            succeeds("render", file, *words, "--out", tmp_path / f"{i}{j}")


def test_constants_at_the_ends_of_what_a_file_holds_convert_or_are_refused_in_a_line(tmp_path: Path) -> None:
    for i, change in enumerate(
        ({"density_bias": -3e38}, {"density_bias": 3e38}, {"near": 3e38}, {"near": -3e38}, {"interval": 1e9})
    ):
        path = written(constants(**change), tmp_path / f"{i}.vqrf")
        for words in (("render", path, *ORBIT, "--out", tmp_path / f"out{i}"), ("convert", path, tmp_path / f"{i}.tar")):
            outcome = vqrf(*words)
            assert outcome.code in (0, EXIT_BAD_INPUT) and outcome.err.count("\n") <= 1, (change, outcome)


@pytest.mark.parametrize("verb", ["render", "convert", "eval"])
def test_a_small_file_of_a_great_lattice_is_refused_before_there_is_room_for_it(
    verb: str, scene: Scene, tmp_path: Path
) -> None:
    path = written(great(500), tmp_path / "bomb.vqrf")
    assert path.stat().st_size < 2000
    if verb == "eval":
        save_scene(scene, tmp_path / "data")
    words = {
        "render": ("render", path, *ORBIT, "--out", tmp_path / "out"),
        "convert": ("convert", path, tmp_path / "run"),
        "eval": ("eval", path, "--data", tmp_path / "data"),
    }[verb]
    refuses(*words, "--max-memory", "1GB", saying=("a lattice of [500, 500, 500] voxels", "--max-memory"))
    refuses(*words, "--max-memory", "100MB", saying=("limit of 100000000 bytes",))
    refuses(*words, "--max-memory", "much", saying=("--max-memory: expected a size",))


def peak(*words: object) -> tuple[int, float, int]:
    """Exit code, seconds, and the bytes that a verb took at most, in a process of its own.

    `getrusage` would tell the most of whatever the process was before, and so what these tests take.
    """
    code = "import sys; from vqrf.cli.main import main\ntry:\n  main(sys.argv[1:])\nfinally:\n"
    code += "  print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0], file=sys.stderr)"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, env=variables, check=False)
    return ended.returncode, time.monotonic() - start, int(ended.stderr.split()[-1]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_what_a_file_costs_is_what_it_says_and_a_fifth(tmp_path: Path) -> None:
    """Of `verify` and `info` on 600^3 voxels with nothing in them, coded either way."""
    base = peak("info", written(PLAIN, tmp_path / "plain.vqrf"))[2]
    n_voxels = 600**3
    levels = 5 * 301**3  # that FORMAT.md section 2 counts for the places of the level above
    for verb, of_a_kind, cost in (
        ("info", great(600), n_voxels),
        ("verify", great(600), n_voxels),
        ("verify", great_pyramid(600), n_voxels + levels),
    ):
        code, _, n_bytes = peak(verb, written(of_a_kind, tmp_path / "great.vqrf"))
        assert code == 0
        assert n_bytes - base < 1.2 * cost + (64 << 20)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no devices of this kind")
def test_what_is_no_file_or_of_another_kind_is_refused_at_once_with_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    great_file = tmp_path / "great.vqrf"
    with great_file.open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "a.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\n")
    for verb in ("info", "verify", "view"):
        for path, reason in (
            ("/dev/zero", "no file"),
            (tmp_path / "pipe", "no file"),
            (great_file, "not a .vqrf file"),
            (tmp_path / "a.ply", "a PLY of points or splats; read are .vqrf files"),
        ):
            refuses(verb, path, saying=(path, reason))
    path = written(PLAIN, tmp_path / "b.vqrf")
    refuses("render", path, "--path", tmp_path / "pipe", "--out", tmp_path / "out", saying=("no file",))


# ---------------------------------------------------------------------------------------------------- headers of run folders

HEADERS: dict[str, dict[str, Any]] = {
    **{
        f"shape {value}": {"shape": value}
        for value in ([100_000] * 3, [2.5, 2, 2], [-2, -2, 2], "abc", None, [2, 2], [1 << 70] * 3)
    },
    **{f"lo {value}": {"lo": value} for value in ([float("nan")] * 3, ["a"] * 3, [-1e308] * 3, None, [True] * 3)},
    **{f"n_layers {value}": {"n_layers": value} for value in (10**9, -1, "x", None, 1.5)},
    **{
        f"{name} {value}": {name: value}
        for name in ("step_world", "near", "density_bias", "interval", "alpha_threshold")
        for value in ("x", None, float("nan"), float("inf"), 10**400, [1])
    },
    **{f"background {value}": {"background": value} for value in ([1], ["a"] * 3, [float("nan")] * 3, None, 3)},
    **{f"shading {value}": {"shading": value} for value in ([], "x", None)},
    **{f"activation {value}": {"activation": value} for value in ([], "x", None)},
    **{f"frequencies {value}": {"feature_frequencies": value} for value in (10**6, "a", 1.5, None)},
}
ARRAYS: dict[str, dict[str, np.ndarray]] = {
    "a weight without axes": {"mlp0.weight": np.zeros((), np.float32)},
    "a weight of whole numbers": {"mlp0.weight": np.zeros((16, 33), np.int32)},
    "features in a row": {"features": np.zeros(5, np.float32)},
    "no features": {"features": np.zeros((0, 0), np.float32)},
    "density of half": {"density": np.zeros(5, np.float16)},
    "few bits": {"active": np.zeros(1, np.uint8)},
    "bits of two axes": {"active": np.zeros((2, 2), np.uint8)},
    "few cells": {"allowed": np.zeros(1, np.uint8)},
    "wide features": {"features": np.zeros((1, 100_000), np.float32), "density": np.zeros(1, np.float32)},
}


@pytest.fixture
def run(ball_field: RadianceField, tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    save_field(tmp_path / "run" / FIELD_FILE, ball_field, notes={"scene": "ball"})
    return tmp_path / "run"


@pytest.mark.parametrize("case", [*HEADERS, *ARRAYS])
def test_a_run_folder_with_another_header_is_one_line_to_every_verb(case: str, run: Path, tmp_path: Path) -> None:
    arrays, header = load_arrays(run / FIELD_FILE, "vqrf-field-1")
    layers = {"n_layers": 1} if "mlp0.weight" in ARRAYS.get(case, {}) else {}
    save_arrays(run / FIELD_FILE, arrays | ARRAYS.get(case, {}), header | layers | HEADERS.get(case, {}))
    codes = set()
    for words in (("info", run), ("render", run, *ORBIT, "--out", tmp_path / "out"), ("convert", run, tmp_path / "a.tar")):
        outcome = vqrf(*words)
        codes.add(outcome.code)
        assert outcome.code in (0, EXIT_BAD_INPUT) and outcome.err.count("\n") == (outcome.code == EXIT_BAD_INPUT), outcome
        assert "a fault of this program" not in outcome.err
    assert EXIT_BAD_INPUT in codes


@pytest.mark.parametrize(
    "notes", [[1], None, "x", {"sections": "x", "training": [1]}, {"x": "[/b]", "\x1b[31m": "\x1b]0;x\x07"}], ids=str
)
def test_notes_of_any_kind_are_shown_and_not_believed(notes: Any, run: Path) -> None:
    arrays, header = load_arrays(run / FIELD_FILE, "vqrf-field-1")
    save_arrays(run / FIELD_FILE, arrays, header | {"notes": notes})
    out = succeeds("info", run).out
    assert "trained field" in out and "\x1b" not in out


def test_a_great_lattice_in_a_header_is_told_of_and_not_made(run: Path, tmp_path: Path) -> None:
    arrays, header = load_arrays(run / FIELD_FILE, "vqrf-field-1")
    n = 1200**3
    arrays |= {
        "active": np.zeros(-(-n // 8), np.uint8),
        "density": np.zeros(0, np.float32),
        "features": np.zeros((0, 3), np.float32),
    }
    arrays.pop("allowed", None)
    save_arrays(run / FIELD_FILE, arrays, header | {"shape": [1200] * 3})
    assert json.loads(succeeds("info", run, "--json").out)["shape"] == [1200] * 3
    refuses("render", run, *ORBIT, "--out", tmp_path / "out", saying=("1200, 1200, 1200", "--max-memory"))


# ------------------------------------------------------------------------------------------------------- names of what is made


def test_views_of_one_basename_keep_their_folders(scene: Scene, tmp_path: Path) -> None:
    """Two cameras of a rig, which number their photos alike."""
    views = tuple(replace(view, name=f"test/cam{i}/0000") for i, view in enumerate(scene.test[:2]))
    save_scene(replace(scene, test=views), tmp_path / "data")
    tree = json.loads((tmp_path / "data" / "transforms_test.json").read_text())
    names = [Path(frame["file_path"]).as_posix() for frame in tree["frames"]]
    assert len(set(names)) == 2
    path = written(PLAIN, tmp_path / "a.vqrf")
    out = succeeds("render", path, "--data", tmp_path / "data", "--out", tmp_path / "out").out
    pictures = sorted(file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.png"))
    assert len(pictures) == 2 and "wrote 2 images" in out


def test_an_ending_that_is_not_written_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = written(PLAIN, tmp_path / "a.vqrf")
    with unchanged(tmp_path):
        for name in ("out.ply", "out.glb", "out.splat", "out.txt"):
            refuses("convert", path, tmp_path / name, saying=(name, ".tar (DirectVoxGO)", "run folder"))
        for name in ("clip.gif", "clip.mov", "one.png"):
            refuses("render", path, *ORBIT, "--out", tmp_path / name, saying=(name, "NAME.mp4"))
        refuses("render", path, "--data", tmp_path, "--out", tmp_path / "clip.mp4", saying=("clip.mp4",))
        for name in ("page", "-", "page.txt"):
            refuses("export", path, tmp_path / name, saying=(".html",))


def test_pictures_without_end_are_refused_before_they_are_begun(tmp_path: Path) -> None:
    path = written(PLAIN, tmp_path / "a.vqrf")
    start = time.monotonic()
    with unchanged(tmp_path):
        for flags in (("--frames", 10**9), ("--width", 10**6, "--height", 10**6)):
            refuses("render", path, "--path", "orbit", *flags, "--out", tmp_path / "out", saying=("--frames",))
        refuses("render", path, "--path", "circle", "--out", tmp_path / "out", saying=("orbit, spiral or a JSON file",))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("value", [True, 10**4000, -1, "x", 1.5, None], ids=lambda value: str(value)[:9])
def test_a_downscale_that_a_file_says_is_not_believed(value: Any, scene: Scene, tmp_path: Path) -> None:
    save_scene(scene, tmp_path / "data")
    path = written(replace(PLAIN, metadata={"training": {"downscale": value}}), tmp_path / "a.vqrf")
    outcome = vqrf("eval", path, "--data", tmp_path / "data")
    assert outcome.code in (0, EXIT_BAD_INPUT) and "fault of this program" not in outcome.err and len(outcome.err) < 700


def test_photos_of_another_scene_are_asked_about(scene: Scene, ball_field: RadianceField, tmp_path: Path) -> None:
    save_scene(scene, tmp_path / "data")
    (tmp_path / "run").mkdir()
    save_field(tmp_path / "run" / FIELD_FILE, ball_field, notes={})
    outcome = vqrf("eval", tmp_path / "run", "--data", tmp_path / "data", "--json")
    facts = json.loads(outcome.out)
    assert facts["no_better_than_blank"] == ("are these photos of this scene?" in outcome.err)
    assert facts["no_better_than_blank"] == (facts["psnr"] <= facts["blank_psnr"])


def test_info_is_for_people(tmp_path: Path) -> None:
    out = succeeds("info", written(PLAIN, tmp_path / "a.vqrf")).out
    assert "4 x 5 x 6" in out and "[" not in out and "{" not in out
