"""SeparableConv1D and SeparableConv2D: a depthwise convolution u = D(x), then z = u P + b.

dP = u^T dz, and the depthwise kernel's gradient is that of D with output gradient dz P^T. The
layer keeps u to itself, so the rule computes it again.

Source: Chollet 2016 (arXiv:1610.02357).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from training.privacy.gradients import MatrixLayout, OuterProducts
from training.privacy.rules.base import FusedActivationRule, Gradients, call_inputs, is_trained
from training.privacy.rules.dense import as_sequence
from training.privacy.rules.sliding import (
    Window,
    bias_gradient,
    bias_is_along_channels,
    channels_last,
    kernel_gradient,
)


class SeparableConvolutionRule(FusedActivationRule):
    """Any padding, stride, dilation, depth multiplier and, without a bias, data format."""

    def applies_to(self, layer: keras.Layer) -> bool:
        return bias_is_along_channels(layer)

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        inputs = channels_last(layer, call_inputs(args, kwargs))
        outer = tf.cast(channels_last(layer, output_gradients[0]), tf.float32)
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        found = bias_gradient(layer, outer)
        if is_trained(layer, pointwise):
            middle = ops.depthwise_conv(
                inputs,
                tf.cast(depthwise.value, inputs.dtype),
                strides=layer.strides,
                padding=layer.padding,
                data_format="channels_last",
                dilation_rate=layer.dilation_rate,
            )
            layout = MatrixLayout(tuple(pointwise.shape), tuple(range(len(pointwise.shape))))
            products = OuterProducts(as_sequence(middle), as_sequence(outer), layout)
            found.append((pointwise, products))
        if is_trained(layer, depthwise):
            matrix = tf.reshape(pointwise.value, pointwise.shape[-2:])
            inner = tf.tensordot(outer, tf.cast(tf.transpose(matrix), tf.float32), axes=1)
            shape, channels = tuple(depthwise.shape), inputs.shape[-1]
            gradient = kernel_gradient(Window.of(layer), inputs, inner, shape, channels)
            found.append((depthwise, gradient))
        return found
