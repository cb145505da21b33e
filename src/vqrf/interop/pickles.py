"""Pickles without calls: what is in them is read as data by a machine of our own, which imports nothing and calls nothing.

A pickle is a program. Ours understands the part of it that builds numbers, texts, containers, NumPy arrays and torch tensors;
a global is never looked up, it is a name, and a name that `vqrf.interop.values` does not know ends the reading. All pickles of
a file together have a bounded number of steps and copy a bounded number of bytes; what comes out is not deep, and not long
either where it is written out.

Safe for untrusted input.
"""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from vqrf.interop.values import (
    BFLOAT16,
    BUILDERS,
    NAMES,
    SHARED,
    STORAGES,
    Name,
    NumpyArray,
    NumpyType,
    Opaque,
    Refused,
    Storage,
    dict_of,
    is_extent,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file that torch before 1.6 wrote, or a later one was told to."""

LEGACY_PROTOCOL = 1001
MAX_STEPS = 1 << 20
"""Most steps of all pickles of a file. A checkpoint of one field takes about a thousand."""

MAX_COPIED_BYTES = 1 << 25
"""Most bytes that are copied out of a pickle; the MLP in one needs a hundred kilobytes."""

MAX_INT_BITS = 128
"""`LEGACY_MAGIC` is the longest that torch writes. With long ones, arithmetic takes long too."""

MAX_DEPTH = 64
"""Most containers around a value. An optimiser's state has five."""

MAX_PARTS = 1 << 22
"""Most parts of a value, written out: a container that is named twice counts twice, so that nobody walks it for ever."""

INSIDE = "torch.storage._load_from_bytes"
"""A file of torch inside of a pickle."""

PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "SHORT_BINSTRING", "BINSTRING"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOTHING = {"PROTO", "FRAME"}


@dataclass(eq=False)
class Allowance:
    """What all pickles of a file may still do.

    Attributes:
      n_steps: of the machine.
      n_copied: characters, bytes and items that are made of others: a pickle may name one text many times.
    """

    n_steps: int = MAX_STEPS
    n_copied: int = MAX_COPIED_BYTES

    def take_step(self) -> None:
        self.n_steps -= 1
        if self.n_steps < 0:
            raise Refused(f"pickles of more than {MAX_STEPS} steps")

    def copy(self, n: int) -> None:
        self.n_copied -= n
        if self.n_copied < 0:
            raise Refused(f"a pickle that copies more than {MAX_COPIED_BYTES} bytes")


@dataclass(eq=False)
class _Machine:
    """Reads one pickle.

    Attributes:
      storage_of: makes the storage that a persistent id stands for; None where a file may hold none.
      is_inside: whether the pickle lies in another one: there may be none in it then.
    """

    storage_of: Callable[[Any], Storage] | None
    is_inside: bool
    allowed: Allowance
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, file: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            self.allowed.take_step()
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise Refused("a pickle without an end")

    def step(self, name: str, argument: Any) -> None:
        if name in PUSHED:
            if isinstance(argument, int) and argument.bit_length() > MAX_INT_BITS:
                raise Refused(f"a whole number of {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in TUPLES:
            parts = self.stack[-TUPLES[name] :]
            if len(parts) < TUPLES[name]:
                raise Refused("a pickle that takes what it has not put down")
            self.stack[-TUPLES[name] :] = [tuple(parts)]
        elif name not in NOTHING:
            step = getattr(self, f"do_{name.lower()}", None)
            if step is None:
                raise Refused(f"a pickle with the step {name}")
            step(argument)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def do_mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def do_tuple(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def do_list(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def do_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(dict_of(items))

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def do_empty_set(self, _: Any) -> None:
        self.stack.append(Opaque())

    def do_additems(self, _: Any) -> None:
        self.since_mark()
        if not isinstance(self.stack[-1], Opaque):
            raise Refused("a pickle that adds to what is no set")

    def do_frozenset(self, _: Any) -> None:
        self.since_mark()
        self.stack.append(Opaque())

    def do_append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def do_appends(self, _: Any) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("a pickle that appends to what is no list")
        self.stack[-1].extend(items)

    def do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def do_setitems(self, _: Any) -> None:
        self.update(self.since_mark())

    def update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Refused("a pickle that sets an item of what is no dict")
        self.stack[-1].update(dict_of(items))

    def do_put(self, number: Any) -> None:
        self.memo[number] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, number: Any) -> None:
        self.stack.append(self.memo[number])

    do_binget = do_long_binget = do_get

    def do_global(self, argument: str) -> None:
        self.push_name(*argument.split(" ", 1))

    def do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_name(module, name)

    def push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a pickle with a name that is no text")
        text = f"{module}.{name}"
        if text not in BUILDERS and text not in NAMES and text != INSIDE:
            raise Refused(f"a pickle that names {text[:80]!r}, which is no tensor, array or plain container; it was not run")
        self.stack.append(Name(text))

    def do_reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise Refused("a pickle that calls what is no name, or a name without arguments; it was not run")
        if name.text not in SHARED:
            self.allowed.copy(sum(len(part) for part in arguments if isinstance(part, str | bytes | bytearray | list | tuple)))
        if name.text == INSIDE:
            self.stack.append(self.load_inside(*arguments))
        elif name.text in BUILDERS:
            self.stack.append(BUILDERS[name.text](*arguments))
        else:
            raise Refused(f"a pickle that calls {name.text}, which builds nothing; it was not run")

    do_newobj = do_reduce

    def load_inside(self, data: Any) -> Any:
        if self.is_inside or not isinstance(data, bytes):
            raise Refused("a pickle in a pickle in a pickle, or a torch storage that is not in bytes")
        return load_legacy(io.BytesIO(data), is_inside=True, allowed=self.allowed)

    def do_build(self, _: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, NumpyType | NumpyArray):
            made.build(state)
        elif not isinstance(made, dict | Opaque):  # of a dict: attributes such as torch's _metadata, which nothing here reads
            raise Refused("a pickle that sets the state of what has none")

    def do_binpersid(self, _: Any) -> None:
        if self.storage_of is None:
            raise Refused("a pickle that refers to something outside of it")
        self.stack.append(self.storage_of(self.stack.pop()))


def load(
    file: BinaryIO,
    storage_of: Callable[[Any], Storage] | None = None,
    *,
    is_inside: bool = False,
    allowed: Allowance | None = None,
) -> Any:
    """The next pickle of a file, as plain containers, numbers, texts, and what `vqrf.interop.values` has.

    Args:
      storage_of, is_inside: as of the machine.
      allowed: what the pickles of the file may still do; None for the first.

    Raises:
      Refused: it holds anything else, is damaged, or takes too long.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in a text that Python does not know
            value = _Machine(storage_of, is_inside, allowed or Allowance()).run(file)
        _expect_shallow(value)
        return value
    except Refused:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
        struct.error,
    ) as error:
        raise Refused(f"a damaged pickle ({type(error).__name__}: {str(error)[:80]})") from error


def _expect_shallow(value: Any) -> None:
    """Refuse what is nested deeply, holds itself, or is too long to be written out. Without recursion."""
    done: dict[int, tuple[int, int]] = {}  # of finished containers, by identity: how high they are, and of how many parts
    path: list[tuple[Any, Iterator[Any]]] = [(value, iter(_parts_of(value)))]
    open_ones = {id(value)}
    while path:
        container, rest = path[-1]
        part = next((part for part in rest if _parts_of(part) and id(part) not in done), None)
        if part is not None:
            if id(part) in open_ones or len(path) > MAX_DEPTH:
                raise Refused(f"a value that holds itself, or is nested more than {MAX_DEPTH} deep")
            open_ones.add(id(part))
            path.append((part, iter(_parts_of(part))))
            continue
        inner = [done.get(id(part), (0, 1)) for part in _parts_of(container)]
        height, size = 1 + max((h for h, _ in inner), default=0), 1 + sum(n for _, n in inner)
        if height > MAX_DEPTH or size > MAX_PARTS:
            raise Refused(f"a value that is nested more than {MAX_DEPTH} deep, or has more than {MAX_PARTS} parts")
        done[id(container)] = height, size
        open_ones.discard(id(container))
        path.pop()


def _parts_of(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, NumpyArray):
        return [value.state]
    return value if isinstance(value, list | tuple) else ()


def storage_parts(identity: Any) -> tuple[str, str, int]:
    """Kind, key and number of items of a persistent id ('storage', type, key, device, numel[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Refused("a reference that is no torch storage")
    kind, key, n = identity[1], identity[2], identity[4]
    name = kind.text.removeprefix("torch.") if isinstance(kind, Name) else ""
    if name not in {*STORAGES, BFLOAT16} or not isinstance(key, str) or not is_extent(n) or identity[5:] not in ((), (None,)):
        raise Refused(f"a torch storage of type {name or type(kind).__name__}, or of a size that is none")
    return name, key, n


def load_legacy(file: BinaryIO, *, is_inside: bool = False, allowed: Allowance | None = None) -> Any:
    """What `torch.save` wrote before its files were zips: a row of pickles, then the bytes of the storages.

    Raises:
      Refused: as `load`; or a storage does not lie in the file.
    """
    allowed = allowed or Allowance()
    if load(file, allowed=allowed) != LEGACY_MAGIC or load(file, allowed=allowed) != LEGACY_PROTOCOL:
        raise Refused("no file that torch wrote")
    if not isinstance(system := load(file, allowed=allowed), dict) or not system.get("little_endian"):
        raise Refused("a torch file that is not little-endian")
    storages: dict[str, Storage] = {}

    def storage_of(identity: Any) -> Storage:
        kind, key, n = storage_parts(identity)
        storage = storages.setdefault(key, Storage(kind, n, _absent))
        if (storage.kind, storage.n) != (kind, n):
            raise Refused(f"a storage {key[:40]!r} of two kinds")
        return storage

    made = load(file, storage_of, is_inside=is_inside, allowed=allowed)
    keys = load(file, allowed=allowed)
    if not isinstance(keys, list):
        raise Refused("a torch file without a list of its storages")
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise Refused("a storage that nothing refers to")
        _find_bytes(file, storages[key])
    return made


def _absent() -> bytes:
    raise Refused("a torch storage that is not in the file")


def _find_bytes(file: BinaryIO, storage: Storage) -> None:
    """Where the bytes of a storage of a legacy file are; the file is left behind them."""
    head = file.read(8)
    if len(head) < 8 or struct.unpack("<q", head)[0] != storage.n:
        raise Refused(f"a storage that says another size than its tensors, which say {storage.n}")
    start, size = file.tell(), storage.n_bytes
    end = file.seek(0, io.SEEK_END)
    if start + size > end:
        raise Refused(f"a storage of {size} bytes where {end - start} are left")
    file.seek(start + size)

    def read() -> bytes:
        file.seek(start)
        return file.read(size)

    storage.read = read
