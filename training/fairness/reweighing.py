"""Reweighing: weights under which group and label are independent (Kamiran & Calders 2012).

    w(g, y) = P(g) P(y) / P(g, y)

Guarantees (what epsilon depends on):
    An example's weight is a function of its own group and label and of the table alone. Where the
    table is public, the weighted loss is a per-example loss like any other, clipping bounds its
    gradient as it bounds any, and neither sensitivity nor accounting changes. A table counted
    from training examples is data-dependent: `FairnessSettings.require_private` refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from configs.schema import require


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
        groups, labels = batch["groups"][self.attribute], batch["labels"]
        rows = tf.clip_by_value(tf.cast(groups, tf.int32), 0, self.table.shape[0] - 1)
        places = rows * self.table.shape[1] + tf.cast(labels, tf.int32)
        return tf.gather(tf.constant(self.table.ravel()), places)


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
