"""Poisson sampling, what DP-SGD is usually accounted for (Abadi et al. 2016, arXiv:1607.00133).

Guarantees (what epsilon depends on):
    At every step each example is in the batch independently with the same probability, from fresh
    randomness. Batches are never topped up or cut: a drawn batch of any size is processed whole,
    in as many physical batches of fixed shape as it takes.

How it is drawn: the batch's size from Binomial(N, q), then that many different examples, uniformly.
That is the same distribution: independent draws are exchangeable, so given their number every
subset is equally likely, and their number is binomial. Time and memory are those of the batch, not
of N (above a fiftieth of N, NumPy's tail shuffle takes memory of order N, as the batch does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.schema import SamplingSettings
from training.batching import Sampler
from training.randomness import Randomness


@dataclass(frozen=True)
class PoissonSampling:
    """Every example independently with probability `batch_size / num_examples` at every step."""

    method: ClassVar[str] = "poisson"
    period: ClassVar[int] = 1
    capacity: ClassVar[int | None] = None
    num_examples: int
    batch_size: int

    @classmethod
    def from_settings(
        cls, settings: SamplingSettings, num_examples: int, batch_size: int
    ) -> PoissonSampling:
        return cls(num_examples, batch_size)

    @property
    def probability(self) -> float:
        return self.batch_size / self.num_examples

    def sampler(self, randomness: Randomness) -> Sampler:
        return PoissonSampler(self.num_examples, self.probability, randomness)

    def describe(self, unit: str = "example") -> str:
        return (
            f"each {unit} drawn independently with probability {self.probability:.6g} at every "
            f"step (Poisson sampling, {self.batch_size} expected of {self.num_examples})"
        )


@dataclass(frozen=True)
class PoissonSampler:
    """Draws step t's examples; the same at any time for the same root.

    Attributes:
        num_examples: Size of the training set.
        probability: Chance of each example at each step.
        randomness: Where the draws come from.
    """

    num_examples: int
    probability: float
    randomness: Randomness

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (drawn,), in random order."""
        generator = self.randomness.generator("poisson sampling", step)
        return poisson_draw(generator, self.num_examples, self.probability)


def poisson_draw(
    generator: np.random.Generator, num_examples: int, probability: float
) -> np.ndarray:
    """Each of 0 .. num_examples-1 independently with `probability`, int64, in random order.

    The order decides which physical batch an example lands in; it is random so that a data set
    sorted by label does not give batches of one label.
    """
    count = generator.binomial(num_examples, probability)
    return generator.choice(num_examples, count, replace=False, shuffle=True)
