"""The inner step with an adversary: two losses, two optimizers, one pass over the batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from training.fairness import Adversary, AdversaryTask
from training.steps.drawn_noise import Noise
from training.steps.plain import PlainStep
from training.steps.totals import report_of


class AdversarialStep(PlainStep):
    """Plain training against an adversary (`training.fairness.adversary`).

    Both gradients are means over the logical batch, on however many replicas: the projection sees
    them whole. Both players move at once, from the weights before the step.

    Args:
        adversary: What the adversary guesses.
        further: As `PlainStep`, without a penalty or a player.
    """

    def __init__(self, *arguments: Any, adversary: AdversaryTask, **further: Any):
        self._adversary = Adversary(adversary, arguments[3])
        self._further_shapes = (
            *(tuple(v.shape) for v in arguments[0].trainable_variables),
            *(tuple(v.shape) for v in self._adversary.variables),
        )
        super().__init__(*arguments, **further)

    @property
    def state(self) -> list[tf.Variable]:
        return [*super().state, *self._adversary.state]

    def _gradient_sum(self, batch: dict[str, Any]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        values = [v.value for v in self._variables]
        guesses = [v.value for v in self._adversary.variables]
        mask = batch["mask"]
        with tf.GradientTape(persistent=True) as tape:
            logits = tf.cast(self._model(batch["inputs"], training=True), tf.float32)
            losses = tf.where(mask, self._loss.minimized(batch)(batch["labels"], logits), 0.0)
            total = tf.reduce_sum(losses)
            guessed = tf.reduce_sum(self._adversary.losses(batch, logits))
            scaled = self._scaling.up(total, mask), self._scaling.up(guessed, mask)
        zero = tf.UnconnectedGradients.ZERO
        found = [tape.gradient(one, values, unconnected_gradients=zero) for one in scaled]
        # The adversary computes in float32, and must not hear of an overflow in the model.
        own = tape.gradient(guessed, guesses, unconnected_gradients=zero)
        sums = [*self._scaling.down([*found[0], *found[1]], mask), *own]
        report = report_of(batch["labels"], logits, losses, mask, tf.zeros([]))
        report = self._loss.with_leakage_apart(report, logits, mask)
        return sums, {**report, "adversary_loss": guessed}

    def _release(self, sums: list[tf.Tensor], divisor: tf.Tensor, noise: Noise) -> list[tf.Tensor]:
        sums = super()._release(sums, divisor, noise)
        count = len(self._variables)
        task, against, own = sums[:count], sums[count : 2 * count], sums[2 * count :]
        means = [total / divisor for total in own]
        self._adversary.learn(means, self._strategy.num_replicas_in_sync)
        # Of sums as of means: a common divisor passes through the projection.
        return self._adversary.against(task, against)
