"""Group DRO: the model trains for the group that fares worst (Sagawa et al. 2020, 1911.08731).

    min over the model, max over q of  sum_g q_g (mean loss_g + adjustment / sqrt(people_g))

with q on the simplex. q_g grows by exp(step_size * loss_g) and is normalised (algorithm 1 there:
exponentiated gradient); the model then weighs an example of group g by q_g / share_g. A group may
be a value of the attribute, or that and a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from training.fairness.constraints import mean_losses

_TINY = 1e-12


@dataclass(frozen=True)
class GroupDro:
    """Weights of groups that grow with their losses.

    Attributes:
        group_names: The groups.
        label_names: The labels.
        by_label: Whether people of one group and different labels are different groups.
        people: Training examples in all; public.
        step_size: As in the module.
        adjustment: As in the module.
        loss_unit: The loss that a table counts as 1.
        least_share: A group of no more than this share of all people is left out.
    """

    statistic: ClassVar[str] = "loss"
    group_names: tuple[str, ...]
    label_names: tuple[str, ...]
    by_label: bool
    people: int
    step_size: float
    adjustment: float
    loss_unit: float
    least_share: float = 0.0

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.group_names), len(self.label_names) if self.by_label else 1

    def initial(self) -> np.ndarray:
        """Equal q of all groups: (groups, labels), or (groups, 1) where labels are one."""
        return np.full(self._shape, 1.0 / np.prod(self._shape), np.float32)

    def losses(self, table: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What every group loses, adjusted, and whether it is known, of the shape of q."""
        cells = table if self.by_label else tf.reduce_sum(table, axis=1, keepdims=True)
        losses, known = mean_losses(cells, self.loss_unit, self.least_share)
        shares = tf.reduce_sum(cells, axis=-1) / tf.maximum(tf.reduce_sum(cells), _TINY)
        people = tf.maximum(self.people * shares, 1.0)
        return tf.where(known, losses + self.adjustment / tf.sqrt(people), 0.0), known

    def updated(self, multipliers: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """q after it has seen a table; a group of which nothing is known keeps its weight."""
        losses, known = self.losses(table)
        logits = tf.math.log(tf.maximum(multipliers, _TINY))
        logits += tf.where(known, self.step_size * losses, 0.0)
        return tf.reshape(tf.nn.softmax(tf.reshape(logits, [-1])), self._shape)

    def prices(self, multipliers: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Weights of losses and costs (none) of positive answers, float32 (groups, labels) each.

        Weights are 1 on average over people, and 1 for a group too small to be known.
        """
        cells = shares if self.by_label else tf.reduce_sum(shares, axis=1, keepdims=True)
        known = cells > max(self.least_share, _TINY)
        weights = multipliers / tf.where(known, cells, 1.0)
        # Of those who are not known nothing is taken away.
        left = 1.0 - tf.reduce_sum(tf.where(known, 0.0, cells))
        of_known = tf.reduce_sum(tf.where(known, multipliers, 0.0))
        weights = tf.where(known, weights * left / tf.maximum(of_known, _TINY), 1.0)
        return weights * tf.ones_like(shares), tf.zeros_like(shares)

    def named(self, multipliers: np.ndarray, table: np.ndarray) -> dict[str, float]:
        """Every group's weight and its loss as last seen, by name."""
        losses = self.losses(tf.constant(table, tf.float32))[0].numpy()
        labels = self.label_names if self.by_label else (None,)
        return {
            f"{kind}: {group}" + ("" if label is None else f" and {label}"): float(values[i, j])
            for kind, values in (("multiplier", multipliers), ("loss", losses))
            for i, group in enumerate(self.group_names)
            for j, label in enumerate(labels)
        }
