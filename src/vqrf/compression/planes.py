"""The preset `planes`: a field of planes and lines, tuned and coded as planes and lines.

    start    the components of density are turned into principal ones; each is scaled so that its line is about 1, and one step
             of its plane is worth the same density, or the same change of colour, as that of any other
    levels   planes and lines are sums of pyramids over the shadows of the occupied voxels (`vqrf.codec.planes`)
    loss     as of the preset `compact`: the photometric loss + bit_price * bits, seen through the rounding

Rays are drawn of planes and lines at their samples, in cells whose eight voxels are all occupied. A decoder may also draw in
cells with a voxel that is PRUNED; what is occupied has a margin, so that there is next to nothing to draw.

Sources: TensoRF (arXiv 2203.09517); Masked Wavelet Representation (arXiv 2212.09069). Departs from it: see
`vqrf.codec.planes`; the price of bits takes the place of a mask. Figures: docs/log/planes.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.compressed import CODED, PRUNED, Table
from vqrf.codec.planes import MAX_COMPONENTS, PlanesField, Stack, products_fault, shadows
from vqrf.codec.pyramid import build_nodes
from vqrf.compression.goal import Profile
from vqrf.compression.importance import EMPTY_MARGIN, carrying, spread_out
from vqrf.compression.latents import Looks, effect_on_colour
from vqrf.compression.levels import Channels, analyse, link_children
from vqrf.compression.priced import PricedPreset, Rounding
from vqrf.compression.quantize import Quantizer, quantizer_of_bias, quantizers_of_layers
from vqrf.compression.surroundings import Surroundings
from vqrf.compression.tuning import Tuning
from vqrf.fields.cells import cells_of_voxels, closed
from vqrf.fields.factors import Factors, nearest_products
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32, Float64, grown
from vqrf.kernels import BITS_UNIT, FactorArrays, Gradients, select
from vqrf.kernels.contract import Backend
from vqrf.kernels.equation import inputs_of_layers, tensors
from vqrf.training.loop import REFRESH_STEPS, torch_threads
from vqrf.training.parameters import Moments, Parameters, decay, share_of_newest
from vqrf.training.stages import ROULETTE, LearningRates

LINE_STEP = 1 / 8
"""Step size of lines, which are about 1. 1/32 takes 13 kB more at 128^3, and starts 0.04 dB better (docs/log/planes.md)."""
LINE_RATE = 2.5
"""Learning rate of lines, as a multiple of that of planes; both in units of steps."""
MIX_RATE = 0.1
"""Learning rate of the mix, as a share of the network's: it is smaller."""
LEAST = 1e-8
"""What a component that says nothing is scaled by, in the place of 0."""

AVERAGED = 0.4
"""Share of a stage's steps that remain when the mean of its parameters begins."""
AVERAGE_EVERY = 4
"""Steps between two of the parameters that this mean is of; the last are among them."""
BITS_EVERY = 6 * REFRESH_STEPS
"""Steps between two looks at what surrounds the coefficients."""


RATES = LearningRates(features=0.03, mlp=3e-3, end=0.05)
"""Learning rates; that of features is of planes, in units of their steps: 144 products move at once."""

STEPS = Rounding(density_step=0.12, feature_step=0.01)
"""Step sizes: as sums of three planes of many components, half and a quarter of those of voxels (docs/log/planes.md)."""

KEPT_SHARE = 0.998
"""Of the importance, what the occupied voxels carry: planes are cheap to keep where there is nothing to say."""

FILLED = 2
"""Gaps at most twice so wide between occupied voxels are occupied too. It halves the bytes that say which voxels are, and adds
next to none: planes hold all of a column anyway (docs/log/planes.md#what-does-it-cost-to-say-which-voxels-are-occupied)."""


@dataclass(frozen=True)
class PlanesPreset(PricedPreset[PlanesField]):
    """The settings of a way for fields whose planes and lines are at hand; its dials are those of `PricedPreset`.

    Attributes:
      filled: gaps between occupied voxels that are at most 2 `filled` wide are occupied too, 0 or more.
    """

    name: str = "planes"
    steps: int = 4500
    rates: LearningRates = RATES
    rounding: Rounding = STEPS
    filled: int = FILLED

    RAY_SECONDS: ClassVar[float] = 45e-6
    ROULETTE: ClassVar[float] = ROULETTE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filled < 0:
            raise ValueError(f"filled: expected 0 or more voxels, got {self.filled}")

    def kept_share(self, field: RadianceField) -> float:
        """`prune`, or what is usual."""
        return KEPT_SHARE if self.prune is None else self.prune

    def for_profile(self, profile: Profile, *, is_baked: bool = True) -> Self:
        if profile != "exact":
            raise ValueError(f"profile: planes and lines keep the field's own colours, expected exact, got {profile}")
        return super().for_profile(profile, is_baked=is_baked)

    def tune(self, field: RadianceField, importance: Float64, tuning: Tuning) -> PlanesField:
        if field.factors is None or field.lattice.space is not None:
            raise ValueError("the field has no planes and lines of a box: train one with --base tensorf, or use another preset")
        if max(field.factors.n_density, field.factors.n_features) > MAX_COMPONENTS:
            raise ValueError(f"a plane has more than {MAX_COMPONENTS} components of density or of features: use another preset")
        model = PlanesModel(field, field.factors, importance, self, seed=tuning.seed, device=tuning.device)
        self.run(model, tuning)
        return model.pack()

    def trim(self, small: PlanesField, share: float) -> PlanesField:
        return thin(small, share)


class Sheet:
    """One plane or line while it is learnt: a pyramid over its shadow.

    Args:
      values: [N,R] at the places of the shadow [x,y,z], in raster order.
      units: [R], > 0: what one step is worth.
    """

    def __init__(
        self, name: str, shadow: NDArray[np.bool_], values: Tensor, units: Tensor, config: PlanesPreset, kernels: Backend
    ) -> None:
        nodes, device = build_nodes(shadow, config.n_levels), kernels.device
        self.kernels, self.dead_zone = kernels, config.rounding.dead_zone
        self.places = torch.from_numpy(np.flatnonzero(shadow)).to(device)
        self.parents = [torch.from_numpy(level.parents).to(device) for level in nodes[:-1]]
        self.children = [link_children(below, above.n_nodes, device) for below, above in pairwise(nodes)]
        self.surroundings = Surroundings(nodes, self.parents, self.children, kernels, device)
        self.units, steps = units.to(device), torch.ones(len(units), device=device)
        in_steps = (values.to(device) / self.units).contiguous()
        levels = analyse(in_steps, self.parents, self.children, steps, self.dead_zone, kernels)
        first_bits = [torch.full_like(level, 1 / BITS_UNIT).to(torch.uint8) for level in levels]
        parameters = Parameters({f"{name}.{i}": Moments.of(level) for i, level in enumerate(levels)})
        self.channels = Channels(parameters, steps, steps, 0.0, first_bits, [torch.empty_like(level) for level in levels])

    def show(self, whole: Tensor) -> None:
        """Write what the levels come to into [...,R], every coefficient rounded."""
        shown = self.channels.show(self.kernels, self.parents, self.dead_zone)
        self.kernels.place_rows(shown, self.units, self.places, whole.view(-1, len(self.units)))

    def look_around(self, is_used: bool) -> None:
        """Find what first steps cost by their surroundings; one bit each where these are not used."""
        if not is_used:
            for bits in self.channels.first_bits:
                bits.fill_(round(1 / BITS_UNIT))
            return
        for own, found in zip(
            self.channels.first_bits, self.surroundings.first_bits(self.channels.magnitudes(self.dead_zone)), strict=True
        ):
            own.copy_(found)

    def update(self, gradient: Tensor, weight: float, rate: float, step: int) -> None:
        """Take the gradient [...,R] of what was shown, add the price of bits, and take a step; clears the gradient, which is 0
        where the shadow is not."""
        self.kernels.take_rows(gradient.view(-1, len(self.units)), self.units, self.places, self.channels.levels[0].gradient)
        self.channels.lower(self.kernels, self.children)
        for moments, bits in zip(self.channels.levels, self.channels.first_bits, strict=True):
            self.kernels.add_rate_gradient(moments.values, self.channels.steps, bits, weight, moments.gradient)
            moments.update(self.kernels, None, rate, step)

    def stack(self) -> Stack:
        """The whole numbers, coarsest first."""
        return tuple(self.channels.whole(self.dead_zone))

    def step_sizes(self) -> Float32:
        sizes: Float32 = (self.units * self.channels.steps).cpu().numpy()
        return sizes


class PlanesModel:
    """Planes and lines under joint tuning; a `train.Model`. Gradients pass straight through the rounding."""

    def __init__(
        self,
        field: RadianceField,
        factors: Factors,
        importance: NDArray[np.float64],
        config: PlanesPreset,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.field, self.config, self.device = field, config, device
        self.kernels, self.losses = select(device), config.losses
        occupied = carrying(spread_out(importance), config.kept_share(field))
        if not occupied.any():  # a field that no ray meets is still a field
            occupied[0, 0, 0] = True
        marks = closed(grown(occupied, 1), config.filled)
        rank, (n_features, n_channels) = factors.lines[0].shape[1], factors.mix.shape[1:]
        fault = products_fault(int(marks.sum()), rank, (3 * n_features, n_channels))
        if fault is not None:  # before anything is tuned that no program would draw
            raise ValueError(f"{fault}: use another preset")
        self.partition = np.where(marks, CODED, PRUNED).astype(np.uint8)
        self.marks = torch.from_numpy(self.partition).to(device)
        self.allowed = torch.from_numpy(_whole_cells(marks)).to(device)
        self.floor = field.equation.floor
        self.empty = float(np.float32(self.floor - EMPTY_MARGIN))
        self.density = torch.full(field.lattice.shape, self.empty, device=device)
        self.base = tensors(field.volume())
        with torch_threads(1):  # with more, the last bits of its products would depend on how many
            self._start(factors, importance, seed)
        self.begin(config, 1.0, config.rates.end)

    def _start(self, factors: Factors, importance: NDArray[np.float64], seed: int) -> None:
        """Sheets, mix and network as the field has them."""
        here = importance > 0 if importance.any() else np.ones(importance.shape, bool)
        weights = importance[here] if importance.any() else np.ones(here.sum())
        self.features = torch.from_numpy(self.field.features[here])
        self.looks = Looks.draw(torch.from_numpy(weights / weights.sum()), seed)
        effect = effect_on_colour(self.field, self.features, self.looks)
        parts = zip(factors.planes, factors.lines, factors.mix, *shadows(self.partition), strict=True)
        mixes, self.planes, self.lines = [], [], []
        for p, (plane, line, mix, on_plane, on_line) in enumerate(parts):
            made = balanced((plane[on_plane[..., 0]], line[on_line[:, 0, 0]], mix), effect, self.config.rounding)
            mixes.append(made[2])
            units = torch.ones(line.shape[1])
            units[: factors.n_density] = self.config.rounding.density_step
            rest = self.config, self.kernels
            self.planes.append(Sheet(f"plane{p}", on_plane, made[0], units, *rest))
            self.lines.append(Sheet(f"line{p}", on_line, made[1], torch.full_like(units, LINE_STEP), *rest))
        layers = [torch.from_numpy(array.copy()).to(self.device) for pair in self.field.color_mlp for array in pair]
        self.mlp = Parameters.of_layers(layers)
        self.mix = Parameters({"mix": Moments.of(torch.stack(mixes).to(self.device))})
        self.parameters = self.mix | self.mlp
        for sheet in (*self.planes, *self.lines):
            self.parameters = self.parameters | sheet.channels.parameters
        self.shown = _zeros_like(factors, self.device)
        gradients = replace(_zeros_like(factors, self.device), mix=self.mix["mix"].gradient)
        nothing = torch.zeros(0, device=self.device), torch.zeros(0, self.field.n_channels, device=self.device)
        touched = torch.zeros(sum(p.shape[0] * p.shape[1] for p in factors.planes), dtype=torch.uint8, device=self.device)
        self.gradients = Gradients(*nothing, self._layers("gradient"), touched, gradients)

    def begin(self, config: PlanesPreset, first: float, last: float) -> None:
        """Start a stage of `config.steps` steps at `config.bit_price`, with `first` to `last` of the learning rates."""
        self.config, self.first, self.last = config, first, last
        self.parameters.rest()
        for sheet in (*self.planes, *self.lines):
            sheet.channels.steps = sheet.channels.whole_steps * config.rounding.fineness
        self._fit_weights()
        self._show(find_cells=True)

    def settle(self) -> None:
        """End a stage: take the mean of the last parameters for them. Doing so twice changes nothing."""
        self.parameters.settle()
        self._show(find_cells=True)

    def _fit_weights(self) -> None:
        """Make the quantisers of mix and network, by what each layer took in at the start."""
        self.mix_quantizer = quantizer_of_bias(self.mix["mix"].values)
        self.weight_quantizers: list[Quantizer] = []
        if self.mlp:
            with torch_threads(1):
                features = self.features[self.looks.rows].to(self.device)
                hidden = inputs_of_layers(self.base, features, self.looks.directions.to(self.device))
                self.weight_quantizers = quantizers_of_layers([moments.values for moments in self.mlp.values()], hidden)

    def _layers(self, attribute: str) -> tuple[tuple[Tensor, Tensor], ...]:
        arrays = [getattr(moments, attribute) for moments in self.mlp.values()]
        if attribute == "values":
            arrays = [quantizer(array) for quantizer, array in zip(self.weight_quantizers, arrays, strict=True)]
        return tuple(zip(arrays[::2], arrays[1::2], strict=True))

    def _sheets(self, of: FactorArrays[Tensor]) -> Iterator[tuple[Sheet, Tensor, float]]:
        """Each sheet with its array of values or gradients, and the multiple of the learning rate that it has."""
        yield from zip(self.planes, of.planes, (1.0,) * 3, strict=True)
        yield from zip(self.lines, of.lines, (LINE_RATE,) * 3, strict=True)

    def _show(self, *, find_cells: bool) -> None:
        """Bring `volume` to what the parameters decode to."""
        for sheet, whole, _ in self._sheets(self.shown):
            sheet.show(whole)
        self.shown.mix.copy_(self.mix_quantizer(self.mix["mix"].values))
        if find_cells:
            self.kernels.expand_factors(self.shown, self.marks, self.density, None)
            self.density[self.marks == PRUNED] = self.empty
            self._cells = self.kernels.find_cells(self.density, self.floor, self.allowed)
            self._skip = self.kernels.measure_skip(self._cells)
        self.volume = replace(
            self.base,
            density=self.density,
            features=self.gradients.features,
            layers=self._layers("values"),
            cells=self._cells,
            skip=self._skip,
            factors=self.shown,
        )

    def prepare(self, step: int) -> bool:
        self._show(find_cells=step % REFRESH_STEPS == 0)
        return step == 0

    def update(self, step: int) -> None:
        if step % BITS_EVERY == 0:
            for sheet in (*self.planes, *self.lines):
                sheet.look_around(self.config.by_surroundings)
        share_left = decay(step, self.config.steps, self.last, self.first)
        rates, weight = self.config.rates, self.config.bit_price / math.log(2)
        assert self.gradients.factors is not None
        for sheet, gradient, multiple in self._sheets(self.gradients.factors):
            sheet.update(gradient, weight, multiple * rates.features * share_left, step + 1)
        self.mix.update(self.kernels, MIX_RATE * rates.mlp * share_left, step + 1)
        self.mlp.update(self.kernels, rates.mlp * share_left, step + 1)
        self.gradients.touched.zero_()
        n_left = self.config.steps - 1 - step
        if n_left % AVERAGE_EVERY == 0 and n_left < AVERAGED * self.config.steps:
            self.parameters.average(share_of_newest(AVERAGE_EVERY, self.config.steps))

    def _named_bits(self) -> dict[str, Tensor]:
        return {k: bits for sheet in (*self.planes, *self.lines) for k, bits in sheet.channels.named_bits.items()}

    def state(self) -> Mapping[str, Tensor]:
        return self.parameters.state() | self._named_bits() | {"cells": self._cells}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        self.parameters.restore(state)
        for name, bits in self._named_bits().items():
            bits.copy_(state[name])
        self._cells, self._skip = state["cells"], self.kernels.measure_skip(state["cells"])
        self._show(find_cells=False)

    def pack(self) -> PlanesField:
        """What the parameters decode to."""
        tables: list[Table] = [q.pack(m.values) for q, m in zip(self.weight_quantizers, self.mlp.values(), strict=True)]
        return PlanesField(
            lattice=self.field.lattice,
            partition=self.partition,
            color_mlp=tuple(zip(tables[::2], tables[1::2], strict=True)),
            equation=self.field.equation,
            empty_density=self.empty,
            metadata={},
            planes=tuple(sheet.stack() for sheet in self.planes),
            lines=tuple(sheet.stack() for sheet in self.lines),
            plane_steps=np.stack([sheet.step_sizes() for sheet in self.planes]),
            line_steps=np.stack([sheet.step_sizes() for sheet in self.lines]),
            mix=self.mix_quantizer.pack(self.mix["mix"].values.reshape(-1, self.field.n_channels)),
        )


def balanced(part: tuple[Float32, Float32, Float32], effect: Tensor, rounding: Rounding) -> tuple[Tensor, Tensor, Tensor]:
    """The same products with components in the order of their strength, lines of rms 1, and planes in comparable units.

    Args:
      part: of one of the three planes the values [M,R] and of its line [N,R] where these are asked for, and its mix [R_f,C].
      effect: [C,C], see `vqrf.compression.latents.effect_on_colour`.

    Returns:
      plane, line and mix. One unit of a component of density is one of density where its line is 1, and one of a component of
      features changes a colour by `rounding.feature_step` rms.
    """
    plane, line, mix = (torch.from_numpy(array.copy()) for array in part)
    n_density = plane.shape[1] - len(mix)
    turned = nearest_products(part[0][:, :n_density], part[1][:, :n_density], n_density)
    plane[:, :n_density], line[:, :n_density] = (torch.from_numpy(array) for array in turned)
    norm = line.square().mean(0).sqrt().clamp(min=LEAST)
    strength = torch.einsum("rk,kl,rl->r", mix.double(), effect, mix.double()).clamp(min=0).sqrt().float().clamp(min=LEAST)
    unit = norm.clone()
    unit[n_density:] *= strength / rounding.feature_step
    plane, line, mix = plane * unit, line / norm, mix * (norm / unit)[n_density:, None]
    power = plane.square().mean(0)
    order = torch.argsort(power[n_density:], descending=True, stable=True)
    columns = torch.cat([torch.argsort(power[:n_density], descending=True, stable=True), n_density + order])
    return plane[:, columns], line[:, columns], mix[order]


def thin(field: PlanesField, share: float) -> PlanesField:
    """The field made smaller without tuning: of the planes' finest coefficients that are 1 or -1, so large a share is left.

    Which ones go is random, and always the same.
    """
    draw = np.random.default_rng(0)
    planes = []
    for stack in field.planes:
        finest = stack[-1].copy()
        finest[(np.abs(finest) == 1) & (draw.random(finest.shape) >= share)] = 0
        planes.append((*stack[:-1], finest))
    return replace(field, planes=tuple(planes))


def _whole_cells(marks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Cells [X-1,Y-1,Z-1] all of whose voxels are among [X,Y,Z]."""
    return 1 - cells_of_voxels(~marks)


def _zeros_like(factors: Factors, device: str) -> FactorArrays[Tensor]:
    planes = [torch.zeros(array.shape, device=device) for array in factors.planes]
    lines = [torch.zeros(array.shape, device=device) for array in factors.lines]
    mix = torch.zeros(factors.mix.shape, device=device)
    return FactorArrays((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), mix)
