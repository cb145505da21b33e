"""How Sphinx makes the site: `make docs`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import vqrf

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "vqrf"
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):$")
ARRAY = re.compile(r"(?:\w+\.)*ndarray\[tuple\[(?:\w+\.)*Any, \.\.\.\], (?:\w+\.)*dtype\[(?:\w+\.)*(\w+)\]\]")
NAMES = re.compile(r"(\w+, )+\w+(?=:)")
MARKUP = re.compile(r"(?P<emphasis>(?<!\w)\*\w+\*(?!\w))|[*|\\]|_(?!\w)")

project = "vqrf"
author = "the vqrf authors"
version = release = vqrf.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["results/*", "**/README.md"]
html_theme = "furo"
html_title = "vqrf"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["wide.css"]

myst_heading_anchors = 3
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields have docstrings of their own, too
napoleon_attr_annotations = False
default_role = "code"
suppress_warnings = ["ref.python"]  # a field of a dataclass is named without its class, so a link may fit several
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}  # a name is described where it is made
autodoc_typehints_format = "short"


def write_reference() -> None:
    """A page of the public names and a page a wing, of all its rooms, in docs/api."""
    folder = DOCS / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wings: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__") or len(parts) > 1:
            wings.setdefault(parts[0], []).append(".".join(("vqrf", *parts)).removesuffix(".__init__"))
    for wing, rooms in wings.items():
        parts = [f"{wing}\n{'=' * len(wing)}\n"]
        for room in sorted(rooms):
            title = f"``{room}``"
            parts.append(f"{title}\n{'-' * len(title)}\n\n.. automodule:: {room}\n")
        (folder / f"{wing}.rst").write_text("\n".join(parts))
    names = [f"- :py:obj:`vqrf.{name} <{place(name)}>`: {summary(name)}" for name in vqrf.__all__]
    (folder / "index.rst").write_text(
        "\n".join(["Public names", "============", "", "What ``import vqrf`` gives.", "", *names, ""])
    )


def place(name: str) -> str:
    """Where a public name is described."""
    return f"{getattr(vqrf, name).__module__}.{name}"


def summary(name: str) -> str:
    """The first line of its docstring."""
    return escape((getattr(vqrf, name).__doc__ or "").strip().split("\n")[0])


def short_types(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> tuple[str, str]:
    """An array's type as people say it."""
    return tuple(ARRAY.sub(r"Array[\1]", part) if part else part for part in (signature, returns))  # type: ignore[return-value]


def plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make of a docstring, which knows nothing of Sphinx, what Sphinx shows as it is meant: formulas and tables are indented
    blocks, and a star, a bar or an underscore is only that."""
    is_value = what in ("data", "attribute", "property")
    made = ["\\ "] if is_value else []  # or napoleon takes what stands before a colon for a type
    is_block, indent = False, 0
    for number, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if SECTION.match(line.strip()):
            indent = depth + 2
        elif line and depth == 0:
            indent = 0
        elif indent and depth == indent:
            line = NAMES.sub(lambda found: found[0].replace(" ", ""), line.lstrip())  # or Sphinx takes the first for a type
            line = " " * depth + line
        before = lines[number - 1] if number else ""
        if is_block and line and depth < indent + 4:
            is_block = False
        elif not is_block and line and not before and depth >= indent + 4:
            made += [" " * indent + ".. code-block:: text", ""]
            is_block = True
        made.append(line if is_block or line.lstrip().startswith((">>>", "...")) else escape(line))
    lines[:] = made


def escape(line: str) -> str:
    """Outside of `code`, what reStructuredText would take for markup.

    >>> escape("w * x of `a_b*c`, k_")
    'w \\\\* x of `a_b*c`, k\\\\_'
    """
    pieces = line.split("`")
    pieces[::2] = [MARKUP.sub(lambda found: found["emphasis"] or "\\" + found[0], piece) for piece in pieces[::2]]
    return "`".join(pieces)


def setup(app: Any) -> None:
    write_reference()
    app.connect("autodoc-process-signature", short_types)
    app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon's 500
