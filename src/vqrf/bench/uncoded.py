"""What a file would take before its values were rounded, and before they were coded: computed sizes, as no file has that form.

Values count as float32, or as what the file has of them: a byte for density and kept features, two for codewords and the
network. Whatever else there is counts the same both times, in the plainest form that a program would write: two bits for what
each voxel is, as many bits for a code as number the codewords, and header, constants and metadata as they lie in the file.
"""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from vqrf.codec.bitstream import decode
from vqrf.codec.compressed import CompressedField, items_of
from vqrf.codec.container import sections

Form = Literal["float32", "levels"]
"""Of values: before the quantisers, and after them."""

FLOAT_BYTES = 4
PARTITION_BITS = 2


def uncoded_sections(data: bytes, form: Form) -> dict[str, int]:
    """Bytes by section that a file with a codebook would have if nothing in it were entropy-coded.

    Raises:
      BitstreamError: it is no file.
      ValueError: it has no codebook.
    """
    small = decode(data)
    if not isinstance(small, CompressedField):
        raise ValueError(f"expected a file with a codebook, got {small!r}")

    def count(*arrays: NDArray[Any]) -> int:
        return sum(array.size * (FLOAT_BYTES if form == "float32" else array.itemsize) for array in arrays)

    sizes = {name: size for name, _, size in sections(data)}
    return sizes | {
        "COLR": count(*(items_of(table) for layer in small.color_mlp for table in layer)),
        "BOOK": count(items_of(small.codebook)),
        "PART": bytes_of_bits(PARTITION_BITS * small.partition.size),
        "DENS": count(small.density.levels),
        "CODE": bytes_of_bits((small.n_codewords - 1).bit_length() * small.n_coded),
        "KEPT": count(small.kept.levels),
    }


def bytes_of_bits(n_bits: int) -> int:
    """As many whole bytes as hold so many bits."""
    return -(-n_bits // 8)
