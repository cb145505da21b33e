"""The density's activation backwards: what raw density gives an opacity, and in what unit it is stored."""

from __future__ import annotations

import math

from vqrf.kernels import Activation


def density_of_alpha(alpha: float, density_bias: float, interval: float, activation: Activation = "softplus") -> float:
    """The raw density that gives `alpha`, above 0, over one step; the inverse of the density's activation.

    >>> d = density_of_alpha(1e-4, -4.6, 0.5)
    >>> round(1 - (1 + math.exp(d - 4.6)) ** -0.5, 9)
    0.0001
    >>> round(1 - math.exp(-0.5 * density_of_alpha(1e-4, 0.0, 0.5, "relu")), 9)
    0.0001
    """
    depth = -math.log1p(-alpha) / interval
    if activation == "relu":
        return depth - density_bias
    return depth + math.log(-math.expm1(-depth)) - density_bias  # log(expm1(depth)), which would overflow


def interval_of_step(step_world: float, edge: float) -> float:
    """The interval of a field that has density per unit of the world: the step, in the power of two nearest to a voxel's edge.

    Density by that power is then of the same size in every field, and is density per unit to the bit but for its exponent.

    >>> interval_of_step(0.005, 0.01) == 0.005 * 128
    True
    """
    return math.ldexp(step_world, -round(math.log2(edge)))
