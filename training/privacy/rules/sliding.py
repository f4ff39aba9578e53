"""What the rules of all convolutions share: channels last, and the bias.

A convolution's input and output gradient are brought to channels last once; the bias is the
output gradient summed over positions; what remains to each family is its kernels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import Instantiated
from training.privacy.rules.base import FusedActivationRule, Gradients, call_inputs, is_trained


class SlidingRule(FusedActivationRule):
    """A rule of a family of convolutions, of any rank and, without a bias, data format."""

    def applies_to(self, layer: keras.Layer) -> bool:
        """Whether the bias surely runs along the channels.

        With channels first, Keras adds it along the last axis where that has the same size.
        """
        return layer.data_format == "channels_last" or not layer.use_bias

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        inputs = channels_last(layer, call_inputs(args, kwargs))
        outer = channels_last(layer, output_gradients[0])
        found = self.kernels(layer, inputs, outer)
        if is_trained(layer, layer.bias):
            positions = prod(outer.shape[1:-1])
            flat = tf.reshape(tf.cast(outer, tf.float32), [outer.shape[0], positions, -1])
            found.append((layer.bias, Instantiated(tf.reduce_sum(flat, axis=1))))
        return found

    @abstractmethod
    def kernels(self, layer: keras.Layer, inputs: tf.Tensor, outer: tf.Tensor) -> Gradients:
        """Per-example gradients of everything but the bias.

        Args:
            layer: The layer.
            inputs: (batch, *spatial, channels).
            outer: (batch, *positions, filters), the gradient at the output.
        """


def channels_last(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """`x` with its channels moved to the last axis, if the layer has them first."""
    if layer.data_format == "channels_last":
        return x
    return tf.transpose(x, [0, *range(2, x.shape.rank), 1])
