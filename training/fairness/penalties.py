"""Penalties: how differently a batch's groups are scored, differentiable in the scores.

Every group is compared with everybody else, within each stratum that the parity asks for; the
penalty is the mean over those comparisons for which the batch has people on both sides. With p the
probability of the positive label and A, B the two sides:

==============  =======================================================================
`rate_gap`      (mean p over A - mean p over B)^2: the gap itself, relaxed from answers to scores
`mmd`           mean k(a, a') + mean k(b, b') - 2 mean k(a, b), k(x, y) = exp(-(x - y)^2 / 0.02)
`correlation`   the squared correlation of p and membership of A
==============  =======================================================================

Sources: Zemel et al. 2013 and Cotter et al. 2019 (JMLR 20) for relaxed rates; Prost et al. 2019
(arXiv:1910.11779) for MinDiff by MMD, whose kernel width of 0.1 is taken here; Beutel et al. 2019
(1901.04562) for correlation.

A penalty couples the examples of a batch. None of them has a gradient of its own then, so that a
private run refuses it (`FairnessSettings.require_private`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from data import DatasetInfo

_KERNEL_WIDTH = 0.1
_TINY = 1e-8


@dataclass(frozen=True)
class Penalty:
    """Unfairness of a batch.

    Attributes:
        measure: "rate_gap", "mmd" or "correlation".
        parity: "demographic_parity", "equal_opportunity" or "equalized_odds".
        weight: By which the unfairness is multiplied in the objective.
        attribute: The group attribute.
        groups: How many groups it has.
        positive: Index of the positive label.
    """

    measure: str
    parity: str
    weight: float
    attribute: str
    groups: int
    positive: int

    def strata(self, info: DatasetInfo) -> dict[str, tuple[bool, ...]]:
        """Name -> labels of which every group must have people, lest nothing be compared."""
        is_positive = tuple(i == self.positive for i in range(len(info.label_names)))
        name = info.label_names[self.positive]
        return {
            "demographic_parity": {},
            "equal_opportunity": {f"the label {name}": is_positive},
            "equalized_odds": {
                f"the label {name}": is_positive,
                "other labels": tuple(not kept for kept in is_positive),
            },
        }[self.parity]

    def of(self, batch: Mapping[str, Any], logits: tf.Tensor) -> tf.Tensor:
        """The unfairness of a batch, without its weight, float32 ().

        Args:
            batch: `labels` (batch,), `mask` (batch,) and `groups` by attribute.
            logits: float32 (batch, classes).
        """
        scores = tf.nn.softmax(logits)[:, self.positive]
        members, mask = batch["groups"][self.attribute], batch["mask"]
        is_positive = tf.equal(tf.cast(batch["labels"], tf.int32), self.positive)
        strata = {
            "demographic_parity": [mask],
            "equal_opportunity": [mask & is_positive],
            "equalized_odds": [mask & is_positive, mask & ~is_positive],
        }[self.parity]
        # With two groups, one against the other is the other against the one.
        compared = range(1 if self.groups == 2 else self.groups)
        terms, counted = [], []
        for stratum in strata:
            for group in compared:
                inside = stratum & tf.equal(members, group)
                outside = stratum & ~tf.equal(members, group)
                both = tf.reduce_any(inside) & tf.reduce_any(outside)
                unfair = MEASURES[self.measure](
                    scores, tf.cast(inside, tf.float32), tf.cast(outside, tf.float32)
                )
                terms.append(tf.where(both, unfair, 0.0))
                counted.append(tf.cast(both, tf.float32))
        return tf.add_n(terms) / tf.maximum(tf.add_n(counted), 1.0)


def rate_gap(scores: tf.Tensor, inside: tf.Tensor, outside: tf.Tensor) -> tf.Tensor:
    """Squared difference of mean scores; all arguments float32 (batch,), memberships 0 or 1."""
    return tf.square(_mean(scores, inside) - _mean(scores, outside))


def mmd(scores: tf.Tensor, inside: tf.Tensor, outside: tf.Tensor) -> tf.Tensor:
    """Squared maximum mean discrepancy (biased estimate) under a Gaussian kernel."""
    apart = tf.square(scores[:, None] - scores[None, :])
    kernel = tf.exp(-apart / (2.0 * _KERNEL_WIDTH**2))
    # What one side has more of than the other: its kernel norm is the discrepancy.
    excess = inside / tf.maximum(tf.reduce_sum(inside), 1.0)
    excess -= outside / tf.maximum(tf.reduce_sum(outside), 1.0)
    return tf.reduce_sum(excess[:, None] * kernel * excess[None, :])


def correlation(scores: tf.Tensor, inside: tf.Tensor, outside: tf.Tensor) -> tf.Tensor:
    """Squared Pearson correlation of score and membership; 0 where either does not vary."""
    both = inside + outside
    x = (scores - _mean(scores, both)) * both
    y = (inside - _mean(inside, both)) * both
    variances = tf.reduce_sum(x * x) * tf.reduce_sum(y * y)
    return tf.square(tf.reduce_sum(x * y)) / (variances + _TINY)


def _mean(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(x * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)


MEASURES: dict[str, Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "rate_gap": rate_gap,
    "mmd": mmd,
    "correlation": correlation,
}
