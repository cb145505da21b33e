"""The kernel contract: small functions, arrays in, arrays out, each with a readable twin.

`reference` (PyTorch, any device, differentiable) *defines* every result. The compiled core computes the same on the CPU,
faster, and so does `warp` on a graphics card; both are held against the reference by the tests. `select(device)` answers with
the back end to use (`contract`): the reference, which is slower and otherwise the same, stands in for one that is missing and
for what it cannot do.

Notation, used by every kernel:

    lattice      shape (X,Y,Z); voxel coordinate u = (x - lo) / (hi - lo) * (shape - 1) of world point x
    cell         the box between 8 voxels, numbered by its lowest one: floor(u), clamped to 0..shape-2
    density d    raw value at u, trilinear between the cell's voxels
    alpha        1 - exp(-interval * softplus(d + density_bias)), that is 1 - (1 + exp(d + density_bias)) ^ (-interval);
                 with the activation "relu", 1 - exp(-interval * max(d + density_bias, 0))
    samples      x_i = o + (t_0 + i * step_world) * dir for i = 0, 1, ... while t <= t_1; [t_0, t_1] is where the ray is inside
                 the lattice, t_0 at least `near`. `dir` is of unit length. No jitter: an image is a pure function.
                 In a space that is no box, a ray's way through places is one straight piece after the other, seven at most;
                 o and dir are those of a piece, t counts from where the ray enters, and goes on from piece to piece.
                 A step of places is as opaque wherever it is: far off, where it is a long way of the world, too
    live sample  one in an occupied cell with alpha > alpha_threshold; every other sample is as if it were not there
    weight       w_i = T_i * alpha_i over the live samples; T_0 = 1, T_{i+1} = T_i * (1 - alpha_i)
    early stop   after the first live sample that leaves T < STOP_TRANSMITTANCE; it is the last one
    shaded       a live sample with weight > alpha_threshold: only these have a colour
    color        sigmoid(color_mlp(inputs)), or sigmoid(features) when there are no layers (then C = 3);
                 with the shading "sh", of n = C / 3 harmonics, channel c is sigmoid(sum_k Y_k(dir) * features[c * n + k]),
                 with "sh_relu" max(0.5 + sum_k Y_k(dir) * features[c * n + k], 0), which may be above 1
    harmonics Y  real, of degree 0 to 1 (n = 4) or 2 (n = 9); with dir = (x, y, z)
                 Y_0 = 0.282095, Y_1..3 = 0.488603 * (-y, z, -x),
                 Y_4..8 = 1.092548 * (xy, -yz, (2zz - xx - yy) / sqrt(12), -xz, (xx - yy) / 2)
    inputs       [features, dir, sin(dir * 2^k), cos(dir * 2^k), sin(features * 2^j), cos(features * 2^j)], k = 0..n-1 and
                 j = 0..F-1, each block axis-major: x2^0 x2^1 ... y2^0 ...; F is `feature_frequencies`
    pixel        sum over shaded samples of w_i * color_i + background_weight * background;
                 background_weight = T after the last live sample

Sources: DirectVoxGO (arXiv 2111.11215) sec. 3 and 4 for the density activation and the two thresholds; Plenoxels (arXiv
2112.05131) for "relu" and "sh_relu"; VQRF (arXiv 2211.16386) for the importance. Departs: DVGO skips by a nearest-voxel mask,
ours is by cell, so that skipping is exact: a cell whose 8 densities are all too low for `alpha_threshold` holds no live sample
(see `find_cells`).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from vqrf.geometry import Lattice, Space, longest_way
from vqrf.kernels.constants import MAX_SAMPLES, Equation

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeVar

    from vqrf.kernels.contract import Backend

    A = TypeVar("A", NDArray[Any], Tensor, default=NDArray[Any])
else:
    from typing import TypeVar

    A = TypeVar("A")
"""One kind of `Array`: what a kernel answers is of the kind of its first array. `Volume` alone is one of NumPy arrays,
`Volume[Tensor]` one of tensors."""

Array: TypeAlias = "NDArray[Any] | Tensor"
"""A NumPy array, or a torch tensor on the device of the back end. The compiled core takes either, on the CPU."""

STOP_TRANSMITTANCE = 1e-3
"""A ray ends once less light than this is left: what lies behind adds at most 0.1 % of a colour (DVGO's constant)."""

SKIP_BLOCK = 4
"""Side, in cells, of the blocks that `measure_skip` measures distances in."""

MAX_STEPS = 14 + (1 << 14) - 1
"""Of a rounded value: what the code of a coefficient (FORMAT.md section 6) reaches."""


BITS_UNIT = 1 / 16
"""What `add_rate_gradient` takes bits in units of."""

FIRST_STEP = 1.5
"""Where, in steps, a coefficient is no longer taken for one that may leave 0."""

ADAM_BETAS = (0.9, 0.99)
"""Decay of the first and second moment (DVGO's)."""

ADAM_EPSILON = 1e-15
"""What keeps Adam from dividing by 0."""


@dataclass(frozen=True)
class Volume(Generic[A]):
    """A radiance field as the kernels see it. All arrays contiguous, float32 unless said (reference: any float).

    Attributes:
      lo, hi: places of the first and last voxel: their world coordinates where there is no `space`.
      density: [X,Y,Z] raw density; with `factors` the kernels of rays look at its shape alone.
      features: [X,Y,Z,C]; with `rows`, a table [R,C] that voxels point into; with `factors`, [0,C].
      rows: None, or [X,Y,Z] int32: the row of `features` of each voxel, -1 for a pruned voxel, whose features are 0 and
        which takes no gradient. Tied voxels share a row.
      layers: colour MLP as ((weight [out,in], bias [out]), ...), ReLU between; first `in` is C + 3 + 6n + 2CF, last
        `out` is 3. Empty: features are the logits of rgb and C = 3, or coefficients of spherical harmonics.
      cells: [X-1,Y-1,Z-1] uint8, 1 where the cell is occupied.
      skip: [ceil((X-1)/SKIP_BLOCK), ...] uint8 from `measure_skip(cells)`.
      equation: the constants of the notation above.
      factors: in the place of density and features, see `FactorArrays`: planes and lines are interpolated at the samples of
        rays, which gives what the voxels that they stand for give, but for rounding. Then there are no `rows`. None: the
        voxels have values of their own.
      space: how the world lies in the lattice, None for a box. Rays are those of the world in any case: a kernel takes each
        through the space, where it is straight in pieces (`equation.pieces_of`), and colours are seen along the world's
        directions.

    Raises:
      ValueError: rays would have more samples than `MAX_SAMPLES`.
    """

    lo: tuple[float, float, float]
    hi: tuple[float, float, float]
    density: A
    features: A
    rows: A | None
    layers: tuple[tuple[A, A], ...]
    cells: A
    skip: A
    equation: Equation
    factors: FactorArrays[A] | None = None
    space: Space | None = None

    def __post_init__(self) -> None:
        step_world = self.equation.step_world
        n_samples = longest_way(self.lo, self.hi, self.space) / step_world + 1
        if not n_samples <= MAX_SAMPLES:
            raise ValueError(f"step_world: of {step_world:g} a ray has {n_samples:.3g} samples, expected 1..{MAX_SAMPLES}")

    def moved(self, offset: NDArray[np.float64]) -> Volume[A]:
        """The same volume in a world that is moved by `offset` [3]."""
        lattice = self.lattice.moved(offset)
        return replace(self, lo=lattice.lo, hi=lattice.hi, space=lattice.space)

    @property
    def lattice(self) -> Lattice:
        x, y, z = self.density.shape
        return Lattice(self.lo, self.hi, (x, y, z), self.space)


@dataclass(frozen=True)
class Gradients(Generic[A]):
    """Where `render_gradients` and `backpropagate` add: same shapes as the values, except that features are always per voxel.

    Attributes:
      density: [X,Y,Z].
      features: [X,Y,Z,C], also when the volume has `rows`.
      layers: like `Volume.layers`.
      touched: [X,Y,Z] uint8, set to 1 at every voxel that got a gradient (density or features); never cleared here. With
        `factors` [X*Y + X*Z + Y*Z], the same of the rows of the three planes, one plane after the other.
      factors: of a volume that has some, with nothing in density and features; None of any other.
    """

    density: A
    features: A
    layers: tuple[tuple[A, A], ...]
    touched: A
    factors: FactorArrays[A] | None = None


PLANE_AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""Of a factored lattice: the two axes of each plane, and that of its line."""


@dataclass(frozen=True, eq=False)
class FactorArrays(Generic[A]):
    """Density and features of a lattice as sums of products, or the gradients of these. Contiguous, float32.

        density(x,y,z)     = sum_p sum_r plane_p[a,b,r] * line_p[c,r],                          r = 0..R_d-1
        feature_k(x,y,z)   = sum_p sum_r plane_p[a,b,R_d+r] * line_p[c,R_d+r] * mix[p,r,k],     r = 0..R_f-1

    where (a,b,c) are (x,y,z), (x,z,y) and (y,z,x) for p = 0, 1, 2 (`PLANE_AXES`). Bilinear times linear is trilinear:
    between the voxels this is the field whose voxels have these values.

    Attributes:
      planes: [X,Y,R], [X,Z,R], [Y,Z,R]; R = R_d + R_f.
      lines: [Z,R], [Y,R], [X,R].
      mix: [3,R_f,C].

    Source: TensoRF (arXiv 2203.09517), sec. 4, the VM decomposition.
    """

    planes: tuple[A, A, A]
    lines: tuple[A, A, A]
    mix: A


@dataclass(frozen=True)
class Children(Generic[A]):
    """What hangs on each node of a pyramid's level, and how much: the links of `pyramid.Nodes.parents`, seen from above.

    Attributes:
      first: [M+1] int32 >= 0, ascending; children of node m are `first[m]` to `first[m+1]`.
      child: [K] int32, nodes of the next finer level; ascending within a parent, each once.
      share: [K] float32, what the parent has in the child's mean: 1/8 to 1.
    """

    first: A
    child: A
    share: A


@dataclass(frozen=True)
class Roulette(Generic[A]):
    """Which shaded samples have a colour in a step that learns: Russian roulette, which saves most of the colour MLP's work.

    A sample of weight w has one with the probability p = min(w / `weight`, 1), and then counts w / p. Which ones is settled by
    one number a ray: the p below 1 are added up along the ray, from that number on, and where the sum passes a whole number the
    sample has a colour. What is passed over has the target's colour y, and what others count too much is taken from that:

        pixel = sum_kept w_i / p_i color_i + ( sum_shaded w_i - sum_kept w_i / p_i ) y + background_weight * background

    Over the numbers its mean is the pixel of the notation above, and so is that of its gradient, in which p is constant. In the
    mean of its square error the variance is left over, which draws colours of faint samples to the target's; so does
    `point_color`, which counts as the pixel does. `n_shaded` counts those that have a colour.

    Attributes:
      weight: above 0, at most 1.
      chances: [N] of the rays, evenly distributed over 0..1.

    Source: Arvo and Kirk, Particle Transport and Image Synthesis (SIGGRAPH 1990). Departs: systematic sampling along the ray in
    the place of one number a sample, and the target as control variate.
    """

    weight: float
    chances: A


@dataclass(frozen=True)
class LossWeights:
    """The loss over N rays with targets y: mean squared error of the pixel, plus

        background_entropy * mean_rays H(clamp(background_weight, 1e-6, 1 - 1e-6)),  H(p) = -p log p - (1-p) log(1-p)
        point_color        * sum_shaded w_i |color_i - y|^2 / N,   w_i held constant
        opacity            * mean_rays (1 - background_weight - a)^2,   a the pixel's opacity, where targets have one
        distortion         * mean_rays ( sum_ij w_i w_j |s_i - s_j| + spacing / 3 sum_i w_i^2 ),   over live samples

    The opacity tells what colour cannot: white fog before a white background has the right colour and the wrong opacity.
    The distortion draws the weights of a ray together: s is how far a sample is along its ray through the places of the
    lattice, in units of the longest way there, and so is the spacing of samples.

    Attributes:
      roulette: which of the shaded samples have a colour; None: all.

    Source: DVGO sec. 4.2, eq. 8 to 10 (all natural logarithms); mip-NeRF 360 (arXiv 2111.12077), eq. 15. Departs: the opacity
    is not theirs; s is of places, which is what mip-NeRF 360's normalised distance is for.
    """

    background_entropy: float
    point_color: float
    opacity: float = 0.0
    distortion: float = 0.0
    roulette: Roulette[Any] | None = None


def has_native() -> bool:
    """Whether the compiled core is here and not switched off by `VQRF_NATIVE=0` in the environment."""
    if os.environ.get("VQRF_NATIVE", "1") == "0":
        return False
    return importlib.util.find_spec("vqrf._native") is not None


def has_warp(device: str) -> bool:
    """Whether NVIDIA Warp is here and to be used on `device`: on a card, on the CPU too with `VQRF_WARP=1` in the environment,
    and nowhere with `VQRF_WARP=0`."""
    wish = os.environ.get("VQRF_WARP", "")
    if wish == "0" or not (device.startswith("cuda") or wish == "1"):
        return False
    return importlib.util.find_spec("warp") is not None


def select(device: str = "cpu") -> Backend:
    """The kernels to use on `device`: Warp's on a card, those of the compiled core on a CPU, else the reference's.

    What a back end cannot do, the reference does in its place, with a line on the error stream the first time.

    Raises:
      ModuleNotFoundError: neither the compiled core nor PyTorch is installed.
    """
    from vqrf.kernels.contract import Assembled, say_that_reference_stands_in

    if has_warp(device):
        warp = importlib.import_module("vqrf.kernels.warp")
        if (reason := warp.refusal(device)) is None:
            return cast("Backend", Assembled("Warp", device, None, warp))
        say_that_reference_stands_in(f"Warp cannot do {reason}")
    if device == "cpu" and has_native():
        made = Assembled("the compiled core", device, 1, importlib.import_module("vqrf.kernels.native"))
    else:
        made = Assembled("the reference", device, None, importlib.import_module("vqrf.kernels.reference"))
    return cast("Backend", made)
