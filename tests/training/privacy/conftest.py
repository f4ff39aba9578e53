"""What holds for all tests of the private engine: exact references, and nothing left to chance."""

from __future__ import annotations

import keras
import pytest

from training.privacy.half_precision import use_whole_float32


# Before references that a whole module shares.
@pytest.fixture(autouse=True, scope="session")
def whole_float32() -> None:
    """On a GPU, references must be computed as exactly as what is held against them."""
    use_whole_float32()


@pytest.fixture(autouse=True)
def same_weights_in_every_run() -> None:
    """A layer without a seed takes one from Python's generator, which each process seeds anew.

    What Sterling draws without a seed comes from the operating system all the same.
    """
    keras.utils.set_random_seed(0)
