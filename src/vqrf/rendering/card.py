"""The card of a published file: a README.md with YAML front matter, which says what the file says of itself.

All that it says is in the file. Texts of the file are of others: they are shown as text, and never as Markdown or HTML.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np

from vqrf.codec.about import MAX_CHARACTERS, About, about_of
from vqrf.codec.compressed import PRUNED, Compressed
from vqrf.codec.planes import PlanesField
from vqrf.codec.pyramid import PyramidField

CARD_FILE, POSTER_FILE = "README.md", "poster.webp"
TAGS = ("vqrf", "radiance-field", "3d")
TASK = "novel-view-synthesis"
MAX_PSNR = 1000.0
"""dB: more than any picture has."""

MAX_PHOTOS = 1_000_000
"""More than any scene is learnt from."""

HUB_LICENCES = """
apache-2.0 mit afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl osl-3.0 postgresql
ofl-1.1 ncsa unlicense zlib pddl
"""
"""What the Hugging Face hub calls licences (its documentation, "Licenses"), but for those of models alone."""

_SMALL_WORDS = {"licence", "license", "version", "the", "international", "unported", "universal"}
_CC_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)(?:/[a-z.]*)*")
_MARKDOWN = re.compile(r"[\\`*_\[\]<>#|~&$!@]|^[-+=:]|(?<=\d)[.)](?=\s)|:(?=//)|(?<=[wW]{3})\.")


def card_of(small: Compressed, file: str, n_bytes: int, home: str, *, page: str | None = None) -> bytes:
    """The card of a file.

    Args:
      file: what the file is called in its repository.
      home: the address of the repository, which ends in USER/NAME.
      page: what the page that shows it is called, if there is one.
    """
    about, repository = about_of(small.metadata), "/".join(home.split("/")[-2:])
    scores = scores_of(small.metadata)
    title = about.title or file.removesuffix(".vqrf")
    lines = [*_front_matter(about, repository, n_bytes, scores), "", f"# {as_text(title)}", ""]
    if about.poster is not None:
        lines += [f"![{as_text(title)}]({POSTER_FILE})", ""]
    if about.description:
        lines += [as_text(about.description), ""]
    where = f"{home}/resolve/main/{urllib.parse.quote(file)}"
    lines += [
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in _facts(small, about, file, n_bytes, scores).items()),
    ]
    lines += ["", *_ways_to_look(repository, file, where, title, page)]
    return "\n".join([*lines, ""]).encode()


def licence_id(text: str) -> str | None:
    """The hub's name for a licence that people write in words; None where it has none for these words.

    >>> [licence_id(text) for text in ("CC BY 4.0", "CC0", "Apache License, Version 2.0", "All rights reserved", "CC BY")]
    ['cc-by-4.0', 'cc0-1.0', 'apache-2.0', None, None]
    >>> address = "https://creativecommons.org/licenses/by-nc/4.0/"
    >>> licence_id(address), licence_id(f"MIT, and photos {address}")
    ('cc-by-nc-4.0', None)
    """
    lower = text.lower()
    if address := _CC_ADDRESS.fullmatch(lower.strip()):
        lower = f"cc {address[1]} {address[2]}"
    name = "-".join(word for word in re.split(r"[\s,_-]+", lower) if word and word not in _SMALL_WORDS)
    name = {"cc0": "cc0-1.0"}.get(name, name)
    return name if name in HUB_LICENCES.split() else None


def scores_of(metadata: Mapping[str, Any]) -> dict[str, float]:
    """What a file says of its quality on photos that were held out: psnr in dB, ssim, n_views. Safe for untrusted input.

    >>> scores_of({"test": {"psnr": 31.5, "ssim": "good", "n_views": 7}}), scores_of({"test": 3})
    ({'psnr': 31.5, 'n_views': 7}, {})
    >>> scores_of({"test": {"psnr": 10**400, "ssim": float("nan"), "n_views": -(10**400)}})
    {}
    """
    said = metadata.get("test")
    if not isinstance(said, dict):
        return {}
    bounds = {"psnr": MAX_PSNR, "ssim": 1.0, "n_views": 1e6}
    scores = {name: said[name] for name in bounds if type(said.get(name)) in (int, float)}
    return {name: value for name, value in scores.items() if abs(value) <= bounds[name]}  # nor are nan and inf


def as_text(text: str) -> str:
    r"""Text of others as Markdown that shows it, and does nothing else.

    >>> print(as_text("<b>A *ball*</b>"))
    \<b\>A \*ball\*\</b\>
    >>> print(as_text("https://a.org, www.a.org"))
    https\://a.org, www\.a.org
    """
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", text)


def _front_matter(about: About, repository: str, n_bytes: int, scores: Mapping[str, float]) -> list[str]:
    """Every value is ASCII without marks of YAML, or a number."""
    lines = ["---"]
    if about.licence:
        name = licence_id(about.licence)
        slug = re.sub(r"[^a-z0-9.]+", "-", about.licence.lower()).strip("-.") or "see-below"
        lines += [f"license: {name}"] if name else ["license: other", f"license_name: {json.dumps(slug)}"]
    lines += ["library_name: vqrf", "tags:", *(f"- {json.dumps(tag)}" for tag in TAGS)]
    metrics = [("bytes", "Size of the file in bytes", str(n_bytes))]
    metrics += [("psnr", "PSNR in dB", f"{scores['psnr']:.4f}")] if "psnr" in scores else []
    metrics += [("ssim", "SSIM", f"{scores['ssim']:.5f}")] if "ssim" in scores else []
    lines += ["model-index:", f"- name: {json.dumps(repository.partition('/')[2])}", "  results:"]
    lines += ["  - task:", f"      type: {TASK}", "      name: Novel view synthesis"]
    lines += ["    dataset:", "      type: photos", "      name: Photos held out from training", "    metrics:"]
    for kind, name, value in metrics:
        lines += [f"    - type: {kind}", f"      name: {name}", f"      value: {value}"]
    return [*lines, "---"]


def _facts(small: Compressed, about: About, file: str, n_bytes: int, scores: Mapping[str, float]) -> dict[str, str]:
    """Rows of a table, in Markdown."""
    sides = " x ".join(map(str, small.lattice.shape))
    facts = {
        "file": f"{as_text(file)}, {n_bytes:,} bytes",
        "author": as_text(about.author),
        "licence": as_text(about.licence),
        "field": f"{_kind_of(small)}; {_colours_of(small)}",
        "voxels": f"{sides}, {np.count_nonzero(small.partition != PRUNED):,} of them in use",
        "space": "" if small.lattice.space is None else small.lattice.space.name,
    }
    photos = f" on {scores['n_views']:.0f} photos that training did not see" if "n_views" in scores else ""
    if "psnr" in scores:
        facts["PSNR"] = f"{scores['psnr']:.2f} dB{photos}"
    if "ssim" in scores:
        facts["SSIM"] = f"{scores['ssim']:.4f}{photos}"
    training = small.metadata.get("training")
    n_train = training.get("n_train") if isinstance(training, dict) else None
    facts["learnt from"] = f"{n_train} photos" if type(n_train) is int and 0 < n_train <= MAX_PHOTOS else ""
    generator = small.metadata.get("generator")
    if isinstance(generator, str) and generator.isprintable() and len(generator) <= MAX_CHARACTERS:
        facts["made by"] = as_text(generator)
    return {key: value for key, value in facts.items() if value}


def _kind_of(small: Compressed) -> str:
    if isinstance(small, PlanesField):
        return "a radiance field as planes and lines"
    if isinstance(small, PyramidField):
        return "a radiance field of voxels, as a pyramid from coarse to fine"
    return "a radiance field of voxels, with a codebook"


def _colours_of(small: Compressed) -> str:
    if small.color_mlp:
        return "a network gives their colours by the direction of view"
    return "one colour each" if small.equation.shading == "mlp" else "colours by spherical harmonics"


def _ways_to_look(repository: str, file: str, where: str, title: str, page: str | None) -> list[str]:
    source, label = html.escape(where), html.escape(title)
    lines = [
        "## Look at it",
        "",
        "With huggingface_hub installed beside vqrf:",
        "",
    ]
    named = shlex.quote(f"{repository}/{file}")
    lines += ["```sh", f"vqrf view {shlex.quote(f'hf://{repository}/{file}')}", f"vqrf pull {named}", "```", ""]
    lines += ["Without it, if the repository is public:", "", "```sh", f"vqrf view {shlex.quote(where)}", "```", ""]
    if page:
        lines += [f"Or download the page [{as_text(page)}]({urllib.parse.quote(page)}) and open it; it needs no network.", ""]
    lines += ["## Put it into a page", "", "With `vqrf-viewer.js`, the module of vqrf's viewer, on your own server:", ""]
    lines += ["```html", '<script type="module" src="vqrf-viewer.js"></script>']
    lines += [f'<vqrf-viewer src="{source}" label="{label}" style="height: 480px"></vqrf-viewer>', "```"]
    return lines
