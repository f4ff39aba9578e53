"""Reweighing: weights under which group and label are independent (Kamiran & Calders 2012).

    w(g, y) = P(g) P(y) / P(g, y)

Guarantees (what epsilon depends on):
    An example's weight is a function of its own group and label and of the table alone. Where the
    table is public, the weighted loss is a per-example loss like any other, clipping bounds its
    gradient as it bounds any, and neither sensitivity nor accounting changes. A table counted
    from training examples is data-dependent: `FairnessSettings.require_private` refuses it. A
    noisy one that the ledger pays for (`training.privacy.group_releases`) is a released number
    like the weights before a step, and given it the same holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from configs.schema import require
from training.fairness.group_table import cells_of


@dataclass(frozen=True)
class GroupWeights:
    """A weight for every (group, label).

    Attributes:
        attribute: The group attribute.
        table: float32 (groups, labels).
    """

    attribute: str
    table: np.ndarray

    @classmethod
    def from_counts(cls, attribute: str, counts: np.ndarray) -> GroupWeights:
        """Weights from the number of people of every group and label, (groups, labels).

        A group and label that nobody has keeps weight 1: there is nobody to be weighed.
        """
        counts = np.asarray(counts, np.float64)
        expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
        table = np.where(counts > 0, expected / np.maximum(counts, 1e-300), 1.0)
        return cls(attribute, table.astype(np.float32))

    @classmethod
    def from_examples(
        cls, attribute: str, groups: np.ndarray, labels: np.ndarray, shape: tuple[int, int]
    ) -> GroupWeights:
        """Weights counted from examples.

        Args:
            attribute: The group attribute.
            groups: int (n,).
            labels: int (n,).
            shape: Numbers of groups and of labels.
        """
        counts = np.zeros(shape)
        np.add.at(counts, (groups, labels), 1.0)
        return cls.from_counts(attribute, counts)

    @classmethod
    def from_public(
        cls,
        attribute: str,
        counts: Mapping[str, Mapping[str, float]],
        group_names: Sequence[str],
        label_names: Sequence[str],
    ) -> GroupWeights:
        """Weights from counts that the recipe names.

        Raises:
            SettingError: If a group or a label lacks its count, or a count is not positive.
        """
        return cls.from_counts(attribute, public_table(counts, group_names, label_names))

    def of(self, batch: Mapping[str, Any]) -> tf.Tensor:
        """The weights of a batch's examples, float32 (batch,); of padding, any number."""
        groups, labels = self.table.shape
        cells = cells_of(batch, self.attribute, (groups, labels))
        return tf.gather(tf.constant(self.table.ravel()), cells)


@dataclass(frozen=True)
class ReleasedWeights:
    """The same weights, from a noisy table of counts: 1 until it is released.

    A count below `least_share` of all people counts as that, so that no weight is larger than
    1 / least_share.

    Attributes:
        group_names: The groups.
        label_names: The labels.
        least_share: As above; > 0.
    """

    statistic: ClassVar[str] = "counts"
    group_names: tuple[str, ...]
    label_names: tuple[str, ...]
    least_share: float

    def initial(self) -> np.ndarray:
        """Weights (groups, labels)."""
        return np.ones((len(self.group_names), len(self.label_names)), np.float32)

    def updated(self, multipliers: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """The weights that a table, float32 (groups, labels, 1), gives."""
        del multipliers
        total = tf.maximum(tf.reduce_sum(table), 1.0)
        shares = tf.maximum(table[..., 0] / total, self.least_share)
        groups = tf.reduce_sum(shares, axis=1, keepdims=True)
        labels = tf.reduce_sum(shares, axis=0, keepdims=True)
        return groups * labels / (tf.reduce_sum(shares) * shares)

    def prices(self, multipliers: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Weights of losses and costs (none) of positive answers."""
        return multipliers, tf.zeros_like(shares)

    def named(self, multipliers: np.ndarray, table: np.ndarray) -> dict[str, float]:
        """Every weight, by name."""
        del table
        return {
            f"multiplier: {group} and {label}": float(multipliers[i, j])
            for i, group in enumerate(self.group_names)
            for j, label in enumerate(self.label_names)
        }


def public_table(
    counts: Mapping[str, Mapping[str, float]],
    group_names: Sequence[str],
    label_names: Sequence[str],
) -> np.ndarray:
    """The recipe's public counts as an array, float64 (groups, labels).

    Raises:
        SettingError: If a group or a label lacks its count, or a count is not positive.
    """
    found = np.zeros((len(group_names), len(label_names)))
    for i, group in enumerate(group_names):
        for j, label in enumerate(label_names):
            key = f"fairness.public_counts.{group}.{label}"
            value = counts.get(group, {}).get(label)
            require(value is not None and value > 0, key, value, "a number of people > 0")
            found[i, j] = float(value or 0.0)
    return found
