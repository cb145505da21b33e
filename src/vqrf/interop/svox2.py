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

A forward-facing field lies in normalised device coordinates (`vqrf.interop.ndc`). Its last voxels, beyond infinity, are left
out; the last that are left are twice as dense for it. Its harmonics take a ray's direction in these coordinates, which is where
the ray crosses the plane of the mean camera. Ours take the world's: every ray is coloured as one of the mean camera's.

What no checkpoint says, the step and the nearest distance, is in `Sampling`, as is by how much the photos' world is larger:
svox2 trains on Blender's scenes with cameras at 2/3 of their distance. A file that we write says what a float32 would round,
and its cells, under `vqrf` and `vqrf_cells`, which the official loader does not look at.

Paper: Plenoxels (arXiv 2112.05131).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import MAX_VOXELS
from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField, dense_bytes
from vqrf.fields.storage import MAX_FIELD_BYTES
from vqrf.geometry import Float32, Float64, Lattice
from vqrf.interop.archives import Npz, bytes_of_npz
from vqrf.interop.parts import (
    USUAL,
    Imported,
    Outline,
    Sampling,
    expect_box,
    is_finite,
    lattice_of,
    listed,
    reading,
)
from vqrf.interop.values import Refused
from vqrf.kernels.constants import HARMONICS_OF_CHANNELS, LEAST_EXTENT, MAX_COORDINATE, Equation, interval_of_step
from vqrf.memory import expect_room

LINKS, DENSITY, HARMONICS = "links", "density_data", "sh_data"
OWN_KEY, OWN_CELLS = "vqrf", "vqrf_cells"
OWN_NUMBERS = 14
"""lo, hi, the equation's numbers but for the density's bias, and whether the outer voxels were cut off."""

SAME_POWER = 1e-6
"""Binary orders of magnitude by which a ratio may be off a power of two for rounding."""

MAX_INFLATED_BYTES = 1 << 31
"""Most bytes that a file's arrays have together: 512^3 links have a quarter of it."""

BYTES_OF_NUMBER = 12
"""Bytes of a row's number, while it is read: as it is in the file, and as float32."""

SPHERICAL_HARMONICS = 1
"""The `basis_type` that is read; the others are learned."""

THRESHOLD = 1e-4
"""The alpha below which samples do not exist. The official renderer takes all; 1e-6 comes no nearer to its images than this."""

UPSIDE_DOWN = 1.0, -1.0, 1.0
"""Its normalised device coordinates in those of the other programs."""

MIDDLE_HARMONICS = {0: 0.28209479177387814, 2: 0.4886025119029199, 6: 0.63078313050504}
"""Those that are not 0 in the direction (0, 0, 1), which all rays of the mean camera have; see `vqrf.kernels`."""

FLAT_CHANNELS = 12
"""Channels of colours that are the same in all directions: the least that harmonics have."""

SCALE_OF_BLENDER = 1.5
"""Size of the photos' world in units of svox2's, which by default moves the cameras of Blender's scenes to 2/3 of their
distance."""


def load_svox2(path: Path, *, sampling: Sampling = USUAL, max_bytes: int | None = None) -> Imported:
    """Read a checkpoint of svox2.

    Args:
      max_bytes: the budget of memory.

    Raises:
      CheckpointError: the file is damaged, holds anything but numbers, is a field that cannot be ours, or takes more memory.

    Safe for untrusted input.
    """
    npz = Npz(path, path, MAX_INFLATED_BYTES, max_bytes)
    with reading(path):
        opened = _Opened(npz, sampling)
        return Imported(opened.field(max_bytes), opened.outline.facts, 0)


def outline_svox2(path: Path, *, sampling: Sampling = USUAL, max_bytes: int | None = None) -> Outline:
    """What a checkpoint of svox2 says of its field; arguments and errors as of `load_svox2`."""
    npz = Npz(path, path, MAX_INFLATED_BYTES, max_bytes)
    with reading(path):
        return _Opened(npz, sampling).outline


class _Opened:
    """A checkpoint of which the small arrays are read.

    Attributes:
      part: of the lattice, what is taken.
      own: the numbers that we wrote, or None.
    """

    def __init__(self, npz: Npz, sampling: Sampling) -> None:
        self.npz = npz
        _expect_known(npz)
        shape = self._shape(LINKS, (-1, -1, -1), "i")
        n_rows, n_channels = self._table_shape()
        radius, center = (
            self._array(key, (3,)).astype(np.float64) if key in npz else np.full(3, missing)
            for key, missing in (("radius", 1.0), ("center", 0.0))
        )
        if min(shape) < 2 or not ((radius >= LEAST_EXTENT) & (radius <= MAX_COORDINATE)).all():
            raise Refused(f"radius, links: expected a box and 2 voxels on each side, got {radius.tolist()}, {list(shape)}")
        edges = 2 * radius / shape
        edge = math.cbrt(float(np.prod(edges)))
        self.step = sampling.step() * edge
        self.part = self._part_in_use(shape, n_channels)
        low, high = (
            center - radius + edges * np.array([end + beyond for end in ends])
            for ends, beyond in (([axis.start for axis in self.part], -0.5), ([axis.stop for axis in self.part], 0.5))
        )
        self.padded = tuple(axis.stop - axis.start + 2 for axis in self.part)
        self.is_front = sampling.is_front(self._sign_of_front(radius, center))
        if self.is_front and sampling.scale != 1:
            raise Refused("--scale: the photos of a forward-facing scene say how large its world is")
        scale = sampling.scale
        self.equation = Equation(
            density_bias=0.0,
            interval=interval_of_step(self.step, edge),
            step_world=self.step * scale,
            near=sampling.near,
            alpha_threshold=THRESHOLD,
            background=(1.0, 1.0, 1.0),
            shading="sh_relu",
            activation="relu",
        )
        self.own: list[float] | None = self._array(OWN_KEY, (OWN_NUMBERS,)).tolist() if OWN_KEY in npz else None
        lattice, equation = lattice_of(low * scale, high * scale, self.padded), self.equation
        if self.is_front:
            lattice = self._in_front(sampling, low, high - [0, 0, edges[2]])
        if self.own is not None:
            sides = self.padded if self.own[-1] else tuple(side - 2 for side in self.padded)
            lattice = lattice_of(self.own[:3], self.own[3:6], sides)
            equation = equation.with_numbers([equation.density_bias, *self.own[6:13]])
        space = "front" if self.is_front else "box"
        facts = {"kind": "svox2 checkpoint", "reso": list(shape), "rows": n_rows, "space": space}
        self.outline = Outline(lattice, FLAT_CHANNELS if self.is_front else n_channels, (), equation, facts)

    def _sign_of_front(self, radius: Float64, center: Float64) -> str | None:
        """What looks as the official loader of LLFF's scenes makes it; None where nothing does."""
        is_odd = radius[2] == 1 < radius[:2].min() and not center.any() and OWN_KEY not in self.npz
        return f"radius: {radius.tolist()}" if is_odd else None

    def _in_front(self, sampling: Sampling, low: Float64, high: Float64) -> Lattice:
        """The lattice of a forward-facing field, without the voxels beyond infinity."""
        x, y, z = self.padded
        self.padded = x, y, z - 1
        return sampling.expect_ndc("--space front").lattice(low, high, self.padded, UPSIDE_DOWN)

    def field(self, max_bytes: int | None) -> RadianceField:
        n_rows, n_channels = self.outline.facts["rows"], self.outline.n_channels
        n_bytes = (
            dense_bytes(self.padded, n_channels) + 4 * math.prod(self.padded) + BYTES_OF_NUMBER * n_rows * (1 + n_channels)
        )
        what = f"{LINKS}: a lattice of {list(self.outline.facts['reso'])} voxels is too large: it"
        expect_room(n_bytes, max_bytes, what)
        stored, harmonics = self._table()
        stored = np.ldexp(stored, -_power(self.equation.interval / self.step))
        rows = np.pad(self._rows(n_rows), 1, mode="edge")
        if self.is_front:
            rows, harmonics = rows[..., :-1], _along_the_middle(harmonics)
        density, features = np.zeros(self.padded, np.float32), np.zeros((*self.padded, n_channels), np.float32)
        for x, slab in enumerate(rows):
            full = slab >= 0
            density[x][full], features[x][full] = stored[slab[full]], harmonics[slab[full]]
        if self.is_front:
            density[..., -1] *= 2  # the half of a voxel behind it, too
        if not np.isfinite(density).all():
            raise Refused(f"{DENSITY}: has a value that is too great")
        if self.own is not None and not self.own[-1]:
            inner = (slice(1, -1),) * 3
            density, features = np.ascontiguousarray(density[inner]), np.ascontiguousarray(features[inner])
        allowed = None
        if self.own is not None and OWN_CELLS in self.npz:
            cells = [side - 1 for side in self.outline.lattice.shape]
            packed = self._array(OWN_CELLS, (-(-math.prod(cells) // 8),), "u")
            allowed = np.unpackbits(packed, count=math.prod(cells)).reshape(cells)
        return RadianceField(self.outline.lattice, density, features, (), self.outline.equation, allowed)

    def _shape(self, key: str, shape: tuple[int, ...], kinds: str = "f") -> tuple[int, ...]:
        """The sides of an array of that shape, where -1 is any side."""
        if key not in self.npz:
            raise Refused(f"{key}: is missing; there are {listed(self.npz.keys)}")
        found = self.npz.header(key)
        fits = len(found.shape) == len(shape) and all(w in (-1, side) for w, side in zip(shape, found.shape, strict=True))
        if not fits or found.dtype.kind not in kinds:
            if found.dtype == np.dtype(object):
                self.npz.array(key)  # which says what is in it, if that is worse
            raise Refused(f"{key}: expected shape {list(shape)}, got {found.dtype} {list(found.shape)}")
        return found.shape

    def _array(self, key: str, shape: tuple[int, ...], kinds: str = "f") -> NDArray[Any]:
        """An array of that shape, whose values are finite."""
        self._shape(key, shape, kinds)
        array: NDArray[Any] = self.npz.array(key)
        if not is_finite(array):
            raise Refused(f"{key}: has a value that is not finite")
        return array

    def _table_shape(self) -> tuple[int, int]:
        """Rows and coefficients of each."""
        if self._is_old():
            n_rows, n_columns = self._shape("data", (-1, -1))
            n_densities, n_channels = n_rows, n_columns - 1
        else:
            n_densities, (n_rows, n_channels) = self._shape(DENSITY, (-1, 1))[0], self._shape(HARMONICS, (-1, -1))
        if n_densities != n_rows or n_channels not in HARMONICS_OF_CHANNELS:
            found = f"{n_densities} densities and {n_rows} rows of {n_channels}"
            raise Refused(f"{DENSITY}, {HARMONICS}: expected as many rows, of 12 or 27 coefficients, got {found}")
        return n_rows, n_channels

    def _is_old(self) -> bool:
        """Whether density and coefficients are one array."""
        return DENSITY not in self.npz and "data" in self.npz

    def _table(self) -> tuple[Float32, Float32]:
        """Density [N] and coefficients [N,C] of the rows."""
        if self._is_old():
            both = self._array("data", (-1, -1)).astype(np.float32)
            return both[:, 0], np.ascontiguousarray(both[:, 1:])
        density, harmonics = self._array(DENSITY, (-1, 1))[:, 0], self._array(HARMONICS, (-1, -1))
        return density.astype(np.float32), harmonics.astype(np.float32, copy=False)

    def _slabs(self) -> Iterator[NDArray[Any]]:
        """The links [Y,Z] of each x."""
        return iter(self.npz.array(LINKS)) if self.npz.header(LINKS).is_fortran else self.npz.slabs(LINKS)

    def _rows(self, n_rows: int) -> NDArray[np.int32]:
        """The row of each voxel of the part, or -1."""
        rows = np.empty([axis.stop - axis.start for axis in self.part], np.int32)
        for x, slab in enumerate(self._slabs()):
            if slab.size and int(slab.max()) >= n_rows:
                place = np.unravel_index(int(slab.argmax()), slab.shape)
                raise Refused(f"{LINKS}: at {[x, *(int(i) for i in place)]}, row {int(slab.max())} of {n_rows}")
            if self.part[0].start <= x < self.part[0].stop:
                rows[x - self.part[0].start] = np.maximum(slab[self.part[1:]], -1)
        return rows

    def _part_in_use(self, shape: tuple[int, ...], n_channels: int) -> tuple[slice, ...]:
        """All of the lattice, or where it is too large, as much as has something in it or next to it."""
        if _grid_bytes(shape, n_channels) <= MAX_FIELD_BYTES:
            return tuple(slice(0, side) for side in shape)
        if math.prod(shape) > MAX_VOXELS:
            raise Refused(f"{LINKS}: a lattice of {list(shape)} voxels is too large")
        used = [np.zeros(side, bool) for side in shape]
        for x, slab in enumerate(self._slabs()):
            full = slab >= 0
            used[0][x] = full.any()
            used[1] |= full.any(1)
            used[2] |= full.any(0)
        part = tuple(_around(axis) for axis in used)
        if _grid_bytes(tuple(axis.stop - axis.start for axis in part), n_channels) > MAX_FIELD_BYTES:
            raise Refused(f"{LINKS}: a lattice of {[axis.stop - axis.start for axis in part]} voxels is too large")
        return part


def _around(used: NDArray[np.bool_]) -> slice:
    """From the place before the first that is used to the one after the last; all of them where none is."""
    places = np.flatnonzero(used)
    return slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, len(used))) if len(places) else slice(0, len(used))


def _along_the_middle(harmonics: Float32) -> Float32:
    """Coefficients [N,12] of the same colours in all directions: those of [N,12] or [N,27] in the mean camera's."""
    n = HARMONICS_OF_CHANNELS[harmonics.shape[1]]
    made = np.zeros((len(harmonics), 3, FLAT_CHANNELS // 3), np.float32)
    for k, worth in MIDDLE_HARMONICS.items():
        if k < n:
            made[..., 0] += harmonics.reshape(-1, 3, n)[..., k] * np.float32(worth / MIDDLE_HARMONICS[0])
    return made.reshape(-1, FLAT_CHANNELS)


def _expect_known(npz: Npz) -> None:
    for key, meaning in (("background_links", "layers of background"), ("basis_data", "a learned basis")):
        if key in npz:
            raise Refused(f"{key}: has {meaning}, which is not read")
    if "basis_type" not in npz:
        return
    header = npz.header("basis_type")
    if header.shape or header.dtype.kind not in "iu":
        raise Refused(f"basis_type: expected one whole number, got {header.dtype} {list(header.shape)}")
    if (kind := int(npz.array("basis_type"))) != SPHERICAL_HARMONICS:
        raise Refused(f"basis_type: expected spherical harmonics, got {kind}")


def _grid_bytes(shape: tuple[int, ...], n_channels: int) -> int:
    """Bytes of the padded grids."""
    return 4 * math.prod(side + 2 for side in shape) * (1 + n_channels)


def _power(ratio: float) -> int:
    """The exponent of the least power of two that is not below the ratio, rounding aside."""
    return math.ceil(math.log2(ratio) - SAME_POWER)


# ------------------------------------------------------------------------------------------------------------ out


def bytes_of_svox2(field: RadianceField) -> bytes:
    """A `ckpt.npz` that svox2 reads, and `load_svox2` reads back to the very same arrays.

    It is in a world in which its density is ours times a power of two: the one that the field came from, or was trained in.
    Where there is no float16 that is the same, coefficients are float32, which svox2 takes too.

    Raises:
      ValueError: the field is none of Plenoxels', or in no box.
    """
    expect_box(field.lattice)
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
