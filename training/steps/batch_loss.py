"""Which loss a step minimises: the task's, with what weighs, prices and is added to it.

Guarantees (what epsilon depends on):
    Each example's loss depends on itself, its own group and its own label alone (and on what a
    second player holds, which epsilon covers), so that clipping bounds it like the task's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from training.fairness import GroupWeights, Player
from training.objective import Terms, confidence
from training.privacy.clipping import PerExampleLoss


@dataclass(frozen=True)
class BatchLoss:
    """What a batch's examples cost.

    Attributes:
        task: The task's own, per example.
        group_weights: Weights of examples by group and label.
        terms: What is added beside unfairness.
        player: A second player, who prices examples by group and label.
    """

    task: PerExampleLoss
    group_weights: GroupWeights | None = None
    terms: Terms = field(default_factory=Terms)
    player: Player | None = None

    def minimized(self, batch: dict[str, Any]) -> PerExampleLoss:
        """All of it: what the weights follow."""
        loss = self.unpriced(batch)
        return loss if self.player is None else self.player.priced(batch, loss)

    def unpriced(self, batch: dict[str, Any]) -> PerExampleLoss:
        """Without a second player's prices: what is told of training."""
        if self.group_weights is None:
            return self.terms.added_to(self.task)
        weights = self.group_weights.of(batch)
        return self.terms.added_to(lambda labels, logits: self.task(labels, logits) * weights)

    def with_leakage_apart(
        self, report: dict[str, tf.Tensor], logits: tf.Tensor, counted: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """A report with leakage taken out of the loss and named on its own.

        Args:
            report: `loss` over the examples that are counted.
            logits: float32 (batch, classes).
            counted: bool (batch,).
        """
        if not self.terms.leakage:
            return report
        leakage = tf.reduce_sum(tf.where(counted, confidence(logits), 0.0))
        loss = report["loss"] - self.terms.leakage * leakage
        return {**report, "loss": loss, "leakage": leakage}
