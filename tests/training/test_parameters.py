"""What models learn: means as they are defined, and nothing lost on the way through a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqrf.kernels import select
from vqrf.training.grids import VoxelGrid, resample
from vqrf.training.parameters import Moments, Parameters, decay, share_of_newest

SHAPE = (3, 4, 5)
ACTIVE = torch.tensor([0, 7, 8, 31, 59])


def parameters(seed: int) -> Parameters:
    """A lattice of two channels of which five voxels are ever looked at, and a matrix; random, with random moments."""
    generator = torch.Generator().manual_seed(seed)
    arrays = {"grid": torch.randn(*SHAPE, 2, generator=generator), "matrix": torch.randn(6, 3, generator=generator)}
    moments = {name: Moments.of(array) for name, array in arrays.items()}
    for of_array in moments.values():
        of_array.first.copy_(torch.randn(of_array.first.shape, generator=generator))
        of_array.second.copy_(torch.rand(of_array.second.shape, generator=generator))
    return Parameters({"grid": moments["grid"]}, ACTIVE) | Parameters({"matrix": moments["matrix"]})


def test_both_of_two_together_are_named_and_learn_as_they_did_alone() -> None:
    alone, together = parameters(0)["grid"], Parameters({"grid": parameters(0)["grid"]}, ACTIVE) | Parameters({})
    assert list(parameters(0)) == ["grid", "matrix"] and list(together) == ["grid"]
    for moments in (alone, together["grid"]):
        moments.gradient.fill_(0.5)
        moments.update(select(), None, 0.1, 1)
        assert not moments.gradient.any()
    torch.testing.assert_close(alone.values, together["grid"].values, rtol=0, atol=0)


def test_an_update_of_a_network_is_that_of_each_of_its_arrays() -> None:
    arrays = [torch.linspace(-1, 1, 12).view(4, 3), torch.zeros(4)]
    alone, network = [Moments.of(array.clone()) for array in arrays], Parameters.of_layers(array.clone() for array in arrays)
    assert list(network) == ["mlp0", "mlp1"]
    for moments in (*alone, *network.values()):
        moments.gradient.fill_(0.5)
    for moments in alone:
        moments.update(select(), None, 0.1, 1)
    network.update(select(), 0.1, 1)
    for expected, moments, before in zip(alone, network.values(), arrays, strict=True):
        torch.testing.assert_close(moments.values, expected.values, rtol=0, atol=0)
        assert (moments.values != before).all() and not moments.gradient.any()


def test_the_newest_get_their_share_of_a_tenth_of_the_steps_and_at_most_all() -> None:
    assert share_of_newest(4, 80) == 0.5 and share_of_newest(32, 480) == pytest.approx(2 / 3)
    assert share_of_newest(4, 8) == 1.0


def test_what_went_through_a_state_is_the_same_where_anything_looks() -> None:
    first, second = parameters(1), parameters(2)
    first.average(1.0)
    first["grid"].values.add_(1)
    first.average(0.25)
    untouched = second["grid"].values.clone()
    second.restore({name: tensor.clone() for name, tensor in first.state().items()} | {"another's": torch.zeros(1)})
    for part in Moments.KEPT_PARTS:
        of_grids = [getattr(both["grid"], part).view(-1, 2) for both in (first, second)]
        np.testing.assert_array_equal(*(of_grid[ACTIVE] for of_grid in of_grids))
        np.testing.assert_array_equal(*(getattr(both["matrix"], part) for both in (first, second)))
    passive = torch.ones(60, dtype=torch.bool)
    passive[ACTIVE] = False
    np.testing.assert_array_equal(second["grid"].values.view(-1, 2)[passive], untouched.view(-1, 2)[passive])
    assert {name: tensor.tolist() for name, tensor in first.means.items()} == {
        name: tensor.tolist() for name, tensor in second.means.items()
    }


def test_a_state_has_rows_of_active_voxels_alone_and_no_means_before_there_are_some() -> None:
    state = parameters(3).state()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        **{f"grid.{part}": (5, 2) for part in Moments.KEPT_PARTS},
        **{f"matrix.{part}": (6, 3) for part in Moments.KEPT_PARTS},
    }


def test_means_weigh_the_newest_by_its_share_and_are_what_settling_takes() -> None:
    learnt = parameters(4)
    history = []
    for share in (0.9, 0.5, 0.25):
        learnt["grid"].values.add_(torch.randn(*SHAPE, 2))
        learnt["matrix"].values.mul_(2)
        history.append({name: moments.values.clone() for name, moments in learnt.items()})
        learnt.average(share)
    expected = {name: 0.75 * (0.5 * history[0][name] + 0.5 * history[1][name]) + 0.25 * history[2][name] for name in learnt}
    for _ in range(2):
        learnt.settle()
        np.testing.assert_allclose(
            learnt["grid"].values.view(-1, 2)[ACTIVE], expected["grid"].view(-1, 2)[ACTIVE], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(learnt["matrix"].values, expected["matrix"], rtol=1e-5)
    np.testing.assert_array_equal(learnt["grid"].values.view(-1, 2)[1], history[2]["grid"].view(-1, 2)[1])


def test_settling_without_means_changes_nothing() -> None:
    learnt, before = parameters(5), parameters(5)
    learnt.settle()
    np.testing.assert_array_equal(learnt["grid"].values, before["grid"].values)


def test_at_rest_the_moments_are_none_and_the_means_are_the_values() -> None:
    learnt = parameters(6)
    learnt.average(1.0)
    learnt["matrix"].values.add_(1)
    learnt.rest()
    for moments in learnt.values():
        assert not moments.first.any() and not moments.second.any()
    np.testing.assert_array_equal(learnt.means["matrix"], learnt["matrix"].values)
    learnt["matrix"].values.add_(1)
    assert (learnt.means["matrix"] != learnt["matrix"].values).all()  # a copy


@pytest.mark.parametrize(("first", "last"), [(1.0, 0.1), (1.0, 0.05), (0.3, 0.05)])
def test_rates_fall_exponentially_from_first_to_last(first: float, last: float) -> None:
    shares = [decay(step, 100, last, first) for step in range(101)]
    assert shares[0] == first and shares[-1] == pytest.approx(last)
    np.testing.assert_allclose(np.diff(np.log(shares)), np.log(last / first) / 100)
    assert decay(0, 0, last, first) == first


def test_a_voxel_grid_that_moves_takes_its_values_along_and_leaves_no_moments_behind() -> None:
    """Two lattices with their moments at once would be the most memory that a training ever takes."""
    generator = torch.Generator().manual_seed(0)
    density, features = (torch.randn(3, 4, 5, channels, generator=generator) for channels in (1, 6))
    shape, active = (5, 6, 7), torch.arange(0, 5 * 6 * 7, 2)
    grid = VoxelGrid(density, features, torch.arange(60))
    grown = grid.on(shape, active)
    for new, old in ((grown.density, density), (grown.features, features)):
        expected = resample(old, shape).view(210, -1)
        expected[1::2] = 0
        torch.testing.assert_close(new.values.view(210, -1), expected, rtol=0, atol=0)
        assert new.gradient.shape == new.first.shape == new.second.shape == new.values.shape
        assert not new.gradient.any() and not new.first.any() and not new.second.any()
    assert sum(part.numel() for m in grid.parameters.values() for part in (m.gradient, m.first, m.second)) == 0
