"""DepthwiseConv1D and DepthwiseConv2D: every channel has its own small kernels,
z[p, c, m] = sum over k of x[s p + d k, c] W[k, c, m] + b[c, m],

so dW[k, c, m] = sum over p of x[s p + d k, c] dz[p, c, m]: a convolution with one group a channel.

Source: Howard et al. 2017 (arXiv:1704.04861).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.rules.base import FusedActivationRule, Gradients, call_inputs, is_trained
from training.privacy.rules.sliding import (
    Window,
    bias_gradient,
    bias_is_along_channels,
    channels_last,
    kernel_gradient,
)


class DepthwiseConvolutionRule(FusedActivationRule):
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
        outer = channels_last(layer, output_gradients[0])
        found = bias_gradient(layer, outer)
        if is_trained(layer, layer.kernel):
            shape = tuple(layer.kernel.shape)
            gradient = kernel_gradient(Window.of(layer), inputs, outer, shape, inputs.shape[-1])
            found.append((layer.kernel, gradient))
        return found
