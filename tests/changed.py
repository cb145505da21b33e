"""A copy of something with other constants of rendering."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from vqrf.kernels.constants import Equation

T = TypeVar("T")
CONSTANTS = {field.name for field in dataclasses.fields(Equation)}


def changed(thing: T, **changes: Any) -> T:
    """Whatever has an equation, with attributes of its own or of its equation changed."""
    equation = {name: changes.pop(name) for name in CONSTANTS & changes.keys()}
    if equation:
        changes["equation"] = dataclasses.replace(thing.equation, **equation)  # type: ignore[attr-defined]
    return dataclasses.replace(thing, **changes)  # type: ignore[type-var]
