"""Each example in exactly one random step of every epoch (Chua et al. 2024, arXiv:2412.16802).

Also called random allocation (Feldman and Shenfeld 2025, arXiv:2502.08202). Nobody is left out of
an epoch, and yet the privacy is about that of Poisson sampling (`training.privacy.allocation`).

Guarantees (what epsilon depends on):
    At the start of an epoch every example is thrown into one of the epoch's steps, uniformly and
    independently of the others and of other epochs. A bin of any size is processed whole.

How it is drawn: the bins' sizes from a multinomial, then a random order of all examples cut at
those sizes; given the sizes every division is equally likely, so this is the same distribution.
A step costs time in its own examples and in the number of steps of an epoch, not in N.
Above `training.permutation.EXACT_SIZE` examples the order is pseudo-random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.schema import SamplingSettings
from training.batching import Sampler
from training.permutation import Permutation
from training.randomness import Randomness


@dataclass(frozen=True)
class BallsInBinsSampling:
    """Every example in one of `ceil(num_examples / batch_size)` steps of each epoch."""

    method: ClassVar[str] = "balls_in_bins"
    capacity: ClassVar[int | None] = None
    num_examples: int
    batch_size: int

    @classmethod
    def from_settings(
        cls, settings: SamplingSettings, num_examples: int, batch_size: int
    ) -> BallsInBinsSampling:
        return cls(num_examples, batch_size)

    @property
    def period(self) -> int:
        """Steps of an epoch: the bins."""
        return -(-self.num_examples // self.batch_size)

    def sampler(self, randomness: Randomness) -> Sampler:
        return BallsInBinsSampler(self.num_examples, self.period, randomness)

    def describe(self, unit: str = "example") -> str:
        return (
            f"each of {self.num_examples} {unit}s in exactly one of the {self.period} steps of "
            "every epoch, chosen uniformly and independently (balls-in-bins sampling)"
        )


@dataclass(frozen=True)
class BallsInBinsSampler:
    """Draws step t's examples; the same at any time for the same root.

    Attributes:
        num_examples: Size of the training set.
        bins: Steps of an epoch.
        randomness: Where the draws come from.
    """

    num_examples: int
    bins: int
    randomness: Randomness

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (drawn,), in random order."""
        epoch, within = divmod(step, self.bins)
        sizes = self.randomness.generator("bin sizes", epoch).multinomial(
            self.num_examples, np.full(self.bins, 1.0 / self.bins)
        )
        first = int(sizes[:within].sum())
        order = Permutation(self.num_examples, self.randomness, "bins", epoch)
        return order.take(first, first + int(sizes[within]))
