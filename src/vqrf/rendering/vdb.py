"""A field as a volume that absorbs light and has colours, for programs that render volumes: NanoVDB.

A voxel of the volume is one of the field, at its place. It says how much of the light it absorbs per world unit, and the
colour that the field has there in the mean over directions, mostly those that see it from outside. How colours change with the
view is lost. The field interpolates raw density and features, and a volume what these become: between voxels they differ.

Source: the layout of NanoVDB 32.4, a tree of a root, nodes of 32^3 and of 16^3 children, and leaves of 8^3 voxels (K. Museth,
NanoVDB, ACM SIGGRAPH 2021 Talks; its header says where each number stands). Departs: as no field has more than 4096 voxels
along a side, there is one node of 32^3.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32, Lattice, grown
from vqrf.memory import expect_room
from vqrf.rendering.splats import HARMONIC_0, harmonics_of
from vqrf.rendering.surface import linear_of

BYTES_OF_VOXEL, BYTES_OF_ACTIVE = 96, 560
"""While a volume is made: of the lattice, and of voxels that absorb."""

COPIES = 3
"""How often leaves are in memory while they are written."""

LEAF_BITS, LOWER_BITS, UPPER_BITS = 3, 4, 5
"""Of a place inside a node, along each axis."""
MAX_SIDE = 1 << LEAF_BITS + LOWER_BITS + UPPER_BITS
"""Voxels along a side of a node of 32^3 children."""

ALIGNMENT = 32
"""Bytes, of which every struct is a multiple."""

MAGIC, VERSION = b"NanoVDB0", 32 << 21 | 4 << 10 | 2
FLOAT, VECTOR = 1, 6
"""Kinds of values, as NanoVDB numbers them."""
ANY, FOG = 0, 2
"""Classes of grids."""
HAS_BOX, HAS_EXTREMA, BREADTH_FIRST = 2, 4, 32
"""Flags of a grid; the first one is a node's, too."""
NO_CHECKSUM, NO_CODEC = 0xFFFFFFFF, 0
HASH_FACTOR, HASH_MASK = 67, (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class Fog:
    """A volume on a lattice in a box.

    Attributes:
      lattice: places the voxels.
      absorbs: [X,Y,Z] bool, voxels that hold something.
      density: [X,Y,Z] float32, optical depth per world unit; 0 where nothing is.
      colored: [X,Y,Z] bool, those and the voxels beside them, so that who interpolates finds no black beside the last.
      colors: [X,Y,Z,3] float32, amounts of light (linear, with the primaries of sRGB), 0..1; 0 elsewhere.
    """

    lattice: Lattice
    absorbs: NDArray[np.bool_]
    density: Float32
    colored: NDArray[np.bool_]
    colors: Float32


def fog_of(field: RadianceField) -> Fog:
    """The volume of a field: of all its voxels but those so faint that the field has no samples of such.

    Deterministic.

    Raises:
      ValueError: there is nothing in the field, or it is in no box.
      OverBudget: it takes too much memory.
    """
    lattice = field.lattice
    if lattice.space is not None:
        raise ValueError(f"is in the space {lattice.space.name}, of which no volume is made")
    expect_room(BYTES_OF_VOXEL * lattice.n_voxels, None, f"a volume of {lattice.n_voxels} voxels")
    absorbs = active_voxels(field) & (field.density > field.equation.floor)
    n_active = int(absorbs.sum())
    if not n_active:
        raise ValueError("there is nothing in the field")
    expect_room(BYTES_OF_ACTIVE * n_active, None, f"a volume with {n_active} voxels that absorb")
    depth = field.equation.depth_of(field.density[absorbs])
    density = np.zeros(lattice.shape, np.float32)
    density[absorbs] = depth / field.equation.step_world
    harmonics = harmonics_of(field, np.argwhere(absorbs))
    seen = np.clip(0.5 + HARMONIC_0 * harmonics[:, 0], 0, 1)
    return Fog(lattice, absorbs, density, *_spread(absorbs, linear_of(seen)))


def _spread(absorbs: NDArray[np.bool_], colors: Float32) -> tuple[NDArray[np.bool_], Float32]:
    """Colours [N,3] of voxels, and of those beside them the mean over their neighbours': which have one, and all [X,Y,Z,3]."""
    sums = np.zeros((*absorbs.shape, 4), np.float32)
    sums[absorbs] = np.concatenate([colors, np.ones((len(colors), 1), np.float32)], -1)
    for axis in range(3):
        along = np.moveaxis(sums, axis, 0)
        before = along.copy()
        along[1:] += before[:-1]
        along[:-1] += before[1:]
    colored = grown(absorbs, 1)
    spread = sums[..., :3]
    spread /= np.maximum(sums[..., 3:], 1)
    spread[absorbs] = colors
    return colored, spread


# ------------------------------------------------------------------------------------------------------------------- files


def _struct(*fields: Any, table: Any = ()) -> np.dtype[Any]:
    """Fields one after the other, then a table at a multiple of `ALIGNMENT` bytes, and its end at one."""
    head = [*fields, ("gap", f"V{-np.dtype(list(fields)).itemsize % ALIGNMENT}"), *table]
    return np.dtype([*head, ("end", f"V{-np.dtype(head).itemsize % ALIGNMENT}")])


BOX = ("low", "<i4", 3), ("high", "<i4", 3)
"""Of active voxels: the first and the last place along each axis."""

MAP = [
    *[("matrix32", "<f4", 9), ("inverse32", "<f4", 9), ("origin32", "<f4", 3), ("taper32", "<f4")],
    *[("matrix", "<f8", 9), ("inverse", "<f8", 9), ("origin", "<f8", 3), ("taper", "<f8")],
]
WORLD = [("box", "<f8", 6), ("voxel", "<f8", 3)]
GRID = _struct(
    *[("magic", "S8"), ("checksum", "<u4", 2), ("version", "<u4"), ("flags", "<u4"), ("number", "<u4"), ("n_grids", "<u4")],
    *[("size", "<u8"), ("name", "S256"), *MAP, *WORLD, ("grid_class", "<u4"), ("kind", "<u4"), ("blind", "<u4", 3)],
)
AFTER_CHECKSUM = 16
"""Bytes of a grid that its checksum leaves out, which are itself and what is before it."""
TREE = _struct(("offsets", "<u8", 4), ("n_nodes", "<u4", 3), ("n_tiles", "<u4", 3), ("n_voxels", "<u8"))
ENTRY = np.dtype(
    [
        *[("size", "<u8"), ("size_in_file", "<u8"), ("name_hash", "<u8"), ("n_voxels", "<u8"), ("kind", "<u4")],
        *[("grid_class", "<u4"), ("box", "<f8", 6), *BOX, ("voxel", "<f8", 3), ("name_size", "<u4"), ("n_nodes", "<u4", 4)],
        *[("n_tiles", "<u4", 3), ("codec", "<u2"), ("gap", "<u2"), ("version", "<u4")],
    ]
)
"""Of a grid, at the beginning of the file. Numbers of nodes are those of leaves first."""


@dataclass(frozen=True)
class Kind:
    """What a grid holds, and the structs that its tree consists of.

    Args:
      grid_class, number: of its kind, as NanoVDB numbers these.
      width: numbers of a value, 1 or 3.
    """

    name: str
    grid_class: int
    number: int
    width: int

    @property
    def value(self) -> np.dtype[Any]:
        return np.dtype(("<f4", () if self.width == 1 else self.width))

    @property
    def _extrema(self) -> tuple[tuple[str, Any], ...]:
        """As every node has them; of vectors the shortest and the longest. Means and deviations are not written."""
        return ("minimum", self.value), ("maximum", self.value), ("mean", "<f4"), ("deviation", "<f4")

    @property
    def leaf(self) -> np.dtype[Any]:
        head = ("low", "<i4", 3), ("span", "u1", 3), ("flags", "u1"), ("active", "u1", 64)
        return _struct(*head, *self._extrema, table=[("values", self.value, 1 << 3 * LEAF_BITS)])

    def node(self, bits: int) -> np.dtype[Any]:
        """An inner node. Its table has the offsets of children from it, in bytes; where there is none a value, which is 0."""
        n = 1 << 3 * bits
        child = np.dtype([("child", "<i8"), ("gap", f"V{8 * (self.width > 2)}")])
        masks = ("active", "u1", n // 8), ("children", "u1", n // 8)
        return _struct(*BOX, ("flags", "<u8"), *masks, *self._extrema, table=[("table", child, n)])

    @property
    def root(self) -> np.dtype[Any]:
        return _struct(*BOX, ("n_tiles", "<u4"), ("background", self.value), *self._extrema)

    @property
    def tile(self) -> np.dtype[Any]:
        """Of the root: a child's place, and its offset from the root in bytes."""
        return _struct(("key", "<u8"), ("child", "<i8"), ("state", "<u4"), ("value", self.value))


DENSITY = Kind("density", FOG, FLOAT, 1)
COLOUR = Kind("colour", ANY, VECTOR, 3)


def nvdb_of(fog: Fog) -> bytes:
    """A NanoVDB file with two grids, `density` and `colour`, in the field's own axes and not compressed. Deterministic.

    Raises:
      ValueError: it has more voxels along a side than are written.
      OverBudget: it takes too much memory.
    """
    if max(fog.lattice.shape) > MAX_SIDE:
        raise ValueError(f"has {max(fog.lattice.shape)} voxels along a side, of which {MAX_SIDE} are written")
    density, entry = _grid(DENSITY, fog.lattice, fog.absorbs, fog.density)
    colour, second = _grid(COLOUR, fog.lattice, fog.colored, fog.colors)
    return b"".join([MAGIC, struct.pack("<IHH", VERSION, 2, NO_CODEC), entry, second, *density, *colour])


def _grid(kind: Kind, lattice: Lattice, active: NDArray[np.bool_], values: Float32) -> tuple[list[bytes], bytes]:
    """The bytes of a grid in pieces, and of its entry at the beginning of the file."""
    index = np.argwhere(active)
    path = _paths(index)
    order = np.argsort(path)
    index, path = index[order], path[order]
    parts, n_nodes = _tree(kind, index, path, values[tuple(index.T)])
    places = np.cumsum([TREE.itemsize, *(part.nbytes for part in parts)])
    tree = np.zeros((), TREE)
    tree["offsets"] = places[[4, 3, 2, 0]]
    tree["n_nodes"], tree["n_voxels"] = n_nodes, len(index)
    grid, root = np.zeros((), GRID), parts[0]
    size = GRID.itemsize + int(places[-1])
    _place(grid, lattice, root[0])
    grid["magic"], grid["version"], grid["flags"] = MAGIC, VERSION, HAS_BOX | HAS_EXTREMA | BREADTH_FIRST
    grid["n_grids"], grid["size"], grid["name"] = 1, size, kind.name
    grid["grid_class"], grid["kind"] = kind.grid_class, kind.number
    head = b"".join(part.tobytes() for part in (grid, tree, *parts[:2]))
    grid["checksum"] = zlib.crc32(head[AFTER_CHECKSUM:]), NO_CHECKSUM  # the second, of nodes, would depend on the platform
    entry = np.zeros((), ENTRY)
    for name in ("box", "voxel", "grid_class", "kind", "version"):
        entry[name] = grid[name]
    for name in ("low", "high"):
        entry[name] = root[name][0]
    entry["size"], entry["size_in_file"], entry["n_voxels"] = size, size, len(index)
    entry["name_hash"], entry["name_size"], entry["n_nodes"] = _hash(kind.name), len(kind.name) + 1, [*n_nodes, 1]
    return [part.tobytes() for part in (grid, tree, *parts)], entry.tobytes() + kind.name.encode() + b"\0"


def _paths(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The way [N] to voxels [N,3] through the tree: their places in the node of 32^3, in that of 16^3 and in the leaf."""
    path, below = np.zeros(len(index), np.int64), LEAF_BITS + LOWER_BITS + UPPER_BITS
    for bits in (UPPER_BITS, LOWER_BITS, LEAF_BITS):
        below -= bits
        for axis in range(3):
            path = path << bits | index[:, axis] >> below & (1 << bits) - 1
    return path


def _tree(
    kind: Kind, index: NDArray[np.int64], path: NDArray[np.int64], values: Float32
) -> tuple[list[NDArray[Any]], tuple[int, int, int]]:
    """The root, its tile, and the nodes of each level, the leaves last; and how many there are, the leaves first.

    Args:
      index: [N,3] voxels in the order of their `path` [N]; values: [N] or [N,3].
    """
    leaf_paths, leaf_starts, leaf_of = np.unique(path >> 3 * LEAF_BITS, return_index=True, return_inverse=True)
    lower_paths, first_leaves, lower_of = np.unique(leaf_paths >> 3 * LOWER_BITS, return_index=True, return_inverse=True)
    n_leaves, n_lowers = len(leaf_paths), len(lower_paths)
    n_bytes = COPIES * n_leaves * kind.leaf.itemsize
    expect_room(n_bytes, None, f"a volume of {n_leaves} blocks of 8x8x8 voxels")
    root, tile, upper = np.zeros(1, kind.root), np.zeros(1, kind.tile), np.zeros(1, kind.node(UPPER_BITS))
    lowers, leaves = np.zeros(n_lowers, kind.node(LOWER_BITS)), np.zeros(n_leaves, kind.leaf)
    root["n_tiles"], tile["child"] = 1, root.nbytes + tile.nbytes
    _adopt(upper, lowers, np.zeros(n_lowers, np.int64), lower_paths)
    _adopt(lowers, leaves, lower_of, leaf_paths & (1 << 3 * LOWER_BITS) - 1)
    slot = path & (1 << 3 * LEAF_BITS) - 1
    leaves["values"][leaf_of, slot] = values
    leaves["active"] = _mask(leaves["active"], leaf_of, slot)
    start = np.zeros(1, np.int64)
    for nodes, starts in ((root, start), (upper, start), (lowers, leaf_starts[first_leaves]), (leaves, leaf_starts)):
        _describe(nodes, starts, index, values)
    return [root, tile, upper, lowers, leaves], (n_leaves, n_lowers, 1)


def _adopt(parents: NDArray[Any], children: NDArray[Any], row: NDArray[np.int64], slot: NDArray[np.int64]) -> None:
    """Write into nodes where their children are, which follow them in the file: child n is that of `row[n]` at `slot[n]`."""
    offsets = parents.nbytes + np.arange(len(children)) * children.itemsize - row * parents.itemsize
    parents["table"]["child"][row, slot] = offsets
    parents["children"] = _mask(parents["children"], row, slot)


def _mask(like: NDArray[np.uint8], row: NDArray[np.int64], slot: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bits [R,B] uint8, the lowest first, of which those at `slot` of `row` are set."""
    bits = np.zeros((len(like), 8 * like.shape[1]), bool)
    bits[row, slot] = True
    return np.packbits(bits, axis=-1, bitorder="little")


def _describe(nodes: NDArray[Any], starts: NDArray[np.int64], index: NDArray[np.int64], values: Float32) -> None:
    """Write into nodes where their voxels are, and between which values: of node n they begin at `starts[n]`."""
    low, high = np.minimum.reduceat(index, starts), np.maximum.reduceat(index, starts)
    facts = {"low": low, "high": high, "span": high - low, "flags": HAS_BOX}
    for name in facts.keys() & set(nodes.dtype.names or ()):
        nodes[name] = facts[name]
    lengths = np.linalg.norm(values.reshape(len(values), -1), axis=-1)
    counts = np.diff(starts, append=len(values))
    for name, extreme in (("minimum", np.minimum), ("maximum", np.maximum)):
        there = np.flatnonzero(lengths == np.repeat(extreme.reduceat(lengths, starts), counts))
        nodes[name] = values[there[np.searchsorted(there, starts)]]


def _place(grid: NDArray[Any], lattice: Lattice, root: NDArray[Any]) -> None:
    """Write where a grid is in the world."""
    voxel = lattice.extent / (np.array(lattice.shape) - 1)
    grid["voxel"] = voxel
    grid["box"] = np.concatenate([lattice.lo + voxel * place for place in (root["low"], root["high"] + 1)])
    for ending in ("", "32"):
        grid[f"matrix{ending}"], grid[f"inverse{ending}"] = np.diag(voxel).ravel(), np.diag(1 / voxel).ravel()
        grid[f"origin{ending}"], grid[f"taper{ending}"] = lattice.lo, 1


def _hash(name: str) -> int:
    """Of a name, as NanoVDB has it."""
    found = 0
    for byte in name.encode():
        found = found * HASH_FACTOR + byte + (found >> 56) & HASH_MASK
    return found
