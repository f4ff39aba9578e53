"""Poisson sampling cut to a fixed number of rows, so that every step has one physical shape.

Guarantees (what epsilon depends on):
    A batch is drawn as in Poisson sampling. If it has more than `max_batch` examples, `max_batch`
    of them are kept, every subset of that size with equal probability.

What it costs is proven in `training.privacy.events` (`truncated`): dropping couples examples, for
one more example may push another out, and that happens with a probability which depends on
`max_batch`. It is paid for; it is not assumed away.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import numpy as np
from scipy import stats

from configs.schema import SamplingSettings, require
from training.batching import Sampler
from training.privacy.sampling.poisson import PoissonSampler
from training.randomness import Randomness


@dataclass(frozen=True)
class TruncatedPoissonSampling:
    """Poisson sampling at rate `batch_size / num_examples`, at most `max_batch` examples kept."""

    method: ClassVar[str] = "truncated_poisson"
    period: ClassVar[int] = 1
    num_examples: int
    batch_size: int
    max_batch: int

    def __post_init__(self) -> None:
        require(
            self.batch_size <= self.max_batch <= self.num_examples,
            "privacy.sampling.max_batch",
            self.max_batch,
            f"from training.batch_size ({self.batch_size}) to N ({self.num_examples})",
        )

    @classmethod
    def from_settings(
        cls, settings: SamplingSettings, num_examples: int, batch_size: int
    ) -> TruncatedPoissonSampling:
        largest = settings.max_batch
        if largest is None:
            # Six standard deviations: truncation then happens about once in 10^9 steps.
            largest = -(-(batch_size + 6 * (isqrt(batch_size) + 1)) // 8) * 8
            largest = max(batch_size, min(num_examples, largest))
        return cls(num_examples, batch_size, largest)

    @property
    def probability(self) -> float:
        return self.batch_size / self.num_examples

    @property
    def capacity(self) -> int:
        return self.max_batch

    @property
    def crowding(self) -> float:
        """Probability that N other examples alone fill the batch, so that one more displaces."""
        return float(stats.binom.sf(self.max_batch - 1, self.num_examples, self.probability))

    def sampler(self, randomness: Randomness) -> Sampler:
        whole = PoissonSampler(self.num_examples, self.probability, randomness)
        return TruncatedPoissonSampler(whole, self.max_batch)

    def describe(self, unit: str = "example") -> str:
        return (
            f"each {unit} drawn independently with probability {self.probability:.6g} at every "
            f"step, and of more than {self.max_batch} drawn the excess dropped at random "
            f"(truncated Poisson sampling, {self.batch_size} expected of {self.num_examples}; a "
            f"batch is full with probability at most {self.crowding:.3g}, in which one {unit} may "
            "displace another: accounted for as doubled sensitivity)"
        )


@dataclass(frozen=True)
class TruncatedPoissonSampler:
    """Cuts Poisson draws.

    Attributes:
        whole: Draws them, in uniformly random order.
        max_batch: How many are kept.
    """

    whole: PoissonSampler
    max_batch: int

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (at most max_batch,), in random order."""
        return self.whole.draw(step)[: self.max_batch]
