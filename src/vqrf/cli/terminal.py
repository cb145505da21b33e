"""What the verbs have in common: flags, reading what a path names, and a word on the way.

Errors that a user can cause are raised here as `UsageError`, and end in one line (see `vqrf.cli.main`).
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from vqrf.codec.about import about_of
from vqrf.codec.bitstream import decode
from vqrf.codec.compressed import Compressed
from vqrf.codec.container import SIGNATURE, sections
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.run import FIELD_FILE, load_run
from vqrf.files import expect_file, read_file
from vqrf.memory import decoding_budget, parse_bytes

WIDEST_TABLE = 1000
"""Characters, more than any table has."""
JSON_VERSION = 1
"""Version of what `--json` prints: a key that goes, or means something else, makes a new one."""
MAX_LINE = 600
"""Characters of a line about what is wrong, whatever a file has in it."""


CHECKPOINT = "a zip; if it is a checkpoint, vqrf compress makes a .vqrf of it, and vqrf convert a run folder"
"""What is said of it by a verb that takes none."""

KINDS = (
    (b"ply", "a PLY of points or splats"),
    (b"glTF", "a glTF"),
    (b"\x89PNG", "a PNG"),
    (b"\xff\xd8", "a JPEG"),
    (b"\x1f\x8b", "something gzipped"),
    (b"\x78\x9c", "something deflated, such as a snapshot of instant-ngp"),
    (b"PK", CHECKPOINT),
    (b"\x80\x02\x8a\x0a", CHECKPOINT.replace("a zip", "what torch wrote before its files were zips")),
    (b"<!do", "a web page"),
    (b"{", "JSON"),
)
"""First bytes of files that people try, and what they are."""

READ = "read are .vqrf files, run folders, checkpoints of DirectVoxGO (.tar), svox2 (.npz) and TensoRF (.th), and VQRF's output"


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why."""


class Said(UsageError):
    """A `UsageError` of which the output has said all in JSON already."""


class Terminated(BaseException):
    """The system asked this process to end."""


@dataclass(frozen=True)
class Running:
    """How the command uses this machine.

    Attributes:
      threads: number of CPU threads; 0 takes all CPUs. Results do not depend on it.
      quiet: print nothing but results.
      max_memory: refuse a job that would take more memory than this, such as 8GB. Without it, the limit is half of what is
        free.
    """

    threads: int = 0
    quiet: bool = False
    max_memory: str | None = None


@dataclass(frozen=True)
class Writing(Running):
    """How the command uses this machine, and what it may replace.

    Attributes:
      overwrite: replace an output that exists already.
    """

    overwrite: bool = False


@dataclass(frozen=True)
class Seeded(Writing):
    """How the command uses this machine, what it may replace, and its random numbers.

    Attributes:
      seed: seed of all random numbers.
    """

    seed: int = 0


@dataclass(frozen=True)
class Common(Seeded):
    """How the command uses this machine, what it may replace, and its random numbers.

    Attributes:
      device: where to train: cpu, cuda for an NVIDIA card, or auto: the card if there is one and "vqrf[cuda]" is installed.
      deterministic: on a card, make sums in a fixed order, so that two runs are the same to the bit. Slower. On the CPU two
        runs are the same in any case.
    """

    device: str = "auto"
    deterministic: bool = False


@dataclass(frozen=True)
class Limits:
    """How the command uses this machine.

    Attributes:
      max_memory: refuse a job that would take more memory than this, such as 8GB. Without it, the limit is half of what is
        free.
    """

    max_memory: str | None = None

    def n_bytes(self) -> int | None:
        """The memory.

        Raises:
          UsageError: it is no size.
        """
        try:
            return None if self.max_memory is None else parse_bytes(self.max_memory)
        except ValueError as error:
            raise UsageError(f"--max-memory: {error}") from None


LimitFlags = Annotated[Limits, tyro.conf.arg(name="machine"), tyro.conf.OmitArgPrefixes]
NO_LIMITS = Limits()
RunningFlags = Annotated[Running, tyro.conf.arg(name="machine"), tyro.conf.OmitArgPrefixes]
WritingFlags = Annotated[Writing, tyro.conf.arg(name="machine"), tyro.conf.OmitArgPrefixes]
SeededFlags = Annotated[Seeded, tyro.conf.arg(name="machine"), tyro.conf.OmitArgPrefixes]
CommonFlags = Annotated[Common, tyro.conf.arg(name="machine"), tyro.conf.OmitArgPrefixes]
"""Flags of their own group in the help: its title is the name, and no flag begins with it."""


def expect_counts(every: int, downscale: int = 0) -> None:
    """Refuse flags that say which photos to take, and how large, where they cannot be."""
    if every < 1 or downscale < 0:
        raise UsageError(f"expected --every at least 1 and --downscale at least 0, got {every} and {downscale}")


def expect_writable(path: Path, common: Writing) -> None:
    """Refuse, before long work, a file that cannot be written or is to stay."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a file to write")
    if path.is_file() and not common.overwrite:
        raise UsageError(f"{path}: is there already; give --overwrite")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{path}: there is no folder {folder}")
    if not os.access(path if is_device(path) else folder, os.W_OK):
        raise UsageError(f"{path}: cannot be written")


def is_device(path: Path) -> bool:
    """Whether something is there that is written to and not replaced: a device, a pipe."""
    return path.exists() and not path.is_file()


def is_file_of_ours(path: Path) -> bool:
    """Whether a file begins as a .vqrf does."""
    expect_file(path)
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def read_bytes(path: Path, *, of_any_kind: bool = False) -> bytes:
    """A .vqrf file, of which no more than its first bytes is read where these are of something else.

    Args:
      of_any_kind: give these bytes then, for a decoder to refuse.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a .vqrf file")
    expect_file(path)
    if path.name == FIELD_FILE:
        raise UsageError(f"{path}: is a part of a run folder: give the folder, {path.resolve().parent}")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(len(SIGNATURE))
        if start != SIGNATURE[: len(start)] and of_any_kind:
            return start
        if start != SIGNATURE[: len(start)]:
            what = next((kind for begin, kind in KINDS if start.startswith(begin)), None)
            rest = f", but {what}" if what else ""
            raise UsageError(
                f"{path}: header at byte 0: not a .vqrf file{rest}{'' if what and 'checkpoint' in what else f'; {READ}'}"
            )
    return read_file(path)


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Put the file's name before what is said to be wrong with its bytes."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def load_compressed(path: Path) -> tuple[Compressed, dict[str, int]]:
    data = read_bytes(path)
    with named(path):
        return decode(data, max_bytes=decoding_budget()), {name: size for name, _, size in sections(data)}


def load_any(path: Path) -> tuple[RadianceField, dict[str, Any], dict[str, int] | None]:
    """A field, its notes, and the bytes by section where it came from a .vqrf file.

    The notes say how its images were prepared, and `about` what it says of itself to people, but for its poster.
    """
    if path.is_dir():
        return *load_run(path), None
    small, sizes = load_compressed(path)
    with named(path):
        field = expand(small)
    notes, about = small.metadata.get("training"), replace(about_of(small.metadata), poster=None)
    return field, about.added_to(notes if isinstance(notes, dict) else {}), sizes


def printable(text: str) -> str:
    r"""Text of others as one line of it may stand on a terminal: what a terminal would obey is written out.

    Control characters, line breaks, marks that turn the direction of writing and halves of characters become escapes.

    >>> print(printable("a\x1b[31mb\nc\u202ed"))
    a\x1b[31mb\nc\u202ed
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """As `printable`, with line breaks as blanks, and no longer than a person reads: what is left out is so in the middle."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} ... {line[-MAX_LINE // 3 :]}"


def say(quiet: bool, text: str) -> None:
    """A result, on the output stream; names in it may be of others."""
    if not quiet:
        print("\n".join(map(printable, text.split("\n"))), flush=True)


def tell(quiet: bool, text: str) -> None:
    """A word on the way, or on what is wrong: one line on the error stream."""
    if not quiet:
        print(f"vqrf: {one_line(text)}", file=sys.stderr, flush=True)


def print_json(tree: Mapping[str, Any]) -> None:
    """The one document that a verb with `--json` prints, an object with the version of its keys.

    JSON has no infinity and no NaN: they become null.
    """
    print(json.dumps({"version": JSON_VERSION, **_with_nulls(tree)}, indent=2, allow_nan=False), flush=True)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def take_any_text() -> None:
    """Let both streams write what their encoding has no character for as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_whole(table: Table) -> None:
    """Print a table as wide as the terminal, or, into a file or a pipe, with each row on a line."""
    console = Console()
    (console if console.is_terminal else Console(width=WIDEST_TABLE)).print(table)
