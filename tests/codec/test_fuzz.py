"""No bytes make a decoder misbehave, and both decoders say the same of all of them. `tests/fuzz/run.sh` is the long way."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzz import differential
from test_entropy import generate, needs_native

from vqrf.codec.bitstream import decode, encode
from vqrf.codec.container import SIGNATURE, VERSION, BitstreamError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFORMANCE = sorted((ROOT / "conformance").glob("*/*.vqrf"))
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
KIB = 1024


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fuzz/replay.cpp`, built with the sanitizers."""
    compiler, program = shutil.which("g++"), tmp_path_factory.mktemp("fuzz") / "replay"
    if compiler is None:
        pytest.skip("no g++ to build the decoder with sanitizers")
    sources = [*(f"tests/fuzz/{name}.cpp" for name in ("decode", "mutate", "replay")), "src/native/bitstream.cpp"]
    flags = ["-std=c++20", "-pthread", "-Isrc/native", "-Itests/fuzz", *SANITIZERS]
    subprocess.run([compiler, *flags, *sources, "-o", str(program)], check=True, cwd=ROOT)
    return program


def tally(replay: Path, n_mutants: int, files: list[Path]) -> tuple[int, int, int, int]:
    """Files and mutants that were tried, that were accepted, the most bytes that one took, and those accepted as cut off."""
    out = subprocess.run([replay, "check", str(n_mutants), *files], check=True, capture_output=True, text=True).stdout
    n_tried, n_accepted, most_bytes, n_cut_off = (int(word) for word in out.split() if word.isdigit())
    return n_tried, n_accepted, most_bytes, n_cut_off


def test_no_damage_makes_the_core_misbehave(replay: Path) -> None:
    """The C++ decoder alone, under the sanitizers, on thousands of bad files; `fuzz/decode.cpp` says what must hold."""
    n_tried, n_accepted, _, n_cut_off = tally(replay, 100, CONFORMANCE)
    assert n_tried == 101 * len(CONFORMANCE) > 5000
    assert n_tried / 50 < n_accepted < n_tried / 4  # most of it is damage, and enough of it gets through to the end
    assert n_cut_off > n_tried / 1000


@needs_native
def test_the_twin_and_the_core_say_the_same_of_any_mutant(replay: Path) -> None:
    small = [path for path in CONFORMANCE if path.stat().st_size < 2 * KIB]
    n_tried, n_accepted = differential.compare(differential.mutants_of(replay, 8, small))
    assert n_tried == 8 * len(small)
    assert n_accepted > n_tried / 50


def claim(name: bytes, raw: int, body: bytes, size: int = 100) -> bytes:
    """A file of `size` bytes whose one section says that it decodes to `raw` bytes."""
    body = body.ljust(size - 64, b"\0")
    row = struct.pack("<4sHHQQII", name, 1, 0 if name == b"HEAD" else 1, len(body), raw, zlib.crc32(body), 0)
    start = SIGNATURE + struct.pack("<HHIQI", *VERSION, 1, size, 0)
    return start + struct.pack("<I", zlib.crc32(start + row)) + row + body


GREAT_CLAIMS = {
    "a partition": claim(b"PART", 4096**3, b""),
    "codes": claim(b"CODE", 4 * 4096**3, b""),
    "a head": claim(b"HEAD", 36, struct.pack("<9I", *[4096] * 9)),
    "a whole head": claim(b"HEAD", 116, bytes(48) + struct.pack("<3I", 4096, 4096, 4096), 180),
}


@pytest.mark.parametrize("name", GREAT_CLAIMS)
def test_a_small_file_that_claims_a_great_lattice_costs_nothing(name: str, replay: Path, tmp_path: Path) -> None:
    data = GREAT_CLAIMS[name]
    path = tmp_path / "claim.vqrf"
    path.write_bytes(data)
    _, n_accepted, most_bytes, _ = tally(replay, 0, [path])
    assert n_accepted == 0
    assert most_bytes < 4 * KIB
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQRF_NATIVE", "0")
        tracemalloc.start()
        try:
            with pytest.raises(BitstreamError):
                decode(data, max_bytes=1 << 62)
            assert tracemalloc.get_traced_memory()[1] < 64 * KIB
        finally:
            tracemalloc.stop()


def test_a_lattice_of_4096_a_side_in_a_whole_file_costs_nothing(replay: Path) -> None:
    (bomb,) = (path for path in CONFORMANCE if path.stem == "bomb")
    n_tried, n_accepted, most_bytes, _ = tally(replay, 0, [bomb])
    assert (n_tried, n_accepted) == (1, 0)
    assert most_bytes < 4 * KIB


@pytest.mark.parametrize(
    ("shape", "share", "n_levels", "n_latents"),
    [((90, 90, 90), 0.002, 3, 3), ((20, 20, 20), 1, 8, 40), ((2, 150, 150), 1, 8, 3), ((22, 22, 22), 1, 0, 40)],
    ids=str,
)
def test_a_pyramid_takes_the_memory_that_is_counted_for_it(
    shape: tuple[int, int, int], share: float, n_levels: int, n_latents: int, replay: Path, tmp_path: Path
) -> None:
    """Arrays and working memory as FORMAT.md section 2 counts them, and models and bookkeeping that do not grow."""
    partition = (np.random.default_rng(0).random(shape) < share).astype(np.uint8)
    field = generate.make_pyramid(1, shape, n_levels=n_levels, n_latents=n_latents, basis_of=3, partition=partition, widths=[])
    path = tmp_path / "pyramid.vqrf"
    path.write_bytes(encode(field))
    raws = {row[:4]: struct.unpack("<Q", row[16:24])[0] for row, _ in generate.split(path.read_bytes())}
    working = 24 * (shape[1] + 2) * (shape[2] + 2) + 2 * math.prod(-(-side // 4) for side in shape)
    working += sum(raw for name, raw in raws.items() if name.startswith(b"LEV")) // 2
    for number in range(n_levels):
        shape = (shape[0] // 2 + 1, shape[1] // 2 + 1, shape[2] // 2 + 1)
        working += math.prod(shape) * (5 if number == 0 else 1)
    n_tried, n_accepted, most_bytes, _ = tally(replay, 0, [path])
    assert (n_tried, n_accepted) == (1, 1)
    assert most_bytes < sum(raws.values()) + working + 256 * KIB


@pytest.mark.parametrize(
    ("shape", "share", "n_levels", "components"),
    [((90, 90, 90), 0.002, (3, 3), (2, 3)), ((2, 150, 150), 1, (8, 8), (1, 2)), ((40, 40, 40), 1, (0, 0), (16, 48))],
    ids=str,
)
def test_planes_take_the_memory_that_is_counted_for_them(
    shape: tuple[int, int, int],
    share: float,
    n_levels: tuple[int, int],
    components: tuple[int, int],
    replay: Path,
    tmp_path: Path,
) -> None:
    """As a pyramid does; models of the streams grow with the number of components, within the allowance."""
    partition = (np.random.default_rng(0).random(shape) < share).astype(np.uint8)
    field = generate.make_planes(
        1, shape, n_levels=n_levels, components=components, n_channels=3, partition=partition, widths=[]
    )
    path = tmp_path / "planes.vqrf"
    path.write_bytes(encode(field))
    raws = {row[:4]: struct.unpack("<Q", row[16:24])[0] for row, _ in generate.split(path.read_bytes())}
    x, y, z = shape
    working = 24 * (y + 2) * (z + 2) + 2 * math.prod(-(-side // 4) for side in shape) + 12 * (x * y + x * z + y * z)
    working += sum(raw for name, raw in raws.items() if name[:3] in (b"PLN", b"LIN")) // 2
    models = 6 * 172 * sum(components)
    n_tried, n_accepted, most_bytes, _ = tally(replay, 0, [path])
    assert (n_tried, n_accepted) == (1, 1)
    assert most_bytes < sum(raws.values()) + working + models + 256 * KIB
