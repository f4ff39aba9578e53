"""On a GPU, references must be computed as exactly as what is held against them."""

from __future__ import annotations

import pytest

from training.privacy.half_precision import use_whole_float32


@pytest.fixture(autouse=True)
def whole_float32() -> None:
    use_whole_float32()
