r"""Noisy tables of training examples by group and label: what a private run knows of its groups.

The table is T in R^(G x L x K): T[g, y] adds up v(x) over the training examples x of group g and
label y. v(x) is (1) where people are only counted (`counts`), and else (1 - s, s) with s in [0, 1]:
whether the model's answer is the positive one (`selection`), or the loss over a public bound,
clipped at it (`loss`). Released is T + z with independent z_i ~ N(0, (sigma * S)^2) on every
number.

Guarantees (what epsilon depends on):
    *Sensitivity.* Groups and labels are public by name. Example x adds v(x) to one single cell,
    and ||v(x)||_2 <= 1, because (1 - s)^2 + s^2 <= (1 - s + s)^2. Whatever s is not in [0, 1] or no
    number is brought there first (`training.fairness.group_table.bounded`). The weights with which
    s is computed were released before, so that given the past s is a function of x alone. Hence

        add_remove, zero_out:  ||T(D + x) - T(D)||_2 = ||v(x)||_2 <= 1             =: S
        replace_one:           ||v(x') - v(x)||_2 <= sqrt(2), in one cell or two   =: S

    (in one cell the difference is (s - s')(1, -1); in two, ||v(x)||^2 + ||v(x')||^2 <= 2). Each
    release is a Gaussian mechanism of noise multiplier sigma.

    *The steps between.* What an example of group g and label y counts for in the loss is computed
    from noisy tables alone. Given the past, an example's loss is a function of that example, so
    that clipping bounds its gradient as before: the sum's sensitivity is the clipping norm.

    *Together.* Steps and tables follow each other, each chosen by what was released before it:
    adaptive composition of dominating pairs (Zhu, Dong & Wang 2022, arXiv:2106.08567).
    It holds where no two steps share draws: for independent Gaussian noise and for the ways of
    sampling that draw every step anew (`events.SCHEDULED`). Others are refused.

    The number of releases is planned, and their cost is part of the plan's epsilon from the start.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import dp_accounting
import numpy as np
import tensorflow as tf

from configs.schema import FairnessSettings, require
from training.privacy.noise import ReplayableGaussianSumQuery
from training.privacy.score_histogram import SENSITIVITY
from training.randomness import Randomness

# Numbers of a cell.
WIDTHS = {"counts": 1, "selection": 2, "loss": 2}
# A cell of fewer people than this many standard deviations may as well be empty.
ENOUGH = 4.0


def release_grid(stddev: float) -> float:
    """The step, a power of two, to which releases are rounded: a thousandth of the noise or less.

    Noise in float32 has 2^13 values or more within a step (but for those near zero, which are
    closer still), so that rounding hides which of them it was.
    """
    return 2.0 ** (math.floor(math.log2(stddev)) - 10)


@dataclass(frozen=True)
class GroupReleases:
    """Which noisy tables a run releases, and when.

    Attributes:
        statistic: What is in them: "counts", "selection" or "loss".
        noise_multiplier: Standard deviation of the noise on each number, over the sensitivity.
        first: The step before which the first is released.
        every: Steps from one to the next; 0 where there is only one.
    """

    statistic: str
    noise_multiplier: float
    first: int
    every: int

    def __post_init__(self) -> None:
        require(
            self.statistic in WIDTHS,
            "fairness.releases.statistic",
            self.statistic,
            f"one of {list(WIDTHS)}",
        )
        require(
            self.noise_multiplier > 0,
            "fairness.releases.noise_multiplier",
            self.noise_multiplier,
            "a number > 0",
        )

    @classmethod
    def from_settings(
        cls, settings: FairnessSettings, num_examples: int, batch_size: int
    ) -> GroupReleases | None:
        """What the recipe's `fairness` section needs; None if it needs none.

        Args:
            settings: The section.
            num_examples: Training examples; public.
            batch_size: Expected examples of a step.
        """
        noise = settings.releases.noise_multiplier
        if noise is None:
            return None
        if settings.reweighs_by_releases:
            return cls("counts", noise, first=0, every=0)
        every = settings.releases.every * -(-num_examples // batch_size)
        if settings.group_dro.step_size is not None:
            return cls("loss", noise, first=0, every=every)
        bounds_loss = settings.constraint.measure == "bounded_group_loss"
        # An untrained model's rates and losses say nothing of the one to come.
        return cls("loss" if bounds_loss else "selection", noise, first=every, every=every)

    def due(self, step: int) -> bool:
        """Whether a table is released before `step` is taken."""
        if step < self.first or self.every == 0:
            return step == self.first
        return (step - self.first) % self.every == 0

    def within(self, steps: int) -> int:
        """Tables that are released before or between the first `steps` steps."""
        if steps <= self.first:
            return 0
        return 1 if self.every == 0 else 1 + (steps - 1 - self.first) // self.every

    def event(self, tables: int) -> dp_accounting.DpEvent:
        """What so many tables cost, `tables` >= 1."""
        return dp_accounting.SelfComposedDpEvent(
            dp_accounting.GaussianDpEvent(self.noise_multiplier), tables
        )

    def noise_stddev(self, neighbours: str) -> float:
        """Standard deviation of the noise on each number of a table, in people."""
        return self.noise_multiplier * SENSITIVITY[neighbours]

    def release(
        self, table: np.ndarray, neighbours: str, randomness: Randomness, step: int
    ) -> np.ndarray:
        """The noisy table. It may be used once the ledger has it.

        Args:
            table: float (groups, labels, K), whose every example added at most 1 in L2 norm.
            neighbours: The plan's.
            randomness: The run's.
            step: The step that comes next; it names the noise.

        Returns:
            float64 (groups, labels, K).
        """
        query = ReplayableGaussianSumQuery(SENSITIVITY[neighbours], self.noise_stddev(neighbours))
        purpose = "group table " + json.dumps([asdict(self), neighbours, table.shape])
        seeds = tf.constant(randomness.stateless_seeds(purpose, step, 1)[:, None])
        state = query.seeded_global_state(seeds, tf.ones([1]))
        (noise,), _, _ = query.get_noised_result([tf.zeros(table.shape)], state)
        # Added in double precision: float32 rounds sums over many people to steps that come near
        # what one person adds, and their difference would be more than the sensitivity.
        noisy = np.asarray(table, np.float64) + noise.numpy().astype(np.float64)
        # And no finer than noise is: digits below those of the noise are the sum's own.
        grid = release_grid(self.noise_stddev(neighbours))
        return np.round(noisy / grid) * grid

    def describe(self, tables: int, neighbours: str) -> str:
        """One clause for the statement of the guarantee."""
        times = "one noisy table" if tables == 1 else f"{tables} noisy tables"
        return (
            f"{times} of all training examples by group and label ({self.statistic}), Gaussian "
            f"noise of standard deviation {self.noise_stddev(neighbours):.6g} on every number"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the ledger's header."""
        return asdict(self)
