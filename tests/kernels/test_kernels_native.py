"""The compiled core against the reference: same integers, near numbers, no trace of the number of threads."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from changed import changed
from kernel_scenes import (
    LOSSES,
    Rays,
    arrays_of,
    every_scene,
    make_rays,
    make_volume,
    random_factors,
    random_targets,
    zero_gradients,
)

from vqrf.codec.pyramid import children_of
from vqrf.kernels import Children, Gradients, Roulette, Volume, has_native, reference


def load_native() -> ModuleType | None:
    if not has_native() or importlib.util.find_spec("vqrf.kernels.native") is None:
        return None
    return importlib.import_module("vqrf.kernels.native")


NATIVE = load_native()
NO_NATIVE = pytest.param(None, marks=pytest.mark.skip(reason="the compiled core is not built"))
INSTRUCTION_SETS: list[str] = NATIVE.instruction_sets() if NATIVE else []


@pytest.fixture(scope="module", params=INSTRUCTION_SETS or [NO_NATIVE])
def native(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The compiled core, once for each instruction set that this CPU has; afterwards as it was found."""
    assert NATIVE is not None
    NATIVE.use_instruction_set(request.param)
    yield NATIVE
    NATIVE.use_instruction_set(INSTRUCTION_SETS[-1])
    NATIVE.set_threads(os.cpu_count() or 1)


Results = dict[str, np.ndarray]


@functools.cache
def sparse_volume(kind: str, has_rows: bool) -> Volume:
    """A larger, mostly empty volume: long skips, rays that start in them, and cells at every face."""
    volume = make_volume(kind, has_rows, np.float32, (37, 29, 41))
    rng = np.random.default_rng(11)
    keep = np.kron(rng.random((9, 7, 10)) < 0.06, np.ones((4, 4, 4), bool))
    cells = volume.cells * keep
    return changed(volume, cells=cells, skip=reference.measure_skip(cells), step_world=0.031)


def run_hits(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    return {"hit": kernels.hit_rays(volume, *rays)}


def run_rendering(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    rgb, background_weight, depth = kernels.render_rays(volume, *rays)
    return {"rgb": rgb, "background_weight": background_weight, "distance": depth}


def results_of(gradients: Gradients) -> Results:
    results = {"gradient_density": gradients.density, "gradient_features": gradients.features, "touched": gradients.touched}
    for number, (weight, bias) in enumerate(gradients.layers):
        results |= {f"gradient_weight_{number}": weight, f"gradient_bias_{number}": bias}
    if gradients.factors is not None:
        results |= {f"gradient_factor_{number}": array for number, array in enumerate(arrays_of(gradients.factors))}
    return results


def run_gradients(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    gradients, targets = zero_gradients(volume), random_targets(len(rays[0]), np.float32)
    terms = kernels.render_gradients(volume, *rays, targets, LOSSES, gradients)
    results = results_of(gradients)
    results |= {name: np.array(float(terms[name])) for name in ("background_entropy", "opacity", "n_live", "n_shaded")}
    return results | {
        "rgb_mse": np.array(float(terms["mse"])),
        "rgb_point_color": np.array(float(terms["point_color"])),
    }


def run_weighted(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    """Of every third ray the weight is 0, and its target no number; of every fifth the opacity is not known."""
    gradients, targets = zero_gradients(volume), random_targets(len(rays[0]), np.float32)
    weights = (np.arange(len(targets)) % 3 / 2).astype(np.float32)
    targets[weights == 0] = np.nan
    targets[::5, 3] = np.nan
    terms = kernels.render_gradients(volume, *rays, targets, LOSSES, gradients, weights=weights)
    return results_of(gradients) | {f"rgb_{name}": np.array(float(value)) for name, value in terms.items()}


def run_roulette(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    """Some samples have a colour by chance alone; every seventh ray is not looked at."""
    n = len(rays[0])
    gradients, targets, rng = zero_gradients(volume), random_targets(n, np.float32), np.random.default_rng(8)
    weights = (np.arange(n) % 7 != 0).astype(np.float32)
    losses = replace(LOSSES, roulette=Roulette(0.03, rng.random(n, np.float32)))
    terms = kernels.render_gradients(volume, *rays, targets, losses, gradients, weights=weights)
    return results_of(gradients) | {f"rgb_{name}": np.array(float(value)) for name, value in terms.items()}


def run_backpropagation(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    gradients, slopes = zero_gradients(volume), random_targets(len(rays[0]), np.float32) - np.float32(0.3)
    columns = slopes[:, 3].copy(), slopes[:, 0].copy()
    kernels.backpropagate(volume, *rays, slopes[:, :3].copy(), *columns, gradients)
    alone = zero_gradients(volume)
    kernels.backpropagate(volume, *rays, slopes[:, :3].copy(), None, None, alone)
    return results_of(gradients) | {f"{name}_alone": array for name, array in results_of(alone).items()}


def run_importance(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    importance, part = np.zeros(volume.density.shape), np.zeros(volume.density.shape)
    kernels.accumulate_importance(volume, *rays, importance)
    counted = np.random.default_rng(3).integers(0, 2, volume.density.shape, np.uint8)
    kernels.accumulate_importance(volume, *rays, part, counted=counted)
    return {"importance": importance, "part": part}


def run_cells(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    allowed = volume.cells
    found = kernels.find_cells(volume.density, 1.0, allowed)
    return {
        "found": kernels.find_cells(volume.density, 1.0, None),
        "allowed": found,
        "skip": kernels.measure_skip(found),
    }


def run_adam(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    rng = np.random.default_rng(12)
    n_voxels, results = volume.density.size, {}
    for name, channels in (("scalar", ()), ("vector", (12,))):
        values, gradient, first, second = rng.random((4, n_voxels, *channels), np.float32)
        gradient[gradient < 0.3] = 0
        touched = rng.integers(0, 2, n_voxels).astype(np.uint8) if channels else None
        rate = rng.random(n_voxels, np.float32) if channels else 0.05
        kernels.masked_adam(values, gradient, first, second, touched, rate=rate, step=4)
        results |= {
            f"{name}_values": values,
            f"{name}_first": first,
            f"{name}_second": second,
            f"{name}_left": gradient,
        }
    return results


def run_total_variation(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    rng = np.random.default_rng(13)
    values, gradient = rng.normal(size=(2, *volume.density.shape, 4)).astype(np.float32)
    touched, everywhere = rng.integers(0, 2, volume.density.shape).astype(np.uint8), gradient.copy()
    kernels.add_total_variation(values, gradient, touched, weight=0.2)
    kernels.add_total_variation(values, everywhere, None, weight=0.2)
    return {"gradient_touched": gradient, "gradient_everywhere": everywhere}


def run_codes(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    rng = np.random.default_rng(14)
    vectors = rng.normal(size=(3001, 12)).astype(np.float32)
    codebook = rng.normal(size=(517, 12)).astype(np.float32)
    codes, distance = kernels.assign_codes(vectors, codebook)
    sums, totals = kernels.sum_by_code(vectors, rng.random(3001), codes, 517)
    return {"codes": codes, "code_distance": distance, "sums": sums, "totals": totals}


def run_tying(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    rng = np.random.default_rng(15)
    n_voxels = volume.density.size
    gradient = rng.normal(size=(n_voxels, 12)).astype(np.float32)
    rows, touched = (
        rng.integers(-1, 50, n_voxels).astype(np.int32),
        rng.integers(0, 2, n_voxels).astype(np.uint8),
    )
    table = rng.normal(size=(50, 12)).astype(np.float32)
    kernels.tie_gradients(gradient, rows, touched, table)
    return {"table": table, "left": gradient}


def run_factors(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    results = {}
    for sizes in ((3, 7, 5), (16, 32, 12), (16, 48, 27)):
        rng = np.random.default_rng(16)
        factors, shape = random_factors(rng, (11, 6, 9), *sizes), (11, 6, 9)
        marks = (rng.random(shape) < 0.4).astype(np.uint8)
        density, features, alone = (
            np.zeros(shape, np.float32),
            np.zeros((*shape, sizes[2]), np.float32),
            np.zeros(shape, np.float32),
        )
        kernels.expand_factors(factors, marks, density, features)
        kernels.expand_factors(factors, marks, alone, None)
        made = {"density": density, "features": features, "alone": alone}
        results |= {f"{name}_{sizes[1]}": array for name, array in made.items()}
    values, gradient = rng.normal(size=(2, 9000, 7)).astype(np.float32)
    touched, everywhere = rng.integers(0, 2, 9000).astype(np.uint8), gradient.copy()
    kernels.add_sparsity(values, gradient, touched, n_columns=3, weight=0.3)
    kernels.add_sparsity(values, everywhere, None, n_columns=7, weight=0.3)
    return results | {"sparse": gradient, "sparse_everywhere": everywhere}


def run_pyramid(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    """Coefficients of every size on steps of every size, raised and lowered; more rows than one task takes."""
    rng = np.random.default_rng(16)
    n_fine, n_coarse, steps = 9001, 1500, np.float32([0.02, 1, 1, 1, 700])
    values = (np.exp(rng.normal(0, 3, (n_fine, 5))) * rng.choice([-1, 0, 1], (n_fine, 5)) * steps).astype(np.float32)
    values[0] = 0.5 * steps
    values[1] = [3e38, -3e38, 1e9, -16397.6, 16396]
    parents = rng.integers(0, n_coarse, (n_fine, 8)).astype(np.int32)
    results: Results = {}
    for dead_zone in (0.0, 0.15, 0.5):
        results[f"rounded_{dead_zone}"] = np.empty_like(values)
        kernels.round_to_steps(values, steps, dead_zone, results[f"rounded_{dead_zone}"])
    coarse, fine = rng.normal(size=(n_coarse, 5)).astype(np.float32), rng.normal(size=(n_fine, 5)).astype(np.float32)
    raised, lowered, rate = fine.copy(), coarse.copy(), fine.copy()
    first_bits = rng.integers(0, 256, values.shape).astype(np.uint8)
    kernels.raise_level(raised, coarse, parents)
    children = children_of(parents, n_coarse)
    kernels.lower_gradient(fine, lowered, children)
    kernels.add_rate_gradient(values, steps, first_bits, 0.3, rate)
    one, one_above = fine[:, :1].copy(), coarse[:, :1].copy()
    kernels.lower_gradient(one, one_above, children)
    voxels, touched = rng.permutation(n_fine)[:7000], rng.integers(0, 2, n_fine).astype(np.uint8)
    for name, matrix in (("moved", None), ("turned", rng.normal(size=(5, 5)).astype(np.float32))):
        left, moved = fine.copy(), values[:7000].copy()
        kernels.move_gradients(left, voxels, touched, matrix, moved)
        results |= {name: moved, f"{name}_left": left}
    places = rng.permutation(n_fine)[:n_coarse]
    placed, left, taken = fine.copy(), fine.copy(), coarse.copy()
    kernels.place_rows(coarse, steps, places, placed)
    kernels.take_rows(left, steps, places, taken)
    results |= {"placed": placed, "left": left, "taken": taken}
    return results | {"raised": raised, "lowered": lowered, "rate": rate, "lowered_column": one_above}


def run_images(kernels: ModuleType, volume: Volume, rays: Rays) -> Results:
    """Sizes that are less than a band of rows, that begin another, and that are one window."""
    rng, results = np.random.default_rng(8), {}
    for height, width, channels in ((11, 11, 1), (75, 40, 3), (139, 12, 4)):
        image = rng.random((height, width, channels))
        target = np.clip(image + 0.2 * rng.normal(size=image.shape), 0, 1)
        for kind in (np.float32, np.float64):
            found = kernels.measure_ssim(image.astype(kind), target.astype(kind))
            results[f"{height}x{width}, {kind.__name__}"] = np.array(found)
    return results


Run = Callable[[ModuleType, Volume, Rays], Results]
OF_RAYS: list[Run] = [
    run_hits,
    run_rendering,
    run_gradients,
    run_weighted,
    run_roulette,
    run_backpropagation,
    run_importance,
]
OF_ARRAYS: list[Run] = [run_cells, run_adam, run_total_variation, run_codes, run_tying, run_factors, run_pyramid, run_images]


@functools.cache
def expected_results(run: Run, kind: str, has_rows: bool, is_sparse: bool) -> Results:
    return run(reference, *twin_scene(kind, has_rows, is_sparse))


@functools.cache
def twin_scene(kind: str, has_rows: bool, is_sparse: bool) -> tuple[Volume, Rays]:
    volume = sparse_volume(kind, has_rows) if is_sparse else make_volume(kind, has_rows, np.float32)
    return volume, make_rays(301, np.float32)


def assert_twins(native: ModuleType, results: Results, expected: Results) -> None:
    """Integers are equal, gradients near in relative L2 norm, the rest near entry by entry.

    In bfloat16 a hidden unit near 0 may fall on the other side of its ReLU and take its whole gradient along.
    PyTorch, with what enters each layer rounded to bfloat16, is off by up to 0.07 on these scenes.
    """
    color_tolerance = native.COLOR_TOLERANCE
    gradient_tolerance = 1e-4 if color_tolerance <= 1e-5 else 0.1
    assert results.keys() == expected.keys()
    for name, theirs in expected.items():
        ours = np.asarray(results[name])
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, name
        if theirs.dtype.kind in "iu" or name in ("n_live", "n_shaded"):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        elif name.startswith("gradient"):
            assert np.linalg.norm(ours - theirs) <= gradient_tolerance * np.linalg.norm(theirs), name
        else:
            absolute = color_tolerance if name.startswith("rgb") else 1e-5
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=absolute, err_msg=name)


@pytest.mark.parametrize("run", OF_RAYS)
@pytest.mark.parametrize("is_sparse", [False, True])
@every_scene
def test_compiled_kernels_of_rays_agree_with_the_reference(
    native: ModuleType, run: Run, kind: str, has_rows: bool, is_sparse: bool
) -> None:
    results = run(native, *twin_scene(kind, has_rows, is_sparse))
    assert_twins(native, results, expected_results(run, kind, has_rows, is_sparse))


@pytest.mark.parametrize("run", OF_RAYS)
@pytest.mark.parametrize("extreme", ["wall", "void", "no cells", "no threshold", "far", "corner"])
def test_compiled_kernels_of_rays_agree_at_the_extremes(native: ModuleType, run: Run, extreme: str) -> None:
    volume, (origins, directions) = twin_scene("small", True, False)
    if extreme in ("wall", "void"):
        raw = 3e38 if extreme == "wall" else -3e38
        cells = np.ones_like(volume.cells)
        volume = replace(volume, density=np.full_like(volume.density, raw), cells=cells)
    elif extreme == "no cells":
        volume = replace(volume, cells=np.zeros_like(volume.cells))
    elif extreme == "no threshold":
        volume = changed(volume, alpha_threshold=1e-9)
    elif extreme == "far":
        volume = changed(volume, near=100.0)
    elif extreme == "corner":
        origins = np.where(origins > 0, np.float32(volume.hi), np.float32(volume.lo))
    volume = replace(volume, skip=reference.measure_skip(volume.cells))
    rays = origins, directions
    assert_twins(native, run(native, volume, rays), run(reference, volume, rays))


def test_compiled_kernels_take_no_rays(native: ModuleType) -> None:
    volume, none = make_volume("small", True, np.float32), np.zeros((0, 3), np.float32)
    for run in OF_RAYS:
        assert_twins(native, run(native, volume, (none, none)), run(reference, volume, (none, none)))


@pytest.mark.parametrize("run", OF_ARRAYS)
def test_compiled_kernels_of_arrays_agree_with_the_reference(native: ModuleType, run: Run) -> None:
    results = run(native, *twin_scene("small", False, True))
    assert_twins(native, results, expected_results(run, "small", False, True))


def test_compiled_similarity_is_the_definition_to_rounding(native: ModuleType) -> None:
    volume, rays = twin_scene("small", False, True)
    results, expected = run_images(native, volume, rays), run_images(reference, volume, rays)
    for name, theirs in expected.items():
        assert results[name] == pytest.approx(theirs, abs=1e-13), name


def test_images_whose_similarity_cannot_be_measured_are_refused(native: ModuleType) -> None:
    image = np.zeros((12, 12, 3))
    for kernels in (native, reference):
        with pytest.raises(ValueError, match=r"at least 11x11|one shape"):
            kernels.measure_ssim(image[:10], image[:10])
        with pytest.raises(ValueError, match=r"\[H,W,C\]"):
            kernels.measure_ssim(image, image[1:])
        with pytest.raises(ValueError, match=r"\[H,W,C\]"):
            kernels.measure_ssim(image[..., 0], image[..., 0])


@pytest.mark.parametrize("run", [*OF_RAYS, *OF_ARRAYS])
def test_compiled_kernels_do_not_depend_on_the_number_of_threads(native: ModuleType, run: Run) -> None:
    volume, rays = sparse_volume("paper", True), make_rays(2500, np.float32)
    results = []
    for n_threads in (1, 2):
        native.set_threads(n_threads)
        results.append(run(native, volume, rays))
    for name, ours in results[0].items():
        np.testing.assert_array_equal(ours, results[1][name], err_msg=name)


@pytest.mark.parametrize("dead_zone", [0.0, 0.1, 0.15, 0.3])
def test_compiled_rounding_is_the_references_to_the_bit(native: ModuleType, dead_zone: float) -> None:
    """Also where a value lies on the edge between two steps: what is tuned is what is packed."""
    steps = np.float32([1, 0.3, 0.0371])
    wholes = np.arange(1, 3000, dtype=np.float64)[:, None] - (0.5 - dead_zone)
    edges = (wholes * steps).astype(np.float32)
    values = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf)), -edges])
    ours, theirs = np.empty_like(values), np.empty_like(values)
    native.round_to_steps(values, steps, dead_zone, ours)
    reference.round_to_steps(values, steps, dead_zone, theirs)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("wrong", ["columns", "rows", "too high", "negative"])
def test_compiled_kernels_of_a_pyramid_refuse_what_does_not_fit(native: ModuleType, wrong: str) -> None:
    fine, coarse, parents = np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32), np.zeros((4, 8), np.int32)
    children = children_of(parents, 3)
    if wrong == "columns":
        coarse = np.zeros((3, 1), np.float32)
    elif wrong == "rows":
        parents, children = parents[:3], replace(children, first=children.first[:3])
    else:
        parents[3, 7] = children.child[3] = 4 if wrong == "too high" else -1
    with pytest.raises(ValueError, match=r"parents|columns"):
        native.raise_level(fine, coarse, parents)
    with pytest.raises(ValueError, match=r"children|columns|first"):
        native.lower_gradient(fine, coarse, children)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"voxels": np.array([0, 4])}, "voxels: out of range"),
        ({"voxels": np.array([-1, 0])}, "voxels: out of range"),
        ({"touched": np.ones(3, np.uint8)}, "touched"),
        ({"matrix": np.ones((2, 3), np.float32)}, "matrix"),
        ({"row_gradient": np.zeros((1, 3), np.float32)}, "row_gradient"),
        ({"row_gradient": np.zeros((2, 2), np.float32)}, "row_gradient"),
    ],
)
def test_moving_to_rows_that_are_not_there_is_refused(native: ModuleType, change: dict[str, np.ndarray], reason: str) -> None:
    arguments: dict[str, Any] = {
        "gradient": np.zeros((4, 3), np.float32),
        "voxels": np.array([0, 3]),
        "touched": np.ones(4, np.uint8),
        "matrix": None,
        "row_gradient": np.zeros((2, 3), np.float32),
    }
    with pytest.raises(ValueError, match=reason):
        native.move_gradients(**arguments | change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"places": np.array([0, 4])}, "places: out of range"),
        ({"places": np.array([-1, 0])}, "places: out of range"),
        ({"places": np.array([0])}, "places: expected one per row"),
        ({"scales": np.ones(2, np.float32)}, "scales"),
        ({"values": np.zeros((2, 2), np.float32)}, "values"),
    ],
)
def test_places_that_are_not_there_are_refused(native: ModuleType, change: dict[str, np.ndarray], reason: str) -> None:
    arguments: dict[str, Any] = {
        "table": np.zeros((4, 3), np.float32),
        "scales": np.ones(3, np.float32),
        "places": np.array([0, 3]),
        "values": np.zeros((2, 3), np.float32),
    }
    for kernel in (native.place_rows, native.take_rows):
        with pytest.raises(ValueError, match=reason):
            kernel(**arguments | change)


@pytest.mark.parametrize("first", [[0, 4, 5, 4], [-1, 4, 4, 4], [0, 3, 2, 4], [0, 2**31 - 1, 4, 4]])
def test_children_that_are_none_are_refused(native: ModuleType, first: list[int]) -> None:
    children = Children(np.int32(first), np.zeros(4, np.int32), np.ones(4, np.float32))
    with pytest.raises(ValueError, match="children"):
        native.lower_gradient(np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32), children)


@pytest.mark.parametrize("kind", ["paper", "frequencies"])
@pytest.mark.skipif("amx" not in INSTRUCTION_SETS, reason="this CPU or this build has no tile registers")
def test_tile_registers_add_up_what_vectors_do(kind: str) -> None:
    """Both multiply bfloat16 and add in float32, in another order: what they make is much nearer than either is to float32."""
    assert NATIVE is not None
    before, results = NATIVE._native.instruction_set(), []
    try:
        for name in ("amx", "avx512bf16"):
            NATIVE.use_instruction_set(name)
            results.append(run_gradients(NATIVE, *twin_scene(kind, False, False)))
    finally:
        NATIVE.use_instruction_set(before)
    for name, ours in results[0].items():
        theirs = results[1][name].astype(np.float64)
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs), name
