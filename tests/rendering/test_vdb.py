"""Volumes: what they absorb, their colours, the tree read back by its layout, and by NanoVDB's and OpenVDB's own programs."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqrf.fields.field import RadianceField
from vqrf.geometry import Front, Lattice
from vqrf.kernels import select
from vqrf.kernels.constants import Equation
from vqrf.memory import OverBudget, limited
from vqrf.rendering.surface import linear_of
from vqrf.rendering.vdb import Fog, fog_of, nvdb_of

SHAPE = (20, 9, 150)
"""Of voxels in several leaves along each axis, and in two nodes of 16^3 leaves along z."""


@pytest.fixture(scope="module")
def egg() -> RadianceField:
    """An ellipsoid far from the origin, with voxels of 1/16, 1/8 and 1/4, which float32 has exactly."""
    return egg_in(Lattice((64.0, -16.0, 2.0), (64 + 19 / 16, -16 + 8 / 8, 2 + 149 / 4), SHAPE))


def egg_in(lattice: Lattice) -> RadianceField:
    place = np.moveaxis(np.mgrid[tuple(slice(-1, 1, side * 1j) for side in lattice.shape)], 0, -1)
    radius = np.linalg.norm(place, axis=-1)
    equation = Equation(5.0, 0.5, 0.03, 0.2, 1e-4, (1.0, 1.0, 1.0))
    return RadianceField(lattice, np.float32(30 * (0.8 - radius) - 5), np.float32(4 * place), (), equation)


@pytest.fixture(scope="module")
def fog(egg: RadianceField) -> Fog:
    return fog_of(egg)


# ---------------------------------------------------------------------------------------------------- a reader by the layout

HEADER, ENTRY = 16, 176
SIZES = {1: (4, 8, 64, 96, 1088, 8256), 6: (12, 16, 96, 128, 1088, 8256)}
"""Of a kind: bytes of a value, a slot, a root; where in a leaf its values begin, and in nodes of 16^3 and 32^3 their slots."""


def read_nvdb(data: bytes) -> dict[str, tuple[dict[tuple[int, int, int], tuple[float, ...]], dict[str, list[float]]]]:
    """Active voxels of each grid, and its map, its box of voxels and its extrema."""
    magic, version, n_grids, codec = struct.unpack_from("<8sIHH", data)
    assert (magic, version >> 21, codec) == (b"NanoVDB0", 32, 0)
    at, entries = HEADER, []
    for _ in range(n_grids):
        size, _, _, n_voxels = struct.unpack_from("<4Q", data, at)
        (name_size,) = struct.unpack_from("<I", data, at + 136)
        entries.append((size, n_voxels, data[at + ENTRY : at + ENTRY + name_size - 1].decode()))
        at += ENTRY + name_size
    found = {}
    for size, n_voxels, name in entries:
        found[name] = read_grid(data[at : at + size], name)
        assert len(found[name][0]) == n_voxels
        at += size
    assert at == len(data)
    return found


def read_grid(grid: bytes, name: str) -> tuple[dict[tuple[int, int, int], tuple[float, ...]], dict[str, list[float]]]:
    assert grid[40 : 40 + len(name) + 1] == name.encode() + b"\0" and struct.unpack_from("<Q", grid, 32)[0] == len(grid)
    (kind,) = struct.unpack_from("<I", grid, 636)
    value, slot, root_size, values_at, lower_at, upper_at = SIZES[kind]
    root = 672 + struct.unpack_from("<Q", grid, 672 + 24)[0]
    assert struct.unpack_from("<I", grid, root + 24) == (1,)
    key, child = struct.unpack_from("<Qq", grid, root + root_size)
    voxels = {}
    upper = root + child
    for a, i in children(grid, upper, 5, upper_at, slot):
        for b, j in children(grid, a, 4, lower_at, slot):
            origin = [128 * i[axis] + 8 * j[axis] for axis in range(3)]
            assert all(0 <= struct.unpack_from("<3i", grid, b)[axis] - origin[axis] < 8 for axis in range(3))
            for n in bits(grid[b + 16 : b + 80]):
                place = tuple(o + p for o, p in zip(origin, (n >> 6, n >> 3 & 7, n & 7), strict=True))
                voxels[place] = struct.unpack_from(f"<{value // 4}f", grid, b + values_at + n * value)
    numbers = {"matrix": (296 + 88, 9), "origin": (296 + 232, 3)}
    facts = {what: list(struct.unpack_from(f"<{n}d", grid, place)) for what, (place, n) in numbers.items()}
    facts["box"] = list(struct.unpack_from("<6i", grid, root))
    facts["extrema"] = list(struct.unpack_from(f"<{value // 2}f", grid, root + 28 + value))
    assert key == 0
    return voxels, facts


def children(grid: bytes, node: int, log: int, table: int, slot: int) -> list[tuple[int, tuple[int, int, int]]]:
    """Where the children of an inner node are, and their places in it."""
    n_bytes, side = (1 << 3 * log) // 8, (1 << log) - 1
    mask = grid[node + 32 + n_bytes : node + 32 + 2 * n_bytes]
    return [
        (node + struct.unpack_from("<q", grid, node + table + n * slot)[0], (n >> 2 * log, n >> log & side, n & side))
        for n in bits(mask)
    ]


def bits(mask: bytes) -> list[int]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()


# -------------------------------------------------------------------------------------------------------------------- tests


def test_a_file_read_back_has_the_voxels_their_places_and_their_values(fog: Fog) -> None:
    grids = read_nvdb(nvdb_of(fog))
    assert list(grids) == ["density", "colour"]
    for name, where, values in (("density", fog.absorbs, fog.density[..., None]), ("colour", fog.colored, fog.colors)):
        voxels, facts = grids[name]
        index = np.array(sorted(voxels))
        np.testing.assert_array_equal(index, np.argwhere(where))
        np.testing.assert_array_equal([voxels[tuple(place)] for place in index.tolist()], values[where])
        np.testing.assert_array_equal(facts["box"], [*index.min(0), *index.max(0)])
        world = index @ np.reshape(facts["matrix"], (3, 3)).T + facts["origin"]
        np.testing.assert_allclose(world, fog.lattice.world_from_index(index), atol=1e-12)
        lengths = np.linalg.norm(values[where], axis=-1)
        np.testing.assert_array_equal(facts["extrema"], [*values[where][lengths.argmin()], *values[where][lengths.argmax()]])


def test_a_volume_absorbs_what_the_field_does(egg: RadianceField) -> None:
    """In a field that is even, a ray loses the share of the light that the volume's number says, whatever the activation."""
    lattice = egg.lattice
    middle = (np.array(lattice.lo) + lattice.hi) / 2
    for activation in ("softplus", "relu"):
        for alpha in (0.002, 0.015):
            equation = replace(egg.equation, activation=activation, step_world=2.0**-7)
            raw = np.full(lattice.shape, equation.density_of(alpha), np.float32)
            field = replace(egg, density=raw, equation=equation)
            (density,) = np.unique(fog_of(field).density)
            start = np.float32([[lattice.lo[0] - 1, *middle[1:]]])
            _, light, _ = select().render_rays(field.volume(), start, np.float32([[1, 0, 0]]))
            assert 0.05 < light[0] < 0.8
            assert density * lattice.extent[0] == pytest.approx(-np.log(light[0]), rel=0.02)  # it ends with a whole step


def test_colours_are_the_fields_as_light_and_reach_a_voxel_farther(egg: RadianceField, fog: Fog) -> None:
    expected = linear_of(1 / (1 + np.exp(-egg.features)))  # whatever the direction
    np.testing.assert_allclose(fog.colors[fog.absorbs], expected[fog.absorbs], atol=2e-5)
    assert fog.density[fog.absorbs].min() > 0 and not fog.density[~fog.absorbs].any()
    beside = fog.colored & ~fog.absorbs
    assert 0 < fog.absorbs.sum() < fog.colored.sum() < fog.absorbs.size and not (fog.absorbs & ~fog.colored).any()
    for i, j, k in np.argwhere(beside)[::97]:
        around = tuple(slice(max(n - 1, 0), n + 2) for n in (i, j, k))
        np.testing.assert_allclose(fog.colors[i, j, k], fog.colors[around][fog.absorbs[around]].mean(0), rtol=1e-5)
    assert not fog.colors[~fog.colored].any()


def test_what_no_sample_is_so_faint_as_and_what_no_cell_allows_is_left_out(egg: RadianceField) -> None:
    fog = fog_of(egg)
    alpha = -np.expm1(-egg.equation.depth_of(egg.density))
    np.testing.assert_array_equal(fog.absorbs, alpha > egg.equation.alpha_threshold)
    allowed = np.zeros([side - 1 for side in SHAPE], np.uint8)
    allowed[9, 4, 70] = 1
    np.testing.assert_array_equal(np.argwhere(fog_of(replace(egg, allowed=allowed)).absorbs).max(0), (10, 5, 71))


def test_a_volume_is_refused_of_what_is_in_no_box_or_nothing_or_too_large(egg: RadianceField, fog: Fog) -> None:
    front = Front.looking(np.eye(4), 1.0, 1.0)
    lattice = Lattice((-0.5, -0.5, 0.0), (0.5, 0.5, 0.9), SHAPE, front)
    with pytest.raises(ValueError, match="is in the space front, of which no volume is made"):
        fog_of(replace(egg, lattice=lattice))
    with pytest.raises(ValueError, match="nothing in the field"):
        fog_of(replace(egg, density=np.full(SHAPE, -50, np.float32)))
    with limited(50_000), pytest.raises(OverBudget, match="volume of 27000 voxels"):
        fog_of(egg)
    with limited(50_000), pytest.raises(OverBudget, match="blocks of 8x8x8"):
        nvdb_of(fog)
    shape = (2, 4097, 2)
    one = np.ones(shape, bool)
    long = Fog(Lattice((0, 0, 0), (1, 1, 1), shape), one, np.ones(shape, np.float32), one, np.ones((*shape, 3), np.float32))
    with pytest.raises(ValueError, match="4097 voxels along a side"):
        nvdb_of(long)


# ----------------------------------------------------------------------------------------------------------- other programs

needs_nanovdb = pytest.mark.skipif(
    not all(map(shutil.which, ("nanovdb_validate", "nanovdb_convert"))),
    reason="needs nanovdb_validate and nanovdb_convert, as in Debian's libnanovdb-tools",
)


@pytest.fixture
def saved(fog: Fog, tmp_path: Path) -> Path:
    path = tmp_path / "egg.nvdb"
    path.write_bytes(nvdb_of(fog))
    return path


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_nanovdb
def test_nanovdb_finds_nothing_wrong(saved: Path) -> None:
    out = run("nanovdb_validate", "-v", saved)
    assert 'named "density": passed' in out and 'named "colour": passed' in out
    damaged = bytearray(saved.read_bytes())
    damaged[HEADER + 2 * ENTRY + 15 + 640] ^= 1  # of the first grid's head
    saved.write_bytes(damaged)
    assert 'named "density": passed' not in run("nanovdb_validate", "-v", saved)


@needs_nanovdb
@pytest.mark.parametrize("name", ["density", "colour"])
def test_nanovdb_writes_the_same_grid_to_the_byte(saved: Path, tmp_path: Path, name: str) -> None:
    """By way of OpenVDB, from whose tree it makes its own anew."""
    run("nanovdb_convert", "-g", name, saved, tmp_path / "grid.vdb")
    run("nanovdb_convert", "-s", "extrema", "-c", "partial", tmp_path / "grid.vdb", tmp_path / "again.nvdb")
    again, own = (tmp_path / "again.nvdb").read_bytes(), saved.read_bytes()
    entry = again[HEADER : HEADER + ENTRY + len(name) + 1]
    grid = again[HEADER + len(entry) :]
    assert len(grid) > 100_000 and grid in own and entry in own


READ = """
import json, sys, pyopenvdb
found = {}
for name in ("density", "colour"):
    grid = pyopenvdb.read(sys.argv[1], name)
    read = grid.getConstAccessor()
    voxels = [(item.min, item.value) for item in grid.iterOnValues()]
    found[name] = [(place, value, grid.transform.indexToWorld(place), read.isValueOn(place)) for place, value in voxels[:: 37]]
    found[name + " is"] = grid.gridClass, grid.activeVoxelCount()
json.dump(found, sys.stdout)
"""


@needs_nanovdb
def test_openvdb_reads_the_fields_values_at_the_fields_places(fog: Fog, saved: Path, tmp_path: Path) -> None:
    python = shutil.which("python3", path=os.defpath)
    if python is None or subprocess.run([python, "-c", "import pyopenvdb"], capture_output=True).returncode:
        pytest.skip("needs a python3 of the system that has pyopenvdb, as in Debian's python3-openvdb")
    run("nanovdb_convert", saved, tmp_path / "egg.vdb")
    found = json.loads(run(python, "-c", READ, tmp_path / "egg.vdb"))
    assert found["density is"] == ["fog volume", fog.absorbs.sum()] and found["colour is"] == ["unknown", fog.colored.sum()]
    for name, values in (("density", fog.density), ("colour", fog.colors)):
        assert len(found[name]) > 100
        for place, value, world, is_on in found[name]:
            np.testing.assert_array_equal(np.float32(value), values[tuple(place)])
            np.testing.assert_allclose(world, fog.lattice.world_from_index(place), atol=1e-12)
            assert is_on
