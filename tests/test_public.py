"""What a Python user meets: names, their types, how things show themselves, and what may be left out."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from test_rooms import README, ROOT, SOURCE, blocks
from tiny import TINY

import vqrf
from vqrf import bars
from vqrf.cameras import Camera
from vqrf.codec.bitstream import encode
from vqrf.compression import presets
from vqrf.fields.field import RadianceField
from vqrf.fields.preview import preview
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.render import own_scene, render
from vqrf.training import stages


def test_type_checkers_are_told_of_every_name_where_it_is_loaded_from() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and all(alias.name == alias.asname for alias in node.names)
        told |= {alias.name: str(node.module).removeprefix("vqrf.") for alias in node.names}
    assert told == vqrf._HOMES


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()


def test_dir_shows_the_public_names_before_any_is_used() -> None:
    code = "import vqrf; print(*dir(vqrf))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout
    assert shown.split() == sorted(["__version__", *vqrf.__all__])


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'vqrf' has no attribute 'compres'"):
        vqrf.compres  # noqa: B018


WRONG = {"fit(3)": "fit", "encode(b'')": "encode", "render(again)": "render"}
"""Lines that a type checker has to find fault with, if the types that it is told are real."""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The README's example as a file, and after it the lines that are wrong, one each."""
    (text,) = blocks(README, "python")
    path = tmp_path / "example.py"
    path.write_text(text + "".join(f"vqrf.{line}\n" for line in WRONG))
    return path


def faults(lines: list[int], example: Path) -> None:
    """A type checker found fault with the wrong lines, and with no other."""
    text = example.read_text().splitlines()
    assert sorted(set(lines)) == list(range(len(text) - len(WRONG) + 1, len(text) + 1)), lines


def test_mypy_knows_the_types_of_the_readmes_example(example: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy")
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    cache = str(ROOT / ".mypy_cache")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", cache, example.name]
    done = subprocess.run(command, cwd=example.parent, env=environment, capture_output=True, text=True, check=False)
    found = re.findall(
        rf"^{example.name}:(\d+): error", done.stdout, re.MULTILINE
    )  # of what is wrong in vqrf `make lint` tells
    assert found, done.stdout + done.stderr
    faults([int(line) for line in found], example)


def test_pyright_knows_the_types_of_the_readmes_example(example: Path) -> None:
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent))
    if pyright is None:
        pytest.skip("needs pyright")
    (example.parent / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT / "src")], "strict": ["*.py"]}))
    command = [pyright, "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=example.parent, capture_output=True, text=True, check=False, timeout=300)
    try:
        found = json.loads(done.stdout)["generalDiagnostics"]
    except ValueError:
        pytest.skip("pyright does not run here: it fetches itself at its first use")
    assert {Path(fault["file"]).name for fault in found} == {example.name}, found
    faults([fault["range"]["start"]["line"] + 1 for fault in found], example)


def test_everything_shows_itself_in_one_short_line(ball_field: RadianceField, ball_camera: Camera) -> None:
    image = render(ball_field, ball_camera)
    scene = vqrf.built_in_scene(n_train=2, n_test=1, side=16)
    small = preview(ball_field)
    shown = {
        "RadianceField": repr(ball_field),
        "CompressedField": repr(small),
        "Scene": repr(scene),
        "View": repr(scene.train[0]),
        "Camera": repr(ball_camera),
        "Image": repr(image),
        "Evaluation": repr(evaluate(ball_field, [scene.test[0]])),
    }
    for name, text in shown.items():
        assert re.fullmatch(rf"{name}\(.*\)", text) and len(text) < 120, text
    assert "16x16x16" in shown["RadianceField"] and str(small.n_kept) in shown["CompressedField"]
    assert "2 training views, 1 held out, 16x16" in shown["Scene"]
    assert len(encode(small)) and np.isfinite(image.rgb).all()


SHORT = replace(TINY, fine=replace(TINY.fine, steps=2, grow_at=()), coarse=replace(TINY.coarse, steps=2))


def test_fit_takes_a_preset_by_its_name_or_by_the_size_of_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = vqrf.built_in_scene(n_train=3, n_test=1, side=24)
    for name in ("demo", "tensorf-quick"):
        monkeypatch.setitem(stages.PRESETS, name, SHORT)
    fields = [vqrf.fit(scene), vqrf.fit(scene, preset="tensorf-quick"), vqrf.fit(scene, SHORT)]
    for field in fields:
        np.testing.assert_array_equal(field.density, fields[0].density)
    with pytest.raises(ValueError, match=r"preset: expected one of demo, quick, .*, got big"):
        vqrf.fit(scene, preset="big")
    with pytest.raises(ValueError, match="no training views"):
        vqrf.fit(replace(scene, train=()))


@pytest.mark.parametrize(("is_terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_fit_shows_bars_on_a_terminal_unless_it_is_told_not_to(
    is_terminal: bool, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(bars, "Console", lambda **_: Console(file=shown, force_terminal=is_terminal, width=100))
    scene = vqrf.built_in_scene(n_train=3, n_test=1, side=24)
    vqrf.fit(scene, SHORT, quiet=quiet)
    assert ("fine" in shown.getvalue() and "dB" in shown.getvalue()) == (is_terminal and not quiet)
    assert bool(shown.getvalue()) == (is_terminal and not quiet)


def test_compress_takes_a_preset_by_its_name_and_shows_bars_as_fit_does(
    ball_field: RadianceField, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(bars, "Console", lambda **_: Console(file=shown, force_terminal=True, width=100))
    scene = own_scene(ball_field, 3, 24)
    for name, kind in (("compact", vqrf.PyramidField), ("paper", vqrf.CompressedField)):
        monkeypatch.setitem(presets.PRESETS, name, replace(presets.PRESETS[name].with_steps(2), rays_per_step=64))
        assert isinstance(vqrf.compress(ball_field, scene, preset=name, quiet=name == "paper"), kind)
        assert ("tune" in shown.getvalue()) == (name == "compact")
        shown.seek(0)
        shown.truncate()
    with pytest.raises(ValueError, match=r"preset: expected one of compact, paper, demo, planes, got big"):
        vqrf.compress(ball_field, scene, preset="big")
    with pytest.raises(ValueError, match="no training views"):
        vqrf.compress(ball_field, replace(scene, train=()))
