"""Exposure: what each photo makes of the colours of a scene. It is learnt beside the field, and undone before the field learns.

Photos of a phone differ in exposure and white balance. A photo is taken for

    photo = gain @ color + offset * opacity        gain [3,3], offset [3], of its own

where colours are premultiplied by their opacity, and what stands behind the thing is as it is. While a field is trained, its
renders are compared with photos now and then, by least squares with a pull towards "as it is"; what the field learns from are
colours with that undone. The mean over all views is held at "as it is", because a field that is brighter by as much as all
photos are darker explains them as well: so the field has the photos' mean look. Nothing of this is in a compressed file.

Source: an affine colour for each photo, as in Urban Radiance Fields (arXiv 2111.14643, sec. 4.2). Departs: it is solved for and
not descended to, it is the photos that are changed and not the renders, and no photo is the reference but all of them are.

Held-out photos have no exposure that is learnt. They are scored as they are, like any others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.data.images import bytes_from_colors
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, View
from vqrf.geometry import Float32, Float64
from vqrf.kernels import Volume, select
from vqrf.kernels.contract import B

RAYS_PER_VIEW, MAX_RAYS = 64, 8192
"""Of a comparison, in the mean; and of all views together. It takes no more than a hundredth of the time."""

KEPT = 0.9
"""Share of the older comparisons that stays with each new one: the field is learnt meanwhile."""

PULL, MIX_PULL = 1e-2, 0.1
"""Towards "as it is", as shares of the number of pixels: of how bright a channel is, which is exposure and white balance, and
of the rest, another channel's light and the offset. Photos say that more weakly, and it fits what the field lacks."""

EXPLAINED = 0.5
"""Share of what differs in the photos that the field has to explain before anything is concluded from it."""

GAINS = (0.25, 4.0)
"""No photo is brighter or darker by more: two stops."""

SATURATED, ALIKE = 253 / 255, 2.5 / 255
"""A channel that is as bright may have been brighter; a pixel that is as near to the background is of it."""

AS_IT_IS: Float64 = np.eye(3, 4)


class ExposedPool(RayPool):
    """Photos as a `RaySource` that learns their exposures, and gives their pixels without.

    Args:
      scene: its training views, at least one, and what stands behind them.

    Attributes:
      maps: [V,3,4] float64, gain and offset of each view; their mean is `AS_IT_IS`.

    Deterministic: what is learnt depends on the steps and their seeds alone, and is in `state`.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.train)
        self.background = np.asarray(scene.learnt_on, np.float32)
        self.learn(np.zeros((len(scene.train), 4, 7)))

    def learn(self, sums: Float64) -> None:
        """Take sums [V,4,7] over pixels of products of what is rendered, and of that with what the photo shows."""
        self.sums, self.maps = sums, maps_of(sums)
        self._inverses = inverses_of(self.maps)

    def look_up(self, pixels: NDArray[np.int64], origins: Float32, directions: Float32) -> tuple[Float32, Float32 | None]:
        targets, weights = super().look_up(pixels, origins, directions)
        targets[:, :3] = without_exposure(targets, self._inverses[self.cameras.views_of(pixels)], self.background)
        return targets, weights

    def follow(self, volume: Volume[B], *, seed: tuple[int, ...]) -> None:
        """Compare some pixels with what the field makes of them, and learn from it once the field explains the photos."""
        pixels = self.draw(min(RAYS_PER_VIEW * len(self.maps), MAX_RAYS), seed=seed)
        origins, directions = self.cameras.rays(pixels)
        photos, weights = super().look_up(pixels, origins, directions)
        kernels = select(str(getattr(volume.density, "device", "cpu")))
        rgb, clear, _ = kernels.render_rays(volume, origins, directions)
        seen = np.concatenate([rgb - clear[:, None] * self.background, 1 - clear[:, None]], 1).astype(np.float64)
        if photos.shape[1] == 4:
            clear = np.where(np.isnan(photos[:, 3]), clear, 1 - photos[:, 3])
        shown = photos[:, :3] - clear[:, None] * self.background
        counts = (photos[:, :3] < SATURATED).all(1) & ~is_background(photos, self.background)
        share = counts * (np.float32(1) if weights is None else weights)
        views, n_views = self.cameras.views_of(pixels), len(self.maps)
        if share_explained(np.einsum("nij,nj->ni", self.maps[views], seen), shown, share) < EXPLAINED:
            return
        products = np.einsum("n,ni,nj->nij", share, seen, np.concatenate([seen, shown], 1)).reshape(-1, 28)
        sums = np.stack([np.bincount(views, column, n_views) for column in products.T], 1)
        self.learn(KEPT * self.sums + sums.reshape(n_views, 4, 7))

    def state(self) -> dict[str, NDArray[Any]]:
        return super().state() | {"exposure_sums": self.sums}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        super().restore(state)
        self.learn(state["exposure_sums"])


def maps_of(sums: Float64) -> Float64:
    """The maps [V,3,4] that explain photos best, with a pull towards `AS_IT_IS`, which their mean is.

    Args:
      sums: [V,4,7], see `ExposedPool.learn`; zeros where nothing is known of a view.
    """
    count = sums[:, 3, 3] + np.finfo(np.float64).tiny ** 0.5
    maps = np.empty((len(sums), 3, 4))
    for channel in range(3):
        pull = np.diag(np.where(np.arange(4) == channel, PULL, MIX_PULL)) * count[:, None, None]
        wanted = sums[..., 4 + channel] + pull @ AS_IT_IS[channel]
        maps[:, channel] = np.linalg.solve(sums[..., :4] + pull, wanted[..., None])[..., 0]
    gains, offsets = _bounded(maps[..., :3].astype(np.float64)), maps[..., 3]
    to_mean = np.linalg.inv(gains.mean(0))  # a color as it was, from one in the mean look
    gains = gains @ to_mean
    return np.concatenate([gains, (offsets - gains @ offsets.mean(0))[..., None]], -1)


def inverses_of(maps: Float64) -> Float32:
    """Of maps [V,3,4] those that undo them, [V,3,4] float32."""
    gains = np.linalg.inv(_bounded(maps[..., :3]))
    return np.concatenate([gains, -gains @ maps[..., 3:]], -1).astype(np.float32)


def _bounded(gains: Float64) -> Float64:
    """Gains [V,3,3] that make nothing brighter or darker than `GAINS`."""
    left, scales, right = np.linalg.svd(gains)
    bounded: Float64 = (left * np.clip(scales, *GAINS)[:, None]) @ right
    return bounded


def without_exposure(pixels: Float32, inverses: Float32, background: Float32) -> Float32:
    """Colours [N,3] in 0..1 of pixels [N,3] or [N,4], with their opacity or NaN, by the inverse maps of their views [N,3,4].

    What stands behind the thing is not the camera's, and stays: by the opacity, or where a pixel is of the background's colour.
    """
    opacity = np.ones(len(pixels), np.float32) if pixels.shape[1] < 4 else np.nan_to_num(pixels[:, 3], nan=1.0)
    behind = (1 - opacity)[:, None] * background
    of_thing = np.concatenate([pixels[:, :3] - behind, opacity[:, None]], 1)
    colors = np.clip((inverses @ of_thing[..., None])[..., 0] + behind, 0, 1)
    return np.where(is_background(pixels, background)[:, None], pixels[:, :3], colors)


def is_background(pixels: Float32, background: Float32) -> NDArray[np.bool_]:
    """[N] whether pixels [N,3] or [N,4] whose opacity is not known are of the background's colour.

    None is where that is neither white nor black: opaque photos have no such border, and what is behind them is their mean.
    """
    if len({0.0, 1.0}.intersection(*background[:, None].tolist())) == 0:
        return np.zeros(len(pixels), bool)
    alike = (np.abs(pixels[:, :3] - background) < ALIKE).all(1)
    is_alike: NDArray[np.bool_] = alike if pixels.shape[1] < 4 else alike & np.isnan(pixels[:, 3])
    return is_alike


def share_explained(found: Float64, wanted: Float64, share: Float32) -> float:
    """How much of the variance of colours [N,3] others explain: 1 for all, below 0 where these are worse than the mean."""
    if not share.any():
        return -np.inf
    varies = np.average(((wanted - np.average(wanted, 0, share)) ** 2).sum(1), weights=share)
    misses = np.average(((wanted - found) ** 2).sum(1), weights=share)
    return float(1 - misses / max(varies, 1e-12))


Exposures = Mapping[str, list[float]]
"""Gain and offset by the names of views, row by row, as the notes beside a field have them."""


def exposures_of(scene: Scene, maps: Float64) -> dict[str, list[float]]:
    """The maps [V,3,4] of a scene's training views, for the notes of a field."""
    return {
        view.name: [round(float(number), 6) for number in each.ravel()] for view, each in zip(scene.train, maps, strict=True)
    }


def without_exposures(scene: Scene, exposures: object) -> Scene:
    """The scene with its training photos as the field learnt them.

    Args:
      exposures: of the notes of a field; what is none is passed over.
    """
    if not isinstance(exposures, dict):
        return scene
    maps = {name: each for name, said in exposures.items() if (each := _map_of(said)) is not None}
    train = tuple(_without(view, maps[view.name], scene) if view.name in maps else view for view in scene.train)
    return replace(scene, train=train)


def _map_of(said: object) -> Float64 | None:
    if not isinstance(said, list) or len(said) != 12 or not all(isinstance(number, int | float) for number in said):
        return None
    numbers = np.array(said, np.float64).reshape(3, 4)
    return numbers if (np.abs(numbers) < 100).all() else None


def _without(view: View, exposure: Float64, scene: Scene) -> View:
    pixels = view.colors().reshape(-1, 3)
    if view.opacity is not None:
        pixels = np.concatenate([pixels, view.opacity.reshape(-1, 1) / np.float32(255)], 1)
    inverses = np.broadcast_to(inverses_of(exposure[None]), (len(pixels), 3, 4))
    colors = without_exposure(pixels, inverses, np.asarray(scene.background, np.float32))
    return replace(view, image=bytes_from_colors(colors).reshape(view.image.shape))
