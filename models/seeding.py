"""Makes the random initial weights of a model repeatable, and leaves nothing seeded behind.

Keras draws the seed of every initializer and dropout layer made without one from Python's
generator. Seeding that generator for the length of a build, and putting it back afterwards, is
therefore enough. `keras.utils.set_random_seed` is avoided on purpose: it also seeds TensorFlow's
global generator for the rest of the process, which must never happen behind a privacy engine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded_initializers(seed: int | None) -> Iterator[None]:
    """Inside this context, Keras layers made in the same order get the same initial weights.

    Args:
        seed: None leaves every choice to the operating system's entropy.
    """
    if seed is None:
        yield
        return
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
