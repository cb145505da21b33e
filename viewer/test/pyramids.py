"""Write `viewer/test/pyramids/`: files of pyramids, and the arrays that this package expands them to.

`python viewer/test/pyramids.py` after a change of the format; `pyramid.test.js` holds the viewer's decoder against them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import CODED, PRUNED
from vqrf.codec.pyramid import MAX_MAGNITUDE, PyramidField, build_nodes
from vqrf.geometry import Lattice
from vqrf.kernels.constants import Equation

HERE = Path(__file__).parent / "pyramids"


def pyramid(seed: int, shape: tuple[int, int, int], n_levels: int, n_latents: int, n_channels: int) -> PyramidField:
    """A shell of voxels with coefficients that are mostly small; some are as great as there are."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    partition = np.where((radius > 0.45) & (radius < 1.05), CODED, PRUNED).astype(np.uint8)
    coefficients = []
    for nodes in build_nodes(partition != PRUNED, n_levels)[::-1]:
        values = np.round(rng.laplace(0, 1.5, (nodes.n_nodes, 1 + n_latents)))
        values[rng.random(nodes.n_nodes) < 0.4, 1:] = 0
        greatest = rng.random(values.shape) < 0.004
        values[greatest] = rng.choice([-MAX_MAGNITUDE, -15, 15, 300, MAX_MAGNITUDE], np.count_nonzero(greatest))
        coefficients.append(values.astype(np.int16))
    has_basis = n_latents != n_channels
    sides = [(3, n_channels + 3)] if n_channels != 3 else []
    return PyramidField(
        lattice=Lattice((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), shape),
        partition=partition,
        coefficients=tuple(coefficients),
        steps=rng.uniform(0.1, 0.5, 1 + n_latents).astype(np.float32),
        basis=rng.standard_normal((n_latents, n_channels)).astype(np.float32) if has_basis else None,
        color_mlp=tuple(
            (rng.standard_normal(side).astype(np.float16), rng.standard_normal(side[0]).astype(np.float16)) for side in sides
        ),
        equation=Equation(0.0, 0.5, 0.05, 0.1, 1e-3, (1.0, 1.0, 1.0)),
        empty_density=-5.0,
        metadata={"seed": seed},
    )


def main() -> None:
    HERE.mkdir(exist_ok=True)
    fields = {
        "basis": pyramid(1, (9, 12, 8), 3, 4, 6),
        "deepest": pyramid(2, (6, 5, 4), 8, 3, 3),
        "flat": pyramid(3, (7, 6, 9), 0, 7, 7),
    }
    for name, field in fields.items():
        density, features = field.voxel_values()
        arrays = {f"LEV{field.n_levels - i}": level for i, level in enumerate(field.coefficients)}
        (HERE / f"{name}.vqrf").write_bytes(encode(field))
        np.savez_compressed(HERE / f"{name}.npz", density=density, features=features, **arrays)


if __name__ == "__main__":
    main()
