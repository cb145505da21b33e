"""Two other ways to make a field small, which the paper compares itself with, to be measured against ours at equal bytes.

    prune      Re:NeRF (arXiv 2210.12782): in rounds, remove the voxels that the photos would miss least, re-include those that
               lie beside what is left and that the photos ask for, and tune what there is; the rest is written as it is
    truncate   CCNeRF (arXiv 2205.14870): planes and lines of fewer components, and no tuning (`vqrf.fields.factors.truncate`)

Departs from Re:NeRF, each time in its favour or because of the container:
  - whole voxels are removed, and not single numbers: the container holds voxels;
  - what a voxel is worth is the sum over its numbers of |change * derivative|, where the change is to what a removed voxel is
    worth in the file; theirs is |value * derivative|, each kind of numbers scaled to its largest;
  - the derivatives' magnitudes are means over batches of rays: of a trained field the derivative itself is about 0;
  - a voxel that comes back is worth what it was before any round;
  - the 8-bit quantiser is in the tuning (`vqrf.compression.paper.TiedModel`), and the coder is ours instead of LZMA;
  - there is a file of every round, and no rule that says where to stop.

Departs from CCNeRF: its fields are trained so that a tail of the components can be dropped, any field is taken here. Theirs are
kept as floats; here values are of 8 bits and go through LZMA, see `encode_factors`.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vqrf.codec.compressed import KEPT, PRUNED, Compressed, CompressedField, Quantized
from vqrf.compression.importance import EMPTY_MARGIN, spread_out
from vqrf.compression.paper import PaperPreset, TiedModel
from vqrf.compression.tuning import TUNINGS, Tuning
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.cells import active_voxels
from vqrf.fields.factors import Factors, LineFactors, truncate, truncate_lines
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.storage import Arrays, StorageError, arrays_from_bytes, bytes_of_arrays
from vqrf.geometry import Float32, Lattice
from vqrf.interop import TensorfField
from vqrf.kernels import Gradients, select
from vqrf.kernels.equation import tensors
from vqrf.training.loop import torch_threads
from vqrf.training.stages import STAGES

Mask = NDArray[np.bool_]

# ------------------------------------------------------------------------------------------------------ remove, re-include

ROUNDS = 4
"""Half of the voxels go in each: lego falls from about 2 MB to where our own files are."""

TUNING = PaperPreset(steps=1500)
"""Four rounds have the steps of VQRF as published."""


@dataclass(frozen=True)
class PruneConfig:
    """One round.

    Attributes:
      share: of the voxels that have any effect, to remove; between 0 and 1.
      n_batches: of rays, that the effect of voxels is measured over.
      tuning: its steps, rates, losses and quantisers.
    """

    share: float = 0.5
    n_batches: int = 64
    tuning: PaperPreset = TUNING

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: expected a value between 0 and 1, got {self.share}")
        if self.n_batches < 1:
            raise ValueError(f"n_batches: expected at least 1, got {self.n_batches}")


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Mean magnitudes of the loss's derivatives: by density [X,Y,Z] and by features [X,Y,Z,C], float32 >= 0."""

    density: Float32
    features: Float32

    def effects(self, field: RadianceField, empty: float) -> Float32:
        """By how much, to first order, the loss changes with a voxel that is removed, [X,Y,Z] >= 0."""
        features: Float32 = np.einsum("xyzc,xyzc->xyz", np.abs(field.features), self.features)
        total: Float32 = np.abs(field.density - np.float32(empty)) * self.density + features
        return total


def measure_derivatives(field: RadianceField, pool: RayPool, config: PruneConfig, *, seed: int = 0) -> Derivatives:
    """The magnitudes of the derivatives of `config.tuning.losses`, each of a batch of rays, as means over batches.

    Deterministic. Leaves the pool with the rays that meet the field.
    """
    kernels, volume = select(), tensors(field.volume())
    pool.keep_hits(volume)
    layers = tuple((torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in volume.layers)
    touched = torch.zeros(field.lattice.shape, dtype=torch.uint8)
    gradients = Gradients(torch.zeros_like(volume.density), torch.zeros_like(volume.features), layers, touched)
    arrays = gradients.density.view(-1), gradients.features.view(-1, field.n_channels)
    sums = [torch.zeros_like(array) for array in arrays]
    with torch_threads(1):
        for batch in range(config.n_batches):
            rays = pool.sample(config.tuning.rays_per_step, seed=(seed, len(STAGES) + len(TUNINGS), batch))
            origins, directions, targets = (torch.from_numpy(array) for array in rays.arrays)
            kernels.render_gradients(volume, origins, directions, targets, config.tuning.losses, gradients)
            here = touched.view(-1).nonzero()[:, 0]
            for total, gradient in zip(sums, arrays, strict=True):
                total[here] += gradient[here].abs() / config.n_batches
                gradient[here] = 0
            touched.zero_()
    density, features = (total.numpy() for total in sums)
    return Derivatives(density.reshape(field.density.shape), features.reshape(field.features.shape))


def remove(effects: Float32, present: Mask, share: float) -> Mask:
    """The voxels that stay, [X,Y,Z]: of those present that have an effect, all but the `share` of least effect.

    Of equal effects the first in raster order stays. One voxel always stays, unless none has an effect.
    """
    flat = np.where(present, effects, 0).ravel()
    n_effective = int(np.count_nonzero(flat))
    n_kept = max(round((1 - share) * n_effective), min(n_effective, 1))
    kept = np.zeros(flat.shape, bool)
    kept[np.argsort(-flat, kind="stable")[:n_kept]] = True
    return kept.reshape(effects.shape)


def reinclude(kept: Mask, candidates: Mask, derivatives: Derivatives) -> Mask:
    """`kept` and those of the candidates that are wanted and touch it, directly or through others that come back, [X,Y,Z].

    A voxel is wanted if the loss depends on its density, or on its features, more than it does on those of the mean kept voxel.
    Neighbours are the 26 around a voxel.

    Args:
      derivatives: of the field without the voxels that are not kept.

    Source: Re:NeRF, re-inclusion. Departs: none in what is compared, see the head of this module for of what.
    """
    wanted = np.zeros_like(kept)
    for magnitude in (derivatives.density, derivatives.features.sum(-1)):
        wanted |= magnitude > (magnitude[kept].mean() if kept.any() else 0)
    wanted &= candidates
    grown = kept.copy()
    while (fresh := (spread_out(grown.astype(np.float64)) > 0) & wanted & ~grown).any():
        grown |= fresh
    return grown


def emptied(field: RadianceField, kept: Mask, empty: float) -> RadianceField:
    """The field whose other voxels are removed: no features, and a density just too low to be sampled."""
    density = np.where(kept, field.density, np.float32(empty))
    features = np.where(kept[..., None], field.features, np.float32(0))
    return replace(field, density=density, features=features, factors=None)


def prune_round(
    field: RadianceField,
    scene: Scene,
    before: Compressed | None,
    config: PruneConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> CompressedField:
    """One round of Re:NeRF: remove, re-include, tune, quantise.

    Args:
      field: the trained one, with which the first round began.
      before: what the round before gave; None for the first.

    Returns:
      Voxels that are left are all KEPT, with features of their own.

    Deterministic on the CPU with a given seed, whatever the number of threads.

    Source: Re:NeRF (arXiv 2210.12782). Departs: see the head of this module.
    """
    pool, empty = RayPool(scene.train), float(np.float32(field.equation.floor - EMPTY_MARGIN))
    active = active_voxels(field)
    current, present = (field, active) if before is None else (expand(before), before.partition != PRUNED)
    effects = measure_derivatives(current, pool, config, seed=seed).effects(current, empty)
    kept = remove(effects, present, config.share)
    kept = reinclude(kept, active, measure_derivatives(emptied(current, kept, empty), pool, config, seed=seed))
    start = replace(
        field,
        density=np.where(present, current.density, field.density),
        features=np.where(present[..., None], current.features, field.features),
        color_mlp=current.color_mlp,
    )
    partition = np.where(kept, KEPT, PRUNED).astype(np.uint8)
    no_codes = np.zeros((1, field.n_channels), np.float32), np.zeros(0, np.int32)
    model = TiedModel(start, partition, *no_codes, config.tuning, device=device)
    Tuning(pool, config.tuning.rays_per_step, seed, device).run("tune", model, config.tuning.steps)
    return model.pack()


# ------------------------------------------------------------------------------------------------------- fewer components

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of the components of density and of features."""

FACTORS_FORMAT = "vqrf-factors-1"
FACTOR_STEPS = 30.0
"""Levels per standard deviation of a component; fewer where 256 levels would not reach from the least value to the greatest."""

LZMA = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}
FILTERS = ([LZMA], [{"id": lzma.FILTER_DELTA, "dist": 1}, LZMA])
"""Values as they are, or the difference of each to the one before along the last axis; the file says which."""


def components_at(factors: Factors | LineFactors, share: float) -> tuple[int, int]:
    """So large a share of the components, at least one: of the density and of the features (of each plane)."""
    return max(1, round(share * factors.n_density)), max(1, round(share * factors.n_features))


def truncated(factors: Factors | LineFactors, n_density: int, n_features: int) -> Factors | LineFactors:
    """Factors of fewer components, of either kind (see `vqrf.fields.factors.truncate`)."""
    if isinstance(factors, Factors):
        return truncate(factors, n_density, n_features)
    return truncate_lines(factors, n_density, n_features)


def quantize_components(values: Float32) -> Quantized:
    """Values [...,R] at 8 bits, each component with a scale and an offset of its own, that reach all of them."""
    flat = values.reshape(-1, values.shape[-1])
    low, reach = flat.min(0), np.ptp(flat, axis=0)
    scale = np.maximum(np.maximum(reach / 255, flat.std(0) / FACTOR_STEPS), np.float32(1e-12)).astype(np.float32)
    levels = np.clip(np.rint((values - low) / scale), 0, 255).astype(np.uint8)
    return Quantized(levels, scale, low.astype(np.float32))


def encode_factors(made: TensorfField, allowed: NDArray[np.uint8] | None) -> bytes:
    """One file that a factored field can be rendered from: all that `decode_factors` needs.

    Planes and lines have 8 bits for each value (`quantize_components`), component by component; the mix and the colour MLP are
    of half precision as VQRF's is; allowed cells have a bit each. All of it, with the scalars, goes through LZMA, with
    differences or without, whichever is smaller.

    Args:
      allowed: cells of the field, [X-1,Y-1,Z-1] uint8; None for all.
    """
    factors = made.factors
    arrays: Arrays = {"mix": factors.mix.astype(np.float16)}
    named = {f"line{p}": line for p, line in enumerate(factors.lines)}
    if isinstance(factors, Factors):
        named |= {f"plane{p}": plane for p, plane in enumerate(factors.planes)}
    for name, values in named.items():
        table = quantize_components(values)
        arrays |= {name: np.moveaxis(table.levels, -1, 0), f"{name}.scale": table.scale, f"{name}.offset": table.offset}
    for i, (weight, bias) in enumerate(made.color_mlp):
        arrays |= {f"mlp{i}.weight": weight.astype(np.float16), f"mlp{i}.bias": bias.astype(np.float16)}
    if allowed is not None:
        arrays["allowed"] = np.packbits(allowed)
    names = ("feature_frequencies", "density_shift", "distance_scale", "step_voxels", "near", "far", "alpha_threshold")
    header = {
        "format": FACTORS_FORMAT,
        "lattice": [made.lattice.lo, made.lattice.hi, made.lattice.shape],
        "activation": made.activation,
        "n_layers": len(made.color_mlp),
        **{name: getattr(made, name) for name in names},
    }
    data = bytes_of_arrays(arrays, header)
    return min((lzma.compress(data, filters=filters) for filters in FILTERS), key=len)


def decode_factors(data: bytes, path: Path) -> RadianceField:
    """The field of a file that `encode_factors` wrote; for our own files only.

    Args:
      path: what to call the file, where it is damaged.

    Raises:
      StorageError: it is damaged.
    """
    try:
        plain = lzma.decompress(data)
    except lzma.LZMAError as error:
        raise StorageError(path, f"is damaged ({error})") from error
    arrays, header = arrays_from_bytes(plain, path, FACTORS_FORMAT)

    def values_of(key: str) -> Float32:
        levels = np.moveaxis(arrays[key], 0, -1)
        return Quantized(levels, arrays[f"{key}.scale"], arrays[f"{key}.offset"]).dequantize()

    mix, lines = arrays["mix"].astype(np.float32), (values_of("line0"), values_of("line1"), values_of("line2"))
    factors = LineFactors(lines, mix).with_planes() if "plane0" not in arrays else None
    if factors is None:
        factors = Factors((values_of("plane0"), values_of("plane1"), values_of("plane2")), lines, mix)
    lo, hi, shape = (tuple(side) for side in header["lattice"])
    layers = [[arrays[f"mlp{i}.{part}"].astype(np.float32) for part in ("weight", "bias")] for i in range(header["n_layers"])]
    scalars = {key: header[key] for key in ("feature_frequencies", "density_shift", "distance_scale", "step_voxels")}
    field = TensorfField(
        lattice=Lattice(lo, hi, shape),
        factors=factors,
        color_mlp=tuple((weight, bias) for weight, bias in layers),
        near=header["near"],
        far=header["far"],
        alpha_threshold=header["alpha_threshold"],
        activation=header["activation"],
        **scalars,
    ).field()
    if "allowed" not in arrays:
        return field
    cells = tuple(side - 1 for side in shape)
    return replace(field, allowed=np.unpackbits(arrays["allowed"], count=int(np.prod(cells))).reshape(cells))
