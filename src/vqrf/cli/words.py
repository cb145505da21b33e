"""Words -> a verb with its flags. A word that is none is refused in one line, which names the ones that are nearest."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from vqrf.cli.terminal import UsageError

PROGRAM = "vqrf"
MEANT = {
    "decompress": "convert",
    "decode": "convert",
    "import": "convert",
    "encode": "compress",
    "pack": "compress",
    "quantize": "compress",
    "colmap": "process",
    "sfm": "process",
    "fit": "train",
    "build": "make",
    "create": "make",
    "evaluate": "eval",
    "score": "eval",
    "test": "eval",
    "show": "view",
    "serve": "view",
    "viewer": "view",
    "open": "view",
    "html": "export",
    "film": "render",
    "video": "render",
    "inspect": "check",
    "stat": "info",
    "ls": "info",
    "metadata": "meta",
    "title": "meta",
    "edit": "meta",
    "validate": "verify",
    "upload": "push",
    "publish": "push",
    "download": "pull",
    "fetch": "pull",
    "clone": "pull",
    "benchmark": "bench",
}
"""What other programs call what a verb does."""

EXAMPLES = {
    "make": ("my_photos --out thing.vqrf", "walk.mp4 --out walk.vqrf --preset quick --target-size 500kB"),
    "batch": ("captures.txt --out gallery --preset quick",),
    "process": ("my_photos --out my_scene", "walk.mp4 --out my_scene --frames 100"),
    "check": ("my_scene", "nerf_synthetic/lego --json"),
    "train": ("nerf_synthetic/lego --out runs/lego --preset quick", "my_scene --out runs/mine"),
    "compress": (
        "runs/lego --data nerf_synthetic/lego --out lego.vqrf",
        "runs/lego --data nerf_synthetic/lego --out half.vqrf --target-size 500kB",
        "fine_last.tar --out own.vqrf",
    ),
    "render": ("lego.vqrf --path orbit --out clip.mp4", "lego.vqrf --data nerf_synthetic/lego --out pictures"),
    "eval": ("lego.vqrf --data nerf_synthetic/lego --every 4 --json",),
    "view": ("lego.vqrf", "runs/lego --port 8000 --no-open", "hf://user/lego"),
    "export": ("lego.vqrf page.html",),
    "info": ("lego.vqrf", "fine_last.tar --json"),
    "meta": (
        'lego.vqrf --title "A yellow excavator" --author "A. N." --licence "CC BY 4.0"',
        "lego.vqrf --poster new --pitch 0 80",
    ),
    "verify": ("lego.vqrf", "lego.vqrf --strict --json"),
    "convert": ("runs/lego fine_last.tar", "fine_last.tar runs/imported", "lego.vqrf extreme_saving"),
    "push": ("lego.vqrf user/lego", "lego.vqrf user/scenes --no-card --overwrite"),
    "pull": ("user/lego", "user/scenes/lego.vqrf --out mine.vqrf --revision v1"),
    "bench": ("rd --runs runs/lego --data nerf_synthetic --out bench",),
    "demo": ("", "--out demo --overwrite"),
}
"""What follows each verb in commands that stand below its help."""

MAY_BE_EMPTY = ("--title", "--author", "--licence", "--description", "--view", "--hold-out")
"""Flags of which an empty text says something. An empty name of a file would be the folder that one is in."""

NEAR = 0.6
"""Likeness, 0..1, from which on a word is taken for a slip of another (`difflib`)."""

_BOX = re.compile(r"[\u2500-\u257f]+|-{3,}|^\||\|$")
"""Lines that the parser draws around what it says."""

VerbT = TypeVar("VerbT")


def read_words(verbs: Any, words: Sequence[str], description: str) -> Any:
    """The verb that the words ask for.

    Args:
      verbs: a union of dataclasses; the name of each, in small letters, is its word.

    Raises:
      UsageError: the words ask for none, or for one in a way that cannot be.
      SystemExit: help was asked for, and is printed.
    """
    by_word = {verb.__name__.lower(): verb for verb in get_args(verbs)}
    if nameless := next((word for word in words if "\0" in word), None):
        raise UsageError(f"{nameless}: no file can have a null character in its name")
    if words and not words[0].startswith("-"):
        _expect_verb(words[0], list(by_word))
        _expect_flags(words[0], by_word[words[0]], words[1:])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(verbs, prog=PROGRAM, description=description, args=list(words))
    except SystemExit as end:
        if not end.code:
            if words and words[0] in EXAMPLES:
                print("\nexamples:", *(f"  {PROGRAM} {words[0]} {rest}" for rest in EXAMPLES[words[0]]), sep="\n")
            raise
        command = f"{PROGRAM} {words[0]}" if words and words[0] in by_word else PROGRAM
        reason = _without_box(said.getvalue())
        raise UsageError(f"{reason}; {command} --help says more") from None


def _expect_verb(word: str, known: list[str]) -> None:
    if word in known:
        return
    near = MEANT.get(word.lower()) or next(iter(difflib.get_close_matches(word.lower(), known, 1, NEAR)), None)
    hint = f"; did you mean {near}?" if near else ""
    raise UsageError(f"{word}: there is no such verb{hint or '.'} The verbs are {', '.join(known)}")


def _expect_flags(word: str, verb: type, words: Sequence[str]) -> None:
    known = {"--help", *flags_of(verb)}
    for before, given in zip((word, *words), words, strict=False):
        flag = given.partition("=")[0].replace("_", "-")
        if given == "--":
            return
        if not given and before.replace("_", "-") not in MAY_BE_EMPTY:
            raise UsageError(f"{before if before.startswith('--') else word}: expected a name or a value, and it is empty")
        if given.startswith("--") and given.endswith("=") and flag not in MAY_BE_EMPTY:
            raise UsageError(f"{flag}: expected a name or a value, and it is empty")
        if not given.startswith("--") or flag in known:
            continue
        near = difflib.get_close_matches(flag, known, 1, NEAR)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{flag}: {PROGRAM} {word} has no such flag{hint or '.'} {PROGRAM} {word} --help lists them")


def flags_of(verb: type) -> Iterator[str]:
    """The flags of a verb, from its fields and those of the groups that are fields of it.

    >>> @dataclasses.dataclass
    ... class Shout:
    ...     as_loud: bool = False
    >>> list(flags_of(Shout))
    ['--as-loud', '--no-as-loud']
    """
    hints = get_type_hints(verb, include_extras=True)
    for field in dataclasses.fields(verb):
        kind = hints[field.name]
        marks: list[Any] = []
        if get_origin(kind) is Annotated:
            kind, *marks = get_args(kind)
        if dataclasses.is_dataclass(kind):
            yield from flags_of(kind)  # type: ignore[arg-type]
        elif not any(mark is get_args(tyro.conf.Positional[int])[-1] for mark in marks):
            name = next((mark.name for mark in marks if getattr(mark, "name", None)), field.name).replace("_", "-")
            yield f"--{name}"
            if kind is bool:
                yield f"--no-{name}"


def _without_box(text: str) -> str:
    """What the parser says, in one line."""
    inside = [line for line in text.splitlines() if not line.startswith(("\u256d", "\u2570", "+-"))]  # its corners have titles
    lines = [" ".join(_BOX.sub(" ", line).split()) for line in inside]
    kept = [line for line in lines if line and "full helptext" not in line and not line.startswith(f"{PROGRAM} ")]
    return " ".join(kept).rstrip(".") or "these words ask for nothing that is known"
