"""Poisson sampling from one group of examples after the other (Choquette-Choo et al. 2023).

Noise that is correlated over `bands` steps is amplified by sampling only if no example takes part
twice within `bands` steps ("(Amplified) Banded Matrix Factorization", arXiv:2306.08153, theorem
4): so the examples are divided once and for all into `bands` groups, and step t draws from group
t mod `bands`.

Guarantees (what epsilon depends on):
    Which group an example is in depends on its position alone and is public: the positions are
    divided by a fixed pseudo-random order, group g taking places g, g + bands, g + 2 bands ...
    At every step each example of the step's group is in the batch independently with probability
    bands * batch_size / N; no other example is.

Proven where N stays as it is (blanking or replacing an example): one more example would move others
from group to group, so add/remove is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.schema import SamplingSettings, require
from training.batching import Sampler
from training.permutation import Permutation
from training.privacy.sampling.poisson import poisson_draw
from training.randomness import Randomness

# The division into groups is public, and the same for every run.
_PUBLIC = Randomness(0, reproducible=True)


@dataclass(frozen=True)
class CyclicPoissonSampling:
    """At step t, each example of group t mod `bands` with probability bands * batch_size / N."""

    method: ClassVar[str] = "cyclic"
    capacity: ClassVar[int | None] = None
    num_examples: int
    batch_size: int
    bands: int

    def __post_init__(self) -> None:
        require(
            self.bands >= 1 and self.bands * self.batch_size <= self.num_examples,
            "privacy.sampling.bands",
            self.bands,
            f"at most {self.num_examples // self.batch_size}, so that a group of N / bands "
            f"holds training.batch_size ({self.batch_size})",
        )

    @classmethod
    def from_settings(
        cls, settings: SamplingSettings, num_examples: int, batch_size: int
    ) -> CyclicPoissonSampling:
        return cls(num_examples, batch_size, settings.bands or 1)

    @property
    def period(self) -> int:
        return self.bands

    @property
    def probability(self) -> float:
        """Chance of an example at a step of its group."""
        return self.bands * self.batch_size / self.num_examples

    def participations(self, releases: int) -> int:
        """Steps among the first `releases` at which one example can be drawn, at most."""
        return -(-releases // self.bands)

    def sampler(self, randomness: Randomness) -> Sampler:
        return CyclicPoissonSampler(self.num_examples, self.probability, self.bands, randomness)

    def describe(self, unit: str = "example") -> str:
        return (
            f"the {self.num_examples} {unit}s divided into {self.bands} public groups, and at "
            f"every step each {unit} of the next group drawn independently with probability "
            f"{self.probability:.6g} (cyclic Poisson sampling, {self.batch_size} expected)"
        )


@dataclass(frozen=True)
class CyclicPoissonSampler:
    """Draws step t's examples; the same at any time for the same root.

    Attributes:
        num_examples: Size of the training set.
        probability: Chance of each example of the step's group.
        bands: Groups.
        randomness: Where the draws come from.
    """

    num_examples: int
    probability: float
    bands: int
    randomness: Randomness

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (drawn,), in random order."""
        group = step % self.bands
        members = len(range(group, self.num_examples, self.bands))
        generator = self.randomness.generator("cyclic sampling", step)
        drawn = poisson_draw(generator, members, self.probability)
        places = group + self.bands * drawn
        return Permutation(self.num_examples, _PUBLIC, "groups", 0).at(places)
