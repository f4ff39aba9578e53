"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose: z = C^T x + b, C a convolution with kernel W.

<dz, C^T x> = <C dz, x>, so the gradient of W is that of the convolution C whose *input* is dz and
whose *output gradient* is x. W has shape (window, filters, channels): C takes filters to channels.

Source: Dumoulin & Visin 2016 (arXiv:1603.07285), section 4.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from training.privacy.rules.base import Gradients, is_trained
from training.privacy.rules.convolution_kernels import kernel_gradient
from training.privacy.rules.sliding import SlidingRule
from training.privacy.rules.window import Window


class TransposedConvolutionRule(SlidingRule):
    """Any rank, padding, output padding, stride and dilation."""

    def kernels(self, layer: keras.Layer, inputs: tf.Tensor, outer: tf.Tensor) -> Gradients:
        if not is_trained(layer, layer.kernel):
            return []
        shape = tuple(layer.kernel.shape)
        return [(layer.kernel, kernel_gradient(Window.of(layer), outer, inputs, shape))]
