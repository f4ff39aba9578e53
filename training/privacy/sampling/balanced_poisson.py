r"""Poisson sampling in which every cell (a group, or a group with a label) is drawn alike.

An example of cell c is in a step's batch independently with probability

    q_c = batch_size / (K * N * s_c)

with K cells and s_c the *public* share of the N training examples that lie in c. Where the shares
are right, a batch holds batch_size / K examples of each cell on average; where they are not, the
guarantee is the same and the balance is not.

Guarantees (what epsilon depends on):
    The rates q_c are functions of N, the batch size and public shares: no training example is
    counted for them, so adding or removing one changes no other's. At every step each example is
    drawn independently, from fresh randomness, with the rate of its own cell; no batch is topped up
    or cut. What that costs is proven in `training.privacy.independent_events.balanced`: no more
    than Poisson sampling of everybody at the largest rate.

How it is drawn: cell by cell as in `poisson`, then all of them in random order. Which cell an
example lies in is looked up once, 8 bytes an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import ClassVar

import numpy as np

from configs.schema import SettingError, require
from training.privacy.sampling.poisson import poisson_draw
from training.randomness import Randomness


def largest_batch_size(num_examples: int, shares: Sequence[float]) -> int:
    """The largest batch size at which no cell's rate exceeds 1."""
    return int(num_examples * min(shares) * len(shares) * (1 + 1e-12))


@dataclass(frozen=True)
class BalancedPoissonSampling:
    """Every example independently, with the rate of its cell.

    Attributes:
        num_examples: Training examples N; public.
        batch_size: Expected examples a step where the shares are right; public in any case, and
            what noisy sums are divided by.
        shares: Of each cell, the share of training examples that lie in it, from a public source
            or from counts released privately; they add up to 1.

    Raises:
        SettingError: If a share is not positive, or a rate would exceed 1.
    """

    method: ClassVar[str] = "balanced_poisson"
    period: ClassVar[int] = 1
    capacity: ClassVar[int | None] = None
    num_examples: int
    batch_size: int
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(float(share) for share in self.shares))
        require(
            len(self.shares) > 0
            and min(self.shares) > 0
            and isclose(sum(self.shares), 1.0, rel_tol=1e-6),
            "fairness.balanced_sampling",
            self.shares,
            "a share > 0 of every group, all of which add up to 1",
        )
        largest = largest_batch_size(self.num_examples, self.shares)
        require(
            self.batch_size <= largest,
            "training.batch_size",
            self.batch_size,
            f"at most {largest} with fairness.balanced_sampling: by the public counts the smallest "
            f"of {len(self.shares)} groups has {min(self.shares):.3g} of the {self.num_examples} "
            "training examples, and none can be drawn with a probability above 1",
        )

    @property
    def rates(self) -> tuple[float, ...]:
        """Each cell's probability, at most 1."""
        whole = self.batch_size / (len(self.shares) * self.num_examples)
        return tuple(min(1.0, whole / share) for share in self.shares)

    @property
    def probability(self) -> float:
        """The largest rate, at which everybody is accounted."""
        return max(self.rates)

    def sampler(
        self, randomness: Randomness, cells: np.ndarray | None = None
    ) -> BalancedPoissonSampler:
        """What draws the batches of a run.

        Args:
            randomness: Where the draws come from.
            cells: The cell of every training example, int (num_examples,).

        Raises:
            SettingError: If cells are not given: without them nobody's rate is known.
            ValueError: If there are not as many as planned, or one is no cell.
        """
        if cells is None:
            raise SettingError(
                "fairness.balanced_sampling",
                self.shares,
                "the group of every training example, which only a recipe's data have; train by a "
                "recipe, or plan with PoissonSampling",
            )
        if cells.shape != (self.num_examples,):
            raise ValueError(f"Planned for {self.num_examples} examples. Received: {cells.shape}")
        if len(cells) and not 0 <= cells.min() <= cells.max() < len(self.shares):
            raise ValueError(
                f"Cells must be in [0, {len(self.shares)}). Received: {cells.min()} .. "
                f"{cells.max()}"
            )
        return BalancedPoissonSampler(self.rates, cells, randomness)

    def describe(self, unit: str = "example") -> str:
        return (
            f"each {unit} drawn independently at every step with the probability of its own group, "
            f"from {min(self.rates):.6g} to {max(self.rates):.6g}, fixed by public shares of "
            f"{len(self.shares)} groups (balanced Poisson sampling, {self.batch_size} expected of "
            f"{self.num_examples}; everybody is accounted at the largest)"
        )


@dataclass(frozen=True, eq=False)
class BalancedPoissonSampler:
    """Draws step t's examples; the same at any time for the same root.

    Attributes:
        rates: Chance of each cell's examples at each step.
        cells: The cell of every example, int (n,).
        randomness: Where the draws come from.
    """

    rates: tuple[float, ...]
    cells: np.ndarray
    randomness: Randomness
    _members: list[np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_members", members_of(self.cells, len(self.rates)))

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (drawn,), in random order."""
        generator = self.randomness.generator("balanced sampling", step)
        drawn = [
            members[poisson_draw(generator, len(members), rate)]
            for members, rate in zip(self._members, self.rates, strict=True)
        ]
        return generator.permutation(np.concatenate(drawn))


def members_of(cells: np.ndarray, count: int) -> list[np.ndarray]:
    """The examples of each of `count` cells, int64 (members,) each, in ascending order."""
    order = np.argsort(cells, kind="stable")
    return np.split(order, np.searchsorted(cells[order], np.arange(1, count)))
