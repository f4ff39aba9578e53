"""Per-example losses: row i depends on example i alone, so that its gradient can be clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from configs.schema import SettingError
from training.privacy.clipping import PerExampleLoss


def cross_entropy(
    label_names: Sequence[str], class_weights: Mapping[str, float] | None = None
) -> PerExampleLoss:
    """Softmax cross-entropy, weighted by the example's own class if weights are given.

    Returns:
        (labels int32 (batch,), logits (batch, classes)) -> losses float32 (batch,).

    Raises:
        SettingError: If a weight names no label.
    """
    weights = dict.fromkeys(label_names, 1.0)
    for name, weight in (class_weights or {}).items():
        if name not in weights:
            raise SettingError(
                f"training.class_weights.{name}", weight, f"one of the labels {list(label_names)}"
            )
        weights[name] = weight
    table = tf.constant([weights[name] for name in label_names], tf.float32)

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return losses * tf.gather(table, labels) if class_weights else losses

    return loss
