"""Batches of exactly the same size, drawn without replacement (Balle et al. 2018, 1807.01647).

Guarantees (what epsilon depends on):
    At every step every subset of `batch_size` examples is the batch with equal probability, from
    fresh randomness.

Proven for replacing one example (and blanking it, which is a replacement): adding one would change
every other example's chance, so add/remove is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.schema import SamplingSettings
from training.batching import Sampler
from training.randomness import Randomness


@dataclass(frozen=True)
class FixedSizeSampling:
    """`batch_size` of `num_examples` examples, without replacement, afresh at every step."""

    method: ClassVar[str] = "fixed_size"
    period: ClassVar[int] = 1
    num_examples: int
    batch_size: int

    @classmethod
    def from_settings(
        cls, settings: SamplingSettings, num_examples: int, batch_size: int
    ) -> FixedSizeSampling:
        return cls(num_examples, batch_size)

    @property
    def probability(self) -> float:
        return self.batch_size / self.num_examples

    @property
    def capacity(self) -> int:
        return self.batch_size

    def sampler(self, randomness: Randomness) -> Sampler:
        return FixedSizeSampler(self.num_examples, self.batch_size, randomness)

    def describe(self, unit: str = "example") -> str:
        return (
            f"exactly {self.batch_size} of {self.num_examples} {unit}s drawn without replacement "
            "at every step"
        )


@dataclass(frozen=True)
class FixedSizeSampler:
    """Draws step t's examples; the same at any time for the same root.

    Attributes:
        num_examples: Size of the training set.
        batch_size: Examples of every step.
        randomness: Where the draws come from.
    """

    num_examples: int
    batch_size: int
    randomness: Randomness

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (batch_size,), in random order."""
        generator = self.randomness.generator("fixed-size sampling", step)
        return generator.choice(self.num_examples, self.batch_size, replace=False, shuffle=True)
