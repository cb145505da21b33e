"""The default preset: a sparse pyramid, tuned for the photos and for its own bytes together.

    loss     the photometric loss + bit_price * bits;  bits grow like log2(1 + |x| / step) with each coefficient x, and near 0
             as steeply as its surroundings say that leaving 0 is dear (`vqrf.compression.surroundings`)
    latents  features turned and scaled by what they do to a colour, so that one step is worth the same in each of them
    pyramid  see `vqrf.codec.pyramid`; every coefficient is seen through its rounding from the first step on (straight through)

The rate term drives most coefficients to 0 and leaves those that are worth their bits, which is what the entropy coder's
contexts (FORMAT.md section 6) then make use of. `bit_price` is the slope of the rate-distortion curve where a file lies on
it, between a small file and a good one; at a low price `fineness` should go with it. Tuning is in two stages: `warm` brings a
field to a usual price, which every file of it has in common, and `tune` goes on from there at the price that was asked for.
Surroundings speak in `tune` alone: in `warm` nothing has settled yet, and any first step costs a bit. What is left at the end
of a stage is the mean of its last parameters: each batch pushes them about, and the mean has less of that.

Sources: rate-distortion optimisation with a Lagrangian as in video coding (Sullivan and Wiegand 1998); straight-through
rounding (arXiv 1308.3432); averages of iterates (Polyak and Juditsky 1992); importance and pruning as in VQRF (arXiv
2211.16386), sec. 3.2. Departs from VQRF: no codebook, and no voxels kept exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.compressed import CODED, PRUNED, Table
from vqrf.codec.pyramid import PyramidField, build_nodes
from vqrf.compression.importance import EMPTY_MARGIN, carrying, spread_out
from vqrf.compression.latents import Looks, latent_basis
from vqrf.compression.levels import Channels, analyse, link_children
from vqrf.compression.priced import SUITED, PricedPreset
from vqrf.compression.quantize import Quantizer, quantizers_of_layers
from vqrf.compression.surroundings import Surroundings
from vqrf.compression.tuning import Tuning
from vqrf.fields.cells import voxels_of_cells
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float64
from vqrf.kernels import BITS_UNIT, Gradients, select
from vqrf.kernels.equation import inputs_of_layers, tensors
from vqrf.training.loop import REFRESH_STEPS, torch_threads
from vqrf.training.parameters import Moments, Parameters, decay, share_of_newest
from vqrf.training.stages import LearningRates

DENSITY_BELOW, DENSITY_ABOVE = 4.0, 25.0
"""Densities are coded within so much of where alpha becomes visible: what is beyond is as empty, or as solid."""

HARMONICS_RATES = 0.05
"""Share of the learning rates of density and features at which fields without a network are tuned. Full ones harm them
(docs/log/pyramid.md#at-what-learning-rates-are-fields-without-a-network-tuned)."""

HARMONICS_PRICE = 1 / 3
"""Share of the bit price at which fields without a network are tuned: harmonics need more bits for the same quality."""

AVERAGE_EVERY = 4
"""Steps between two of the parameters that a stage's mean is of; the last are among them."""

BITS_EVERY = 6 * REFRESH_STEPS
"""Steps between two looks at what surrounds the coefficients."""


RATES = LearningRates(density=0.15, features=0.1, mlp=3e-3, end=0.05)
"""Learning rates; that of features in units of their step sizes. Without a network, `HARMONICS_RATES` of the first two."""


@dataclass(frozen=True)
class CompactPreset(PricedPreset[PyramidField]):
    """The default preset; its dials are those of `PricedPreset`."""

    name: str = "compact"
    steps: int = 4500
    rates: LearningRates = RATES

    RAY_SECONDS: ClassVar[float] = 39e-6

    def tune(self, field: RadianceField, importance: Float64, tuning: Tuning) -> PyramidField:
        model = PyramidModel(field, importance, self, seed=tuning.seed, device=tuning.device)
        self.run(model, tuning)
        return drop_hidden(model.pack())

    def trim(self, small: PyramidField, share: float) -> PyramidField:
        return thin(small, share)


class PyramidModel:
    """A pyramid under joint tuning; a `train.Model`.

    `volume` always shows what the decoder will show. Gradients pass straight through the rounding.
    """

    def __init__(
        self,
        field: RadianceField,
        importance: NDArray[np.float64],
        config: CompactPreset,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.field, self.config, self.device = field, config, device
        self.kernels = select(device)
        self.losses = config.losses
        occupied = carrying(spread_out(importance), config.kept_share(field))
        if not occupied.any():  # a field that no ray meets is still a field
            occupied[0, 0, 0] = True
        self.partition = np.where(occupied, CODED, PRUNED).astype(np.uint8)
        nodes = build_nodes(occupied, config.n_levels)
        self.parents = [torch.from_numpy(level.parents).to(device) for level in nodes[:-1]]
        self.children = [link_children(below, above.n_nodes, device) for below, above in pairwise(nodes)]
        self.surroundings = Surroundings(nodes, self.parents, self.children, self.kernels, device)
        self.floor = field.equation.floor
        self.empty = float(np.float32(self.floor - EMPTY_MARGIN))
        with torch_threads(1):  # with more, the last bits of its products would depend on how many
            self._start(occupied, importance[occupied], seed)
        self.voxels = torch.from_numpy(np.flatnonzero(occupied)).to(device)
        rows = np.full(occupied.shape, -1, np.int32)
        rows[occupied] = np.arange(nodes[0].n_nodes)
        self.rows = torch.from_numpy(rows).to(device)
        self.shown_density = torch.full(occupied.shape, self.empty, device=device)
        self.shown_features = torch.empty_like(self.latents.shown[0])
        self.touched = torch.zeros(occupied.shape, dtype=torch.uint8, device=device)
        self.gradients = Gradients(
            torch.zeros(occupied.shape, device=device),
            torch.zeros(*occupied.shape, field.n_channels, device=device),
            self._layers("gradient"),
            self.touched,
        )
        self.base = tensors(field.volume())
        self.begin(config, 1.0, config.rates.end)

    def begin(self, config: CompactPreset, first: float, last: float) -> None:
        """Start a stage of `config.steps` steps at `config.bit_price`, with `first` to `last` of the learning rates.

        What weights are rounded to is chosen here, by what they are and what comes in. Coefficients stay what they are,
        whatever their steps become.
        """
        self.config, self.first, self.last = config, first, last
        self.parameters.rest()
        for channels in (self.density, self.latents):
            channels.steps = channels.whole_steps * config.rounding.fineness
        self._fit_weights()
        self._show(find_cells=True)

    def settle(self) -> None:
        """End a stage: take the mean of the last parameters for them. Doing so twice changes nothing."""
        self.parameters.settle()
        self._show(find_cells=True)

    def _start(self, occupied: NDArray[np.bool_], importance: NDArray[np.float64], seed: int) -> None:
        """Density, latents and MLP as the field has them."""
        field, config = self.field, self.config
        features = torch.from_numpy(field.features[occupied])
        weights = importance if importance.sum() > 0 else np.ones(len(importance))
        suited = SUITED[field.equation.activation]
        share = torch.from_numpy(weights / weights.sum())
        self.looks = Looks.draw(share, seed)
        step = suited.fineness * config.rounding.feature_step
        to_latents, from_latents = latent_basis(field, features, share, self.looks, step)
        layers = [torch.from_numpy(array.copy()) for pair in field.color_mlp for array in pair]
        self.basis: Tensor | None = None
        if layers and not field.equation.feature_frequencies:  # the first layer takes the latents as they are
            first = layers[0][:, : field.n_channels]
            first.copy_(first.double() @ torch.from_numpy(from_latents).T)
        else:
            self.basis = torch.from_numpy(from_latents.astype(np.float32)).to(self.device)
        self.basis_transposed = None if self.basis is None else self.basis.T.contiguous()
        self.mlp = Parameters.of_layers(array.to(self.device) for array in layers)
        latents = (features.double() @ torch.from_numpy(to_latents)).float().to(self.device)
        density = torch.from_numpy(field.density[occupied][:, None])
        unit, slower = suited.density_unit, 1.0 if layers else HARMONICS_RATES
        density = density.clamp(self.floor - DENSITY_BELOW, self.floor + DENSITY_ABOVE).to(self.device)
        one = torch.ones(1, device=self.device)
        step = unit * suited.fineness * config.rounding.density_step
        self.density = self._channels("density", density, one * step, slower * unit * config.rates.density)
        self.latents = self._channels("latents", latents, one.repeat(latents.shape[1]), slower * config.rates.features)
        self.parameters = self.density.parameters | self.latents.parameters | self.mlp

    def _fit_weights(self) -> None:
        """Make the quantisers of the MLP, by what each layer takes in at the looks."""
        self.weight_quantizers: list[Quantizer] = []
        if not self.mlp:
            return
        latents = self.latents.show(self.kernels, self.parents, self.config.rounding.dead_zone)[self.looks.rows.to(self.device)]
        with torch_threads(1):  # with more, the last bits of its products would depend on how many
            features = latents if self.basis is None else latents @ self.basis
            hidden = inputs_of_layers(self.base, features, self.looks.directions.to(self.device))
            self.weight_quantizers = quantizers_of_layers([moments.values for moments in self.mlp.values()], hidden)

    def _channels(self, kind: str, values: Tensor, steps: Tensor, rate: float) -> Channels:
        levels = analyse(values, self.parents, self.children, steps, self.config.rounding.dead_zone, self.kernels)
        first_bits = [torch.zeros_like(level, dtype=torch.uint8) for level in levels]
        shown = [torch.empty_like(level) for level in levels]
        parameters = Parameters({f"{kind}{i}": Moments.of(level) for i, level in enumerate(levels)})
        return Channels(parameters, steps, steps, rate, first_bits, shown)

    def _layers(self, attribute: str) -> tuple[tuple[Tensor, Tensor], ...]:
        arrays = [getattr(moments, attribute) for moments in self.mlp.values()]
        if attribute == "values":
            arrays = [quantizer(array) for quantizer, array in zip(self.weight_quantizers, arrays, strict=True)]
        return tuple(zip(arrays[::2], arrays[1::2], strict=True))

    def _show(self, *, find_cells: bool) -> None:
        """Bring `volume` to what the parameters decode to."""
        dead_zone = self.config.rounding.dead_zone
        density = self.density.show(self.kernels, self.parents, dead_zone)
        self.shown_density.view(-1)[self.voxels] = density[:, 0]
        latents = self.latents.show(self.kernels, self.parents, dead_zone)
        if find_cells:
            self._cells = self.kernels.find_cells(self.shown_density, self.floor, None)
            self._skip = self.kernels.measure_skip(self._cells)
        self.volume = replace(
            self.base,
            density=self.shown_density,
            features=latents if self.basis is None else torch.mm(latents, self.basis, out=self.shown_features),
            rows=self.rows,
            layers=self._layers("values"),
            cells=self._cells,
            skip=self._skip,
        )

    def prepare(self, step: int) -> bool:
        self._show(find_cells=step % REFRESH_STEPS == 0)
        return step == 0

    def _look_around(self) -> None:
        """Find what first steps cost, of density and latents."""
        if not self.config.by_surroundings:
            for bits in (*self.density.first_bits, *self.latents.first_bits):
                bits.fill_(round(1 / BITS_UNIT))
            return
        dead_zone = self.config.rounding.dead_zone
        pairs = zip(self.density.magnitudes(dead_zone), self.latents.magnitudes(dead_zone), strict=True)
        for number, bits in enumerate(self.surroundings.first_bits([torch.cat(pair, 1) for pair in pairs])):
            self.density.first_bits[number].copy_(bits[:, :1])
            self.latents.first_bits[number].copy_(bits[:, 1:])

    def update(self, step: int) -> None:
        if step % BITS_EVERY == 0:
            self._look_around()
        self._take_gradients()
        share_left = decay(step, self.config.steps, self.last, self.first)
        weight = self.config.bit_price * (1.0 if self.mlp else HARMONICS_PRICE) / math.log(2)
        for channels in (self.density, self.latents):
            channels.lower(self.kernels, self.children)
            for moments, bits in zip(channels.levels, channels.first_bits, strict=True):
                self.kernels.add_rate_gradient(moments.values, channels.steps, bits, weight, moments.gradient)
                moments.update(self.kernels, None, channels.rate * share_left, step + 1)
        self.mlp.update(self.kernels, self.config.rates.mlp * share_left, step + 1)
        if (self.config.steps - 1 - step) % AVERAGE_EVERY == 0:
            self.parameters.average(share_of_newest(AVERAGE_EVERY, self.config.steps))
        self.touched.zero_()

    def _take_gradients(self) -> None:
        """Move what the volume got to the finest levels."""
        kinds = ((self.gradients.density, self.density, None), (self.gradients.features, self.latents, self.basis_transposed))
        for gradient, channels, matrix in kinds:
            rows = channels.levels[0].gradient
            self.kernels.move_gradients(gradient.view(-1, rows.shape[1]), self.voxels, self.touched.view(-1), matrix, rows)

    def state(self) -> Mapping[str, Tensor]:
        return self.parameters.state() | self.density.named_bits | self.latents.named_bits | {"cells": self._cells}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        self.parameters.restore(state)
        for name, bits in (self.density.named_bits | self.latents.named_bits).items():
            bits.copy_(state[name])
        self._cells, self._skip = state["cells"], self.kernels.measure_skip(state["cells"])
        self._show(find_cells=False)

    def pack(self) -> PyramidField:
        """What the parameters decode to: `expand` of it is `volume`."""
        field, dead_zone = self.field, self.config.rounding.dead_zone
        pairs = zip(self.density.whole(dead_zone), self.latents.whole(dead_zone), strict=True)
        tables: list[Table] = [q.pack(m.values) for q, m in zip(self.weight_quantizers, self.mlp.values(), strict=True)]
        return PyramidField(
            lattice=field.lattice,
            partition=self.partition,
            coefficients=tuple(np.concatenate(pair, 1) for pair in pairs),
            steps=torch.cat([self.density.steps, self.latents.steps]).cpu().numpy(),
            basis=None if self.basis is None else self.basis.cpu().numpy(),
            color_mlp=tuple(zip(tables[::2], tables[1::2], strict=True)),
            equation=field.equation,
            empty_density=self.empty,
            metadata={},
        )


def drop_hidden(packed: PyramidField) -> PyramidField:
    """Without the voxels that tuning made too faint for any ray to see, none of whose cells is occupied. No image changes."""
    here = packed.partition != PRUNED
    density = np.full(here.shape, packed.empty_density, np.float32)
    density[here] = packed.voxel_values()[0]
    return packed.restrict(voxels_of_cells(select().find_cells(density, packed.equation.floor, None)))


def thin(field: PyramidField, share: float) -> PyramidField:
    """The field made smaller without tuning: of the finest level's latents that are 1 or -1, so large a share is left.

    Those of the last latents go first, which matter least; within a latent the order is random, and always the same.
    """
    finest = field.coefficients[-1].copy()
    node, latent = np.nonzero(np.abs(finest[:, 1:]) == 1)
    order = np.lexsort((np.random.default_rng(0).permutation(len(node)), -latent))
    dropped = order[: round((1 - share) * len(order))]
    finest[node[dropped], latent[dropped] + 1] = 0
    return replace(field, coefficients=(*field.coefficients[:-1], finest))
