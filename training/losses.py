"""Per-example losses: row i depends on example i alone, so that its gradient can be clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from configs.schema import Recipe, SettingError
from training.privacy.clipping import PerExampleLoss


def cross_entropy(
    label_names: Sequence[str],
    class_weights: Mapping[str, float] | None = None,
    *,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> PerExampleLoss:
    """Softmax cross-entropy, weighted by the example's own class if weights are given.

    Args:
        label_names: The labels, in the order of their ids.
        class_weights: Label name -> weight; 1 for labels it does not name.
        focal_gamma: Multiplies the loss of an example whose label has probability p by
            (1 - p)^gamma (Lin et al. 2017, arXiv:1708.02002).
        label_smoothing: Mixes the label with that much of the uniform distribution (Szegedy et
            al. 2016, 1512.00567).

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
        right = tf.exp(-losses)
        if label_smoothing:
            uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
            losses = (1.0 - label_smoothing) * losses + label_smoothing * uniform
        if focal_gamma:
            # The least number keeps the derivative of the power finite where p is 1.
            losses *= tf.maximum(1.0 - right, 1e-7) ** focal_gamma
        return losses * tf.gather(table, labels) if class_weights else losses

    return loss


def recipe_loss(recipe: Recipe, label_names: Sequence[str]) -> PerExampleLoss:
    """The loss that a recipe asks for, over the data's labels.

    Raises:
        SettingError: If a class weight names no label.
    """
    return cross_entropy(
        label_names,
        recipe.training.class_weights,
        focal_gamma=recipe.fairness.focal_gamma,
        label_smoothing=recipe.fairness.label_smoothing,
    )
