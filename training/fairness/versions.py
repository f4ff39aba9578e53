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

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from training.batching import Batching, Sampler
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
        chosen = self.table[drawn, generator.integers(0, self.table.shape[1], len(drawn))]
        return np.where(drawn >= 0, chosen, drawn)


@dataclass(frozen=True, eq=False)
class AllVersions(Batching):
    """Batching whose rows are all versions of the drawn examples, record after record.

    Attributes:
        table: int64 (examples, versions), where each version is (`data.versions`).
    """

    table: np.ndarray = field(kw_only=True)

    @property
    def replica_size(self) -> int:
        """Rows of a replica's share; `size` counts examples."""
        return super().replica_size * self.table.shape[1]

    def shares(self, first: int, last: int, mine: range) -> Iterator[np.ndarray]:
        for share in super().shares(first, last, mine):
            rows = np.where(share[:, None] >= 0, self.table[share], share[:, None])
            yield rows.reshape(-1)
