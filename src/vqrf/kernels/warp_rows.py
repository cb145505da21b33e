"""The kernels of arrays in NVIDIA Warp's language, one thread a number; `vqrf.kernels.warp` launches them."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.struct
class Adam:
    """The constants of a step: `ADAM_BETAS`, `ADAM_EPSILON`, and what moments so young are to be multiplied with."""

    rate: wp.float32
    b1: wp.float32
    b2: wp.float32
    scale_first: wp.float32
    scale_second: wp.float32
    epsilon: wp.float32


@wp.kernel
def masked_adam(
    values: wp.array2d(dtype=wp.float32),
    gradient: wp.array2d(dtype=wp.float32),
    first: wp.array2d(dtype=wp.float32),
    second: wp.array2d(dtype=wp.float32),
    touched: wp.array(dtype=wp.uint8),
    rates: wp.array(dtype=wp.float32),
    adam: Adam,
):
    """One step, and the gradient is 0. No `touched`: of all rows. No `rates`: of all rows the same."""
    row, column = wp.tid()
    if touched.shape[0] > 0:
        if touched[row] == wp.uint8(0):
            return
    g = gradient[row, column]
    if g == 0.0:
        return
    m = adam.b1 * first[row, column] + (1.0 - adam.b1) * g
    v = adam.b2 * second[row, column] + (1.0 - adam.b2) * g * g
    first[row, column] = m
    second[row, column] = v
    speed = m * adam.scale_first / (wp.sqrt(v * adam.scale_second) + adam.epsilon)
    if rates.shape[0] > 0:
        speed = rates[row] * speed
    values[row, column] = values[row, column] - adam.rate * speed
    gradient[row, column] = 0.0
