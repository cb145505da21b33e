"""Factored fields: density and features of a lattice as sums of products of planes and lines.

`Factors` is `vqrf.kernels.FactorArrays`, where the formula is, in plain NumPy and checked. A plane interpolated on its two
axes times a line interpolated on the third is trilinear, so factors say exactly what the dense lattice says that `expand`
makes of them, also between the voxels: whatever takes a `RadianceField` takes what they stand for. The kernels of rays draw
both, to the same pixels but for rounding.

Paper: TensoRF (arXiv 2203.09517), the VM decomposition. A sum of products of three lines, its CP, is one in which every plane
is a product of two lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqrf.geometry import Float32
from vqrf.kernels import PLANE_AXES, FactorArrays


@dataclass(frozen=True, eq=False)
class Factors(FactorArrays):
    """Factors of a lattice, all float32.

    Raises:
      ValueError: the shapes make no lattice, there is no component of density or none of features, or a value is not finite.
    """

    planes: tuple[Float32, Float32, Float32]
    lines: tuple[Float32, Float32, Float32]
    mix: Float32

    def __post_init__(self) -> None:
        if len(self.planes) != 3 or len(self.lines) != 3:
            raise ValueError(f"planes, lines: expected 3 of each, got {len(self.planes)} and {len(self.lines)}")
        if any(line.ndim != 2 for line in self.lines) or self.mix.ndim != 3:
            raise ValueError("lines, mix: expected [N,R] and [3,R_f,C]")
        rank, shape = self.lines[0].shape[1], self.shape
        for p, (first, second, last) in enumerate(PLANE_AXES):
            for name, array, expected in (
                ("planes", self.planes[p], (shape[first], shape[second], rank)),
                ("lines", self.lines[p], (shape[last], rank)),
            ):
                if array.shape != expected:
                    raise ValueError(f"{name} {p}: expected {list(expected)}, got {list(array.shape)}")
        if self.mix.shape[0] != 3 or not 1 <= self.mix.shape[1] < rank or self.mix.shape[2] < 1:
            raise ValueError(f"mix: expected [3,R_f,C] with R_f of 1 to {rank - 1}, got {list(self.mix.shape)}")
        if not all(np.isfinite(array).all() for array in (*self.planes, *self.lines, self.mix)):
            raise ValueError("the factors have a value that is not finite")

    @property
    def shape(self) -> tuple[int, int, int]:
        """X, Y, Z of the lattice."""
        return len(self.lines[2]), len(self.lines[1]), len(self.lines[0])

    @property
    def n_density(self) -> int:
        """Components of the density on each plane."""
        return int(self.lines[0].shape[1]) - self.n_features

    @property
    def n_features(self) -> int:
        """Components of the features on each plane."""
        return int(self.mix.shape[1])

    @property
    def n_channels(self) -> int:
        return int(self.mix.shape[2])

    @property
    def n_values(self) -> int:
        """Numbers in planes, lines and mix together."""
        return sum(array.size for array in (*self.planes, *self.lines, self.mix))


@dataclass(frozen=True, eq=False)
class LineFactors:
    """Sums of products of three lines: TensoRF's CP. Component r is line_0[z,r] * line_1[y,r] * line_2[x,r].

    Attributes:
      lines: [Z,R], [Y,R], [X,R] float32: the components of the density, then the R_f of the features.
      mix: [R_f,C] float32.

    Raises:
      ValueError: shapes disagree, there is no component of density or none of features, or a value is not finite.
    """

    lines: tuple[Float32, Float32, Float32]
    mix: Float32

    def __post_init__(self) -> None:
        if len(self.lines) != 3 or any(line.ndim != 2 for line in self.lines) or self.mix.ndim != 2:
            raise ValueError("lines, mix: expected three of [N,R], and [R_f,C]")
        rank = self.lines[0].shape[1]
        if any(line.shape[1] != rank for line in self.lines):
            raise ValueError(f"lines: expected {rank} components, got {[line.shape[1] for line in self.lines]}")
        if not 1 <= self.n_features < rank or self.n_channels < 1:
            raise ValueError(f"mix: expected [R_f,C] with R_f of 1 to {rank - 1}, got {list(self.mix.shape)}")
        if not all(np.isfinite(array).all() for array in (*self.lines, self.mix)):
            raise ValueError("the factors have a value that is not finite")

    @property
    def shape(self) -> tuple[int, int, int]:
        """X, Y, Z of the lattice."""
        return len(self.lines[2]), len(self.lines[1]), len(self.lines[0])

    @property
    def n_density(self) -> int:
        return int(self.lines[0].shape[1]) - self.n_features

    @property
    def n_features(self) -> int:
        return int(self.mix.shape[0])

    @property
    def n_channels(self) -> int:
        return int(self.mix.shape[1])

    @property
    def n_values(self) -> int:
        return sum(array.size for array in (*self.lines, self.mix))

    def with_planes(self) -> Factors:
        """The same as planes and lines: each third of the components on other planes, those that are missing are 0."""
        n_density, n_features = -(-self.n_density // 3), -(-self.n_features // 3)
        mix = np.zeros((3 * n_features, self.n_channels), np.float32)
        mix[: self.n_features] = self.mix
        z, y, x = (self._thirds(line, n_density, n_features) for line in self.lines)
        of_axis = (x, y, z)
        planes = [of_axis[a][p][:, None] * of_axis[b][p] for p, (a, b, _) in enumerate(PLANE_AXES)]
        lines = [of_axis[c][p] for p, (*_, c) in enumerate(PLANE_AXES)]
        return Factors((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), mix.reshape(3, n_features, -1))

    def _thirds(self, line: Float32, n_density: int, n_features: int) -> Float32:
        """[3,N,n_density + n_features]: components by the plane that they go to."""
        density = np.zeros((len(line), 3 * n_density), np.float32)
        features = np.zeros((len(line), 3 * n_features), np.float32)
        density[:, : self.n_density], features[:, : self.n_features] = np.split(line, [self.n_density], axis=1)
        thirds = [part.reshape(len(line), 3, -1).transpose(1, 0, 2) for part in (density, features)]
        return np.ascontiguousarray(np.concatenate(thirds, axis=2))


def expand(factors: Factors, marks: NDArray[np.uint8] | None = None) -> tuple[Float32, Float32]:
    """The density [X,Y,Z] and features [X,Y,Z,C] that factors stand for.

    Args:
      marks: [X,Y,Z] uint8: voxels that are wanted, the others are 0; None for all.

    Twin: `vqrf.kernels.reference.expand_factors`, whose compiled counterpart is faster.

    >>> ones = [np.ones((2, 2, 2), np.float32)] * 3, [np.ones((2, 2), np.float32)] * 3
    >>> density, features = expand(Factors(tuple(ones[0]), tuple(ones[1]), np.full((3, 1, 4), 0.5, np.float32)))
    >>> float(density[1, 0, 1]), features[1, 0, 1].tolist()
    (3.0, [1.5, 1.5, 1.5, 1.5])
    """
    density, features = np.zeros(factors.shape, np.float32), np.zeros((*factors.shape, factors.n_channels), np.float32)
    (xy, xz, yz), (of_z, of_y, of_x) = factors.planes, factors.lines
    for x in range(factors.shape[0]):  # one plane of the lattice at a time: all components of all voxels would not fit
        products = (xy[x][:, None] * of_z, of_y[:, None] * xz[x], yz * of_x[x])  # [Y,Z,R] each
        for product, by_channel in zip(products, factors.mix, strict=True):
            density[x] += product[..., : factors.n_density].sum(-1)
            features[x] += product[..., factors.n_density :] @ by_channel
    if marks is not None:
        density[marks == 0], features[marks == 0] = 0, 0
    return density, features


def truncate(factors: Factors, n_density: int, n_features: int) -> Factors:
    """Factors of fewer components: the strongest of the features, and as many that together come nearest to the density.

    On each plane, the density is a matrix of voxels of the plane by voxels of the line: by Eckart and Young, its largest
    singular values are the nearest that so few components can be. Components of the features are bound to rows of the mix,
    and stay as they are: those stay whose products with all channels have the greatest norm.

    Args:
      n_density, n_features: components to keep on each plane, from 1 to what there are.

    Raises:
      ValueError: that many there are not, or none would be left.

    Source: CCNeRF (arXiv 2205.14870), which trains fields so that a tail of the components can be dropped. Departs: takes any
    field, and chooses.
    """
    _expect_components(factors, n_density, n_features)
    planes, lines, mix = [], [], []
    for plane, line, by_channel in zip(factors.planes, factors.lines, factors.mix, strict=True):
        (of_plane, plane_features), (of_line, line_features) = (np.split(a, [factors.n_density], -1) for a in (plane, line))
        nearest = nearest_products(of_plane.reshape(-1, factors.n_density), of_line, n_density)
        strongest = _strongest((plane_features, line_features, by_channel.T), n_features)
        kept = nearest[0].reshape(*plane.shape[:2], n_density), nearest[1]
        planes.append(np.concatenate([kept[0], plane_features[..., strongest]], -1))
        lines.append(np.concatenate([kept[1], line_features[:, strongest]], -1))
        mix.append(by_channel[strongest])
    return Factors((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), np.stack(mix))


def truncate_lines(factors: LineFactors, n_density: int, n_features: int) -> LineFactors:
    """The same of lines alone: of density and of features those components stay whose products have the greatest norm.

    A sum of products of three lines has no nearest of fewer that is known how to find, so none is made anew.

    Raises:
      ValueError: that many there are not, or none would be left.
    """
    _expect_components(factors, n_density, n_features)
    halves = [np.split(line, [factors.n_density], axis=1) for line in factors.lines]
    of_density = _strongest(tuple(density for density, _ in halves), n_density)
    of_features = _strongest((*(features for _, features in halves), factors.mix.T), n_features)
    z, y, x = (np.concatenate([density[:, of_density], features[:, of_features]], 1) for density, features in halves)
    return LineFactors((z, y, x), factors.mix[of_features])


def _expect_components(factors: Factors | LineFactors, n_density: int, n_features: int) -> None:
    if not 1 <= n_density <= factors.n_density or not 1 <= n_features <= factors.n_features:
        limits = f"1..{factors.n_density} and 1..{factors.n_features}"
        raise ValueError(f"components: expected {limits}, got {n_density} and {n_features}")


def _strongest(arrays: tuple[Float32, ...], n: int) -> NDArray[np.int64]:
    """The numbers, in order, of the n columns (last axis) whose product over all arrays has the greatest norm."""
    norms = [np.linalg.norm(a, axis=tuple(range(a.ndim - 1))) for a in arrays]
    return np.sort(np.argsort(-np.prod(norms, axis=0), kind="stable")[:n])


def nearest_products(left: Float32, right: Float32, n: int) -> tuple[Float32, Float32]:
    """[A,n] and [B,n] whose products of columns sum up to the nearest of `left @ right.T` that n of them make."""
    (left_basis, left_rest), (right_basis, right_rest) = (np.linalg.qr(a.astype(np.float64)) for a in (left, right))
    u, values, v = np.linalg.svd(left_rest @ right_rest.T)
    root = np.zeros(n)  # where a side has fewer voxels than there are components, the others are 0
    n_found = min(n, len(values))
    root[:n_found] = np.sqrt(values[:n_found])
    ends = [
        np.pad(basis @ part[:, :n], ((0, 0), (0, n - min(n, part.shape[1]))))
        for basis, part in ((left_basis, u), (right_basis, v.T))
    ]
    return (ends[0] * root).astype(np.float32), (ends[1] * root).astype(np.float32)
