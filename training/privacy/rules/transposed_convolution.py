"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose: z = C^T x + b, C a convolution with kernel W.

<dz, C^T x> = <C dz, x>, so the gradient of W is that of the convolution C whose *input* is dz and
whose *output gradient* is x. W has shape (window, filters, channels): C takes filters to channels.

Source: Dumoulin & Visin 2016 (arXiv:1603.07285), section 4.
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


class TransposedConvolutionRule(FusedActivationRule):
    """Any rank, padding, output padding, stride, dilation and, without a bias, data format."""

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
            gradient = kernel_gradient(Window.of(layer), outer, inputs, shape)
            found.append((layer.kernel, gradient))
        return found
