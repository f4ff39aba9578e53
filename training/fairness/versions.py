"""Which versions of an example a step sees: one at random, or all of them as one record.

Training on both versions of a text, in which only identity terms differ, takes from the model what
it could read off them (counterfactual data augmentation: Lu et al. 2018, arXiv:1807.11714; Maudslay
et al. 2019, arXiv:1909.00871; Garg et al. 2019, arXiv:1809.10610). So does training on an image and
on its counterpart (Ramaswamy, Kim & Russakovsky 2021, arXiv:2012.01469).

Guarantees (what epsilon depends on):
    A record is an example with all of its versions. A text's are functions of the text and of
    public lists; an image's are files that are its own and no other record's (`data.counterparts`
    refuses others), so that they come and go with it. How many versions there are is public: lists
    say so, and images that have counterparts all have as many. Versions take the example's label
    and groups, and neither add a record nor take one away: they stand in its place.

    Sampling draws *examples*, as planned, whatever their versions. Then either

    - *random*: each drawn example becomes one of its versions by a draw of its own, from fresh
      randomness that sees no data, at a public rate. Given all those draws, an example still is
      one row, whose gradient is clipped to C: adding or removing it moves the sum by at most C,
      and nobody else's draw has another distribution for it. Divergences are jointly convex, so
      the mixture over the draws costs no more;
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
        rate: Probability of a changed version, all of those alike likely; none makes all versions
            alike likely.
    """

    sampler: Sampler
    table: np.ndarray
    randomness: Randomness
    rate: float | None = None

    def draw(self, step: int) -> np.ndarray:
        """The rows of step `step`, int64 (drawn,); padding stays padding."""
        drawn = self.sampler.draw(step)
        generator = self.randomness.generator("versions of examples", step)
        count = self.table.shape[1]
        if self.rate is None:
            versions = generator.integers(0, count, len(drawn))
        else:
            changed = generator.random(len(drawn)) < self.rate
            versions = np.where(changed, generator.integers(1, count, len(drawn)), 0)
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
