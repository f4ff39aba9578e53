"""Normalizations: z = scale * x_hat + offset, so d(scale) = sum of dz * x_hat, d(offset) = sum dz.

x_hat is recomputed from the input with the layer's own operations; inside one graph the shared
subexpressions (mean, variance) are computed once.

Sources: Ba et al. 2016 (layer), Wu & He 2018 (group), Ioffe & Szegedy 2015 (batch), Zhang &
Sennrich 2019 (root mean square).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from training.privacy.gradients import Instantiated
from training.privacy.rules.base import Gradients, Rule, call_inputs, is_trained


class _AffineRule(Rule):
    """Shared by all layers of the form scale * x_hat + offset."""

    @abstractmethod
    def normalized(self, layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
        """x_hat, float32, of the inputs' shape."""

    @abstractmethod
    def axes(self, layer: keras.Layer, rank: int) -> list[int]:
        """The axes of the input that `gamma` and `beta` run along."""

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        inputs = call_inputs(args, kwargs)
        gradient = tf.cast(output_gradients[0], tf.float32)
        rank = gradient.shape.rank
        kept = {0, *(axis % rank for axis in self.axes(layer, rank))}
        summed = [axis for axis in range(rank) if axis not in kept]
        found: Gradients = []
        if is_trained(layer, layer.gamma):
            x_hat = tf.cast(self.normalized(layer, inputs), tf.float32)
            scale = tf.reduce_sum(gradient * x_hat, axis=summed)
            found.append((layer.gamma, Instantiated(scale)))
        if is_trained(layer, layer.beta):
            found.append((layer.beta, Instantiated(tf.reduce_sum(gradient, axis=summed))))
        return found


class RMSNormalizationRule(Rule):
    """z = scale * x_hat or (1 + scale) * x_hat, x_hat = x / sqrt(mean of squares + epsilon).

    Keras' own layer, along any axes, and KerasHub's of Llama, Mistral, Gemma and T5.
    """

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        scale = layer.weight if hasattr(layer, "weight") else layer.scale
        if not is_trained(layer, scale):
            return []
        inputs = tf.cast((*args, *kwargs.values())[0], tf.float32)
        gradient = tf.cast(output_gradients[0], tf.float32)
        rank = inputs.shape.rank
        axes = [axis % rank for axis in getattr(layer, "axis", [-1])]
        squares = tf.reduce_mean(tf.square(inputs), axis=axes, keepdims=True)
        x_hat = inputs * tf.math.rsqrt(squares + getattr(layer, "epsilon", 1e-6))
        summed = [axis for axis in range(1, rank) if axis not in axes]
        return [(scale, Instantiated(tf.reduce_sum(gradient * x_hat, axis=summed)))]


class LayerNormalizationRule(_AffineRule):
    """Along any axes.

    Scaling by the root mean square (`rms_scaling`) takes the fallback.
    """

    def applies_to(self, layer: keras.Layer) -> bool:
        return not layer.rms_scaling

    def axes(self, layer: keras.Layer, rank: int) -> list[int]:
        return [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)

    def normalized(self, layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
        return ops.layer_normalization(inputs, axis=layer.axis, epsilon=layer.epsilon)


class GroupNormalizationRule(_AffineRule):
    """Any number of groups."""

    def axes(self, layer: keras.Layer, rank: int) -> list[int]:
        return [layer.axis]

    def normalized(self, layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
        grouped = tf.cast(layer._reshape_into_groups(inputs), tf.float32)
        rank = grouped.shape.rank
        group_axis = rank - 2 if layer.axis == -1 else layer.axis
        reduced = [axis for axis in range(1, rank) if axis != group_axis]
        # As the layer computes them, so that the graph computes them once.
        mean, variance = ops.moments(grouped, axes=reduced, keepdims=True)
        return tf.reshape((grouped - mean) * tf.math.rsqrt(variance + layer.epsilon), inputs.shape)


class BatchNormalizationRule(_AffineRule):
    """Batch normalization with frozen statistics; the survey refuses it with batch statistics."""

    def axes(self, layer: keras.Layer, rank: int) -> list[int]:
        return [layer.axis]

    def normalized(self, layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
        shape = [1] * inputs.shape.rank
        shape[layer.axis] = inputs.shape[layer.axis]
        mean = tf.reshape(tf.cast(layer.moving_mean.value, tf.float32), shape)
        variance = tf.reshape(tf.cast(layer.moving_variance.value, tf.float32), shape)
        return (tf.cast(inputs, tf.float32) - mean) * tf.math.rsqrt(variance + layer.epsilon)
