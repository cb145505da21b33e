"""Files for the web on the command line: what they say of themselves, and a kill that costs nothing but time."""

# ruff: noqa: F811 (fixtures of test_cli are parameters here)

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from test_cli import data, refuses, run, scene, succeeds, vqrf  # noqa: F401 (fixtures)
from tiny import TINY, TINY_COMPRESS, TINY_RATE, Interrupted

from vqrf.codec.bitstream import decode
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.data.images import bytes_from_colors
from vqrf.data.scene import Scene
from vqrf.fields.field import expand
from vqrf.fields.storage import load_field
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.render import render
from vqrf.training.stages import PRESETS as TRAIN_PRESETS


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    """In this module the presets `demo` and `compact` take a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAIN_PRESETS, "demo", TINY)
        patch.setitem(COMPRESS_PRESETS, "demo", replace(TINY_COMPRESS, steps=32))
        patch.setitem(COMPRESS_PRESETS, "compact", replace(TINY_RATE, steps=32, bake_steps=64))
        yield


def words(run: Path, data: Path, out: Path, preset: str = "demo") -> tuple[object, ...]:
    return ("compress", run, "--data", data, "--out", out, "--preset", preset, "--profile", "web")


@pytest.fixture(scope="module", params=["demo", "compact"])
def web(request: pytest.FixtureRequest, run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file, and what was printed when it was made."""
    file = tmp_path_factory.mktemp("web") / "scene.vqrf"
    return file, succeeds(*words(run, data, file, request.param)).out


def test_a_file_for_the_web_says_what_its_fast_colours_cost(web: tuple[Path, str], run: Path, scene: Scene) -> None:
    file, printed = web
    assert {path.name for path in file.parent.iterdir()} == {"scene.vqrf", "scene.report.html"}
    small = decode(file.read_bytes())
    exact = evaluate(load_field(run / "field.safetensors")[0], scene.test).psnr
    fast = evaluate(expand(small), scene.test).psnr
    assert small.metadata["compression"]["profile"] == "web"
    assert small.metadata["fast"] == {
        "psnr": pytest.approx(fast, abs=1e-4),
        "exact_psnr": pytest.approx(exact, abs=1e-4),
        "loss": pytest.approx(exact - fast, abs=2e-4),
    }
    assert small.metadata["test"]["psnr"] == small.metadata["fast"]["psnr"]
    assert f"fast colours: {fast - exact:+.2f} dB" in printed


def test_a_file_for_the_web_is_rendered_scored_and_described(
    web: tuple[Path, str], data: Path, scene: Scene, tmp_path: Path
) -> None:
    file, _ = web
    facts = json.loads(succeeds("info", file, "--json").out)
    assert (facts["shading"], facts["layers"], facts["channels"]) == ("sh", [], 12)
    assert "every section is whole" in succeeds("verify", file).out
    score = json.loads(succeeds("eval", file, "--data", data, "--json").out)
    assert score["psnr"] == pytest.approx(facts["fast"]["psnr"], abs=1e-4)
    succeeds("render", file, "--data", data, "--out", tmp_path / "images")
    with PIL.Image.open(tmp_path / "images" / "r_0.png") as image:
        seen = render(expand(decode(file.read_bytes())), scene.test[0].camera)
        np.testing.assert_array_equal(np.asarray(image), bytes_from_colors(seen.rgb))


def test_a_file_of_the_field_s_own_colours_says_nothing_of_fast_ones(run: Path, data: Path, tmp_path: Path) -> None:
    outcome = succeeds("compress", run, "--data", data, "--out", tmp_path / "a.vqrf", "--preset", "demo", "--steps", 1)
    small = decode((tmp_path / "a.vqrf").read_bytes())
    assert (small.equation.shading, small.metadata["compression"]["profile"]) == ("mlp", "exact")
    assert "fast" not in small.metadata and "fast" not in outcome.out


def test_a_compression_killed_after_its_baking_goes_on_from_there(
    web: tuple[Path, str], run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scene.vqrf"
    again = words(run, data, out, decode(web[0].read_bytes()).metadata["compression"]["preset"])

    def fail(*_: object, **__: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(sys.modules["vqrf.compression.paper"], "tied_model", fail)
        patch.setattr(sys.modules["vqrf.compression.compact"], "PyramidModel", fail)
        vqrf(*again)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.vqrf.bake"]

    refuses(*again, "--seed", 1, saying=(out.with_name("scene.vqrf.bake"), "--overwrite"))
    succeeds(*again)
    assert out.read_bytes() == web[0].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"scene.vqrf", "scene.report.html"}


def test_a_profile_that_is_none_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    outcome = vqrf("compress", run, "--data", data, "--out", tmp_path / "a.vqrf", "--profile", "print")
    assert outcome.code == 2 and list(tmp_path.iterdir()) == []
