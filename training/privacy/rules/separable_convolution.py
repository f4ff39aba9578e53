"""SeparableConv1D and SeparableConv2D: a depthwise convolution u = D(x), then z = u P + b.

dP = u^T dz, and the depthwise kernel's gradient is that of D with output gradient dz P^T. The
layer keeps u to itself, so the rule computes it again.

Source: Chollet 2016 (arXiv:1610.02357).
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from training.privacy.gradients import OuterProducts, plain_layout
from training.privacy.rules.base import Gradients, is_trained
from training.privacy.rules.convolution_kernels import depthwise_gradient
from training.privacy.rules.dense import as_sequence
from training.privacy.rules.sliding import SlidingRule
from training.privacy.rules.window import Window


class SeparableConvolutionRule(SlidingRule):
    """Any padding, stride, dilation and depth multiplier."""

    def kernels(self, layer: keras.Layer, inputs: tf.Tensor, outer: tf.Tensor) -> Gradients:
        outer = tf.cast(outer, tf.float32)
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        found: Gradients = []
        if is_trained(layer, pointwise):
            middle = ops.depthwise_conv(
                inputs,
                tf.cast(depthwise.value, inputs.dtype),
                strides=layer.strides,
                padding=layer.padding,
                data_format="channels_last",
                dilation_rate=layer.dilation_rate,
            )
            layout = plain_layout(*pointwise.shape)
            products = OuterProducts(as_sequence(middle), as_sequence(outer), layout)
            found.append((pointwise, products))
        if is_trained(layer, depthwise):
            matrix = tf.reshape(pointwise.value, pointwise.shape[-2:])
            inner = tf.tensordot(outer, tf.cast(tf.transpose(matrix), tf.float32), axes=1)
            shape = tuple(depthwise.shape)
            found.append((depthwise, depthwise_gradient(Window.of(layer), inputs, inner, shape)))
        return found
