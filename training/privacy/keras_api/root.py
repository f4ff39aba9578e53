"""The root of a private model's randomness: set by its first fit, gone on with by all that follow.

Guarantees (what epsilon depends on):
    A seed alone does not set it: what visibly differs at the start of two seeded fits is part of
    the root's name, so that they share no noise. And where the steps of a run depend on each
    other, every fit draws from the same examples in the same places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import keras

from configs.schema import UserError
from training.privacy.keras_api.layers import layers_of
from training.privacy.keras_api.sources import Source
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness


class FitRoot:
    """What the fits of one private model draw from.

    Args:
        plan: Says whether steps depend on each other.
        seed: The user's; none draws the root from the operating system.
    """

    def __init__(self, plan: PrivacyPlan, seed: int | None):
        self._plan, self._seed = plan, seed
        self._randomness: Randomness | None = None
        self._digest: str | None = None

    @property
    def reproducible(self) -> bool:
        """Whether it comes from a seed."""
        return self._seed is not None

    def begin(self, context: Callable[[], str]) -> None:
        """Sets it, unless it is set.

        Args:
            context: Names the fit that sets it, beside the seed (`context_of`).
        """
        if self._randomness is None:
            named = "" if self._seed is None else context()
            self._randomness = Randomness.from_seed(self._seed, named)

    def __call__(self) -> Randomness:
        if self._randomness is None:
            raise RuntimeError("The root of a private model's randomness is set by its first fit.")
        return self._randomness

    def require_same_examples(self, source: Source) -> None:
        """Refuses other data (as far as their digest tells) where an epoch may go on across fits.

        Raises:
            UserError: If an example could then take part twice in one epoch.
        """
        if not self._plan.needs_one_root:
            return
        digest = source.digest()
        if self._digest not in (None, digest):
            raise UserError(
                f"fit(x, y): expected the arrays of the first fit, in their order (of a sequence: "
                "item i the same at every reading): with "
                f"{self._plan.sampling.method} sampling and {self._plan.mechanism.method} noise "
                "the steps of a run depend on each other, and epsilon counts on each example's "
                "place."
            )
        self._digest = digest


def context_of(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    plan: PrivacyPlan,
    source: Source,
    *further: Any,
) -> str:
    """What, beside the seed, names the random streams: runs that differ in it share none.

    Args:
        model: As it is before the first step, built or not.
        optimizer: By its class and settings.
        plan: All of it.
        source: By what its examples are.
        further: Plain data.
    """
    weights = hashlib.blake2b(digest_size=16)
    for value in model.get_weights() if model.built else ():
        weights.update(value.tobytes())
    parts = [
        plan.to_dict(),
        type(optimizer).__name__,
        {k: v for k, v in optimizer.get_config().items() if k != "name"},
        weights.hexdigest(),
        source.content(),
        *further,
        [v.trainable for v in model.weights],
        layers_of(model),
    ]
    return json.dumps(parts, sort_keys=True, default=str)
