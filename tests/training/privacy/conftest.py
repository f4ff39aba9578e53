"""On a GPU, references must be computed as exactly as what is held against them."""

from __future__ import annotations

import pytest

from training.privacy.half_precision import use_whole_float32


# Before references that a whole module shares.
@pytest.fixture(autouse=True, scope="session")
def whole_float32() -> None:
    use_whole_float32()
