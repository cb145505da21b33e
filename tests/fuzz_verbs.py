"""What anybody may hand in, through the verbs: `python tests/fuzz_verbs.py files|planes|checkpoints|headers|server N [SEED]`.

    files        random .vqrf files that decode, with constants at the ends of their ranges, through info, verify, render, eval,
                 convert and export
    planes       the same of planes and lines
    checkpoints  checkpoints of nine kinds, of which values were replaced, through info and convert
    headers      run folders of which the header or the arrays were changed, through info, render and convert
    server       requests to the viewer's server, whole, cut, changed and slow

Each ends as `vqrf.cli.ends` says: with 0, or with 2 and one line that a terminal can show; within `SECONDS` and within a
budget of memory. A fault is printed with its seed, and the exit code is 1.
"""

from __future__ import annotations

import contextlib
import copy
import io
import mmap
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "conformance"), str(ROOT / "tests"), str(ROOT / "tests" / "interop"), str(ROOT / "tests" / "codec")]

import generate  # noqa: E402
from foreign import small_tree as dvgo_tree  # noqa: E402
from foreign_places import (  # noqa: E402
    contracted_tree,
    front_svox2_arrays,
    front_tensorf_tree,
    mpi_tree,
    save_cameras,
)
from test_interop_svox2 import small_arrays  # noqa: E402
from test_interop_tensorf import small_tree as tensorf_tree  # noqa: E402
from test_planes import planes_field  # noqa: E402

from vqrf.cli import view as cli_view  # noqa: E402
from vqrf.cli.convert import AS_THEY_ARE, Convert, ImportOptions  # noqa: E402
from vqrf.cli.ends import ending_in_words  # noqa: E402
from vqrf.cli.main import Eval, Info, Verify  # noqa: E402
from vqrf.cli.terminal import Running, Writing  # noqa: E402
from vqrf.cli.view import Export, Render  # noqa: E402
from vqrf.codec.bitstream import encode  # noqa: E402
from vqrf.codec.compressed import Compressed, CompressedField, Quantized, items_of  # noqa: E402
from vqrf.codec.pyramid import PyramidField  # noqa: E402
from vqrf.data.builtin import built_in_scene  # noqa: E402
from vqrf.data.scene import save_scene  # noqa: E402
from vqrf.fields.field import expand  # noqa: E402
from vqrf.fields.run import FIELD_FILE  # noqa: E402
from vqrf.fields.storage import load_arrays, save_arrays, save_field  # noqa: E402
from vqrf.geometry import Lattice  # noqa: E402
from vqrf.interop import zip_of_vqrf  # noqa: E402
from vqrf.interop.archives import bytes_of_npz, bytes_of_object_npz, bytes_of_torch, bytes_of_zip  # noqa: E402
from vqrf.interop.folder import _parts  # noqa: E402
from vqrf.interop.parts import UNHEARD_OF  # noqa: E402
from vqrf.interop.values import NumpyArray, Tensor  # noqa: E402
from vqrf.memory import limited  # noqa: E402
from vqrf.rendering import evaluate  # noqa: E402
from vqrf.rendering.serve import SceneServer  # noqa: E402

SECONDS = 10
"""Of computing, however busy the machine is; of waiting, `PATIENCE` times as many."""
PATIENCE = 12
BUDGET = 1 << 30
OF_LIBRARIES = 1 << 29
"""Bytes of addresses that libraries and threads take when they are first asked for something."""
AT_ONCE = 500
"""Numbers of a process: one that dies hides no more."""
MOST_FAULTS = 20
RUNNING = Running(threads=1, quiet=True)
QUIET = Writing(threads=1, quiet=True, overwrite=True)
MOST_CHARACTERS = 700

Verb = Callable[[], None]


class Hang(BaseException):
    """A verb took longer than it may."""


def outcome(run: Verb) -> str:
    """How a verb ended: "ok", "refused", or what is wrong with how it ended."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    said, printed, code = io.StringIO(), io.StringIO(), 0
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(PATIENCE * SECONDS)
    try:
        with redirect_stderr(said), redirect_stdout(printed), limited(BUDGET), ending_in_words():
            run()
    except SystemExit as end:
        code = int(end.code or 0)
    except Hang:
        return f"FAULT took more than {SECONDS} s"
    except BaseException as error:
        return f"FAULT {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    line = said.getvalue()
    if (
        "not enough memory" in line
        or code not in (0, 2)
        or UNHEARD_OF in line
        or "fault of this program" in line
        or len(line) > MOST_CHARACTERS
    ):
        return f"FAULT code {code}: {line[:300]}"
    lines = line.splitlines() + printed.getvalue().splitlines()
    if (code == 2 and line.count("\n") != 1) or not all(text.isprintable() for text in lines):
        return f"FAULT code {code} with {len(lines)} lines or marks: {line[:300]!r}"
    return "refused" if code else "ok"


# ------------------------------------------------------------------------------------------------------------------- files

ENDS = (0.0, 1e-38, 1e-30, 1e-9, 1e-3, 0.5, 1.0, 20.0, 1e9, 1e30, 3e38, -1e-3, -8.0, -100.0, -3e38)
TEXTS = ("", "x", "[/b]", "[link=a]", "\x1b]0;t\x07", "\ud800", "\u202e", "漢字", "y" * 900)


def random_file(rng: random.Random) -> bytes:
    seed, shape = rng.getrandbits(32), random_shape(rng)
    n_channels = rng.choice((1, 2, 3, 5))
    widths = random_widths(rng, n_channels)
    options: dict[str, Any] = {"widths": widths}
    if rng.random() < 0.3:
        n_channels, options = rng.choice(((12, "sh"), (27, "sh_relu"), (3, "mlp"))), {"widths": []}
        n_channels, options["shading"] = n_channels  # type: ignore[misc]
    if rng.random() < 0.3:
        options["activation"] = "relu"
    if rng.random() < 0.5:
        small = generate.make_pyramid(seed, shape, n_levels=rng.randrange(4), n_latents=2, basis_of=n_channels, **options)
    else:
        small = generate.make_field(seed, shape, n_channels=n_channels, n_codewords=rng.choice((1, 3, 40)), **options)
    return encode(varied(rng, small))


def random_planes(rng: random.Random) -> bytes:
    seed, shape = rng.getrandbits(32), random_shape(rng)
    small = planes_field(seed, shape, n_levels=rng.randrange(4), rank=rng.choice((3, 5, 9)))
    network = generate.make_pyramid(seed, shape, n_levels=0, n_latents=2, basis_of=4, widths=random_widths(rng, 4))
    return encode(varied(rng, replace(small, color_mlp=network.color_mlp, equation=network.equation)))


def random_shape(rng: random.Random) -> tuple[int, int, int]:
    return rng.choice((2, 2, 3, 4, 7)), rng.choice((2, 2, 3, 4, 7)), rng.choice((2, 2, 3, 4, 7))


def random_widths(rng: random.Random, n_channels: int) -> list[int]:
    return [
        n_channels + 3 + 6 * rng.randrange(3),
        *(rng.choice((1, 2, 8, 16, 17, rng.choice((8, 8, 100, 300)))) for _ in range(rng.randrange(12))),
        3,
    ]


def varied(rng: random.Random, small: Compressed) -> Compressed:
    """With constants, bounds and metadata from all over their ranges."""
    change: dict[str, Any] = {}
    names = ("density_bias", "interval", "step_world", "near", "alpha_threshold")
    for name in rng.sample(names, rng.choice((0, 0, 1, 1, 2))):
        value = rng.choice(ENDS)
        change[name] = abs(value) or 1.0 if name in ("interval", "step_world") else value
    lattice, shape = small.lattice, small.lattice.shape
    if rng.random() < 0.5:  # voxels that are cubes, as DirectVoxGO's are
        lattice = Lattice((0.0, 0.0, 0.0), tuple(float(side - 1) for side in shape), shape)  # type: ignore[arg-type]
    if rng.random() < 0.3:
        size, at = 10 ** rng.uniform(-45, 38), rng.choice((0.0, 1.0, 1e6, -1e12, 1e30, 1e38))
        with contextlib.suppress(ValueError):
            lattice = Lattice((at,) * 3, (at + size, at + rng.uniform(0.5, 2) * size, at + size), shape)  # type: ignore[arg-type]
    metadata: dict[str, Any] = {rng.choice(TEXTS): rng.choice((*TEXTS, 1, None, True, [1]))} if rng.random() < 0.5 else {}
    if rng.random() < 0.2:
        metadata["training"] = rng.choice(({"downscale": True}, {"downscale": 10**30}, {"side": -1}, {"hold_out": "x"}, [1]))
    made = replace(small, equation=replace(small.equation, **change), lattice=lattice, metadata=metadata)
    return with_large_values(rng, made) if rng.random() < 0.3 else made


def with_large_values(rng: random.Random, made: Compressed) -> Compressed:
    """With scales at and beyond the ends of what can be drawn."""
    by = np.float32(rng.choice((0, -1, 1e10, 1e25, 1e30, 3e36, 1e38)))
    with np.errstate(over="ignore"):
        if isinstance(made, CompressedField):
            name = rng.choice(("kept", "density"))
            table = getattr(made, name)
            return replace(made, **{name: replace(table, scale=table.scale * by)})
        if made.color_mlp and rng.random() < 0.5:
            layers = [
                (Quantized(items_of(weight).view(np.uint16), by[None], by[None]), bias) for weight, bias in made.color_mlp
            ]
            return replace(made, color_mlp=tuple(layers))
        return replace(made, steps=made.steps * by) if isinstance(made, PyramidField) else made


def verbs_of_file(rng: random.Random, path: Path, data: Path, out: Path) -> dict[str, Verb]:
    """All verbs that take such a file; of two ways that cost much, one."""
    picture = {"path": "orbit", "frames": 1, "width": 8, "height": 8, "common": QUIET}
    return {
        "info": Info(path, as_json=rng.random() < 0.8).run,
        "verify": Verify(path).run,
        **({"strict": Verify(path, strict=True).run} if rng.random() < 0.1 else {}),
        "render": Render(path, out / "frames", **picture).run,  # type: ignore[arg-type]
        "eval": Eval(path, data, every=100, common=RUNNING).run,
        "convert": Convert(path, out / rng.choice(("a.tar", "run", "again.vqrf", "a.zip", "a.npz")), overwrite=True).run,
        "export": Export(path, out / "a.html", overwrite=True).run,
    }


@contextlib.contextmanager
def finite_pictures() -> Iterator[None]:
    """A picture that is none, which files of whole numbers would hide, is a fault."""
    before = cli_view.render

    def checked(*arguments: Any, **named: Any) -> Any:
        image = before(*arguments, **named)
        assert all(np.isfinite(part).all() for part in (image.rgb, image.depth, image.opacity)), "a picture is not finite"
        return image

    cli_view.render = evaluate.render = checked
    try:
        yield
    finally:
        cli_view.render = evaluate.render = before


def fuzz_files(
    numbers: range, seed: int, work: Path, make: Callable[[random.Random], bytes] = random_file
) -> Iterator[tuple[str, str]]:
    save_scene(built_in_scene(0, n_train=1, n_test=1, side=11), work / "data")
    path = work / "a.vqrf"
    for i in numbers:
        rng = random.Random(f"{seed} {i}")
        try:
            path.write_bytes(make(rng))
        except ValueError:  # constants that no file holds
            yield "files", "not made"
            continue
        ends = {}
        for name, run in verbs_of_file(rng, path, work / "data", work).items():
            with finite_pictures():
                ends[name] = outcome(run)
            yield f"{name} {i}", ends[name]
        drawn = {ends[name] for name in ("verify", "render", "export")}
        if len(drawn) > 1 and not any("FAULT" in end for end in drawn):
            yield f"verbs {i}", f"FAULT they do not agree: {ends}"


# ------------------------------------------------------------------------------------------------------------- checkpoints


def plain(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.numpy()
    if isinstance(value, Tensor | NumpyArray):
        return value.array()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


DEEP: list[Any] = []
for _ in range(40):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        5e-324,
        1e30,
        1e-30,
        1 << 62,
        1 << 100,
        -(1 << 70),
    ),
    *("", "x", "relu", "MLP", "MLP_Fea", "softplus", "\x1b[31m", b"abc"),
    *([], {}, [1], [None], [[1]], (), (1, 2, 3), {"a": 1}, [1e308] * 3, [0] * 3, ["a"] * 3, DEEP),
)


def odd_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    kinds: tuple[Callable[[], np.ndarray], ...] = (
        lambda: np.zeros((0,) * max(array.ndim, 1), np.float32),
        lambda: array.reshape(-1),
        lambda: array[..., None],
        lambda: np.full(array.shape, np.nan, np.float32),
        lambda: np.full(array.shape, 3e38, np.float32),
        lambda: np.full(array.shape, -3e38, np.float32),
        lambda: np.full(array.shape, 1e308),
        lambda: np.zeros(array.shape, np.int64),
        lambda: np.full(array.shape, -(1 << 62), np.int64),
        lambda: array[:1] if array.ndim else array,
        lambda: np.zeros((1,) * array.ndim, np.float32),
        lambda: np.zeros(array.shape, bool),
        lambda: np.asfortranarray(array),
        lambda: (array * 1e30).astype(array.dtype) if array.dtype.kind == "f" else array,
    )
    return rng.choice(kinds)()


def paths_of(tree: dict[Any, Any], above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = []
    for key, value in tree.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += paths_of(value, (*above, key))
    return found


def spoilt(rng: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """With one to three values replaced or left out."""
    tree = copy.deepcopy(tree)
    with np.errstate(all="ignore"):
        for _ in range(rng.choice((1, 1, 2, 3))):
            *above, last = rng.choice(paths_of(tree))
            holder: Any = tree
            for key in above:
                holder = holder[key]
            value, luck = holder[last], rng.random()
            if luck < 0.1:
                del holder[last]
            elif isinstance(value, np.ndarray) and luck < 0.75:
                holder[last] = odd_array(rng, value)
            else:
                holder[last] = copy.copy(rng.choice(ODD))
            if not paths_of(tree):
                break
    return tree


def makers(work: Path) -> dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], bytes]]]:
    """Of each format: the ending of its file, a tree of values, and how bytes are made of one."""
    small = generate.make_field(0, (5, 5, 5), n_channels=6, widths=[6 + 3 + 6, 8, 3])
    small = replace(small, lattice=Lattice((-1.0,) * 3, (1.0,) * 3, (5, 5, 5)))
    (work / "small.zip").write_bytes(zip_of_vqrf(small))
    parts = {name: plain(part) for name, part in _parts(work / "small.zip", None).items()}

    def zipped(tree: dict[str, Any]) -> bytes:
        files = {
            f"extreme_saving/{name}.npz": bytes_of_npz({"arr_0": part})
            if isinstance(part, np.ndarray)
            else bytes_of_object_npz("arr_0", part)
            for name, part in tree.items()
        }
        return bytes_of_zip(files, 8)

    def npz(tree: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        np.savez_compressed(file, **{key: np.asarray(value) for key, value in tree.items()})
        return file.getvalue()

    return {
        "dvgo": (".tar", plain(dvgo_tree()), lambda tree: bytes_of_torch(tree, "x")),
        "tensorf": (".th", plain(tensorf_tree()), lambda tree: bytes_of_torch(tree, "x")),
        "cp": (".th", plain(tensorf_tree("CP")), lambda tree: bytes_of_torch(tree, "x")),
        "svox2": (".npz", small_arrays(), npz),
        "mpi": (".tar", plain(mpi_tree()), lambda tree: bytes_of_torch(tree, "x")),
        "contracted": (".tar", plain(contracted_tree()), lambda tree: bytes_of_torch(tree, "x")),
        "front tensorf": (".th", plain(front_tensorf_tree()), lambda tree: bytes_of_torch(tree, "x")),
        "front svox2": (".npz", front_svox2_arrays(is_flat=False), npz),
        "vqrf": (".zip", parts, zipped),
    }


def fuzz_checkpoints(numbers: range, seed: int, work: Path) -> Iterator[tuple[str, str]]:
    formats = makers(work)
    save_cameras(work)
    front = ImportOptions(cameras=work, space="front")
    said = {
        "mpi": front,
        "contracted": ImportOptions(contraction="l2"),
        "front tensorf": front,
        "front svox2": front,
    }
    for i in numbers:
        rng = random.Random(f"{seed} {i}")
        name = rng.choice(list(formats))
        options = said.get(name, AS_THEY_ARE)
        suffix, tree, make = formats[name]
        path = work / f"a{suffix}"
        try:
            path.write_bytes(make(spoilt(rng, tree)))
        except (ValueError, TypeError, StopIteration, OverflowError, AttributeError):
            yield name, "not made"
            continue
        yield f"info {name} {i}", outcome(Info(path, options=options).run)
        yield f"convert {name} {i}", outcome(Convert(path, work / "run", overwrite=True, options=options).run)


# ----------------------------------------------------------------------------------------------------------------- headers


def fuzz_headers(numbers: range, seed: int, work: Path) -> Iterator[tuple[str, str]]:
    run = work / "field"
    run.mkdir()
    small = generate.make_field(0, (4, 5, 4), n_channels=6, widths=[6 + 3 + 6, 8, 3])
    field = expand(replace(small, lattice=Lattice((-1.5, -2.0, -1.5), (1.5, 2.0, 1.5), (4, 5, 4))))  # cubes, as .tar has
    save_field(run / FIELD_FILE, field, notes={"scene": "x", "downscale": 1})
    arrays, header = load_arrays(run / FIELD_FILE, "vqrf-field-1")
    for i in numbers:
        rng = random.Random(f"{seed} {i}")
        tree = spoilt(rng, {"header": header, "arrays": arrays})
        odd = tree.get("arrays") if isinstance(tree.get("arrays"), dict) else arrays
        try:
            kept = {key: array for key, array in odd.items() if isinstance(array, np.ndarray)}  # type: ignore[union-attr]
            save_arrays(run / FIELD_FILE, kept, tree.get("header", {}))
        except (ValueError, TypeError, KeyError, AttributeError):
            yield "headers", "not made"
            continue
        picture = Render(run, work / "frames", path="orbit", frames=1, width=8, height=8, common=QUIET)
        yield f"info {i}", outcome(Info(run).run)
        yield f"render {i}", outcome(picture.run)
        yield f"convert {i}", outcome(Convert(run, work / "a.tar", overwrite=True).run)


# ------------------------------------------------------------------------------------------------------------------ server


def random_request(rng: random.Random, port: int) -> bytes:
    method = rng.choice(("GET", "GET", "HEAD", "POST", "\x00", "OPTIONS"))
    long = "/" + "a" * rng.choice((1, 70_000))
    path = rng.choice(("/", "/scene.vqrf", "/scene.vqrf?x", "/../x", "//", "*", "/%00", long))
    hosts = (f"Host: 127.0.0.1:{port}", "Host: localhost", "Host: example.org", "Host: [::1]", "", "Host: a\x00b")
    lines = [f"{method} {path} {rng.choice(('HTTP/1.1', 'HTTP/1.0', 'HTTP/9', ''))}", rng.choice(hosts)]
    odd = ("Range: bytes=-", "Range: bytes=5-", "If-None-Match: x", "Content-Length: 9", "Connection: x", "X" * 9000, ":")
    for _ in range(rng.randrange(4)):
        odd = (
            "Range: bytes=-",
            "Range: bytes=5-",
            "If-None-Match: x",
            "Content-Length: 9",
            "Connection: keep-alive",
            "X" * 9000,
            ":",
        )
        lines.append(rng.choice(odd) + "9" * rng.choice((0, 1, 20, 5000)))
    data = bytearray("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
    for _ in range(rng.choice((0, 0, 1, 5))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.choice((len(data), len(data), rng.randrange(1, len(data) + 1)))])


def fuzz_server(numbers: range, seed: int, work: Path) -> Iterator[tuple[str, str]]:
    scene, said = bytes(range(256)) * 2000, io.StringIO()
    with redirect_stderr(said), SceneServer(lambda: scene, "x") as server:
        port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        for i in numbers:
            rng, end = random.Random(f"{seed} {i}"), "ok"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE * SECONDS) as client:
                try:
                    client.sendall(random_request(rng, port))
                    client.shutdown(socket.SHUT_WR)
                    if rng.random() < 0.8:
                        while client.recv(1 << 16):
                            pass
                except TimeoutError:
                    end = f"FAULT no end in {PATIENCE * SECONDS} s"
            yield f"server {i}", f"FAULT {said.getvalue()[:200]}" if said.getvalue() else end
        server.shutdown()


FUZZERS = {
    "files": fuzz_files,
    "planes": partial(fuzz_files, make=random_planes),
    "checkpoints": fuzz_checkpoints,
    "headers": fuzz_headers,
    "server": fuzz_server,
}


def tally(
    kind: str, numbers: range, seed: int, at: Callable[[str], None] = lambda name: None
) -> tuple[Counter[str], list[str]]:
    """How many ended how, by verb or format, and the faults; `at` is told each name before the next begins."""
    counts: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for name, end in FUZZERS[kind](numbers, seed, Path(folder)):
            at(name)
            counts[f"{name.rsplit(' ', 1)[0]}: {end.split(' ')[0]}"] += 1
            if end.startswith("FAULT"):
                faults.append(f"{kind} seed {seed}, {name}: {end}")
    return counts, faults


def tally_apart(kind: str, numbers: range, seed: int) -> tuple[Counter[str], list[str], int]:
    """As `tally`, in a process of its own that may take `BUDGET` and what it began with; the MiB that it took besides.

    A process that dies, or that no signal of its own stops, is a fault of the number that it was at.
    """
    last, pipe = mmap.mmap(-1, 256), multiprocessing.Pipe(duplex=False)
    if (child := os.fork()) == 0:
        begun = resident()
        soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BUDGET + OF_LIBRARIES
        resource.setrlimit(resource.RLIMIT_AS, (soft, soft))

        def note(name: str) -> None:
            last[:] = name.encode()[:256].ljust(256)

        pipe[1].send((*tally(kind, numbers, seed, note), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) - begun))
        os._exit(0)
    pipe[1].close()
    try:
        if not pipe[0].poll(len(numbers) * PATIENCE * SECONDS):
            os.kill(child, signal.SIGKILL)
        return pipe[0].recv()  # type: ignore[no-any-return]
    except EOFError:
        return Counter(), [f"{kind} seed {seed}: the process died after {last[:].decode().strip()}"], 0
    finally:
        os.waitpid(child, 0)


def resident() -> int:
    """MiB that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


def main() -> None:
    kind, n, seed = sys.argv[1], int(sys.argv[2]), int((sys.argv[3:] or ["0"])[0])
    start, peak, counts, faults = time.monotonic(), 0, Counter[str](), list[str]()
    for first in range(0, n, AT_ONCE):
        some, bad, mib = tally_apart(kind, range(first, min(first + AT_ONCE, n)), seed)
        print(*bad, sep="\n", end="\n" if bad else "", flush=True)
        counts, faults, peak = counts + some, faults + bad, max(peak, mib)
        if len(faults) >= MOST_FAULTS:
            break
        if first % (10 * AT_ONCE) == 0:
            print(f"{first + AT_ONCE} of {n} after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(f"{n} {kind} in {time.monotonic() - start:.0f} s, at most {peak} MiB besides, {len(faults)} faults")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
