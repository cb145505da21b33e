"""The kernels for a card, on Warp's CPU device, against the reference: same integers, near numbers.

On the CPU one thread does all, in order; on a card the sums of atomics have none, which is within these tolerances.
"""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import pytest
import torch
from changed import changed
from kernel_scenes import LOSSES, every_scene, factored, make_rays, make_volume, random_targets, zero_gradients
from test_kernels_native import (
    OF_ARRAYS,
    OF_RAYS,
    Results,
    Run,
    expected_results,
    run_adam,
    run_backpropagation,
    run_codes,
    run_gradients,
    run_images,
    run_importance,
    run_pyramid,
    run_total_variation,
    run_tying,
    twin_scene,
)

from vqrf.codec.pyramid import children_of
from vqrf.kernels import Volume, reference, select
from vqrf.kernels.contract import Assembled, Backend, Kernels

pytest.importorskip("warp", reason="warp-lang is not installed: pip install warp-lang")

from vqrf.kernels import warp, warp_launch

BACKEND = cast(Backend, Assembled("Warp", "cpu", None, warp))

GRADIENT_TOLERANCE = 1e-4
"""Of an array of gradients, relative in its L2 norm: what rounded positions along a ray and the order of float32 sums do."""
TOLERANCE = 5e-5
"""Of a colour, a weight, a distance, a loss; absolute, and relative as well. Of the same float32 arrays the reference itself is
2.4e-5 off what it makes of them in float64: positions along a ray are rounded."""


def assert_near(results: Results, expected: Results) -> None:
    assert results.keys() == expected.keys()
    for name, theirs in expected.items():
        ours = np.asarray(results[name])
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, name
        if theirs.dtype.kind in "iu" or name.endswith(("n_live", "n_shaded")):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        elif name.startswith("gradient"):
            assert np.linalg.norm(ours - theirs) <= GRADIENT_TOLERANCE * np.linalg.norm(theirs), name
        else:
            np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@functools.cache
def thin() -> Volume:
    """Steps of an interval that is no half, of which the faintest are just live: where 1 - exp(-depth) would cancel."""
    volume = make_volume("small", False, np.float32)
    faint = changed(volume, alpha_threshold=1e-6, interval=0.37)
    return replace(faint, density=(volume.density - 12).astype(np.float32), cells=np.ones_like(volume.cells))


@pytest.mark.parametrize("run", OF_RAYS)
@pytest.mark.parametrize("is_sparse", [False, True])
@every_scene
def test_kernels_of_rays_agree_with_the_reference(run: Run, kind: str, has_rows: bool, is_sparse: bool) -> None:
    results = run(cast(ModuleType, BACKEND), *twin_scene(kind, has_rows, is_sparse))
    assert_near(results, expected_results(run, kind, has_rows, is_sparse))


@pytest.mark.parametrize("run", OF_RAYS)
@pytest.mark.parametrize("kind", ["small", "plenoxels"])
@pytest.mark.parametrize("sizes", [(2, 3), (16, 7)])
def test_kernels_of_factors_agree_with_the_reference(run: Run, kind: str, sizes: tuple[int, int]) -> None:
    volume, rays = factored(make_volume(kind, False, np.float32), sizes), make_rays(120, np.float32)
    if run.__name__ == "run_importance":
        pytest.skip("importance is of voxels")
    assert_near(run(cast(ModuleType, BACKEND), volume, rays), run(reference, volume, rays))


@pytest.mark.parametrize("run", OF_RAYS)
@pytest.mark.parametrize("extreme", ["wall", "void", "no cells", "thin", "far", "corner", "no rays"])
def test_kernels_of_rays_agree_at_the_extremes(run: Run, extreme: str) -> None:
    volume, (origins, directions) = twin_scene("small", True, False)
    if extreme in ("wall", "void"):
        density = np.full_like(volume.density, 3e38 if extreme == "wall" else -3e38)
        volume = replace(volume, density=density, cells=np.ones_like(volume.cells))
    elif extreme == "no cells":
        volume = replace(volume, cells=np.zeros_like(volume.cells))
    elif extreme == "thin":
        volume = thin()
    elif extreme == "far":
        volume = changed(volume, near=100.0)
    elif extreme == "corner":
        origins = np.where(origins > 0, np.float32(volume.hi), np.float32(volume.lo))
    else:
        origins = directions = np.zeros((0, 3), np.float32)
    volume = replace(volume, skip=reference.measure_skip(volume.cells))
    rays = origins, directions
    assert_near(run(cast(ModuleType, BACKEND), volume, rays), run(reference, volume, rays))


@pytest.mark.parametrize("run", OF_ARRAYS)
def test_kernels_of_arrays_agree_with_the_reference(run: Run) -> None:
    results = run(cast(ModuleType, BACKEND), *twin_scene("small", False, True))
    assert_near(results, expected_results(run, "small", False, True))


@pytest.fixture
def in_order() -> Iterator[None]:
    """Sums in a fixed order, as `--deterministic` asks for."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("run", [run_gradients, run_backpropagation, run_importance, run_codes, run_tying])
@pytest.mark.parametrize(("kind", "has_rows"), [("paper", True), ("plenoxels", False)])
def test_sums_in_a_fixed_order_agree_with_the_reference(in_order: None, run: Run, kind: str, has_rows: bool) -> None:
    results = run(cast(ModuleType, BACKEND), *twin_scene(kind, has_rows, True))
    torch.use_deterministic_algorithms(False)
    assert_near(results, expected_results(run, kind, has_rows, True))


@pytest.mark.parametrize("n_rays", [0, 120])
def test_sums_of_factors_in_a_fixed_order_agree_with_the_reference(in_order: None, n_rays: int) -> None:
    volume, rays = factored(make_volume("small", False, np.float32), (16, 7)), make_rays(120, np.float32)
    rays = rays[0][:n_rays].copy(), rays[1][:n_rays].copy()
    results = run_gradients(cast(ModuleType, BACKEND), volume, rays)
    torch.use_deterministic_algorithms(False)
    assert_near(results, run_gradients(reference, volume, rays))


def is_atomic(kernel: warp.wp.Kernel) -> bool:
    return "atomic_" in inspect.getsource(kernel.func)


def test_sums_in_a_fixed_order_take_no_atomics(in_order: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is atomic has no order on a card, which the CPU cannot show: there all kernels add in order."""
    started: list[warp.wp.Kernel] = []

    def launch(kernel: warp.wp.Kernel, *arguments: object, **named: object) -> None:
        started.append(kernel)
        plain(kernel, *arguments, **named)

    plain = warp_launch.wp.launch
    monkeypatch.setattr(warp_launch.wp, "launch", launch)
    backend = cast(ModuleType, BACKEND)

    def run_all() -> set[warp.wp.Kernel]:
        started.clear()
        rays = make_rays(20, np.float32)
        for volume in (make_volume("paper", True, np.float32), factored(make_volume("small", False, np.float32), (16, 7))):
            run_gradients(backend, volume, rays)
        for run in (run_importance, run_codes, run_tying, run_pyramid, run_total_variation, run_adam):
            run(backend, make_volume("paper", True, np.float32), rays)
        return set(started)

    assert not [kernel.key for kernel in run_all() if is_atomic(kernel)]
    torch.use_deterministic_algorithms(False)
    every = {k for module in warp_launch.KERNELS for k in vars(module).values() if isinstance(k, warp.wp.Kernel)}
    assert {k.key for k in run_all() if is_atomic(k)} == {k.key for k in every if is_atomic(k)}


def test_only_the_similarity_of_images_is_left_to_the_reference() -> None:
    lacking = {name for name in vars(Kernels) if not name.startswith("_") and not hasattr(warp, name)}
    assert lacking == {"measure_ssim"} and run_images in OF_ARRAYS


@pytest.mark.parametrize("dead_zone", [0.0, 0.1, 0.15, 0.3])
def test_rounding_is_the_references_to_the_bit(dead_zone: float) -> None:
    """Also where a value lies on the edge between two steps: what is tuned is what is packed."""
    steps = np.float32([1, 0.3, 0.0371])
    wholes = np.arange(1, 3000, dtype=np.float64)[:, None] - (0.5 - dead_zone)
    edges = (wholes * steps).astype(np.float32)
    values = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf)), -edges])
    ours, theirs = np.empty_like(values), np.empty_like(values)
    warp.round_to_steps(values, steps, dead_zone, ours)
    reference.round_to_steps(values, steps, dead_zone, theirs)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 9), (130, 3, 17), (1200, 1, 2)])
@pytest.mark.parametrize("n_occupied", [0, 1, 5])
def test_distances_in_blocks_are_the_references(shape: tuple[int, int, int], n_occupied: int) -> None:
    cells = np.zeros(shape, np.uint8)
    cells.flat[np.random.default_rng(n_occupied).integers(0, cells.size, n_occupied)] = 1
    np.testing.assert_array_equal(warp.measure_skip(cells), reference.measure_skip(cells))


def test_cells_with_what_is_no_number_are_the_references() -> None:
    density = np.random.default_rng(5).normal(size=(6, 7, 8)).astype(np.float32)
    density[1, 2, 3], density[4, 4, 4], density[5, 0, 0] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(warp.find_cells(density, 0.5, None), reference.find_cells(density, 0.5, None))
    with pytest.raises(ValueError, match=r"allowed: expected \[5, 6, 7\]"):
        warp.find_cells(density, 0.5, np.ones((6, 6, 7), np.uint8))


def test_rays_of_pixels_are_the_references() -> None:
    rng = np.random.default_rng(6)
    tables = np.array([0, 300, 300 + 7 * 9, 1000]), np.array([20, 7, 13]), rng.random((3, 4)) + 1, rng.normal(size=(3, 3, 4))
    pixels = np.concatenate([[0, 299, 300, 362, 363, 999], rng.integers(0, 1000, 500)])
    for ours, theirs in zip(warp.pixel_rays(pixels, *tables), reference.pixel_rays(pixels, *tables), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)
    for wrong in (-1, 1000):
        with pytest.raises(ValueError, match="pixels: out of range"):
            warp.pixel_rays(np.array([wrong]), *tables)


@pytest.mark.parametrize("wrong", ["columns", "rows", "steps", "matrix"])
def test_arrays_that_do_not_fit_are_refused(wrong: str) -> None:
    fine, coarse, parents = np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32), np.zeros((4, 8), np.int32)
    if wrong == "columns":
        with pytest.raises(ValueError, match=r"coarse: expected \[3, 2\], got \[3, 1\]"):
            warp.raise_level(fine, coarse[:, :1].copy(), parents)
    elif wrong == "rows":
        with pytest.raises(ValueError, match=r"parents: expected \[4, 8\]"):
            warp.raise_level(fine, coarse, parents[:3])
        with pytest.raises(ValueError, match=r"first: expected \[3\]"):
            warp.lower_gradient(fine, coarse[:2], children_of(parents, 3))
    elif wrong == "steps":
        with pytest.raises(ValueError, match=r"steps: expected \[2\]"):
            warp.round_to_steps(fine, np.ones(3, np.float32), 0.1, np.empty_like(fine))
    else:
        matrix = np.zeros((2, 3), np.float32)
        with pytest.raises(ValueError, match=r"matrix: expected \[2, 2\]"):
            warp.move_gradients(fine, np.arange(3), np.ones(4, np.uint8), matrix, np.zeros((3, 2), np.float32))


def test_rays_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, rays = make_volume("paper", True, np.float32), make_rays(200, np.float32)
    whole = run_gradients(cast(ModuleType, BACKEND), volume, rays)
    pixels = warp.render_rays(volume, *rays)
    monkeypatch.setattr(warp, "CHUNK_SAMPLES", 50)
    assert_near(run_gradients(cast(ModuleType, BACKEND), volume, rays), whole)
    for ours, theirs in zip(warp.render_rays(volume, *rays), pixels, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_tensors_are_worked_on_in_place() -> None:
    """What crosses is no copy: gradients and values of the caller change, whichever of the two kinds of arrays they are."""
    volume, rays = make_volume("logits", False, np.float32), make_rays(30, np.float32)
    density, gradient = torch.from_numpy(volume.density), torch.zeros(volume.density.shape)
    for_tensors = replace(zero_gradients(volume), density=gradient)
    warp.render_gradients(
        replace(volume, density=density), *map(torch.from_numpy, rays), random_targets(30), LOSSES, for_tensors
    )
    assert gradient.any()
    first, second = torch.zeros(2, *density.shape).unbind()
    before = density.clone()
    warp.masked_adam(density, gradient, first, second, None, rate=0.1, step=1)
    assert not gradient.any() and (volume.density != before.numpy()).any()


def test_volumes_in_float64_go_to_the_reference(capfd: pytest.CaptureFixture[str]) -> None:
    volume, rays = make_volume("logits", False), make_rays(5)
    np.testing.assert_array_equal(BACKEND.render_rays(volume, *rays)[0], reference.render_rays(volume, *rays)[0])
    assert "Warp cannot do values of float64" in capfd.readouterr().err


def test_the_environment_says_whether_warp_is_used(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(warp.wp, "is_cuda_available", lambda: True)
    for value, device, name in (("1", "cpu", "Warp"), ("0", "cuda:1", "the reference"), ("", "cuda:1", "Warp")):
        monkeypatch.setenv("VQRF_WARP", value)
        made = select(device)
        assert (made.name, made.device) == (name, device)
    assert not capfd.readouterr().err
    monkeypatch.setattr(warp.wp, "is_cuda_available", lambda: False)  # where the driver is old, say
    assert select("cuda").name == "the reference"
    assert "vqrf: Warp cannot do cuda, as version" in capfd.readouterr().err


def test_the_package_does_not_import_warp() -> None:
    code = "import sys, vqrf, vqrf.cli, vqrf.kernels; vqrf.kernels.select(); assert 'warp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("module", warp_launch.KERNELS)
def test_the_kernels_compile_for_a_card(module: ModuleType, tmp_path: Path) -> None:
    """To PTX, which takes no card; of the oldest that Warp compiles for, and of an H100."""
    for generation in (75, 90):
        (made,) = warp.wp.compile_aot_module(module, arch=generation, module_dir=tmp_path, use_ptx=True)
        text = made.read_text()
        kernels = [name for name, value in vars(module).items() if isinstance(value, warp.wp.Kernel)]
        assert kernels and all(f"{name}_" in text for name in kernels)
