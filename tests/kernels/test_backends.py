"""Back ends: what one cannot do or lacks, the reference does; and two Python threads may use one at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from kernel_scenes import LOSSES, dense, make_rays, make_volume, random_factors, random_targets, zero_gradients

from vqrf import kernels
from vqrf.codec.pyramid import children_of
from vqrf.kernels import Volume, contract, has_native, reference, select
from vqrf.kernels.contract import Assembled, Backend

needs_native = pytest.mark.skipif(not has_native(), reason="the compiled core is not built")


@pytest.fixture(autouse=True)
def nothing_said_yet() -> Iterator[None]:
    contract.say_that_reference_stands_in.cache_clear()
    yield


def with_layers(sides: tuple[int, ...], n_view: int = 2, dtype: type = np.float32) -> Volume:
    """The volume called small with other layers."""
    volume, rng = make_volume("small", False, dtype), np.random.default_rng(1)
    widths = (4 + 3 + 6 * n_view, *sides)
    layers = tuple(
        ((rng.normal(size=(o, i)) / math.sqrt(i) * 1.5).astype(dtype), (0.3 * rng.normal(size=o)).astype(dtype))
        for i, o in zip(widths[:-1], sides, strict=True)
    )
    return replace(volume, layers=layers)


# ------------------------------------------------------------------------------------------ what a back end cannot do


@needs_native
@pytest.mark.parametrize(
    ("sides", "n_view", "reason"),
    [
        ((3,), 2, "a single colour layer"),
        ((16,) * 10 + (3,), 2, "11 colour layers (at most 10)"),
        ((257, 3), 2, "257 units in a colour layer (at most 256)"),
        ((16, 3), 11, "11 frequencies of the view (at most 10)"),
    ],
)
def test_what_the_core_cannot_draw_the_reference_does_and_says_so_once(
    sides: tuple[int, ...], n_view: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    volume, rays, targets = with_layers(sides, n_view), make_rays(20, np.float32), random_targets(20, np.float32)
    importance = [np.zeros(volume.density.shape) for _ in range(2)]
    gradients = [zero_gradients(volume) for _ in range(2)]
    backends: tuple[Backend, Backend] = (select(), cast(Backend, Assembled("twin", "cpu", None, reference)))
    for backend, into, to in zip(backends, importance, gradients, strict=True):
        backend.accumulate_importance(volume, *rays, into)
        backend.render_gradients(volume, *rays, targets, LOSSES, to)
        backend.backpropagate(volume, *rays, targets[:, :3].copy(), None, None, to)
    for ours, theirs in zip(*(backend.render_rays(volume, *rays) for backend in backends), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(*(backend.hit_rays(volume, *rays) for backend in backends))
    np.testing.assert_array_equal(*importance)
    np.testing.assert_array_equal(*(to.features for to in gradients))
    said = f"vqrf: the compiled core cannot do {reason}: using the slow reference kernels\n"
    assert capfd.readouterr().err == said


@needs_native
def test_factors_of_too_many_components_go_to_the_reference(capfd: pytest.CaptureFixture[str]) -> None:
    factors, shape = random_factors(np.random.default_rng(0), (3, 4, 5), 1, 129, 2), (3, 4, 5)
    density, features = np.zeros(shape, np.float32), np.zeros((*shape, 2), np.float32)
    select().expand_factors(factors, np.ones(shape, np.uint8), density, features)
    for ours, theirs in zip((density, features), dense(factors), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert "129 components of a feature (at most 128)" in capfd.readouterr().err


@needs_native
def test_without_pytorch_what_the_core_cannot_draw_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(contract, "_reference", missing)
    with pytest.raises(
        ModuleNotFoundError, match="cannot do a single colour layer, and the reference kernels need torch"
    ) as raised:
        select().render_rays(with_layers((3,)), *make_rays(2, np.float32))
    assert raised.value.name == "torch"


@needs_native
@pytest.mark.parametrize("sides", [(1, 3), (20, 3), (5, 33, 3), (40, 20, 134, 3), (256, 3)])
def test_the_core_draws_hidden_layers_of_any_width(sides: tuple[int, ...], capfd: pytest.CaptureFixture[str]) -> None:
    from vqrf.kernels import native

    volume, rays = with_layers(sides), make_rays(50, np.float32)
    tolerance = 1e-4 if native.COLOR_TOLERANCE <= 1e-5 else 0.1
    gradients = [zero_gradients(volume) for _ in range(2)]
    for backend, to in zip((select(), reference), gradients, strict=True):
        backend.render_gradients(volume, *rays, random_targets(50, np.float32), LOSSES, to)
    pairs = [(gradients[0].features, gradients[1].features)]
    pairs += [pair for layers in zip(*(to.layers for to in gradients), strict=True) for pair in zip(*layers, strict=True)]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape and np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)
    rgb, expected = (backend.render_rays(volume, *rays)[0] for backend in (select(), reference))
    np.testing.assert_allclose(rgb, expected, atol=native.COLOR_TOLERANCE)
    assert capfd.readouterr().err == ""


@needs_native
def test_units_that_do_nothing_change_no_bit() -> None:
    """A hidden layer of 20 units is drawn as one of 32, of which 12 have weights of 0."""
    narrow = with_layers((20, 3))
    (first, bias), (last, last_bias) = narrow.layers
    wide = replace(
        narrow,
        layers=((np.pad(first, ((0, 12), (0, 0))), np.pad(bias, (0, 12))), (np.pad(last, ((0, 0), (0, 12))), last_bias)),
    )
    for ours, theirs in zip(*(select().render_rays(v, *make_rays(50, np.float32)) for v in (narrow, wide)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# -------------------------------------------------------------------------------------------------- another back end


def test_a_back_end_of_one_function_is_whole() -> None:
    card = ModuleType("card")
    card.render_rays = lambda *arguments: ("drawn on the card", None, None)  # type: ignore[attr-defined]
    card.fault = lambda volume: None if len(volume.layers) == 2 else "it"  # type: ignore[attr-defined]
    backend = cast(Backend, Assembled("a card", "card", 4, card))
    volume, rays = make_volume("small", False), make_rays(5)
    assert (backend.name, backend.device, backend.torch_threads) == ("a card", "card", 4)
    assert cast(Any, backend.render_rays(volume, *rays))[0] == "drawn on the card"
    np.testing.assert_array_equal(backend.hit_rays(volume, *rays), reference.hit_rays(volume, *rays))
    other = make_volume("paper", False)
    np.testing.assert_array_equal(backend.render_rays(other, *rays)[0], reference.render_rays(other, *rays)[0])
    np.testing.assert_array_equal(backend.measure_skip(volume.cells), volume.skip)
    assert not hasattr(backend, "no_such_kernel")


@needs_native
def test_the_core_and_the_contract_have_the_same_constants() -> None:
    from vqrf.kernels import native

    for name in ("MAX_SAMPLES", "SKIP_BLOCK", "MAX_STEPS", "BITS_UNIT", "FIRST_STEP", "STOP_TRANSMITTANCE"):
        assert native.LIMITS[name] == np.float32(getattr(kernels, name)), name
    for name in ("SSIM_WINDOW", "SSIM_SIGMA", "SSIM_K1", "SSIM_K2"):
        assert native.LIMITS[name] == getattr(kernels.similarity, name), name
    assert native.LIMITS["MAX_FEATURE_FREQUENCIES"] == kernels.constants.MAX_FEATURE_FREQUENCIES
    assert set(native.NOUNS) < set(native.LIMITS)


@pytest.mark.parametrize("step_world", [1e-30, 4e-5, 1e-300])
def test_a_volume_whose_rays_have_too_many_samples_is_refused(step_world: float) -> None:
    volume = make_volume("small", False)
    with pytest.raises(ValueError, match=r"step_world: of .* a ray has .* samples, expected 1..65536"):
        replace(volume, equation=replace(volume.equation, step_world=step_world))


# ------------------------------------------------------------------------------------------------- two Python threads

SECONDS = 1.0
"""How long two threads are kept at it."""


def of_rays(kernels: Any, volume: Volume, n_rays: int) -> dict[str, Callable[[], list[Any]]]:
    rays, targets = make_rays(n_rays, np.float32), random_targets(n_rays, np.float32)

    def gradients() -> list[Any]:
        to = zero_gradients(volume)
        terms = kernels.render_gradients(volume, *rays, targets, LOSSES, to)
        return [to.density, to.features, to.touched, terms["mse"], *(array for layer in to.layers for array in layer)]

    def importance() -> list[Any]:
        to = np.zeros(volume.density.shape)
        kernels.accumulate_importance(volume, *rays, to)
        return [to]

    def backpropagation() -> list[Any]:
        to = zero_gradients(volume)
        kernels.backpropagate(volume, *rays, targets[:, :3].copy(), targets[:, 3].copy(), None, to)
        return [to.density, to.features, to.touched, *(array for layer in to.layers for array in layer)]

    return {
        "backpropagate": backpropagation,
        "render_rays": lambda: list(kernels.render_rays(volume, *rays)),
        "hit_rays": lambda: [kernels.hit_rays(volume, *rays)],
        "render_gradients": gradients,
        "accumulate_importance": importance,
    }


def of_arrays(kernels: Any) -> dict[str, Callable[[], list[Any]]]:
    rng = np.random.default_rng(3)
    n, n_coarse, channels = 20000, 3000, 12
    fine, coarse = rng.normal(size=(n, channels)).astype(np.float32), rng.normal(size=(n_coarse, channels)).astype(np.float32)
    parents = rng.integers(0, n_coarse, (n, 8)).astype(np.int32)
    children, steps = children_of(parents, n_coarse), np.full(channels, 0.1, np.float32)
    density = rng.normal(size=(40, 40, 40)).astype(np.float32)
    touched, bits = rng.integers(0, 2, n).astype(np.uint8), rng.integers(0, 99, fine.shape).astype(np.uint8)
    codes, weights = rng.integers(0, 50, n).astype(np.int32), rng.random(n)
    lattice = fine[: 20 * 25 * 40].reshape(20, 25, 40, channels)
    pixels, starts, widths = rng.integers(0, 600, 9000), np.array([0, 300, 600]), np.array([20, 30])
    pinholes, poses = rng.random((2, 4)) + 1, rng.normal(size=(2, 3, 4))
    factors, shape = random_factors(rng, (9, 8, 7), 16, 32, 12), (9, 8, 7)
    marks, places = np.ones(shape, np.uint8), rng.permutation(n)

    def changed(kernel: Callable[..., object], at: int, *arguments: Any, **named: Any) -> list[Any]:
        """What a kernel makes of one of its arguments."""
        arguments = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)
        kernel(*arguments, **named)
        return [arguments[at]]

    def adam() -> list[Any]:
        arrays = [fine.copy(), fine[::-1].copy(), np.abs(fine), np.square(fine)]
        kernels.masked_adam(*arrays, touched, rate=0.1, step=3)
        return arrays

    def expand() -> list[Any]:
        made = np.zeros(shape, np.float32), np.zeros((*shape, 12), np.float32)
        kernels.expand_factors(factors, marks, *made)
        return list(made)

    return {
        "pixel_rays": lambda: list(kernels.pixel_rays(pixels, starts, widths, pinholes, poses)),
        "find_cells": lambda: [kernels.find_cells(density, 0.0, None)],
        "measure_skip": lambda: [kernels.measure_skip((density[1:, 1:, 1:] > 3).astype(np.uint8))],
        "masked_adam": adam,
        "add_total_variation": lambda: changed(kernels.add_total_variation, 1, lattice, lattice, None, weight=0.1),
        "assign_codes": lambda: list(kernels.assign_codes(fine, coarse[:200])),
        "sum_by_code": lambda: list(kernels.sum_by_code(fine, weights, codes, 50)),
        "tie_gradients": lambda: changed(kernels.tie_gradients, 3, fine, codes, touched, coarse),
        "move_gradients": lambda: changed(kernels.move_gradients, 4, fine, np.arange(n), touched, None, np.zeros_like(fine)),
        "place_rows": lambda: changed(kernels.place_rows, 3, fine, steps, places, np.zeros_like(fine)),
        "take_rows": lambda: changed(kernels.take_rows, 3, fine, steps, places, np.zeros_like(fine)),
        "raise_level": lambda: changed(kernels.raise_level, 0, fine, coarse, parents),
        "lower_gradient": lambda: changed(kernels.lower_gradient, 1, fine, coarse, children),
        "round_to_steps": lambda: changed(kernels.round_to_steps, 3, fine, steps, 0.1, np.zeros_like(fine)),
        "add_rate_gradient": lambda: changed(kernels.add_rate_gradient, 4, fine, steps, bits, 0.3, fine),
        "expand_factors": expand,
        "measure_ssim": lambda: [np.float64(kernels.measure_ssim(lattice[0], lattice[1]))],
        "add_sparsity": lambda: changed(kernels.add_sparsity, 1, fine, fine, touched, n_columns=5, weight=0.1),
    }


@needs_native
def test_two_python_threads_may_use_any_two_kernels() -> None:
    from vqrf.kernels import native

    kernels = of_rays(native, make_volume("paper", True, np.float32), 400) | of_arrays(native)
    public = {name for name in vars(contract.Kernels) if not name.startswith("_")} - {"fault"}
    assert set(kernels) == public, "a kernel is not tried"
    expected = {name: run() for name, run in kernels.items()}
    until, wrong = time.monotonic() + SECONDS, []

    def keep_at(seed: int) -> None:
        order = np.random.default_rng(seed)
        while time.monotonic() < until:
            name = str(order.choice(list(kernels)))
            for ours, theirs in zip(kernels[name](), expected[name], strict=True):
                if not np.array_equal(ours, theirs):
                    wrong.append(name)

    threads = [threading.Thread(target=keep_at, args=(seed,), daemon=True) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 60)
    assert not any(thread.is_alive() for thread in threads), "hung"
    assert wrong == []
