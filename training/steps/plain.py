"""The step without privacy: the mean gradient, with what fairness adds to the objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from training.fairness import Penalty
from training.objective import OpacityModel
from training.privacy.mechanisms import Draws
from training.randomness import Randomness
from training.steps.base import TrainingStep
from training.steps.drawn_noise import Noise
from training.steps.loss_scaling import LossScaling
from training.steps.totals import StepTotals, report_of


class PlainStep(TrainingStep):
    """Ordinary training: the mean gradient over the logical batch.

    Args:
        penalty: Unfairness that is added to the loss. It compares the examples of a physical
            batch (on one replica); over a logical batch, those penalties are averaged.
        further: As `TrainingStep`.
    """

    def __init__(self, *arguments: Any, penalty: Penalty | None = None, **further: Any):
        self._penalty = penalty
        player = further.get("player")
        if player is not None:
            self._further_shapes = (player.table_shape,)
        super().__init__(*arguments, **further)
        self._scaling = LossScaling(self._optimizer)
        self._taken = 0
        self._opacity = OpacityModel(self._model) if self._loss.terms.opacity else None

    def _gradient_sum(self, batch: dict[str, Any]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        values = [v.value for v in self._variables]
        mask = batch["mask"]
        with tf.GradientTape() as tape:
            logits, losses, opacity = self._forward(batch)
            losses = tf.where(mask, losses, 0.0)
            opacity = tf.reduce_sum(tf.where(mask, opacity, 0.0))
            total = tf.reduce_sum(losses) + self._loss.terms.opacity * opacity
            unfairness = tf.zeros([])
            if self._penalty is not None:
                # Times the examples, because the sum will be divided by them.
                examples = tf.reduce_sum(tf.cast(mask, tf.float32))
                unfairness = examples * self._penalty.of(batch, logits)
                total += self._penalty.weight * unfairness
            scaled = self._scaling.up(total, mask)
        found = tape.gradient(scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        sums = self._scaling.down(found, mask)
        if self.player is not None:
            # The task's own loss is what is told of, and what groups are compared by.
            losses = tf.where(mask, self._loss.unpriced(batch)(batch["labels"], logits), 0.0)
            sums.append(self.player.table(batch, logits, self._loss.task(batch["labels"], logits)))
        report = report_of(batch["labels"], logits, losses, mask, tf.zeros([]))
        report = self._loss.with_leakage_apart(report, logits, mask)
        return sums, {**report, "unfairness": unfairness, "opacity": opacity}

    def _forward(self, batch: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Logits, losses and opacities of a batch, padding among them."""
        loss = self._loss.minimized(batch)
        if self._opacity is not None:
            return self._opacity(batch, loss)
        logits = tf.cast(self._model(batch["inputs"], training=True), tf.float32)
        losses = loss(batch["labels"], logits)
        return logits, losses, tf.zeros_like(losses)

    def recall(self, steps: int, randomness: Randomness) -> None:
        super().recall(steps, randomness)
        self._taken = steps

    def finish(self, batch: Any, draws: Draws, *, accumulated: bool) -> StepTotals:
        self._taken += 1
        return super().finish(batch, draws, accumulated=accumulated)

    def take_group(
        self, batches: Iterator[Any], draws: Sequence[Draws], counts: Sequence[int]
    ) -> list[StepTotals]:
        self._taken += len(draws)
        return super().take_group(batches, draws, counts)

    def released(self) -> dict[str, float]:
        """Of a step in float16: its loss scale, and how many steps it left out."""
        return self._scaling.state(self._taken)

    def _release(self, sums: list[tf.Tensor], divisor: tf.Tensor, noise: Noise) -> list[tf.Tensor]:
        if self.player is not None:
            # The model moves by the prices before this table: both players move at once.
            *sums, table = sums
            self.player.learn(table)
        return sums

    def _divisor(self, examples: tf.Tensor) -> tf.Tensor:
        return tf.maximum(examples, 1.0)
