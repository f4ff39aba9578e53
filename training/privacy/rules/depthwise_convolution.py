"""DepthwiseConv1D and DepthwiseConv2D: every channel has its own small kernels,
z[p, c, m] = sum over k of x[s p + d k, c] W[k, c, m] + b[c, m],

so dW[k, c, m] = sum over p of x[s p + d k, c] dz[p, c, m]: a convolution with one group a channel.

Source: Howard et al. 2017 (arXiv:1704.04861).
"""

from __future__ import annotations

import keras
import tensorflow as tf

from training.privacy.rules.base import Gradients, is_trained
from training.privacy.rules.convolution_kernels import depthwise_gradient
from training.privacy.rules.sliding import SlidingRule
from training.privacy.rules.window import Window


class DepthwiseConvolutionRule(SlidingRule):
    """Any padding, stride, dilation and depth multiplier."""

    def kernels(self, layer: keras.Layer, inputs: tf.Tensor, outer: tf.Tensor) -> Gradients:
        if not is_trained(layer, layer.kernel):
            return []
        shape = tuple(layer.kernel.shape)
        return [(layer.kernel, depthwise_gradient(Window.of(layer), inputs, outer, shape))]
