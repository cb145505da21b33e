"""What each coded section codes, in which order and in which context.

This is the readable twin of `src/native/walks.hpp`; FORMAT.md section 6 specifies both, and the tests hold them to the same
bytes. One walk over the voxels, `code_*(coder, ...)`, serves both directions: with a decoder it fills the arrays that it was
handed. `encode_*` are these walks with an encoder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import CODED, KEPT, PRUNED, Int32, Uint8
from vqrf.codec.entropy import Coder, Damaged, Encoder
from vqrf.codec.pyramid import Int16, Nodes, build_nodes

BLOCK_SIDE = 4
"""Side, in voxels, of the blocks that are coded as empty or not."""
BLOCK_CONTEXTS = 1 << 13
PARTITION_CONTEXTS = 2 * BLOCK_CONTEXTS + 3**6

OFFSETS = [(dx, dy, dz) for dx in (-1, 0) for dy in (-1, 0, 1) for dz in (-1, 0, 1)][:13]
"""The 13 neighbours that come before a voxel in raster order, themselves in raster order."""
FACES, EDGES, CORNERS = (4, 10, 12), (1, 3, 5, 7, 9, 11), (0, 2, 6, 8)
SPLIT_NEIGHBOURS = (4, 10, 12, 1, 3, 9)

SPREAD_LIMITS = (2, 4, 7, 12, 18, 26, 40)
"""Neighbours that differ by less than the i-th limit, in levels, are of class i."""
NO_NEIGHBOUR = len(SPREAD_LIMITS) + 1
SPREAD_CLASS = [sum(spread >= limit for limit in SPREAD_LIMITS) for spread in range(256)]
DENSITY_CONTEXTS = 256 * 4 * (NO_NEIGHBOUR + 1)
KEPT_CONTEXTS = 256 * (NO_NEIGHBOUR + 1)
MEAN_SHIFT = 6
"""A running mean forgets over 64 values."""

AGREEMENT_CONTEXTS = 16 * 6 * 6 * 4 * 4
COLUMN_TREE_ROWS = 256
"""From so many rows on, each column of the codebook pays for a tree of its own."""

CUT = 15
"""Contexts do not tell coefficients of greater magnitude apart."""
NEAR_LIMITS = (1, 4, 8, 12, 16, 24, 32, 44, 60, 84, 120, 170, 250)
"""Nodes around with a weighted sum of magnitudes from the i-th limit on are of class i + 1."""
NEAR_CLASSES, BEFORE_CLASSES = len(NEAR_LIMITS) + 1, 5
UNARY = 14
"""A magnitude up to this is counted up; what is beyond has an Elias gamma code."""
GAMMA_BITS = 13
"""At most so many bits after the first of a gamma code: `pyramid.MAX_MAGNITUDE` is what it reaches."""
ZERO_CONTEXTS = NEAR_CLASSES * BEFORE_CLASSES
UNSIGNED_CONTEXTS = ZERO_CONTEXTS + NEAR_CLASSES + UNARY
SIGN_CONTEXTS = 4 * 4 * 3
CHANNEL_CONTEXTS = UNSIGNED_CONTEXTS + SIGN_CONTEXTS + 2 * GAMMA_BITS


def _neighbour_ranks(selected: NDArray[np.bool_]) -> Iterator[list[int]]:
    """For each selected voxel in raster order, the ranks of its 13 causal neighbours; -1 if not selected."""
    x, y, z = selected.shape
    ranks = np.full((x + 1, y + 2, z + 2), -1, np.int32)
    inner = ranks[1:, 1:-1, 1:-1]
    inner[selected] = np.arange(selected.sum())
    shifted = [ranks[1 + dx :, 1 + dy :, 1 + dz :][:x, :y, :z] for dx, dy, dz in OFFSETS]
    table = np.stack([view[selected] for view in shifted], -1)
    for start in range(0, len(table), 4096):  # lists are quick to read but large: a few at a time
        yield from table[start : start + 4096].tolist()


def find_blocks(partition: Uint8) -> Uint8:
    """[ceil(X/4), ceil(Y/4), ceil(Z/4)] uint8: 1 where a block of the partition holds anything."""
    pad = [(0, -side % BLOCK_SIDE) for side in partition.shape]
    padded = np.pad(partition, pad)
    x, y, _ = padded.shape
    split = padded.reshape(x // BLOCK_SIDE, BLOCK_SIDE, y // BLOCK_SIDE, BLOCK_SIDE, -1, BLOCK_SIDE)
    blocks: Uint8 = (split.max((1, 3, 5)) > 0).astype(np.uint8)
    return blocks


class Border:
    """A lattice of small numbers in a flat array with a border of zeros, so that each has 13 neighbours."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        _, y, z = shape
        self.strides = ((y + 2) * (z + 2), z + 2, 1)
        self.values = bytearray((shape[0] + 1) * self.strides[0])
        self.steps = [int(np.dot(offset, self.strides)) for offset in OFFSETS]

    def row(self, x: int, y: int) -> int:
        """Where the voxel (x, y, 0) is."""
        return (x + 1) * self.strides[0] + (y + 1) * self.strides[1] + 1

    def occupancy_context(self, at: int) -> int:
        context = 0
        for step in self.steps:
            context = 2 * context + (self.values[at + step] > 0)
        return context

    def split_context(self, at: int) -> int:
        context = 0
        for i in SPLIT_NEIGHBOURS:
            context = 3 * context + self.values[at + self.steps[i]]
        return context


def code_partition(coder: Coder, partition: Uint8) -> Uint8:
    """Code PRUNED / CODED / KEPT of every voxel of `partition` [X,Y,Z], in place. Returns the block flags."""
    blocks = find_blocks(partition)
    coarse = Border(blocks.shape)
    for x, y in np.ndindex(blocks.shape[:2]):
        for at, z in enumerate(range(blocks.shape[2]), coarse.row(x, y)):
            blocks[x, y, z] = coarse.values[at] = coder.bit(coarse.occupancy_context(at), int(blocks[x, y, z]))
    fine = Border(partition.shape)
    for x, y in np.ndindex(partition.shape[:2]):
        row = fine.row(x, y)
        occupied = blocks[x // BLOCK_SIDE, y // BLOCK_SIDE]
        values = partition[x, y].tolist()
        for z in np.flatnonzero(np.repeat(occupied, BLOCK_SIDE)[: len(values)]).tolist():
            at, value = row + z, values[z]
            if not coder.bit(BLOCK_CONTEXTS + fine.occupancy_context(at), int(value != PRUNED)):
                value = PRUNED
            elif coder.bit(2 * BLOCK_CONTEXTS + fine.split_context(at), int(value == KEPT)):
                value = KEPT
            else:
                value = CODED
            values[z] = fine.values[at] = value
        partition[x, y] = values
    return blocks


def _surroundings(ranks: list[int], levels: list[int]) -> tuple[int, list[list[int]]]:
    """The spread class of the neighbours' levels, and the levels themselves by faces, edges and corners."""
    groups = [[levels[ranks[i]] for i in group if ranks[i] >= 0] for group in (FACES, EDGES, CORNERS)]
    known = groups[0] + groups[1] + groups[2]
    return (SPREAD_CLASS[max(known) - min(known)] if known else NO_NEIGHBOUR), groups


def _code_level(coder: Coder, context: int, prediction: int, level: int) -> int:
    """Code `level` as its difference, modulo 256, to `prediction`."""
    residual = coder.tree(256 * context, 8, level - prediction + 128 & 255)
    return residual + prediction - 128 & 255


def _rounded(sum_: int, n: int) -> int:
    return (2 * sum_ + n) // (2 * n)


def code_density(coder: Coder, partition: Uint8, levels: Uint8) -> None:
    """Code the density levels [N] of the voxels that are not PRUNED, in place."""
    values = levels.tolist()
    mean = 128 << MEAN_SHIFT
    for rank, ranks in enumerate(_neighbour_ranks(partition != PRUNED)):
        spread, (faces, edges, _) = _surroundings(ranks, values)
        near = faces or edges
        prediction = _rounded(sum(near), len(near)) if near else mean >> MEAN_SHIFT
        values[rank] = _code_level(coder, 4 * spread + len(faces), prediction, values[rank])
        mean += values[rank] - (mean >> MEAN_SHIFT)
    levels[:] = values


def code_kept(coder: Coder, partition: Uint8, levels: Uint8) -> None:
    """Code the feature levels [N_kept, C] of the KEPT voxels, in place."""
    channels = levels.T.tolist()
    means = [128 << MEAN_SHIFT] * len(channels)
    for rank, ranks in enumerate(_neighbour_ranks(partition == KEPT)):
        for c, values in enumerate(channels):
            spread, (faces, edges, corners) = _surroundings(ranks, values)
            mean = means[c] >> MEAN_SHIFT
            sum_ = mean + 4 * sum(faces) + 2 * sum(edges) + sum(corners)
            weight = 1 + 4 * len(faces) + 2 * len(edges) + len(corners)
            values[rank] = _code_level(coder, spread, _rounded(sum_, weight), values[rank])
            means[c] += values[rank] - mean
    levels[:] = np.array(channels, np.uint8).reshape(levels.shape[::-1]).T


def bits_of_code(codebook_size: int) -> int:
    """Bits of a code below `codebook_size`; none for a single codeword."""
    return (codebook_size - 1).bit_length()


def _code_one(coder: Coder, n_bits: int, code: int, faces: list[int], others: list[int]) -> int:
    """The bits of one code, most significant first.

    While causal neighbours have the same bits so far, the context is how many of them go on with 1 and with
    0; after that it is the node of the code tree.
    """
    node = 1
    for i in range(n_bits - 1, -1, -1):
        context = node
        if faces or others:
            faces1 = sum(c >> i & 1 for c in faces)
            all1 = faces1 + sum(c >> i & 1 for c in others)
            all0 = len(faces) + len(others) - all1
            context = ((i * 6 + min(all1, 5)) * 6 + min(all0, 5)) * 4 + faces1
            context = (1 << n_bits) + context * 4 + len(faces) - faces1
        bit = coder.bit(context, code >> i & 1)
        node = 2 * node + bit
        faces = [c for c in faces if c >> i & 1 == bit]
        others = [c for c in others if c >> i & 1 == bit]
    return node - (1 << n_bits)


def code_codes(coder: Coder, partition: Uint8, codebook_size: int, codes: Int32) -> None:
    """Code the codes [N_coded] of the CODED voxels, in place."""
    n_bits = bits_of_code(codebook_size)
    values = codes.tolist()
    for rank, ranks in enumerate(_neighbour_ranks(partition == CODED)):
        faces = [values[ranks[i]] for i in FACES if ranks[i] >= 0]
        others = [values[ranks[i]] for i in EDGES + CORNERS if ranks[i] >= 0]
        values[rank] = _code_one(coder, n_bits, values[rank], faces, others)
    codes[:] = values


def _trees_of(items: NDArray[Any], by_column: bool) -> int:
    return int(items.shape[1]) if by_column and items.shape[0] >= COLUMN_TREE_ROWS else 1


def code_tables(coder: Coder, tables: Sequence[NDArray[Any]], by_column: bool) -> None:
    """Code tables [rows, columns] of uint8 or uint16, one after the other, in place.

    The high byte goes into a tree of the table (or of the column), the low byte of a uint16 has no model.
    """
    base = 0
    for items in tables:
        n_trees = _trees_of(items, by_column)
        low_bits = 8 * (items.itemsize - 1)
        values = items.ravel().tolist()
        for i, value in enumerate(values):
            high = coder.tree(base + 256 * (i % n_trees), 8, value >> low_bits)
            values[i] = high << low_bits | coder.direct(low_bits, value & 0xFF)
        items[:] = np.array(values, items.dtype).reshape(items.shape)
        base += 256 * n_trees


def table_contexts(tables: Sequence[NDArray[Any]], by_column: bool) -> int:
    return 256 * sum(_trees_of(items, by_column) for items in tables)


def code_contexts(codebook_size: int) -> int:
    return (1 << bits_of_code(codebook_size)) + AGREEMENT_CONTEXTS


def _near_class(total: int) -> int:
    return bisect_right(NEAR_LIMITS, total)


def _code_gamma(coder: Coder, base: int, value: int) -> int:
    """A positive number: as many zeros as its bits after the first, then the number, of which the lower bits have no model."""
    n_bits = 0
    while n_bits < GAMMA_BITS and not coder.bit(base + n_bits, int(value >> n_bits <= 1)):
        n_bits += 1
    if n_bits == 0:
        return 1
    n_lower = n_bits - 1
    upper = 2 | coder.bit(base + GAMMA_BITS + n_lower, value >> n_lower & 1)
    return upper << n_lower | coder.direct(n_lower, value & (1 << n_lower) - 1)


Row: TypeAlias = tuple[list[int], list[int]]
"""The coefficients of a node, cut, and their magnitudes."""
Rows: TypeAlias = list[Row]
Around: TypeAlias = tuple[Rows, Rows, Rows]
"""The known faces and edges of a node, and its parents."""
AROUND_WEIGHTS = (8, 3, 1)


def _near(around: Around, width: int) -> list[int]:
    """The magnitudes around each coefficient of a node, weighted."""
    near = [0] * width
    for weight, rows in zip(AROUND_WEIGHTS, around, strict=True):
        if rows:
            columns = zip(*(magnitudes for _, magnitudes in rows), strict=True)
            near = [n + weight * sum(column) for n, column in zip(near, columns, strict=True)]
    return near


def _sign_context(around: Around, c: int) -> int:
    """How many faces are positive, how many negative, and the sign of the parents' sum."""
    faces, _, parents = around
    positive, negative = sum(values[c] > 0 for values, _ in faces), sum(values[c] < 0 for values, _ in faces)
    total = sum(values[c] for values, _ in parents)
    return (4 * positive + negative) * 3 + (total > 0) - (total < 0) + 1


def _code_coefficient(coder: Coder, c: int, around: Around, near: int, before: int, value: int) -> int:
    """Whether it is 0, its sign, its magnitude."""
    magnitude, base = abs(value), NEAR_CLASSES + c * CHANNEL_CONTEXTS
    if not coder.bit(base + near * BEFORE_CLASSES + before, int(magnitude != 0)):
        return 0
    negative = coder.bit(base + UNSIGNED_CONTEXTS + _sign_context(around, c), int(value < 0))
    counted, context = 1, base + ZERO_CONTEXTS + near
    while counted <= UNARY and coder.bit(context, int(magnitude > counted)):
        context = base + ZERO_CONTEXTS + NEAR_CLASSES + counted - 1
        counted += 1
    if counted > UNARY:
        counted = UNARY + _code_gamma(coder, base + UNSIGNED_CONTEXTS + SIGN_CONTEXTS, max(1, magnitude - UNARY))
    return -counted if negative else counted


def level_contexts(width: int) -> int:
    return NEAR_CLASSES + width * CHANNEL_CONTEXTS


def code_level(coder: Coder, nodes: Nodes, above: Rows | None, values: Int16) -> Rows:
    """Code the coefficients [N,width] of a pyramid's level, in place.

    Args:
      above: what this returned for the level that it hangs on; None for the coarsest.
    """
    rows, parents = values.tolist(), nodes.parents.tolist()
    seen: Rows = []
    for rank, ranks in enumerate(_neighbour_ranks(nodes.selected)):
        faces = [seen[ranks[i]] for i in FACES if ranks[i] >= 0]
        edges = [seen[ranks[i]] for i in EDGES if ranks[i] >= 0]
        rows[rank] = _code_node(coder, (faces, edges, [] if above is None else [above[p] for p in parents[rank]]), rows[rank])
        seen.append(([max(-CUT, min(CUT, value)) for value in rows[rank]], [min(CUT, abs(value)) for value in rows[rank]]))
    values[:] = np.array(rows, np.int16).reshape(values.shape)
    return seen


def _code_node(coder: Coder, around: Around, row: list[int]) -> list[int]:
    """The coefficients of a node: density, whether there is any latent, the latents."""
    near = _near(around, len(row))
    coded = [_code_coefficient(coder, 0, around, _near_class(near[0]), 0, row[0])]
    if not coder.bit(_near_class(sum(near[1:])), int(any(row[1:]))):
        return coded + [0] * (len(row) - 1)
    for c in range(1, len(row)):
        before = sum(min(2, abs(value)) for value in coded[max(0, c - 2) :])
        coded.append(_code_coefficient(coder, c, around, _near_class(near[c]), before, row[c]))
    if not any(coded[1:]):
        raise Damaged  # there is a shorter way to say so, and a field has one stream
    return coded


def encode_levels(partition: Uint8, levels: Sequence[Int16]) -> list[bytes]:
    """The coded bytes of a pyramid's levels [N_l,width], coarsest first."""
    above: Rows | None = None
    streams = []
    for nodes, values in zip(build_nodes(partition != PRUNED, len(levels) - 1)[::-1], levels, strict=True):
        encoder = Encoder(level_contexts(values.shape[1]))
        above = code_level(encoder, nodes, above, values.copy())
        streams.append(encoder.finish())
    return streams


def code_stacks(coder: Coder, nodes: Sequence[Nodes], above: list[Rows | None], values: Sequence[Int16]) -> None:
    """Code a level of pyramids over a few masks, in place, one after the other.

    Args:
      nodes, values: of each mask; coefficients are [N_l,width].
      above: of each, what this left here for the level that it hangs on; None for the coarsest.
    """
    for i, (level, coefficients) in enumerate(zip(nodes, values, strict=True)):
        above[i] = code_level(coder, level, above[i], coefficients)


def encode_stacks(masks: Sequence[Uint8], stacks: Sequence[Sequence[Int16]]) -> list[bytes]:
    """The coded bytes of pyramids over a few masks [x,y,z]: a stream for each level, coarsest first, of all of them in turn.

    Args:
      stacks: of each mask [N_l,width] for each level, coarsest first.
    """
    nodes = [build_nodes(mask != 0, len(stacks[0]) - 1)[::-1] for mask in masks]
    above: list[Rows | None] = [None] * len(masks)
    streams = []
    for of_masks, values in zip(zip(*nodes, strict=True), zip(*stacks, strict=True), strict=True):
        encoder = Encoder(level_contexts(values[0].shape[1]))
        code_stacks(encoder, of_masks, above, [level.copy() for level in values])
        streams.append(encoder.finish())
    return streams


def encode_partition(partition: Uint8) -> bytes:
    """The coded bytes of a partition [X,Y,Z]."""
    encoder = Encoder(PARTITION_CONTEXTS)
    code_partition(encoder, partition.copy())
    return encoder.finish()


def encode_density(partition: Uint8, levels: Uint8) -> bytes:
    """The coded bytes of density levels [N]."""
    encoder = Encoder(DENSITY_CONTEXTS)
    code_density(encoder, partition, levels.copy())
    return encoder.finish()


def encode_codes(partition: Uint8, codebook_size: int, codes: Int32) -> bytes:
    """The coded bytes of codes [N_coded]."""
    encoder = Encoder(code_contexts(codebook_size))
    code_codes(encoder, partition, codebook_size, codes.copy())
    return encoder.finish()


def encode_kept(partition: Uint8, levels: Uint8) -> bytes:
    """The coded bytes of feature levels [N_kept, C]."""
    encoder = Encoder(KEPT_CONTEXTS)
    code_kept(encoder, partition, levels.copy())
    return encoder.finish()


def encode_tables(tables: Sequence[NDArray[Any]], by_column: bool) -> bytes:
    """The coded bytes of tables [rows, columns] of uint8 or uint16."""
    encoder = Encoder(table_contexts(tables, by_column))
    code_tables(encoder, [items.copy() for items in tables], by_column)
    return encoder.finish()
