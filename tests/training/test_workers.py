"""Several workers learn the field that one process learns, but for rounding; the first alone writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_tensorf import tiny
from tiny import TINY, tiny_scene

from vqrf.cli.main import main
from vqrf.data.rays import Batch, RayPool
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.run import load_run
from vqrf.kernels import Gradients, has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.training import workers
from vqrf.training.loop import optimize
from vqrf.training.train import coarse_model, fine_model, fit

NO_GLOO = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch has no gloo")
pytestmark = NO_GLOO

STEPS = 6
TOLERANCE = 1e-3
"""Of an array after `STEPS` steps, relative in its L2 norm. Adam makes whole steps of the smallest gradients, whose sign
may be rounding."""


def learnt(kind: str) -> dict[str, np.ndarray]:
    """What some steps of a stage make of its parameters, by this worker or by one process; and the last step's numbers."""
    with float32_alone():
        return _learnt(kind)


@contextmanager
def float32_alone() -> Iterator[None]:
    """Without the compiled core's bfloat16, whose rounding takes a weight's last digits for more than they are."""
    if not has_native():
        yield
        return
    from vqrf.kernels import native

    sets = native.instruction_sets()
    native.use_instruction_set(sets[0])
    yield
    native.use_instruction_set(sets[-1])


def _learnt(kind: str) -> dict[str, np.ndarray]:
    scene = tiny_scene()
    config = TINY if kind != "factors" else tiny("vm")
    model = coarse_model(scene, config, seed=0, device="cpu")
    if kind != "coarse":
        model = fine_model(scene, config, model.field(), seed=0, device="cpu")
    last = list(optimize(model, RayPool(scene.train), steps=STEPS, rays_per_step=511, seed=(0, 0)))[-1]
    numbers = {"mse": np.array(last.mse), "n_shaded": np.array(last.n_shaded)}
    return {name: moments.values.numpy() for name, moments in model.parameters.items()} | numbers


PROGRAM = """
import sys
import numpy as np
from vqrf.training.workers import joined
if sys.argv[1] == "steps":
    from test_workers import learnt
    import os
    with joined("cpu"):
        for kind in ("coarse", "fine", "factors"):
            np.savez(f"{sys.argv[2]}/{kind}-{os.environ['RANK']}.npz", **learnt(kind))
else:
    from tiny import TINY
    from vqrf.cli.main import main
    from vqrf.training import stages
    stages.PRESETS["demo"] = TINY
    main(sys.argv[1:])
"""


def by_two(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Two workers, started by torchrun, that do a thing."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program]
    roots = [str(Path(__file__).parents[1]), str(Path(__file__).parent), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"}
    words = [str(word) for word in (*launch, *arguments)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_two_workers_learn_what_one_process_learns(tmp_path: Path) -> None:
    ended = by_two(tmp_path, "steps", tmp_path)
    assert ended.returncode == 0, ended.stderr
    for kind in ("coarse", "fine", "factors"):
        expected = learnt(kind)
        first, second = (dict(np.load(tmp_path / f"{kind}-{rank}.npz")) for rank in range(2))
        assert first.keys() == expected.keys()
        for name, theirs in expected.items():
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
            assert np.linalg.norm(first[name] - theirs) <= TOLERANCE * np.linalg.norm(theirs), (kind, name)


@pytest.mark.slow
def test_train_in_two_processes_writes_one_run_folder(tmp_path: Path) -> None:
    scene = tiny_scene()
    save_scene(scene, tmp_path / "data")
    run = tmp_path / "run"
    ended = by_two(tmp_path, "train", tmp_path / "data", "--out", run, "--preset", "demo")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("wrote") == 1
    assert {path.name for path in run.iterdir()} == {"field.safetensors", "config.json", "metrics.jsonl"}
    field = load_run(run)[0]
    alone = fit(scene, TINY, quiet=True)
    assert evaluate(field, scene.test).psnr == pytest.approx(evaluate(alone, scene.test).psnr, abs=0.5)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_shares_of_a_batch_are_the_batch_and_no_patch_is_torn(joined: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rays = np.arange(3 * 28, dtype=np.float32).reshape(28, 3)
    batch = Batch(rays, rays + 100, rays + 200, rays[:, 0] + 300, patch=2)
    for whole, n in ((batch, 3), (replace(batch, patch=None, weights=None), 5), (batch, 9)):
        monkeypatch.setattr(dist, "get_world_size", lambda n=n: n)
        shares = []
        for rank in range(n):
            monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
            shares.append(workers.share_of(whole))
        lengths = [len(share.origins) for share in shares]
        unit = 4 if whole.patch else 1
        assert all(length % unit == 0 for length in lengths) and max(lengths) - min(lengths) <= unit
        for at in range(3):
            np.testing.assert_array_equal(np.concatenate([share.arrays[at] for share in shares]), whole.arrays[at])
        if whole.weights is not None:
            np.testing.assert_array_equal(np.concatenate([share.weights for share in shares]), whole.weights)


def test_gradients_of_a_share_count_for_its_rays(joined: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers, of which the other found nothing: rows that are touched, and layers, are scaled; others stay."""
    monkeypatch.setattr(workers, "n_workers", lambda: 2)
    touched = torch.zeros(2, 3, 4, dtype=torch.uint8)
    touched[0, 1, 2] = 1
    layers = ((torch.ones(3, 5), torch.ones(3)),)
    gradients = Gradients(torch.ones(2, 3, 4), torch.ones(2, 3, 4, 6), layers, touched)
    mse, n_shaded = workers.add_up(gradients, 0.25, 0.5, 12.0)
    assert (mse, n_shaded) == (0.125, 12.0)
    assert gradients.density.sum() == 24 - 0.75 and gradients.density[0, 1, 2] == 0.25
    assert gradients.features.sum() == 6 * (24 - 0.75) and (gradients.features[0, 1, 2] == 0.25).all()
    assert all((array == 0.25).all() for array in layers[0])


def test_without_torchrun_there_is_one_worker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers.n_workers() == workers.n_workers_here() == 1 and workers.is_first()
    assert workers.decided(lambda: True) and workers.device_of_own("cuda") == "cuda"
    monkeypatch.setenv(workers.LAUNCHED, "x")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not workers.is_first() and workers.n_workers_here() == 2
    assert (workers.device_of_own("cuda"), workers.device_of_own("cpu")) == ("cuda:1", "cpu")


def test_no_verb_but_train_is_for_several_workers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (workers.LAUNCHED, *workers.NUMBERED):  # as torchrun does
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as ended:
        main(["eval", "no-such-run", "--data", "none"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "vqrf: torchrun: of all verbs train alone learns in several processes\n"
