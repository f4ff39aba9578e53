"""Loss scaling for models that compute in float16, whose gradients would vanish (< 6e-8) unscaled.

The scale is a constant power of two, so that it changes no digit: what cannot be represented with
it counts as not finite. It is taken off again, in float32, before anything is clipped.
Source: Micikevicius et al. 2018, mixed precision training (arXiv:1710.03740).
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf

from training.privacy.gradients import PerExampleGradient

# Losses are summed, not averaged, so that an example's gradient is not divided by the batch size.
# A loss's gradient at a logit is at most about 1: this leaves a factor of 2^8 up to the overflow
# and represents gradients down to 2^-32.
_FLOAT16_SCALE = 256.0


def loss_scale(model: keras.Model) -> float:
    """By how much to multiply an example's loss before the backward pass."""
    computes = {layer.compute_dtype for layer in model._flatten_layers()}
    return _FLOAT16_SCALE if "float16" in computes else 1.0


def use_whole_float32() -> None:
    """Keeps GPUs from rounding float32 operands to TensorFloat-32, for the whole process.

    TensorFlow lets them by default. Ten bits of mantissa are 2^-11 of an operand, and where the
    terms of a gradient nearly cancel (`training.privacy.norms`) some per cent of its norm: clipped
    gradients would exceed the bound by far more than float32's rounding.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)


@dataclass(frozen=True)
class Scaled:
    """A gradient times a public constant, in float32 whatever the gradient was computed in."""

    gradient: PerExampleGradient
    factor: float

    def squared_norms(self) -> tf.Tensor:
        return self.gradient.squared_norms() * self.factor**2

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        return self.gradient.weighted_sum(weights * self.factor)

    def instantiate(self) -> tf.Tensor:
        return tf.cast(self.gradient.instantiate(), tf.float32) * self.factor

    def zeroed_where(self, bad: tf.Tensor) -> Scaled:
        return Scaled(self.gradient.zeroed_where(bad), self.factor)
