"""What the cases share: a place where verbs run apart from the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from apart import Apart


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with Apart() as made:
        yield made
