"""The engine's private step, feeding the metrics that a user compiled into a Keras model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from training.privacy.clipping import ClippedSum
from training.privacy.keras_api.losses import labels_of
from training.steps import PrivateStep


class KerasStep(PrivateStep):
    """A `PrivateStep` that updates a Keras model's metrics instead of counting right answers.

    The metrics look at training examples bare: epsilon does not cover them.

    Args:
        metrics_of: The compiled model whose metrics are fed.
        further: As `PrivateStep`.
    """

    def __init__(self, *arguments: Any, metrics_of: keras.Model, **further: Any):
        self._metrics_of = metrics_of
        super().__init__(*arguments, **further)

    def _observe(self, batch: dict[str, Any], clipped: ClippedSum) -> dict[str, tf.Tensor]:
        mask = batch["mask"]
        usable = mask & tf.repeat(tf.math.is_finite(clipped.norms), self._plan.rows_per_record)
        weights = tf.cast(usable, tf.float32)
        rows = tf.reshape(usable, [-1] + [1] * (clipped.logits.shape.rank - 1))
        outputs = tf.where(rows, clipped.logits, tf.zeros_like(clipped.logits))
        for metric in self._metrics_of.metrics:
            if metric.name == "loss":
                metric.update_state(clipped.losses, sample_weight=weights)
        self._metrics_of.compute_metrics(
            batch["inputs"], labels_of(batch["labels"]), outputs, sample_weight=weights
        )
        return {
            "loss": tf.reduce_sum(clipped.losses),
            "correct": tf.zeros([]),  # what is right, the user's metrics say
            "examples": tf.reduce_sum(tf.cast(mask, tf.float32)),
            "non_finite": tf.cast(clipped.non_finite, tf.float32),
        }
