"""Conv1D, Conv2D and Conv3D in every configuration: z[p] = sum over k of x[s p + d k] W[k] + b.

Grouped convolutions act on each group of channels alone. With LoRA (`enable_lora`),
W = W0 + s A B with A a convolution kernel of `rank` filters and B (rank, filters):
dA is the kernel gradient for s dz B^T, and dB = s conv(x, A)^T dz.

Source: Rochette et al. 2019 (arXiv:1912.06015); Hu et al. 2021 (2106.09685) for LoRA.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from training.privacy.gradients import OuterProducts, plain_layout
from training.privacy.rules.base import Gradients, is_trained
from training.privacy.rules.convolution_kernels import kernel_gradient
from training.privacy.rules.dense import as_sequence
from training.privacy.rules.sliding import SlidingRule
from training.privacy.rules.window import Window


class ConvolutionRule(SlidingRule):
    """Any rank, padding, stride, dilation, grouping and data format; LoRA without groups."""

    def applies_to(self, layer: keras.Layer) -> bool:
        return super().applies_to(layer) and (layer.groups == 1 or not layer.lora_enabled)

    def kernels(self, layer: keras.Layer, inputs: tf.Tensor, outer: tf.Tensor) -> Gradients:
        window, found = Window.of(layer), []
        if is_trained(layer, layer._kernel):
            shape = tuple(layer._kernel.shape)
            gradient = kernel_gradient(window, inputs, outer, shape, layer.groups)
            found.append((layer._kernel, gradient))
        if layer.lora_enabled:
            found += _lora_gradients(layer, inputs, outer, window)
        return found


def _lora_gradients(
    layer: keras.Layer, inputs: tf.Tensor, outer: tf.Tensor, window: Window
) -> Gradients:
    scale = layer.lora_alpha / layer.lora_rank
    a, b = layer.lora_kernel_a, layer.lora_kernel_b
    outer = tf.cast(outer, tf.float32)
    inner = scale * tf.tensordot(outer, tf.transpose(b.value), axes=1)
    causal = window.padding == "causal"
    if causal:
        inputs = tf.pad(inputs, [(0, 0), ((window.size[0] - 1) * window.dilations[0], 0), (0, 0)])
    through = ops.conv(
        inputs,
        tf.cast(a.value, inputs.dtype),
        strides=layer.strides,
        padding="valid" if causal else layer.padding,
        data_format="channels_last",
        dilation_rate=layer.dilation_rate,
    )
    low = as_sequence(scale * tf.cast(through, tf.float32))
    own = Window(window.size, window.strides, window.dilations, "valid") if causal else window
    return [
        (a, kernel_gradient(own, inputs, inner, tuple(a.shape))),
        (b, OuterProducts(low, as_sequence(outer), plain_layout(*b.shape))),
    ]
