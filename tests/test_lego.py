"""The whole chain on real data in under a minute: Synthetic-NeRF lego at 100x100 on a small lattice."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from vqrf.codec.bitstream import decode, encode, verify
from vqrf.codec.compressed import PRUNED
from vqrf.compression.paper import PaperPreset
from vqrf.compression.presets import compress
from vqrf.data.load import load_scene
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.storage import load_field, save_field
from vqrf.kernels import has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.training.stages import COARSE, Appearance, StageConfig, TrainConfig
from vqrf.training.train import fit

LEGO = Path(__file__).parents[2] / "shared" / "data" / "nerf_synthetic" / "lego"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LEGO.is_dir(), reason=f"needs the Synthetic-NeRF lego scene in {LEGO}"),
    pytest.mark.skipif(not has_native(), reason="needs the compiled core, without which it takes an hour"),
]

SMALL = TrainConfig(
    image_side=100,
    coarse=replace(COARSE, steps=400, n_voxels=48**3, sampling=replace(COARSE.sampling, faint_steps=50), rays_per_step=1024),
    fine=StageConfig(steps=400, n_voxels=64**3, grow_at=(50, 100), rays_per_step=2048, appearance=Appearance(width=64)),
)
PAPER = PaperPreset(n_codes=1024, steps=150, rays_per_step=2048)
"""The paper's dials, with fewer codewords and steps."""


@dataclass(frozen=True)
class Chain:
    """What the chain made, in its order, with the PSNR of each field on the test views."""

    scene: Scene
    field: RadianceField
    data: bytes
    field_psnr: float
    untuned_psnr: float
    psnr: float


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    scene = load_scene(LEGO, downscale=8, every=8)
    path = tmp_path_factory.mktemp("lego") / "field.safetensors"
    save_field(path, fit(scene, SMALL), notes={})
    field = load_field(path)[0]
    data = encode(compress(field, scene, PAPER))
    untuned = expand(compress(field, scene, replace(PAPER, steps=0)))
    scores = [evaluate(made, scene.test).psnr for made in (field, untuned, expand(decode(data)))]
    return Chain(scene, field, data, *scores)


def test_lego_is_learned_and_survives_compression(chain: Chain) -> None:
    assert len(chain.scene.train) == 100 and len(chain.scene.test) == 13
    assert chain.field_psnr > 24.5
    assert chain.untuned_psnr > chain.field_psnr - 0.3
    assert chain.psnr > chain.field_psnr - 0.1


def test_the_file_is_a_small_part_of_the_voxels_that_it_stores(chain: Chain) -> None:
    """And not of the grids: in a tight box most voxels are of the thing, and how many are empty says nothing of a codec."""
    n_stored = np.count_nonzero(decode(chain.data).partition != PRUNED)
    assert len(chain.data) < n_stored * (1 + chain.field.n_channels) * 4 / 18


def test_both_decoders_read_the_file_and_both_encoders_write_it(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    read = verify(chain.data)
    monkeypatch.setitem(os.environ, "VQRF_NATIVE", "0")
    twin = decode(chain.data)
    assert twin == read
    assert encode(twin) == chain.data
