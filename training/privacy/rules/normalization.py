"""Normalizations: z = scale * x_hat + offset, so d(scale) = sum of dz * x_hat, d(offset) = sum dz.

With x_hat = s (x - m), where m and s (one over the deviation) are constant over what is summed,

    d(scale) = s (sum of dz * x - m * sum of dz),

which needs no x_hat, only sums. Layer normalization has another m and s at every position, and
recomputes x_hat. Either way m and s come of the layer's own operations, so that inside one graph
they are computed once. What is clipped is what is released: rounding here moves both alike.

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
    def axes(self, layer: keras.Layer, rank: int) -> list[int]:
        """The axes of the input that `gamma` and `beta` run along."""

    @abstractmethod
    def scale_gradient(
        self, layer: keras.Layer, inputs: tf.Tensor, gradient: tf.Tensor, summed: list[int]
    ) -> tf.Tensor:
        """Sum of dz * x_hat over the axes `summed`, float32."""

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
            scale = self.scale_gradient(layer, inputs, gradient, summed)
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

    def scale_gradient(
        self, layer: keras.Layer, inputs: tf.Tensor, gradient: tf.Tensor, summed: list[int]
    ) -> tf.Tensor:
        x_hat = ops.layer_normalization(inputs, axis=layer.axis, epsilon=layer.epsilon)
        return tf.reduce_sum(gradient * tf.cast(x_hat, tf.float32), axis=summed)


class GroupNormalizationRule(_AffineRule):
    """Any number of groups."""

    def axes(self, layer: keras.Layer, rank: int) -> list[int]:
        return [layer.axis]

    def scale_gradient(
        self, layer: keras.Layer, inputs: tf.Tensor, gradient: tf.Tensor, summed: list[int]
    ) -> tf.Tensor:
        grouped = tf.cast(layer._reshape_into_groups(inputs), tf.float32)
        rank = grouped.shape.rank
        group_axis = rank - 2 if layer.axis == -1 else layer.axis
        reduced = [axis for axis in range(1, rank) if axis != group_axis]
        mean, variance = ops.moments(grouped, axes=reduced, keepdims=True)
        # (batch, groups, 1), against sums of (batch, groups, channels of a group).
        by_group = [grouped.shape[0], layer.groups, 1]
        return _from_sums(
            tf.reshape(mean, by_group),
            tf.reshape(tf.math.rsqrt(variance + layer.epsilon), by_group),
            tf.reduce_sum(gradient * tf.cast(inputs, tf.float32), axis=summed),
            tf.reduce_sum(gradient, axis=summed),
        )


class BatchNormalizationRule(_AffineRule):
    """Batch normalization with frozen statistics; the survey refuses it with batch statistics."""

    def axes(self, layer: keras.Layer, rank: int) -> list[int]:
        return [layer.axis]

    def scale_gradient(
        self, layer: keras.Layer, inputs: tf.Tensor, gradient: tf.Tensor, summed: list[int]
    ) -> tf.Tensor:
        mean = tf.cast(layer.moving_mean.value, tf.float32)
        variance = tf.cast(layer.moving_variance.value, tf.float32)
        return _from_sums(
            mean,
            tf.math.rsqrt(variance + layer.epsilon),
            tf.reduce_sum(gradient * tf.cast(inputs, tf.float32), axis=summed),
            tf.reduce_sum(gradient, axis=summed),
        )


def _from_sums(
    mean: tf.Tensor, inverse_deviation: tf.Tensor, products: tf.Tensor, sums: tf.Tensor
) -> tf.Tensor:
    """`s (sum of dz x - m sum of dz)`, of the shape of the sums, (batch, channels).

    Args:
        mean: m, and
        inverse_deviation: s, both (channels,), or (batch, groups, 1) for channels in groups.
        products: Sum of dz * x.
        sums: Sum of dz.
    """
    shape = products.shape
    if mean.shape.rank == 3:
        split = [*mean.shape[:2], shape[-1] // mean.shape[1]]
        products, sums = tf.reshape(products, split), tf.reshape(sums, split)
    return tf.reshape(inverse_deviation * (products - mean * sums), shape)
