"""Files of other programs on the command line: every verb takes them, `convert` makes one of another."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from foreign import FIXTURES, Malice, needs_fixtures, saved, small_tree
from test_cli import refuses, succeeds, unchanged
from test_interop_tensorf import small_tree as tensorf_tree
from tiny import TINY_COMPRESS, assert_same_compressed, assert_same_field

from vqrf.cli.convert import AS_THEY_ARE, open_checkpoint
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import CompressedField
from vqrf.compression.paper import tied_model
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import load_field, save_field
from vqrf.interop import CheckpointError, load_checkpoint, load_dvgo, load_svox2, load_vqrf
from vqrf.memory import limited
from vqrf.rendering.evaluate import evaluate


@pytest.fixture(scope="module")
def data(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "data"
    save_scene(scene, folder)
    return folder


@pytest.fixture(scope="module")
def run(trained: RadianceField, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_field(folder / FIELD_FILE, trained, notes={"preset": "demo", "background": "white"})
    return folder


@pytest.fixture(scope="module")
def tar(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "fine_last.tar"
    assert f"wrote {path}" in succeeds("convert", run, path).out
    return path


@pytest.fixture(scope="module")
def small(trained: RadianceField, importance: np.ndarray) -> CompressedField:
    return tied_model(trained, importance, TINY_COMPRESS).pack()


@pytest.fixture(scope="module")
def file(small: CompressedField, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "scene.vqrf"
    path.write_bytes(encode(small))
    return path


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPRESS_PRESETS, "demo", TINY_COMPRESS)


def test_a_run_folder_goes_through_a_checkpoint_and_comes_back(run: Path, tar: Path, tmp_path: Path) -> None:
    succeeds("convert", tar, tmp_path / "again")
    assert_same_field(load_field(tmp_path / "again" / FIELD_FILE)[0], load_field(run / FIELD_FILE)[0])
    refuses("convert", tar, tmp_path / "again", saying=(tmp_path / "again", "--overwrite"))
    succeeds("convert", tar, tmp_path / "again", "--overwrite")


@pytest.mark.parametrize("name", ["small.zip", "extreme_saving"])
def test_a_vqrf_file_goes_through_the_official_layout_and_comes_back(
    name: str, file: Path, small: CompressedField, tmp_path: Path
) -> None:
    succeeds("convert", file, tmp_path / name)
    assert_same_compressed(load_vqrf(tmp_path / name), small)
    succeeds("convert", tmp_path / name, tmp_path / "again.vqrf")
    assert (tmp_path / "again.vqrf").read_bytes() == file.read_bytes()


def test_a_vqrf_file_becomes_a_checkpoint_and_a_run_folder(file: Path, small: CompressedField, tmp_path: Path) -> None:
    succeeds("convert", file, tmp_path / "a.tar")
    succeeds("convert", file, tmp_path / "run")
    assert_same_field(load_dvgo(tmp_path / "a.tar").field, expand(small))
    assert_same_field(load_field(tmp_path / "run" / FIELD_FILE)[0], expand(small))


def test_what_is_not_compressed_is_not_made_a_compressed_file(run: Path, tar: Path, tmp_path: Path) -> None:
    with unchanged(tmp_path):
        for source in (run, tar):
            for name in ("a.vqrf", "a.zip", "extreme_saving"):
                refuses("convert", source, tmp_path / name, saying=(source, "not compressed", "vqrf compress"))


def test_convert_refuses_what_it_cannot_read_or_write(tar: Path, tmp_path: Path) -> None:
    (tmp_path / "text.vqrf").write_bytes(b"text")
    with unchanged(tmp_path):
        refuses("convert", tmp_path / "text.vqrf", tmp_path / "a.tar", saying=(tmp_path / "text.vqrf",))
        refuses("convert", tmp_path / "none", tmp_path / "a.tar", saying=(tmp_path / "none",))
        refuses("convert", tar, tmp_path / "no" / "a.tar", saying=("no folder",))
        refuses("convert", tar, tmp_path / "a.tar", "--step", 0, saying=(tar, "--step"))
        refuses("convert", tar, tmp_path / "a.tar", "--near", "nan", saying=(tar, "--near"))


def test_a_malicious_checkpoint_is_one_line_to_every_verb(data: Path, tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    path = saved({**small_tree(), "extra": Malice(sign)}, tmp_path / "bad.tar")
    with unchanged(tmp_path):
        for command in (
            ("info", path),
            ("convert", path, tmp_path / "run"),
            ("eval", path, "--data", data),
            ("render", path, "--data", data, "--out", tmp_path / "images"),
            ("compress", path, "--out", tmp_path / "a.vqrf"),
        ):
            refuses(*command, saying=(path, "data.pkl", "posix.system", "not run"))


def test_info_says_what_is_in_a_checkpoint(tar: Path, file: Path, trained: RadianceField, tmp_path: Path) -> None:
    facts = json.loads(succeeds("info", tar, "--json").out)
    assert facts["kind"] == "DirectVoxGO checkpoint" and facts["corners"] == "aligned"
    assert facts["shape"] == list(trained.lattice.shape) and facts["channels"] == trained.n_channels
    succeeds("convert", file, tmp_path / "a.zip")
    assert json.loads(succeeds("info", tmp_path / "a.zip", "--json").out)["kind"] == "official VQRF output"


def test_a_checkpoint_is_scored_and_rendered_as_the_field_is(
    tar: Path, data: Path, trained: RadianceField, scene: Scene, tmp_path: Path
) -> None:
    outcome = succeeds("eval", tar, "--data", data, "--json", "--corners", "aligned")
    assert json.loads(outcome.out)["psnr"] == pytest.approx(evaluate(trained, scene.test).psnr)
    told = succeeds("render", tar, "--data", data, "--out", tmp_path / "images").err
    assert "its corners are aligned" in told
    assert len(list((tmp_path / "images").iterdir())) == len(scene.test)


def test_a_checkpoint_is_compressed_with_photos(tar: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.vqrf"
    said = succeeds("compress", tar, "--data", data, "--out", out, "--preset", "demo", "--corners", "aligned").out
    assert f"{out}: {out.stat().st_size} bytes" in said
    assert decode(out.read_bytes()).metadata["training"]["kind"] == "DirectVoxGO checkpoint"


def test_a_field_is_compressed_without_photos_and_photos_say_what_that_cost(
    run: Path, data: Path, scene: Scene, trained: RadianceField, tmp_path: Path
) -> None:
    own, scored = tmp_path / "own.vqrf", tmp_path / "scored.vqrf"
    dials = ("--preset", "demo", "--own-views", 12, "--own-side", 48)
    said = succeeds("compress", run, "--out", own, *dials).out
    assert "12 views of 48x48 of the field itself" in said
    metadata = decode(own.read_bytes()).metadata
    assert metadata["field_test"]["psnr"] > 50  # the field against itself in 8 bits
    assert metadata["training"]["tuned_on"] == "12 renders of the field, 48x48"
    succeeds("compress", run, "--data", data, "--own", "--out", scored, *dials)
    before, after = (decode(scored.read_bytes()).metadata[key]["psnr"] for key in ("field_test", "test"))
    assert before == pytest.approx(evaluate(trained, scene.test).psnr, abs=1e-3)
    assert after == pytest.approx(evaluate(expand(decode(own.read_bytes())), scene.test).psnr, abs=1e-3)
    assert after > before - 1.0


def test_the_dials_of_own_renders_are_checked(run: Path, tmp_path: Path) -> None:
    with unchanged(tmp_path):
        refuses("compress", run, "--out", tmp_path / "a.vqrf", "--own-views", 0, saying=("--own-views",))
        refuses("compress", run, "--out", tmp_path / "a.vqrf", "--own-side", 4, saying=("--own-side",))
        refuses("compress", run, "--out", tmp_path / "a.vqrf", "--own-below", 1.5, saying=("--own-below",))


@needs_fixtures
def test_official_files_are_converted(tmp_path: Path) -> None:
    official = FIXTURES / "vqrf" / "extreme_saving.zip"
    succeeds("convert", official, tmp_path / "a.vqrf")
    assert (tmp_path / "a.vqrf").stat().st_size < official.stat().st_size
    assert_same_compressed(decode((tmp_path / "a.vqrf").read_bytes()), load_vqrf(official))
    told = succeeds("convert", FIXTURES / "dvgo" / "fine_last.tar", tmp_path / "run").err
    assert "its mask cuts" in told


@pytest.fixture(scope="module")
def npz(ball_field: RadianceField, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of svox2 of the coloured ball."""
    features = (ball_field.features @ np.random.default_rng(3).standard_normal((3, 27)) / 4).astype(np.float16)
    density = np.maximum(ball_field.density + ball_field.equation.density_bias, 0)
    path = tmp_path_factory.mktemp("svox2") / "ckpt.npz"
    arrays = {"links": np.arange(density.size, dtype=np.int32).reshape(density.shape), "basis_type": np.array(1)}
    np.savez(path, density_data=density.reshape(-1, 1), sh_data=features.reshape(-1, 27), **arrays)
    return path


def test_a_checkpoint_of_svox2_goes_through_every_verb(npz: Path, data: Path, tmp_path: Path) -> None:
    facts = json.loads(succeeds("info", npz, "--json").out)
    assert (facts["kind"], facts["shading"], facts["activation"]) == ("svox2 checkpoint", "sh_relu", "relu")
    assert "its scale is" in succeeds("eval", npz, "--data", data).err
    succeeds("convert", npz, tmp_path / "run")
    succeeds("convert", tmp_path / "run", tmp_path / "again.npz")
    assert_same_field(*(load_svox2(path).field for path in (npz, tmp_path / "again.npz")))
    out = tmp_path / "a.vqrf"
    succeeds("compress", npz, "--out", out, "--preset", "demo", "--own-views", 12, "--own-side", 48)
    small = decode(out.read_bytes())
    assert (small.equation.shading, small.equation.activation) == ("sh_relu", "relu")
    assert small.metadata["training"]["kind"] == "svox2 checkpoint"
    assert small.metadata["field_test"]["psnr"] > 50  # the field against itself in 8 bits
    assert small.metadata["test"]["psnr"] > 30
    succeeds("convert", out, tmp_path / "small.npz")
    assert_same_field(load_svox2(tmp_path / "small.npz").field, expand(small))


def test_convert_refuses_what_svox2_has_not(npz: Path, tar: Path, tmp_path: Path) -> None:
    with unchanged(tmp_path):
        refuses("convert", tar, tmp_path / "a.npz", saying=(tmp_path / "a.npz", "ReLU"))
        refuses("convert", npz, tmp_path / "a.npz", "--scale", 0, saying=(npz, "--scale"))


@pytest.fixture
def th(tmp_path: Path) -> Path:
    return saved(tensorf_tree(), tmp_path / "official.th")


def test_a_tensorf_checkpoint_becomes_a_run_folder_and_comes_back_as_it_was(th: Path, tmp_path: Path) -> None:
    succeeds("convert", th, tmp_path / "run")
    field = load_checkpoint(th).field
    assert_same_field(load_field(tmp_path / "run" / FIELD_FILE)[0], field)
    succeeds("convert", th, tmp_path / "again.th")
    succeeds("convert", tmp_path / "again.th", tmp_path / "third.th")
    assert_same_field(load_checkpoint(tmp_path / "again.th").field, field)
    assert load_checkpoint(tmp_path / "third.th").facts == load_checkpoint(tmp_path / "again.th").facts


def test_what_is_no_factors_is_not_made_a_tensorf_checkpoint(run: Path, tar: Path, th: Path, tmp_path: Path) -> None:
    with unchanged(tmp_path):
        for source in (run, tar):
            refuses("convert", source, tmp_path / "a.th", saying=(source, "has no factors", "TensoRF"))
        refuses("convert", th, tmp_path / "a.tar", saying=(tmp_path / "a.tar", "frequencies of the features"))
        refuses("convert", th, tmp_path / "a.vqrf", saying=(th, "not compressed"))
        refuses("info", th, "--near", 1, saying=(th, "says itself"))


def test_info_says_what_is_in_a_tensorf_checkpoint(th: Path) -> None:
    facts = json.loads(succeeds("info", th, "--json").out)
    assert (facts["kind"], facts["decomposition"], facts["shape"]) == ("TensoRF checkpoint", "VM", [7, 6, 5])
    assert facts["layers"] == [[16, 34], [16, 16], [3, 16]]


def test_a_tensorf_checkpoint_is_scored_and_compressed_with_and_without_photos(th: Path, data: Path, tmp_path: Path) -> None:
    assert "psnr" in json.loads(succeeds("eval", th, "--data", data, "--json").out)
    small = ("--preset", "demo", "--own-views", 6, "--own-side", 32)
    succeeds("compress", th, "--out", tmp_path / "own.vqrf", *small)
    succeeds("compress", th, "--data", data, "--out", tmp_path / "a.vqrf", *small)
    for name in ("own.vqrf", "a.vqrf"):
        compressed = decode((tmp_path / name).read_bytes())
        assert compressed.equation.feature_frequencies == 2 and compressed.n_channels == 5
        assert compressed.metadata["training"]["kind"] == "TensoRF checkpoint"
    assert (
        decode((tmp_path / "own.vqrf").read_bytes()).metadata["field_test"]["psnr"] > 50
    )  # the field against itself in 8 bits


@pytest.mark.parametrize("name", ["a.zip", "extreme_saving"])
def test_a_pyramid_is_no_output_of_official_vqrf(name: str, tmp_path: Path) -> None:
    pyramid = Path(__file__).parents[2] / "conformance" / "valid" / "pyramid.vqrf"
    refuses("convert", pyramid, tmp_path / name, saying=(pyramid, "has no codebook"))
    assert not (tmp_path / name).exists()
    out = tmp_path / "same.vqrf"
    succeeds("convert", pyramid, out)
    assert out.read_bytes() == pyramid.read_bytes()


def test_a_tensorf_checkpoint_becomes_a_file_of_planes_which_verbs_read_and_pages_show(
    th: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    """And a field that is no product is refused by name, as is a profile that would bake."""
    out = tmp_path / "planes.vqrf"
    succeeds("compress", th, "--data", data, "--out", out, "--preset", "planes", "--steps", 2)
    assert json.loads(succeeds("info", out, "--json").out)["bytes"] == out.stat().st_size
    succeeds("verify", out)
    assert "psnr" in json.loads(succeeds("eval", out, "--data", data, "--json").out)
    succeeds("convert", out, tmp_path / "again")
    assert_same_field(load_field(tmp_path / "again" / FIELD_FILE)[0], expand(decode(out.read_bytes())))
    succeeds("export", out, tmp_path / "page.html")
    assert base64.b64encode(out.read_bytes()) in (tmp_path / "page.html").read_bytes()
    with unchanged(tmp_path):
        asked = "--data", data, "--out", tmp_path / "a.vqrf", "--preset", "planes"
        refuses("compress", run, *asked, saying=(run, "has no factors"))
        refuses("compress", th, *asked, "--profile", "web", saying=("profile", "planes and lines keep the field's own colours"))


def test_where_there_is_no_room_for_half_voxels_a_checkpoint_is_drawn_without_them_and_a_line_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = small_tree()
    state = tree["model_state_dict"]
    state["mask_cache.mask"][::2] = False
    state["density.grid"][:] = 20.0
    path = saved(tree, tmp_path / "a.tar")
    assert open_checkpoint(path, AS_THEY_ARE).field.lattice.shape == (15, 15, 15)
    with limited(150_000):
        assert open_checkpoint(path, AS_THEY_ARE).field.lattice.shape == (8, 8, 8)
        assert "its mask cuts" in capfd.readouterr().err
        with pytest.raises(CheckpointError, match="at half the edge"):
            open_checkpoint(path, AS_THEY_ARE, exact=True)
