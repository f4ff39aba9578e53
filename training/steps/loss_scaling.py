"""Dynamic loss scaling for plain steps in float16, by Keras' own `LossScaleOptimizer`.

Float16 represents nothing below 6e-8, so that small gradients vanish. The loss is multiplied by a
scale before the backward pass, and gradients are divided by it in float32. Where one overflows, the
step is left out (no weight moves, the optimizer counts no iteration) and the scale is halved; after
2,000 steps without one it is doubled. The scale is a variable of the optimizer: checkpoints keep
it, and since it depends on sums over all replicas, all hold the same.

Private steps have a constant scale (`training.privacy.half_precision`): which step overflows would
tell of its examples.

Source: Micikevicius et al. 2018, mixed precision training (arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from training.privacy.half_precision import loss_scale


def with_loss_scale(
    optimizer: keras.optimizers.Optimizer, model: keras.Model
) -> keras.optimizers.Optimizer:
    """The optimizer, with a dynamic loss scale if the model computes in float16."""
    if loss_scale(model) == 1.0:
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


class LossScaling:
    """Takes the scale up before a backward pass and off again after it.

    What lies between (accumulation, replicas, projections) sees gradients as they are. The scale is
    meant for a mean (Keras begins at 2^15), and losses here are sums: they are divided by the rows
    of the physical batch, a constant.

    Args:
        optimizer: Built; one without a scale is left as it is.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        self._optimizer = (
            optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else None
        )

    def up(self, total: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """A sum of losses as the backward pass takes it, float32 ().

        Args:
            total: float32 ().
            mask: bool (batch,); only its shape is looked at.
        """
        factor = self._factor(mask)
        return total if factor is None else total * factor

    def down(self, gradients: Sequence[tf.Tensor], mask: tf.Tensor) -> list[tf.Tensor]:
        """Gradients of the sum itself, float32; not finite where float16 could not hold them."""
        whole = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
        factor = self._factor(mask)
        return whole if factor is None else [g / factor for g in whole]

    def state(self, steps: int) -> dict[str, float]:
        """Scale and steps left out, by name; none without a scale.

        Args:
            steps: Steps taken so far, those left out among them.
        """
        if self._optimizer is None:
            return {}
        return {
            "loss_scale": float(self._optimizer.dynamic_scale.numpy()),
            "skipped_steps": float(steps - int(self._optimizer.iterations.numpy())),
        }

    def _factor(self, mask: tf.Tensor) -> tf.Tensor | None:
        if self._optimizer is None:
            return None
        return tf.convert_to_tensor(self._optimizer.dynamic_scale.value) / float(mask.shape[0])


def scaled_again(
    optimizer: keras.optimizers.Optimizer, gradients: list[tf.Tensor]
) -> list[tf.Tensor]:
    """Gradients as the optimizer expects them: `LossScaleOptimizer` divides them by its scale."""
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return gradients
    scale = tf.convert_to_tensor(optimizer.dynamic_scale.value)
    return [g * scale for g in gradients]
