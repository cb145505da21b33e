"""What the pages say is what the files say that they are written from, and a tired person can read the README."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LOG = ROOT / "docs" / "log"
MAX_README_LINES, MAX_WORDS = 120, 30


@pytest.fixture(scope="module")
def write() -> ModuleType:
    """docs/write.py, which `make pages` runs."""
    pytest.importorskip("scipy", reason="the extra `bench` is not installed")
    spec = importlib.util.spec_from_file_location("write", ROOT / "docs" / "write.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["write"] = module
    spec.loader.exec_module(module)
    return module


def test_results_readme_and_index_are_what_is_written_from_their_files(write: ModuleType) -> None:
    stale = [path.name for path, content in write.pages().items() if path.read_text() != content]
    assert stale == [], "run make pages"


def test_every_row_of_results_says_its_version_its_date_and_its_command(write: ModuleType) -> None:
    for path in (ROOT / "docs" / "results").glob("*.csv"):
        for row in write.read_rows(path.stem) if path.stem != "published" else []:
            assert re.fullmatch("[0-9a-f]{7,12}", row["version"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]), row
            assert row["command"] and row["machine"], row


def test_the_readme_shows_no_row_of_another_version(write: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write.readme_table().count("\n") > 2  # a row at least: it may be that one scene alone was measured anew
    monkeypatch.setattr(write, "current_versions", lambda: ["0000000"])
    assert write.readme_table().count("\n") == 2  # a head and its rule


def test_every_entry_of_the_log_is_in_the_index_with_an_answer(write: ModuleType) -> None:
    index = write.log_index()
    for path in LOG.glob("*.md"):
        if path.name != "INDEX.md":
            assert path.stem in write.SUBJECTS
            for heading in re.findall("^## (.+)$", path.read_text(), re.MULTILINE):
                assert f"[{heading}]({path.name}#{write.slug(heading)}) | " in index


def links() -> list[tuple[Path, str]]:
    """(where, to) of every link between the pages, and of every entry of the log that a comment names."""
    pages = [*ROOT.glob("*.md"), ROOT / "viewer" / "README.md"]
    pages += [page for page in (ROOT / "docs").rglob("*.md") if page.name != "template.md"]
    found = [(page, to) for page in pages for to in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())]
    sources = [*(ROOT / "src").rglob("*.[pch]*"), *(ROOT / "viewer" / "src").rglob("*.js")]
    texts = [(path, path.read_text()) for path in sources if path.suffix in (".py", ".cpp", ".hpp", ".js")]
    return found + [(ROOT / "x", to) for _, text in texts for to in re.findall(r"docs/log/[\w./#-]+", text)]


def test_no_link_leads_nowhere(write: ModuleType) -> None:
    broken = []
    for page, to in links():
        name, _, anchor = to.rstrip(".").partition("#")
        target = (page.parent / name).resolve() if name else page
        heads = re.findall("^#+ (.+)$", target.read_text(), re.MULTILINE) if target.suffix == ".md" else []
        if not target.exists() or (anchor and anchor not in map(write.slug, heads)):
            broken.append(f"{page.name}: {to}")
    assert broken == []


def test_places_that_the_recipes_name_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipes = text[text.index("## Recipes") : text.index("## Docstrings")]
    places = set(re.findall(r"`((?:src|tests|viewer|docs|conformance|benchmarks)/[\w./]+)", recipes))
    assert {place for place in places if "NAME" not in place and not (ROOT / place).exists()} == set()


def sentences(text: str) -> list[str]:
    """Of running text: no code, no tables, no pictures."""
    text = re.sub(r"^```.*?^```|^\|.*?$|^#.*?$|<!--.*?-->|!\[.*?\]\(.*?\)", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\(.*?\)", "]", text)
    blocks = re.split(r"\n\s*\n|\n- ", text)
    return [sentence for block in blocks for sentence in re.split(r"(?<=[.:!?*])\s+(?=[A-Z`*\[])", " ".join(block.split()))]


def test_a_tired_person_can_read_the_readme() -> None:
    assert len(README.splitlines()) <= MAX_README_LINES
    assert [sentence for sentence in sentences(README) if len(sentence.split()) > MAX_WORDS] == []
