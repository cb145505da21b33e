"""Sizes and qualities by name on the command line, and the linter."""

# ruff: noqa: F811 (fixtures of test_cli are parameters here)

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from changed import changed
from test_cli import data, refuses, run, scene, succeeds, unchanged, vqrf  # noqa: F401 (fixtures)
from test_entropy import generate
from tiny import TINY, TINY_COMPRESS

from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import CODED, CompressedField, Quantized
from vqrf.codec.container import sections
from vqrf.codec.lint import inspect
from vqrf.codec.pyramid import PyramidField
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.training.stages import PRESETS as TRAIN_PRESETS

CONFORMANCE = Path(__file__).parents[2] / "conformance"


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    """In this module the preset `demo` takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAIN_PRESETS, "demo", TINY)
        patch.setitem(COMPRESS_PRESETS, "demo", replace(TINY_COMPRESS, steps=10))
        yield


# Sizes and qualities


def test_a_file_of_a_target_size_fills_it_and_the_next_search_begins_with_its_curve(
    run: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "a.vqrf"
    flags = ("compress", run, "--data", data, "--out", out, "--preset", "demo")
    printed = succeeds(*flags, "--target-size", "14kB").out
    size = out.stat().st_size
    assert 0.95 * 14000 <= size <= 14000
    assert "tried quality 50.00" in printed and "<-" in printed and f"{out}: {size} bytes" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"a.vqrf", "a.report.html", "a.vqrf.search.json"}

    refuses(*flags, "--target-size", "25kB", saying=(out, "--overwrite"))
    out.unlink()
    (tmp_path / "a.report.html").unlink()
    facts = json.loads(succeeds(*flags, "--target-size", "14kB", "--json").out)
    assert facts["is_met"] and out.stat().st_size <= facts["chosen"]["n_bytes"] <= 14000
    assert out.stat().st_size == size


def test_more_quality_makes_a_larger_file_and_a_psnr_between_is_met(run: Path, data: Path, tmp_path: Path) -> None:
    flags = ("compress", run, "--data", data, "--preset", "demo")
    sizes, scores = [], []
    for quality in (5, 95):
        out = tmp_path / f"{quality}.vqrf"
        facts = json.loads(succeeds(*flags, "--out", out, "--quality", quality, "--json").out)
        sizes.append(out.stat().st_size)
        scores.append(decode(out.read_bytes()).metadata["test"]["psnr"])
        assert (facts["file"], facts["bytes"]) == (str(out), sizes[-1]) and "trials" not in facts
        assert facts["psnr"] == pytest.approx(scores[-1], abs=0.01) and facts["is_held_out"]
    assert sizes[0] < sizes[1]

    wanted, of_field = sum(scores) / 2, decode(out.read_bytes()).metadata["field_test"]["psnr"]
    goals = {"drop": ("--max-drop", of_field - wanted), "psnr": ("--target-psnr", wanted)}
    for name, goal in goals.items():
        out = tmp_path / f"{name}.vqrf"
        facts = json.loads(succeeds(*flags, "--out", out, *goal, "--json").out)
        psnr = decode(out.read_bytes()).metadata["test"]["psnr"]
        assert psnr >= wanted - 2e-4
        assert psnr == pytest.approx(facts["chosen"]["psnr"], abs=1e-4)
        assert facts["is_met"] == (psnr <= wanted + 0.02 + 2e-4)


BAD_GOALS = {
    "expected one of --quality and --target-size, not both": ("--quality", "5", "--target-size", "1MB"),
    "expected a size such as 1MB or 500kB, got much": ("--target-size", "much"),
    "quality: expected 0..100, got 101": ("--quality", "101"),
    "--max-drop and --target-psnr: expected dB": ("--target-psnr", "-3"),
    "cannot be met: a file with next to nothing of the field in it has": ("--target-size", "500"),
    "cannot be met: the best has": ("--target-psnr", "90"),
}


@pytest.mark.parametrize("saying", BAD_GOALS)
def test_a_goal_that_cannot_be_is_refused_in_one_line(saying: str, run: Path, data: Path, tmp_path: Path) -> None:
    flags = ("--data", data, "--out", tmp_path / "a.vqrf", "--preset", "demo", "--quiet")
    refuses("compress", run, *flags, *BAD_GOALS[saying], saying=(saying,))
    assert not (tmp_path / "a.vqrf").exists()


# The linter

ONE = np.ones(1, np.float32)


def shell() -> CompressedField:
    """A field with nothing odd about it."""
    return decode((CONFORMANCE / "valid" / "shell.vqrf").read_bytes())


def pyramid() -> PyramidField:
    """A solid pyramid with nothing odd about it: everything is said by its coarsest level."""
    field = generate.make_pyramid(
        1, (2, 3, 5), n_levels=2, n_latents=3, partition=np.full((2, 3, 5), CODED, np.uint8), widths=[]
    )
    levels = tuple(np.full_like(level, 9 * (number == 0)) for number, level in enumerate(field.coefficients))
    return generate.replace(field, coefficients=levels)


def with_coarsest(value: int) -> PyramidField:
    coarsest, *others = pyramid().coefficients
    return generate.replace(pyramid(), coefficients=(np.full_like(coarsest, value), *others))


def with_density(scale: float, offset: float) -> CompressedField:
    levels = shell().density.levels
    return generate.replace(shell(), density=Quantized(levels, np.float32(scale) * ONE, np.float32(offset) * ONE))


ODD = {
    ("HEAD", "near is -1"): lambda: changed(shell(), near=-1.0),
    ("HEAD", "interval is 1000"): lambda: changed(shell(), interval=1000.0),
    ("HEAD", "step_world is 50"): lambda: changed(shell(), step_world=50.0),
    ("HEAD", "step_world is 1e-06"): lambda: changed(shell(), step_world=1e-6),
    ("HEAD", "density_bias is 200"): lambda: changed(shell(), density_bias=200.0, empty_density=-300.0),
    ("HEAD", "alpha_threshold is 0"): lambda: changed(shell(), alpha_threshold=0.0),
    ("HEAD", "empty_density is 9, above"): lambda: changed(shell(), empty_density=9.0),
    ("HEAD", "background is (2.0, 0.0, 0.0)"): lambda: changed(shell(), background=(2.0, 0.0, 0.0)),
    ("DENS", "density: a scale is not positive"): lambda: with_density(-0.31, 60.0),
    ("DENS", "density: a level is worth more"): lambda: with_density(3e38, 0.0),
    ("BOOK", "128 codewords are named by no voxel"): lambda: generate.replace(shell(), codes=shell().codes * 0),
    ("PART", "can be seen by no ray"): lambda: with_density(0.31, -200.0),
    ("STEP", "a coefficient is worth more"): lambda: generate.replace(pyramid(), steps=np.float32([1, 1, 3e35, 1])),
    ("STEP", "a row of the basis is 0"): lambda: generate.replace(
        pyramid(), basis=np.float32([[1], [1], [0]]) * np.ones(3, np.float32)
    ),
    ("LEV2", "all 32 coefficients of the coarsest level"): lambda: with_coarsest(0),
    ("HEAD", "near is -2"): lambda: changed(pyramid(), near=-2.0),
    ("PART", "30 of the 30 voxels that hold values can be seen"): lambda: with_coarsest(-100),
}


@pytest.mark.parametrize("expected", ODD, ids=lambda expected: expected[1])
def test_what_no_encoder_writes_is_found_and_its_section_named(expected: tuple[str, str]) -> None:
    data = encode(ODD[expected]())
    findings = inspect(data)
    assert any(f.section == expected[0] and expected[1] in f.reason for f in findings), findings
    assert all(0 <= f.offset < len(data) for f in findings)


def test_nothing_is_odd_about_a_pyramid() -> None:
    assert inspect(encode(pyramid())) == []


def test_a_hidden_voxel_is_one_whose_cells_hold_nothing_that_shows() -> None:
    """Voxels of one cell, of which one is dense, are all seen; those beyond are not."""
    partition = np.full((9, 3, 3), CODED, np.uint8)
    levels = np.zeros(partition.shape, np.uint8)
    levels[1, 1, 1] = 255
    field = generate.make_field(4, partition.shape, n_codewords=3, partition=partition)
    field = generate.replace(field, density=Quantized(levels.ravel(), ONE, -100 * ONE))
    (finding,) = (f for f in inspect(encode(field)) if f.section == "PART")
    assert finding.reason.startswith(f"{9 * 9 - 3 * 9} of the {9 * 9} voxels")


def test_our_own_files_have_nothing_odd_about_them(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.vqrf"
    succeeds("compress", run, "--data", data, "--out", out, "--preset", "demo")
    with unchanged(tmp_path):
        assert "as an encoder writes it" in succeeds("verify", out, "--strict").out
        assert json.loads(succeeds("verify", out, "--strict", "--json").out) == {
            "version": 1,
            "bytes": out.stat().st_size,
            "findings": [],
        }


def test_the_linter_says_where_and_why_and_ends_in_2() -> None:
    odd = CONFORMANCE / "valid" / "unknown_ancillary.vqrf"
    assert vqrf("verify", odd).code == 0
    found = vqrf("verify", odd, "--strict")
    assert found.code == 2
    (offset,) = (offset for name, offset, _ in sections(odd.read_bytes()) if name == "XTRA")
    assert found.out == f"XTRA at byte {offset}: is no section of this version: its 8 bytes are skipped\n"
    assert found.err == f"vqrf: {odd}: 1 finding, first in XTRA\n"
    found = vqrf("verify", odd, "--strict", "--json")
    assert found.code == 2
    (finding,) = json.loads(found.out)["findings"]
    assert (finding["section"], finding["offset"]) == ("XTRA", offset)


def test_a_refused_file_has_one_finding_the_refusal() -> None:
    expected = json.loads((CONFORMANCE / "invalid" / "expected.json").read_text())
    for name, error in expected.items():
        path = CONFORMANCE / "invalid" / f"{name}.vqrf"
        for flags in ((), ("--strict",)):
            found = vqrf("verify", path, "--json", *flags)
            assert found.code == 2
            assert json.loads(found.out)["findings"] == [error]
