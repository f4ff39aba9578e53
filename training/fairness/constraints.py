r"""Constraints on groups, as a game of two players over a Lagrangian.

The model minimises, the multipliers maximise, with slack e and g over groups, s over strata:

    rates:   mean loss + sum_{s,g} (u_{s,g} - d_{s,g}) (rate_{s,g} - rate_s) - e sum (u + d)
    losses:  mean loss + sum_g m_g (mean loss_g - bound)

**The multipliers** see rates of answers, which have no gradient, and need none: each grows by
step_size times its constraint's violation (and shrinks where there is room), within
[0, multiplier_bound]: projected gradient ascent. **The model** sees the same with the positive
label's probability in the answer's place: the proxy. (Agarwal et al. 2018, arXiv:1803.02453, for
the reduction to costs of examples; Cotter, Jiang & Sridharan 2019, arXiv:1804.06500, for the
proxy-Lagrangian; Agarwal, Dudik & Wu 2019, arXiv:1905.12843, for bounded group loss.)

Written out, the model's part is a sum over examples in which group g and label y set two numbers, a
weight of the loss and a cost of the positive answer,

    weight[g, y] loss(x) + cost[g, y] p(x),

divided by 1 + the sum of multipliers, so that gradients keep their size. Nothing in it couples
examples: shares of people are known, from all training examples or from a noisy table. Both papers
answer by a mixture of the models on the way; here the last one answers, as usual in practice, and
no theorem says that it keeps the constraint. Look at the violations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

_TINY = 1e-12


@dataclass(frozen=True)
class RateConstraint:
    """Groups' rates of the positive answer lie within `slack` of everybody's.

    Attributes:
        group_names: The groups.
        strata: Name of a stratum -> bool of every label: among whom rates are compared.
        slack: Allowed distance.
        step_size: As in the module.
        multiplier_bound: As in the module.
        least_share: A group that has no more than this share of all people in a stratum is left
            out there: nothing is known of its rate.
    """

    statistic: ClassVar[str] = "selection"
    group_names: tuple[str, ...]
    strata: dict[str, tuple[bool, ...]]
    slack: float
    step_size: float
    multiplier_bound: float
    least_share: float = 0.0

    def initial(self) -> np.ndarray:
        """Multipliers (2, strata, groups): of a rate above everybody's, and of one below."""
        return np.zeros((2, len(self.strata), len(self.group_names)), np.float32)

    def violations(self, table: tf.Tensor) -> tf.Tensor:
        """By how much each constraint is broken, negative where there is room.

        Args:
            table: float32 (groups, labels, 2), perhaps noisy, in any unit of people.

        Returns:
            float32 (2, strata, groups); -slack where nothing is known.
        """
        labels = self._strata
        people = tf.matmul(labels, tf.reduce_sum(table, axis=-1), transpose_b=True)  # (S, G)
        positive = tf.matmul(labels, table[..., 1], transpose_b=True)
        total = tf.reduce_sum(table)
        known = people > tf.maximum(self.least_share * total, _TINY)
        rates = tf.clip_by_value(positive / tf.where(known, people, 1.0), 0.0, 1.0)
        everybody = tf.reduce_sum(people, axis=1, keepdims=True)
        together = tf.reduce_sum(positive, axis=1, keepdims=True) / tf.maximum(everybody, _TINY)
        gaps = tf.where(known, rates - tf.clip_by_value(together, 0.0, 1.0), 0.0)
        return tf.stack([gaps, -gaps]) - self.slack

    def updated(self, multipliers: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """The multipliers after they have seen a table."""
        grown = multipliers + self.step_size * self.violations(table)
        return tf.clip_by_value(grown, 0.0, self.multiplier_bound)

    def prices(self, multipliers: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Weights of losses and costs of positive answers, float32 (groups, labels) each.

        Args:
            multipliers: float32 (2, strata, groups).
            shares: float32 (groups, labels): each cell's share of all people.
        """
        labels = self._strata
        of_group = tf.matmul(labels, shares, transpose_b=True)  # (S, G)
        known = of_group > max(self.least_share, _TINY)
        pull = tf.where(known, multipliers[0] - multipliers[1], 0.0)
        of_all = tf.maximum(tf.reduce_sum(of_group, axis=1, keepdims=True), _TINY)
        # What a person's positive answer adds to the group's rate, less what it adds to all's.
        costs = pull / tf.where(known, of_group, 1.0)
        costs -= tf.reduce_sum(pull, axis=1, keepdims=True) / of_all
        scale = 1.0 / (1.0 + tf.reduce_sum(tf.abs(pull)))
        by_cell = tf.matmul(costs, labels, transpose_a=True)  # (G, L)
        return scale * tf.ones_like(shares), scale * by_cell

    def named(self, multipliers: np.ndarray, table: np.ndarray) -> dict[str, float]:
        """Every multiplier and every violation, by name."""
        broken = self.violations(tf.constant(table, tf.float32)).numpy()
        return {
            f"{kind}: {group} {side} everybody, among {stratum}": float(values[i, j, k])
            for kind, values in (("multiplier", multipliers), ("violation", broken))
            for j, stratum in enumerate(self.strata)
            for k, group in enumerate(self.group_names)
            for i, side in enumerate(("above", "below"))
        }

    @property
    def _strata(self) -> tf.Tensor:
        return tf.constant(list(self.strata.values()), tf.float32)  # (S, L)


@dataclass(frozen=True)
class BoundedGroupLoss:
    """Every group's mean loss is at most `loss_bound`.

    Attributes:
        group_names: The groups.
        loss_bound: What is allowed.
        loss_unit: The loss that a table counts as 1.
        step_size: As in the module.
        multiplier_bound: As in the module.
        least_share: A group of no more than this share of all people is left out.
    """

    statistic: ClassVar[str] = "loss"
    group_names: tuple[str, ...]
    loss_bound: float
    loss_unit: float
    step_size: float
    multiplier_bound: float
    least_share: float = 0.0

    def initial(self) -> np.ndarray:
        """Multipliers (groups,)."""
        return np.zeros(len(self.group_names), np.float32)

    def violations(self, table: tf.Tensor) -> tf.Tensor:
        """By how much each group's mean loss is above the bound, float32 (groups,)."""
        losses, known = mean_losses(tf.reduce_sum(table, axis=1), self.loss_unit, self.least_share)
        return tf.where(known, losses - self.loss_bound, 0.0)

    def updated(self, multipliers: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """The multipliers after they have seen a table."""
        grown = multipliers + self.step_size * self.violations(table)
        return tf.clip_by_value(grown, 0.0, self.multiplier_bound)

    def prices(self, multipliers: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `RateConstraint.prices`; no answer costs anything."""
        of_group = tf.reduce_sum(shares, axis=1)
        known = of_group > max(self.least_share, _TINY)
        pull = tf.where(known, multipliers, 0.0)
        weights = 1.0 + pull / tf.where(known, of_group, 1.0)
        weights /= 1.0 + tf.reduce_sum(pull)
        return weights[:, None] * tf.ones_like(shares), tf.zeros_like(shares)

    def named(self, multipliers: np.ndarray, table: np.ndarray) -> dict[str, float]:
        """Every multiplier and every violation, by name."""
        broken = self.violations(tf.constant(table, tf.float32)).numpy()
        return {
            f"{kind}: mean loss of {group}": float(value)
            for kind, values in (("multiplier", multipliers), ("violation", broken))
            for group, value in zip(self.group_names, values, strict=True)
        }


def mean_losses(
    cells: tf.Tensor, loss_unit: float, least_share: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean loss of every cell, and whether there are people enough to say.

    Args:
        cells: float32 (..., 2), perhaps noisy, in any unit of people.
        loss_unit: The loss that counts as 1.
        least_share: Of all people; no more are not enough.

    Returns:
        float32 (...), 0 where unknown, and bool (...).
    """
    people = tf.reduce_sum(cells, axis=-1)
    known = people > tf.maximum(least_share * tf.reduce_sum(people), _TINY)
    losses = loss_unit * tf.maximum(cells[..., 1], 0.0) / tf.where(known, people, 1.0)
    return tf.where(known, losses, 0.0), known
