"""Which examples form a batch: Poisson sampling, exactly as it is accounted.

Guarantees (what epsilon depends on):
    At every step each example is in the batch independently with the same probability, from fresh
    randomness. Batches are never topped up or cut: a drawn batch of any size is processed whole,
    in as many physical batches of fixed shape as it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.randomness import Randomness


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
        drawn = np.flatnonzero(generator.random(self.num_examples) < self.probability)
        # Order decides which physical batch an example lands in; shuffled so that a data set
        # sorted by label does not give batches of one label.
        return generator.permutation(drawn)
