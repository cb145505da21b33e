"""What the readers of checkpoints have in common: the parts of one asked for by name, what no file says, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import MAX_LAYER_SIDE, MAX_LAYERS
from vqrf.fields.field import Layers, RadianceField
from vqrf.geometry import Float32, Lattice
from vqrf.interop.archives import CheckpointError
from vqrf.interop.ndc import Ndc
from vqrf.interop.values import Refused, array_of, shape_of
from vqrf.kernels.constants import Equation

Corners = Literal["aligned", "centred"]
Norm = Literal["inf", "l2"]
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of a model put before the names of its state."""

MOST_LISTED = 8
"""Most keys that an error names."""

OWN_KEY = "vqrf"
"""Key under which a file that we write says what a float32 would round."""


CHECKED_AT_ONCE = 2**22
"""Values looked at together, so that no second array of the size of a checkpoint is made."""


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no value is infinite or no number."""
    if array.dtype.kind in "biu":
        return True
    n_parts = min(max(array.size // CHECKED_AT_ONCE, 1), len(array)) if array.ndim else 1
    parts = np.array_split(array, n_parts) if n_parts > 1 else [array]
    return all(bool(np.isfinite(part).all()) for part in parts)


@dataclass(frozen=True)
class Sampling:
    """What a checkpoint does not say.

    Attributes:
      step_voxels: distance of two samples, in voxels; None for the official settings'.
      near: as `Equation.near`.
      scale: of the field's world against a checkpoint's of svox2.
      space: of a field of TensoRF or svox2, whose checkpoints do not say whether they are forward-facing.
      ndc: where a forward-facing field lies.
      norm: of the contraction of an unbounded field of DirectVoxGO, which had either.
    """

    step_voxels: float | None = None
    near: float = 0.0
    scale: float = 1.0
    space: Literal["box", "front"] | None = None
    ndc: Ndc | None = None
    norm: Norm | None = None

    def step(self, usual: float = 0.5) -> float:
        """The distance of two samples in voxels, as official settings have it where nothing is said."""
        return usual if self.step_voxels is None else self.step_voxels

    def expect_ndc(self, what: str) -> Ndc:
        """Where the field lies.

        Raises:
          Refused: nobody says so.
        """
        if self.ndc is None:
            raise Refused(f"{what}: is of a forward-facing scene; give its photos, in LLFF's layout, by --data or --cameras")
        return self.ndc

    def is_front(self, sign: str | None) -> bool:
        """Whether a field is forward-facing.

        Args:
          sign: what in a checkpoint looks so; None for nothing.

        Raises:
          Refused: nobody says so, and it looks so.
        """
        if self.space is None and sign is not None:
            raise Refused(f"{sign} is the sign of a forward-facing scene: give --space front, or --space box if it is none")
        return self.space == "front"

    def expect_said_by_file(self, space: str) -> None:
        """Refuse another space than the one that a checkpoint says.

        Raises:
          Refused: another one was asked for.
        """
        if self.space not in (None, space):
            raise Refused(f"--space {self.space}: the checkpoint itself says that it is in {space!r}")


USUAL = Sampling()


@dataclass(frozen=True, eq=False)
class Outline:
    """What a checkpoint says of its field, before any grid is made.

    Attributes:
      facts: JSON-able, of its kind of file.
    """

    lattice: Lattice
    n_channels: int
    color_mlp: Layers
    equation: Equation
    facts: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {
            **self.facts,
            "shape": list(self.lattice.shape),
            "lo": list(self.lattice.lo),
            "hi": list(self.lattice.hi),
            "channels": self.n_channels,
            "shading": self.equation.shading,
            "activation": self.equation.activation,
            "grid_bytes": 4 * self.lattice.n_voxels * (1 + self.n_channels),
            "layers": [list(weight.shape) for weight, _ in self.color_mlp],
        }


@dataclass(frozen=True, eq=False)
class Imported:
    """A field from a checkpoint.

    Attributes:
      facts: JSON-able, what the file said.
      n_cut: cells with something in them that the official mask cuts and ours does not.
    """

    field: RadianceField
    facts: dict[str, Any]
    n_cut: int


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Put the file before what is wrong with it.

    Raises:
      CheckpointError: whatever else is raised inside, but by the system.
    """
    try:
        with np.errstate(all="ignore"):  # what overflows is not finite, and is refused as such
            yield
    except CheckpointError:
        raise
    except ValueError as error:  # Refused, OverBudget, and what Lattice, Equation and fields say
        raise CheckpointError(path, str(error)) from error
    except (TypeError, LookupError, ArithmeticError, RecursionError) as error:  # a net: every cause is checked before
        raise CheckpointError(path, f"{UNHEARD_OF} ({type(error).__name__}: {error})") from error


UNHEARD_OF = "cannot be read"
"""What is said of a cause that has no words of its own."""


class Parts:
    """The arguments and the state of a checkpoint, asked for by name.

    Raises:
      Refused: a part is missing or is not what it has to be.
    """

    arguments_name = "model_kwargs"

    def __init__(self, arguments: Any, state: Any) -> None:
        if not isinstance(arguments, dict) or not isinstance(state, dict):
            raise Refused("holds no arguments and no state of a model")
        self.arguments, self.state = arguments, without_prefixes(state)

    def shape(self, key: str, ndim: int) -> tuple[int, ...]:
        """The sides of an array that is not read for it."""
        if key not in self.state:
            raise Refused(f"{key}: is missing; there are {listed(self.state)}")
        shape: tuple[int, ...] = _within(key, lambda: shape_of(self.state[key], key))
        if len(shape) != ndim:
            raise Refused(f"{key}: expected {ndim} axes, got shape {list(shape)}")
        return shape

    def array(self, key: str, ndim: int) -> NDArray[Any]:
        self.shape(key, ndim)
        array: NDArray[Any] = _within(key, lambda: array_of(self.state[key], key))
        if not is_finite(array):
            raise Refused(f"{key}: has a value that is not finite")
        return array

    def floats(self, key: str, ndim: int) -> Float32:
        return np.ascontiguousarray(self.array(key, ndim), np.float32)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.arguments.get(key, default)
        if value is None:
            raise Refused(f"{self.arguments_name} {key}: is missing")
        if math.prod(_within(key, lambda: shape_of(value, key))) != 1:
            raise Refused(f"{self.arguments_name} {key}: expected a finite number")
        number = float(_within(key, lambda: array_of(value, key)).reshape(()))
        if not math.isfinite(number):
            raise Refused(f"{self.arguments_name} {key}: expected a finite number")
        return number

    def text(self, key: str, default: str) -> str:
        value = self.arguments.get(key, default)
        if not isinstance(value, str):
            raise Refused(f"{self.arguments_name} {key}: expected a text, got {type(value).__name__}")
        return value[:40]

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self.arguments.get(key, default)
        if value is not None and not isinstance(value, bool | int | float | str):
            raise Refused(f"{self.arguments_name} {key}: expected yes or no, got {type(value).__name__}")
        return bool(value)

    def layers_of(self, keys: list[str]) -> Layers:
        """Weights and biases of layers, each of which takes what the one before gives.

        Args:
          keys: of the weights, in their order; those of the biases end in `bias` in their place.
        """
        if len(keys) > MAX_LAYERS:
            raise Refused(f"{keys[0]}: is the first of {len(keys)} layers, the limit is {MAX_LAYERS}")
        width = None
        for key in keys:
            n_out, n_in = self.shape(key, 2)
            if not (1 <= n_out <= MAX_LAYER_SIDE and 1 <= n_in <= MAX_LAYER_SIDE) or width not in (None, n_in):
                raise Refused(f"{key}: shape {[n_out, n_in]} does not fit, or has a side above {MAX_LAYER_SIDE}")
            if self.shape(bias := f"{key.removesuffix('weight')}bias", 1) != (n_out,):
                raise Refused(f"{bias}: expected {n_out} values")
            width = n_out
        if keys and width != 3:
            raise Refused(f"{keys[-1]}: ends in {width} values, expected rgb")
        return tuple((self.floats(key, 2), self.floats(f"{key.removesuffix('weight')}bias", 1)) for key in keys)


def without_prefixes(state: Mapping[Any, Any]) -> dict[str, Any]:
    """A state by the names that its parts have in the model itself; what has no text for a name is no part.

    >>> without_prefixes({"module.density.grid": 1, 3: 2})
    {'density.grid': 1}
    """
    named: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(key, str):
            name = key
            while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
                name = name.removeprefix(prefix)
            named.setdefault(name, value)
    return named


def listed(keys: Mapping[Any, Any]) -> str:
    """What is there, for an error that says what is missing."""
    names = [str(key)[:40] for key in keys if isinstance(key, str)]
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{', '.join(names[:MOST_LISTED])}{more}" if names else "none"


def _within(key: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Refused as error:
        raise Refused(str(error) if str(error).startswith(key) else f"{key}: {error}") from error


def own_numbers(own: Any, key: str, n: int) -> list[float]:
    """`n` finite floats that we wrote, or somebody else says that we did."""
    values = own.get(key) if isinstance(own, dict) else None
    if not isinstance(values, list) or len(values) != n or not all(isinstance(v, float) and math.isfinite(v) for v in values):
        raise Refused(f"{OWN_KEY} {key}: expected {n} finite numbers")
    return values


def floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def lattice_of(low: Any, high: Any, shape: tuple[int, ...]) -> Lattice:
    """A lattice of three numbers for each corner and three sides."""
    (x0, y0, z0), (x1, y1, z1), (x, y, z) = floats(low), floats(high), (int(side) for side in shape)
    return Lattice((x0, y0, z0), (x1, y1, z1), (x, y, z))


def expect_box(lattice: Lattice) -> None:
    """Refuse to write what lies in another space than a box: no program would draw it where it is.

    Raises:
      ValueError: it does.
    """
    if lattice.space is not None:
        raise ValueError(f"a field in the space {lattice.space.name} is not written for other programs")


def highest(density: Float32) -> Float32:
    """The highest of the 8 densities of every cell."""
    for axis in range(3):
        before, after = ([slice(None)] * axis + [part] for part in (slice(None, -1), slice(1, None)))
        density = np.maximum(density[tuple(before)], density[tuple(after)])
    return density
