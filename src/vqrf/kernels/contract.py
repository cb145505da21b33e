"""What a back end is: functions with these names and signatures, and a word on what it cannot do.

`reference` says what each function answers. A back end is a module of some of these functions with a `fault` beside them.
`Assembled` makes it whole: a function that it lacks is the reference's, and so is one whose volume or factors it finds a fault
with. A new back end starts with the two functions that it is for, a `fault`, and a line in `vqrf.kernels.select`.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat, TypeVar, cast

from numpy.typing import NDArray

from vqrf.kernels import A, Array, Children, FactorArrays, Gradients, LossWeights, Volume

if TYPE_CHECKING:
    from torch import Tensor

B = TypeVar("B", "NDArray[Any]", "Tensor")
"""The kind of array that a volume is made of; rays may be of the other."""


class Kernels(Protocol):
    """Every function of a back end; `vqrf.kernels.reference` documents them."""

    def fault(self, subject: Volume[B] | FactorArrays[B], /) -> str | None:
        """What the back end cannot do about it, as a phrase that follows "cannot do"; None if it can do all."""

    def pixel_rays(self, pixels: A, starts: Array, widths: Array, pinholes: Array, poses: Array) -> tuple[A, A]: ...

    def hit_rays(self, volume: Volume[B], origins: A, directions: Array) -> A: ...

    def render_rays(self, volume: Volume[B], origins: A, directions: Array) -> tuple[A, A, A]: ...

    def render_gradients(
        self,
        volume: Volume[B],
        origins: Array,
        directions: Array,
        targets: Array,
        losses: LossWeights,
        gradients: Gradients[B],
        *,
        weights: Array | None = None,
    ) -> Mapping[str, SupportsFloat]: ...

    def backpropagate(
        self,
        volume: Volume[B],
        origins: Array,
        directions: Array,
        d_rgb: Array,
        d_background_weight: Array | None,
        d_depth: Array | None,
        gradients: Gradients[B],
    ) -> None: ...

    def accumulate_importance(
        self, volume: Volume[B], origins: Array, directions: Array, importance: Array, *, counted: Array | None = None
    ) -> None: ...

    def find_cells(self, density: A, floor: float, allowed: Array | None) -> A: ...

    def measure_skip(self, cells: A) -> A: ...

    def masked_adam(
        self,
        values: Array,
        gradient: Array,
        first: Array,
        second: Array,
        touched: Array | None,
        *,
        rate: float | Array,
        step: int,
    ) -> None: ...

    def add_total_variation(self, values: Array, gradient: Array, touched: Array | None, *, weight: float) -> None: ...

    def assign_codes(self, vectors: A, codebook: Array) -> tuple[A, A]: ...

    def sum_by_code(self, values: A, weights: Array, codes: Array, n_codes: int) -> tuple[A, A]: ...

    def tie_gradients(self, gradient: Array, rows: Array, touched: Array, table_gradient: Array) -> None: ...

    def raise_level(self, fine: Array, coarse: Array, parents: Array) -> None: ...

    def lower_gradient(self, fine: Array, coarse: Array, children: Children[B]) -> None: ...

    def move_gradients(
        self, gradient: Array, voxels: Array, touched: Array, matrix: Array | None, row_gradient: Array
    ) -> None: ...

    def place_rows(self, values: Array, scales: Array, places: Array, table: Array) -> None: ...

    def take_rows(self, table: Array, scales: Array, places: Array, values: Array) -> None: ...

    def round_to_steps(self, values: Array, steps: Array, dead_zone: float, rounded: Array) -> None: ...

    def add_rate_gradient(self, values: Array, steps: Array, first_bits: Array, weight: float, gradient: Array) -> None: ...

    def expand_factors(self, factors: FactorArrays[B], marks: Array, density: Array, features: Array | None) -> None: ...

    def add_sparsity(self, values: Array, gradient: Array, touched: Array | None, *, n_columns: int, weight: float) -> None: ...

    def measure_ssim(self, image: NDArray[Any], target: NDArray[Any]) -> float: ...


class Backend(Kernels, Protocol):
    """Kernels, and where they run; from `vqrf.kernels.select`.

    Attributes:
      name: in plain words, for messages.
      device: of PyTorch's names; where its tensors live.
      torch_threads: of PyTorch, beside these kernels; None for as many as it likes.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def torch_threads(self) -> int | None: ...


@dataclass(frozen=True)
class Assembled:
    """A whole `Backend` of the functions that the module `own` has.

    Raises:
      ModuleNotFoundError: by a kernel that only the reference can do, where PyTorch is not installed.
    """

    name: str
    device: str
    torch_threads: int | None
    own: ModuleType

    def __getattr__(self, kernel: str) -> object:
        if kernel.startswith("_"):
            raise AttributeError(kernel)
        return getattr(self.own if hasattr(self.own, kernel) else _reference(), kernel)

    def hit_rays(self, volume: Volume[B], origins: A, directions: Array) -> A:
        return self._for(volume, "hit_rays").hit_rays(volume, origins, directions)

    def render_rays(self, volume: Volume[B], origins: A, directions: Array) -> tuple[A, A, A]:
        return self._for(volume, "render_rays").render_rays(volume, origins, directions)

    def render_gradients(
        self,
        volume: Volume[B],
        origins: Array,
        directions: Array,
        targets: Array,
        losses: LossWeights,
        gradients: Gradients[B],
        *,
        weights: Array | None = None,
    ) -> Mapping[str, SupportsFloat]:
        able = self._for(volume, "render_gradients")
        return able.render_gradients(volume, origins, directions, targets, losses, gradients, weights=weights)

    def backpropagate(
        self,
        volume: Volume[B],
        origins: Array,
        directions: Array,
        d_rgb: Array,
        d_background_weight: Array | None,
        d_depth: Array | None,
        gradients: Gradients[B],
    ) -> None:
        able = self._for(volume, "backpropagate")
        able.backpropagate(volume, origins, directions, d_rgb, d_background_weight, d_depth, gradients)

    def accumulate_importance(
        self, volume: Volume[B], origins: Array, directions: Array, importance: Array, *, counted: Array | None = None
    ) -> None:
        chosen = self._for(volume, "accumulate_importance")
        chosen.accumulate_importance(volume, origins, directions, importance, counted=counted)

    def expand_factors(self, factors: FactorArrays[B], marks: Array, density: Array, features: Array | None) -> None:
        self._for(factors, "expand_factors").expand_factors(factors, marks, density, features)

    def _for(self, subject: Volume[B] | FactorArrays[B], kernel: str) -> Kernels:
        """Who has the kernel and can do it for the subject: this back end, or else the reference."""
        own = cast(Kernels, self.own)
        if not hasattr(own, kernel):
            return _reference()
        reason = own.fault(subject)
        if reason is None:
            return own
        says = f"{self.name} cannot do {reason}"
        try:
            able = _reference()
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{says}, and the reference kernels need {error.name}", name=error.name) from None
        say_that_reference_stands_in(says)
        return able


def _reference() -> Kernels:
    return cast(Kernels, importlib.import_module("vqrf.kernels.reference"))


@functools.cache
def say_that_reference_stands_in(reason: str) -> None:
    """Once for each reason."""
    print(f"vqrf: {reason}: using the slow reference kernels", file=sys.stderr)


if TYPE_CHECKING:  # holds the signatures of the two that have every function to those above
    from vqrf.kernels import native, reference

    COMPLETE: tuple[Kernels, ...] = (reference, native)
