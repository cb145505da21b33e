"""The house rules that a machine can check: who imports whom, sizes, words, and that the documents tell the truth."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import tyro

import vqrf
from vqrf.compression import presets
from vqrf.compression.compact import CompactPreset
from vqrf.data.builtin import built_in_scene
from vqrf.data.scene import save_scene
from vqrf.kernels import has_native
from vqrf.training import stages
from vqrf.training.stages import Appearance, StageConfig, TrainConfig

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "vqrf"

WARP = ("warp_march", "warp_rays", "warp_rows", "warp_sums", "warp_launch", "warp_arrays", "warp")

WINGS = {
    "lens": (),
    "geometry": (),
    "cameras": (),
    "memory": (),
    "files": (),
    "hub": (),
    "shown": (),
    "bars": (),
    "kernels": ("constants", "contract", "equation", "similarity", "reference_rows", "reference", "native", *WARP),
    "codec": ("about", "compressed", "pyramid", "planes", "entropy", "walks", "container", "contents", "bitstream", "lint"),
    "data": (
        "listing",
        "images",
        "camera_json",
        "transforms",
        "blender",
        "colmap",
        "llff",
        "nsvf",
        "placement",
        "splits",
        "scene",
        "photos",
        "behind",
        "borders",
        "load",
        "export",
        "frames",
        "sfm",
        "check",
        "builtin",
        "rays",
        "exposure",
    ),
    "fields": ("factors", "field", "cells", "storage", "run", "preview"),
    "interop": (
        *("values", "pickles", "dumps", "archives", "ndc", "parts"),
        *("dvgo_parts", "dvgo_places", "dvgo", "folder", "svox2", "tensorf"),
    ),
    "rendering": (
        *("render", "evaluate", "html", "contact", "page", "report", "poster", "card", "show", "follow", "serve"),
        *("film", "layers", "surface", "splats", "vdb", "voxels"),
    ),
    "training": (
        "parameters",
        "grids",
        "stages",
        "box",
        "workers",
        "checkpoint",
        "run",
        "pace",
        "cost",
        "verdict",
        "teacher",
        "losses",
        "perception",
        "patches",
        "card_pool",
        "loop",
        "train",
        "bake",
    ),
    "compression": (
        "goal",
        "importance",
        "tuning",
        "quantize",
        "codebook",
        "latents",
        "levels",
        "surroundings",
        "web",
        "preset",
        "paper",
        "priced",
        "compact",
        "planes",
        "presets",
        "search",
        "job",
    ),
    "bench": ("alternatives", "published", "curves", "runners", "store", "jobs", "uncoded", "tables"),
    "cli": (
        "terminal",
        "device",
        "dataset",
        "progress",
        "ends",
        "words",
        "convert",
        "view",
        "meta",
        "hub",
        "process",
        "check",
        "train",
        "compress",
        "make",
        "batch",
        "bench",
        "main",
    ),
}
"""Wings, and the rooms of each, both in import order; CONTRIBUTING.md says what each is for."""

MAY_IMPORT = {"codec": {"geometry", "shown", "kernels", "codec"}}
"""Where a wing may look at less than all that is above it."""

ROOMS = [f"{wing}.{room}" if room else wing for wing, rooms in WINGS.items() for room in ("", *rooms)]
"""In import order. A wing's own name is its `__init__`, which comes first."""

PACKAGES = {
    "typing_extensions": {"kernels"},  # for type checkers alone
    "torch": {"kernels", "training", "compression", "bench.alternatives", "cli"},
    "PIL": {"data.images", "rendering.html"},
    "safetensors": {"fields.storage"},
    "av": {"data.frames", "rendering.film"},
    "pycolmap": {"data.sfm"},
    "huggingface_hub": {"hub"},
    "matplotlib": {"bench"},
    "scipy": {"bench"},
    "ray": {"bench"},
    "fsspec": {"bench.store"},
    "warp": {f"kernels.{room}" for room in WARP},
    "tyro": {"cli"},
    "rich": {"bars", "cli"},
}
"""Which wings or rooms may import what is not NumPy and not Python's own."""

MAX_LINES, MAX_PARAMETERS, MAX_FUNCTION_LINES, MAX_FIELDS = 700, 8, 50, 15
FOREIGN_WORDS = re.compile("k0|rgbnet|mask_cache|alphainv|act_shift|vq_indexs")
"""What the papers' codes call things that have names here; `interop` reads them, and nobody else."""

MACHINE_PATHS = re.compile(r"(?<![\w.}/])/(?:work|home|root|opt|Users)/")
REGISTRY_HOSTS = re.compile(r"\b(?:pypi|pythonhosted|npmjs|conda|anaconda)\.(?:org|com|io)\b")

MODULES = sorted(SOURCE.rglob("*.py"))
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
needs_native = pytest.mark.skipif(not has_native(), reason="the compiled core is not built")


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:2]).removesuffix(".__init__")


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(top-level package, room or wing or "") of everything that a module imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            room = ".".join(rest.split(".")[:2])
            yield package, room if room in ROOMS else rest.split(".")[0]


def imports_rooms(node: ast.AST) -> bool:
    return any(isinstance(part, ast.ImportFrom) and str(part.module).startswith("vqrf") for part in ast.walk(node))


def tracked_texts() -> dict[str, str]:
    """Every tracked file that is text."""
    listing = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("this is no git checkout: which files are tracked is not known")
    texts = {}
    for name in filter(None, listing.stdout.decode().split("\0")):
        with contextlib.suppress(UnicodeDecodeError, FileNotFoundError):
            texts[name] = (ROOT / name).read_text()
    return texts


# --------------------------------------------------------------------------------------------------------- who imports whom


@each_module
def test_a_room_imports_only_rooms_above_it_and_the_codec_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    if room == "__main__":
        return
    others = {other for package, other in imported(path) if package == "vqrf"} - {"__version__", "_native"}
    if room == "__init__":  # for type checkers alone; tests/test_public.py holds them to what is loaded when it is used
        assert all(isinstance(node, ast.If) for node in ast.parse(path.read_text()).body if imports_rooms(node))
        return
    wing = room.split(".")[0]
    assert others <= {*ROOMS[: ROOMS.index(room) + 1], *(ROOMS if wing == "interop" or wing == "kernels" else ())}
    assert {other.split(".")[0] for other in others} <= MAY_IMPORT.get(wing, set(WINGS))


@pytest.mark.parametrize(("one", "other"), [("paper", "compact"), ("compact", "paper")])
def test_neither_way_to_compress_imports_the_other(one: str, other: str) -> None:
    path = SOURCE / "compression" / f"{one}.py"
    assert ("vqrf", f"compression.{other}") not in set(imported(path))


@each_module
def test_a_room_imports_only_packages_that_are_its_business(path: Path) -> None:
    room = room_of(path)
    for package, _ in imported(path):
        if package not in sys.stdlib_module_names | {"vqrf", "numpy"}:
            assert PACKAGES.get(package, set()) & {room, room.split(".")[0]}, f"imports {package}"


def test_contributing_lists_the_rooms_in_import_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text[text.index("## Rooms") : text.index("## Words")]
    rows = re.findall(r"^\| `([\w/]+?)/?` \|", section, re.MULTILINE)
    assert [row.replace("/", ".") for row in rows] == ROOMS
    assert {room_of(path) for path in MODULES} == {*ROOMS, "__init__", "__main__"}


def test_the_citation_is_of_this_version() -> None:
    (said,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    (version,) = re.findall(r'^version = "(\S+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert said == version


def test_every_public_name_is_where_the_package_says() -> None:
    for name in vqrf.__all__:
        assert getattr(vqrf, name).__name__ == name


# ------------------------------------------------------------------------------------------------------------ sizes and words


def test_no_file_is_longer_than_can_be_read() -> None:
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".cpp", ".hpp")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_names_of_test_modules_differ() -> None:
    """pytest imports them by their names alone, those of fixtures too, and ends with an error at the second of one name."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert sorted(names) == sorted(set(names))


@each_module
def test_no_function_takes_more_parameters_than_can_be_remembered(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            n = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
            assert n <= MAX_PARAMETERS, f"{node.name} has {n}"
            assert node.args.kwarg is None, f"{node.name} takes **{node.args.kwarg and node.args.kwarg.arg}"


@each_module
def test_no_function_is_longer_than_can_be_seen_at_once(path: Path) -> None:
    """Its docstring does not count."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            is_documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            n = node.end_lineno - node.lineno + 1 - (is_documented and first.end_lineno - first.lineno + 1)
            assert n <= MAX_FUNCTION_LINES, f"{node.name} has {n} lines"


def fields_of(node: ast.ClassDef) -> set[str]:
    """What a class annotates, but for the class's own variables."""
    named = [part for part in node.body if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part.annotation)]
    return {ast.unparse(part.target) for part in named}


def test_no_dataclass_has_more_fields_than_can_be_remembered() -> None:
    nodes = [node for path in MODULES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    bases = {node.name: fields_of(node) for node in nodes}
    for node in nodes:
        if any("dataclass" in ast.unparse(part) for part in node.decorator_list):
            inherited = (bases.get(re.sub(r"\[.*", "", ast.unparse(base)), set()) for base in node.bases)
            n = len(fields_of(node).union(*inherited))
            assert n <= MAX_FIELDS, f"{node.name} has {n}"


def test_the_source_speaks_the_words_of_the_glossary() -> None:
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".cpp", ".hpp")]
    texts = {str(path): path.read_text() for path in files if SOURCE / "interop" not in path.parents}
    assert len(texts) > len(ROOMS)
    assert {name: found.group() for name, text in texts.items() if (found := FOREIGN_WORDS.search(text))} == {}


def test_no_tracked_file_names_a_registry_or_a_path_of_one_machine() -> None:
    for name, text in tracked_texts().items():
        for pattern in (MACHINE_PATHS, REGISTRY_HOSTS):
            found = pattern.search(text)
            assert found is None, f"{name} holds {found and found.group()}"


# --------------------------------------------------------------------------------------------------- what the documents say

README, COMMANDS = (ROOT / "README.md").read_text(), (ROOT / "docs" / "commands.md").read_text()
GUIDES = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def readme_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The README's Python example, run on a tiny scene with a tiny preset: a folder with `data` and `scene.vqrf`, and what it
    printed."""
    folder = tmp_path_factory.mktemp("readme")
    save_scene(built_in_scene(0, n_train=4, n_test=1, side=32), folder / "data")
    (example,) = blocks(README, "python")
    assert '"nerf_synthetic/lego"' in example
    stage = StageConfig(steps=3, n_voxels=12**3, rays_per_step=64, appearance=Appearance(width=16))
    tiny = TrainConfig(16, replace(stage, appearance=Appearance(channels=3, depth=0)), stage)
    namespace: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setitem(stages.PRESETS, "quick", tiny)
        patch.setitem(presets.PRESETS, "compact", CompactPreset(steps=2, warm_steps=1, rays_per_step=64))
        patch.chdir(folder)
        exec(example.replace("nerf_synthetic/lego", (folder / "data").as_posix()), namespace)
    (folder / "lego.vqrf").rename(folder / "scene.vqrf")
    return folder, out.getvalue()


def run_python(arguments: list[str], folder: Path) -> None:
    """In a process of its own, which finds the package where this one did."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True)


def test_the_example_of_the_readme_runs(readme_run: tuple[Path, str]) -> None:
    folder, printed = readme_run
    size = (folder / "scene.vqrf").stat().st_size
    assert re.fullmatch(rf"{size} bytes, \d+\.\d\d dB", printed.splitlines()[-1])


def test_the_decoding_command_of_the_guide_runs_without_torch(readme_run: tuple[Path, str]) -> None:
    (command,) = re.findall(r"^python (-c .*)$", COMMANDS, re.MULTILINE)
    assert "'torch' not in sys.modules" in command
    run_python(shlex.split(command), readme_run[0])


@needs_native
def test_the_cli_and_rendering_and_scoring_a_file_import_no_torch(readme_run: tuple[Path, str]) -> None:
    code = """
import sys, vqrf, vqrf.cli
field = vqrf.expand(vqrf.decode(open("scene.vqrf", "rb").read()))
scene = vqrf.load_scene("data", splits=("test",), downscale=2)
assert vqrf.render(field, scene.test[0].camera).rgb.shape == scene.test[0].image.shape
assert len(vqrf.evaluate(field, scene.test).views) == 1
assert "torch" not in sys.modules
"""
    run_python(["-c", code], readme_run[0])


def test_the_commands_of_the_pages_and_the_makefile_are_ones_that_the_cli_takes() -> None:
    from vqrf.cli.main import Verb

    pages = [README, *(path.read_text() for path in GUIDES)]
    lines = [line for page in pages for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [line.strip().removeprefix("$(BIN)/") for line in (ROOT / "Makefile").read_text().splitlines()]
    used = {type(tyro.cli(Verb, args=shlex.split(line)[1:])) for line in lines if line.startswith("vqrf ")}  # type: ignore[call-overload]
    assert used == set(get_args(Verb))


def test_the_guide_explains_every_verb() -> None:
    from vqrf.cli.main import Verb

    section = COMMANDS[COMMANDS.index("| verb | does |") :].split("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`(?=[, |])", section)) == sorted(verb.__name__.lower() for verb in get_args(Verb))


def test_the_documents_name_targets_that_make_has() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (README, (ROOT / "CONTRIBUTING.md").read_text(), *(path.read_text() for path in GUIDES)):
        assert set(re.findall(r"(?:^|`)make (\w+)", document, re.MULTILINE)) <= targets
