"""A card is YAML and Markdown whatever the file says, and says the file's own numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from test_bitstream import generate

from vqrf.codec.about import About
from vqrf.codec.compressed import Compressed
from vqrf.rendering.card import HUB_LICENCES, as_text, card_of, licence_id, scores_of

HOME = "https://hub.example/ann/ball"
PLAIN: Compressed = generate.make_field(0, (2, 3, 5), widths=[], n_channels=3)

HOSTILE = {
    "yaml": "---\\n: {a: [b",
    "html": "<script>alert(1)</script> <img src=x onerror=y>",
    "markdown": "](javascript:x) ![x](http://example.org/spy.png) **b** `c` | d",
    "list": "- 1",
    "half of a pair": "a | b \\",
    "other alphabets": "漢字 \U0001f600 é",
    "not characters": "\ufffe\uffff",
}


def card(metadata: dict[str, Any], file: str = "ball.vqrf", page: str | None = None) -> tuple[dict[str, Any], str]:
    """Front matter, as PyYAML reads it, and the rest."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    text = card_of(replace(PLAIN, metadata=metadata), file, 1234567, HOME, page=page).decode()
    _, front, rest = text.split("---\n", 2)
    tree = yaml.safe_load(front)
    assert isinstance(tree, dict)
    return tree, rest


@pytest.mark.parametrize("case", HOSTILE)
def test_texts_of_others_are_shown_and_do_nothing(case: str) -> None:
    text = HOSTILE[case]
    about = About(text, text, text, text)
    tree, rest = card({**about.added_to({}), "generator": text})
    assert set(tree) == {"license", "license_name", "library_name", "tags", "model-index"} and tree["license"] == "other"
    assert re.fullmatch("[a-z0-9.-]+", tree["license_name"])
    shown = rest.partition("## Look at it")[0]
    bare = re.sub(r"\\.", "", shown)  # what Markdown would obey: the heading, and the table
    assert not re.search(r"[<>`*\[\]]", bare)
    rows = [line for line in bare.splitlines() if line.startswith("|")]
    assert all(row.count("|") == 3 for row in rows) and any("author" in row for row in rows)
    example = rest.partition("```html")[2]
    assert "<script>alert" not in example and "<img" not in example and example.count("```") == 1
    assert as_text(text) in shown


def test_the_numbers_are_the_files() -> None:
    test = {"psnr": 34.0576123, "ssim": 0.9, "n_views": 25}
    tree, rest = card({"test": test, "training": {"n_train": 100}, "generator": "vqrf 9"}, page="ball.html")
    (entry,) = tree["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "ball" and result["task"]["type"] == "novel-view-synthesis"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"bytes": 1234567, "psnr": 34.0576, "ssim": 0.9}
    for words in (
        "1,234,567 bytes",
        "34.06 dB on 25 photos",
        "| 100 photos |",
        "2 x 3 x 5",
        "vqrf 9",
        "[ball.html](ball.html)",
    ):
        assert words in rest
    assert "license" not in tree and "licence" not in rest


HUGE = {"psnr": 10**400, "n_views": -(10**400), "n_train": 10**400}


@pytest.mark.parametrize("wrong", [3, [], {"psnr": "much", "ssim": None, "n_views": True}, {"psnr": 1e300, "ssim": -7}, HUGE])
def test_numbers_that_are_none_are_not_said(wrong: object) -> None:
    assert scores_of({"test": wrong}) == {}
    tree, rest = card({"test": wrong, "training": wrong, "generator": wrong})
    assert [metric["type"] for metric in tree["model-index"][0]["results"][0]["metrics"]] == ["bytes"]
    assert "PSNR" not in rest and "photos" not in rest.partition("## Look")[0]


def test_every_licence_of_the_hub_is_known_by_its_name() -> None:
    names = HUB_LICENCES.split()
    assert len(names) == len(set(names)) and [licence_id(name.upper()) for name in names] == names


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("CC BY 4.0 International", "cc-by-4.0"),
        ("https://creativecommons.org/licenses/by-sa/3.0/", "cc-by-sa-3.0"),
        ("MIT License", "mit"),
        ("The Unlicense", "unlicense"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode", "cc-by-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode and MIT", None),
        ("CC BY", None),
        ("CC BY 9.0", None),
        ("not MIT", None),
        ("other", None),
        ("", None),
    ],
)
def test_a_licence_in_words_is_the_hubs_or_none(words: str, name: str | None) -> None:
    assert licence_id(words) == name


def test_a_file_s_name_is_one_word_of_a_command() -> None:
    _, rest = card({}, file="a b; rm -rf ~.vqrf")
    assert "vqrf view 'hf://ann/ball/a b; rm -rf ~.vqrf'" in rest and "a%20b%3B%20rm%20-rf%20~.vqrf" in rest
