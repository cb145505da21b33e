"""svox2's checkpoints, the official code of Plenoxels: `ckpt.npz`, in and out.

Theirs and ours: `links` [X,Y,Z] names the row of each voxel in `density_data` [N,1] and `sh_data` [N,27]; a negative link, any
negative number, is a voxel where nothing is, which is worth 0. `radius` and `center` place the box. Density goes through a ReLU
after interpolation, colour is harmonics through a ReLU (`vqrf.kernels`, "relu" and "sh_relu").

Grids are centred in their box, and what is beyond the outer voxels is as they are. So ours has one more voxel on every side,
which repeats the outer one; written out again, it is cut off. Rays then begin half a voxel earlier, which moves their samples,
and their step is one length in the world: in svox2 it is one in voxels, which differs where voxels are no cubes. Of a lattice
that is too large, the empty outside is left out.

Official density is per unit of the world. Ours is it times the power of two that is nearest to a voxel's edge, to the bit, so
that it is of a size that optimisers and quantisers are made for.

What no checkpoint says, the step and the nearest distance, is in `Sampling`, as is by how much the photos' world is larger:
svox2 trains on Blender's scenes with cameras at 2/3 of their distance. A file that we write says what a float32 would round,
and its cells, under `vqrf` and `vqrf_cells`, which the official loader does not look at.

Paper: Plenoxels (arXiv 2112.05131).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import MAX_FIELD_BYTES
from vqrf.geometry import Float32, Lattice
from vqrf.interop.archives import CheckpointError, bytes_of_npz, load_npz
from vqrf.interop.dvgo import USUAL, Imported, Sampling
from vqrf.interop.pickles import Refused
from vqrf.kernels.constants import HARMONICS_OF_CHANNELS, Equation, interval_of_step

LINKS, DENSITY, HARMONICS = "links", "density_data", "sh_data"
OWN_KEY, OWN_CELLS = "vqrf", "vqrf_cells"
OWN_NUMBERS = 14
"""lo, hi, the equation's numbers but for the density's bias, and whether the outer voxels were cut off."""

SAME_POWER = 1e-6
"""Binary orders of magnitude by which a ratio may be off a power of two for rounding."""

MAX_INFLATED_BYTES = 1 << 31
"""Most bytes that a file's arrays have together: 512^3 links have a quarter of it."""

SPHERICAL_HARMONICS = 1
"""The `basis_type` that is read; the others are learned."""

THRESHOLD = 1e-4
"""The alpha below which samples do not exist. The official renderer takes all; 1e-6 comes no nearer to its images than this."""

SCALE_OF_BLENDER = 1.5
"""Size of the photos' world in units of svox2's, which by default moves the cameras of Blender's scenes to 2/3 of their
distance."""

Arrays: TypeAlias = dict[str, Any]


def load_svox2(path: Path, *, sampling: Sampling = USUAL) -> Imported:
    """Read a checkpoint of svox2.

    Raises:
      CheckpointError: the file is damaged, holds anything but numbers, or is a field that cannot be ours.

    Safe for untrusted input.
    """
    arrays = load_npz(path, path, max_inflated=MAX_INFLATED_BYTES)
    try:
        return _imported(arrays, sampling)
    except CheckpointError:
        raise
    except ValueError as error:  # Refused, and what Lattice and RadianceField say
        raise CheckpointError(path, str(error)) from error


def _array(arrays: Arrays, key: str, shape: tuple[int, ...], kinds: str = "f") -> NDArray[Any]:
    """An array of that shape, where -1 is any side, whose values are finite."""
    array = arrays.get(key)
    if not isinstance(array, np.ndarray):
        raise Refused(f"{key}: is missing, or is no array")
    fits = array.ndim == len(shape) and all(want in (-1, side) for want, side in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in kinds:
        raise Refused(f"{key}: expected shape {list(shape)}, got {array.dtype} {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(f"{key}: has a value that is not finite")
    return array


def _table(arrays: Arrays) -> tuple[Float32, Float32]:
    """Density [N] and coefficients [N,C] of the rows."""
    if DENSITY not in arrays and "data" in arrays:  # an older layout
        both = _array(arrays, "data", (-1, -1))
        density, harmonics = both[:, 0], both[:, 1:]
    else:
        density, harmonics = _array(arrays, DENSITY, (-1, 1))[:, 0], _array(arrays, HARMONICS, (-1, -1))
    if len(density) != len(harmonics) or harmonics.shape[1] not in HARMONICS_OF_CHANNELS:
        shapes = f"{list(density.shape)} and {list(harmonics.shape)}"
        raise Refused(f"{DENSITY}, {HARMONICS}: expected as many rows, of 12 or 27 coefficients, got {shapes}")
    return density.astype(np.float32), harmonics.astype(np.float32)


def _links(arrays: Arrays, n_rows: int) -> NDArray[Any]:
    links = _array(arrays, LINKS, (-1, -1, -1), "i")
    if links.size and int(links.max()) >= n_rows:
        place = np.unravel_index(int(links.argmax()), links.shape)
        raise Refused(f"{LINKS}: at {[int(i) for i in place]}, row {int(links.max())} of {n_rows}")
    return links


def _part_in_use(links: NDArray[Any], n_channels: int) -> tuple[slice, ...]:
    """All of the lattice, or where it is too large, as much as has something in it or next to it."""
    part = tuple(slice(0, side) for side in links.shape)
    if _grid_bytes(links.shape, n_channels) > MAX_FIELD_BYTES:
        for axis in range(3):
            used = np.flatnonzero((links >= 0).any(tuple({0, 1, 2} - {axis})))
            if len(used):
                near = slice(max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, links.shape[axis]))
                part = (*part[:axis], near, *part[axis + 1 :])
    if _grid_bytes(links[part].shape, n_channels) > MAX_FIELD_BYTES:
        raise Refused(f"{LINKS}: a lattice of {list(links[part].shape)} voxels is too large")
    return part


def _grid_bytes(shape: tuple[int, ...], n_channels: int) -> int:
    """Bytes of the padded grids."""
    return 4 * math.prod(side + 2 for side in shape) * (1 + n_channels)


def _imported(arrays: Arrays, sampling: Sampling) -> Imported:
    for key, meaning in (("background_links", "layers of background"), ("basis_data", "a learned basis")):
        if key in arrays:
            raise Refused(f"{key}: has {meaning}, which is not read")
    if "basis_type" in arrays and int(_array(arrays, "basis_type", (), "iu")) != SPHERICAL_HARMONICS:
        raise Refused(f"basis_type: expected spherical harmonics, got {int(arrays['basis_type'])}")
    density, harmonics = _table(arrays)
    links = _links(arrays, len(density))
    radius, center = (
        _array(arrays, key, (3,)).astype(np.float64) if key in arrays else np.full(3, missing)
        for key, missing in (("radius", 1.0), ("center", 0.0))
    )
    if min(links.shape) < 2 or not (radius > 0).all():
        raise Refused(f"radius, links: expected a box and 2 voxels on each side, got {radius.tolist()}, {list(links.shape)}")
    edges = 2 * radius / links.shape
    edge = math.cbrt(float(np.prod(edges)))
    step = sampling.step_voxels * edge
    part = _part_in_use(links, harmonics.shape[1])
    rows = np.pad(links[part], 1, mode="edge")
    low = (center - radius + edges * np.array([axis.start - 0.5 for axis in part])) * sampling.scale
    high = (center - radius + edges * np.array([axis.stop + 0.5 for axis in part])) * sampling.scale
    full = rows >= 0
    field = RadianceField(
        lattice=Lattice(tuple(low.tolist()), tuple(high.tolist()), rows.shape),
        density=np.zeros(rows.shape, np.float32),
        features=np.zeros((*rows.shape, harmonics.shape[1]), np.float32),
        color_mlp=(),
        equation=Equation(
            density_bias=0.0,
            interval=interval_of_step(step, edge),
            step_world=step * sampling.scale,
            near=sampling.near,
            alpha_threshold=THRESHOLD,
            background=(1.0, 1.0, 1.0),
            shading="sh_relu",
            activation="relu",
        ),
    )
    field.density[full] = np.ldexp(density, -_power(field.equation.interval / step))[rows[full]]
    field.features[full] = harmonics[rows[full]]
    if not np.isfinite(field.density).all():
        raise Refused(f"{DENSITY}: has a value that is too great")
    facts = {"kind": "svox2 checkpoint", "reso": list(links.shape), "rows": len(density)}
    return Imported(_with_own(field, arrays) if OWN_KEY in arrays else field, facts, 0)


def _power(ratio: float) -> int:
    """The exponent of the least power of two that is not below the ratio, rounding aside."""
    return math.ceil(math.log2(ratio) - SAME_POWER)


def _with_own(field: RadianceField, arrays: Arrays) -> RadianceField:
    own = _array(arrays, OWN_KEY, (OWN_NUMBERS,)).tolist()
    if own[-1] == 0:
        inner = (slice(1, -1),) * 3
        field = replace(
            field,
            lattice=Lattice(field.lattice.lo, field.lattice.hi, field.density[inner].shape),
            density=np.ascontiguousarray(field.density[inner]),
            features=np.ascontiguousarray(field.features[inner]),
        )
    allowed = None
    if OWN_CELLS in arrays:
        cells = [side - 1 for side in field.lattice.shape]
        packed = _array(arrays, OWN_CELLS, (-(-math.prod(cells) // 8),), "u")
        allowed = np.unpackbits(packed, count=math.prod(cells)).reshape(cells)
    return replace(
        field,
        lattice=Lattice(tuple(own[:3]), tuple(own[3:6]), field.lattice.shape),
        equation=field.equation.with_numbers([field.equation.density_bias, *own[6:13]]),
        allowed=allowed,
    )


# ------------------------------------------------------------------------------------------------------------ out


def bytes_of_svox2(field: RadianceField) -> bytes:
    """A `ckpt.npz` that svox2 reads, and `load_svox2` reads back to the very same arrays.

    It is in a world in which its density is ours times a power of two: the one that the field came from, or was trained in.
    Where there is no float16 that is the same, coefficients are float32, which svox2 takes too.

    Raises:
      ValueError: the field is none of Plenoxels'.
    """
    equation = field.equation
    if (equation.shading, equation.activation, equation.density_bias) != ("sh_relu", "relu", 0):
        raise ValueError("svox2 has a ReLU on density without a bias, and harmonics with a ReLU")
    is_padded = _repeats_its_border(field)
    inner = (slice(1, -1),) * 3 if is_padded else (slice(None),) * 3
    density, features = field.density[inner], field.features[inner]
    full = active_voxels(field)[inner] & ((density != 0) | (features != 0).any(-1))
    links = np.full(density.shape, -1, np.int32)
    links[full] = np.arange(np.count_nonzero(full))
    power = _power(equation.interval / equation.step_world)
    scale = equation.interval / equation.step_world / 2.0**power
    shape = np.array(density.shape)
    edges = field.lattice.extent / (np.array(field.lattice.shape) - 1)
    center = (np.array(field.lattice.lo) + np.array(field.lattice.hi)) / 2
    coefficients, halves = features[full], features[full].astype(np.float16)
    lattice = field.lattice
    numbers = equation.numbers()[1:]  # without the density's bias, which is 0
    own = {OWN_KEY: np.array([*lattice.lo, *lattice.hi, *numbers, float(is_padded)])}
    if field.allowed is not None:
        own[OWN_CELLS] = np.packbits(field.allowed)
    return bytes_of_npz(
        {
            "radius": (edges * shape / 2 * scale).astype(np.float32),
            "center": (center * scale).astype(np.float32),
            LINKS: links,
            DENSITY: np.ldexp(density[full], power)[:, None],
            HARMONICS: halves if np.array_equal(halves, coefficients) else coefficients,
            "basis_type": np.array(SPHERICAL_HARMONICS),
            **own,
        }
    )


def _repeats_its_border(field: RadianceField) -> bool:
    """Whether the outer voxels are those inside of them again, as `load_svox2` makes them."""
    if min(field.lattice.shape) < 4 or field.allowed is not None:
        return False
    for grid in (field.density, field.features):
        for axis in range(3):
            for outer, inner in ((0, 1), (-1, -2)):
                if not np.array_equal(np.take(grid, outer, axis), np.take(grid, inner, axis)):
                    return False
    return True
