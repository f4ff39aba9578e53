"""Which versions of an example a step sees: one at random, or all of them as one record.

Training on both versions of a text, in which only identity terms differ, takes from the model what
it could read off them (counterfactual data augmentation: Lu et al. 2018, arXiv:1807.11714; Maudslay
et al. 2019, arXiv:1909.00871; Garg et al. 2019, arXiv:1809.10610).

Guarantees (what epsilon depends on):
    Sampling draws *examples*, as planned, whatever their versions. Then either

    - *random*: each drawn example becomes one of its versions by a draw of its own, from fresh
      randomness that sees no data. Given all those draws, an example still is one row, whose
      gradient is clipped to C: adding or removing it moves the sum by at most C, and nobody
      else's draw has another distribution for it. Divergences are jointly convex, so the mixture
      over the draws costs no more;
    - *together*: all k versions are the k rows of one record (`rows_per_record`), whose mean
      gradient is clipped to C: augmentation multiplicity (De et al. 2022, arXiv:2204.13650).

    In either case noise, divisor and event are those of the plan without augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.contracts import PADDING
from training.batching import Sampler
from training.randomness import Randomness


@dataclass(frozen=True, eq=False)
class RandomVersions:
    """A sampler whose examples come as one of their versions.

    Attributes:
        sampler: Draws the examples.
        table: int64 (examples, versions), where each version is (`data.versions`).
        randomness: Where the choice comes from.
    """

    sampler: Sampler
    table: np.ndarray
    randomness: Randomness

    def draw(self, step: int) -> np.ndarray:
        """The rows of step `step`, int64 (drawn,); padding stays padding."""
        drawn = self.sampler.draw(step)
        generator = self.randomness.generator("versions of examples", step)
        versions = generator.integers(0, self.table.shape[1], len(drawn))
        return np.where(drawn == PADDING, PADDING, self.table[drawn, versions])


@dataclass(frozen=True, eq=False)
class AllVersions:
    """A sampler whose examples come with all of their versions, side by side.

    Attributes:
        sampler: Draws the examples.
        table: int64 (examples, versions), where each version is (`data.versions`).
    """

    sampler: Sampler
    table: np.ndarray

    def draw(self, step: int) -> np.ndarray:
        """The rows of step `step`, int64 (drawn * versions,)."""
        return self.table[self.sampler.draw(step)].reshape(-1)
