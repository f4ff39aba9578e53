"""Conv1D, Conv2D and Conv3D in every configuration: z[p] = sum over k of x[s p + d k] W[k] + b.

Grouped convolutions act on each group of channels alone. With LoRA (`enable_lora`),
W = W0 + s A B with A a convolution kernel of `rank` filters and B (rank, filters):
dA is the kernel gradient for s dz B^T, and dB = s conv(x, A)^T dz.

Source: Rochette et al. 2019 (arXiv:1912.06015); Hu et al. 2021 (2106.09685) for LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import OuterProducts, plain_layout
from training.privacy.rules.base import FusedActivationRule, Gradients, call_inputs, is_trained
from training.privacy.rules.dense import as_sequence
from training.privacy.rules.sliding import (
    Window,
    bias_gradient,
    bias_is_along_channels,
    channels_last,
    kernel_gradient,
)


class GeneralConvolutionRule(FusedActivationRule):
    """Any rank, padding, stride, dilation, grouping and data format; LoRA without groups."""

    def applies_to(self, layer: keras.Layer) -> bool:
        return bias_is_along_channels(layer) and (layer.groups == 1 or not layer.lora_enabled)

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        raw = call_inputs(args, kwargs)
        inputs, outer = channels_last(layer, raw), channels_last(layer, output_gradients[0])
        window = Window.of(layer)
        found = bias_gradient(layer, outer)
        if is_trained(layer, layer._kernel):
            shape = tuple(layer._kernel.shape)
            gradient = kernel_gradient(window, inputs, outer, shape, layer.groups)
            found.append((layer._kernel, gradient))
        if layer.lora_enabled:
            found += _lora_gradients(layer, raw, outer, window)
        return found


def _lora_gradients(
    layer: keras.Layer, raw: tf.Tensor, outer: tf.Tensor, window: Window
) -> Gradients:
    scale = layer.lora_alpha / layer.lora_rank
    a, b = layer.lora_kernel_a, layer.lora_kernel_b
    outer = tf.cast(outer, tf.float32)
    inner = scale * tf.tensordot(outer, tf.transpose(b.value), axes=1)
    inputs = channels_last(layer, raw)
    low = scale * tf.cast(
        channels_last(layer, layer.convolution_op(raw, tf.cast(a.value, raw.dtype))), tf.float32
    )
    products = OuterProducts(as_sequence(low), as_sequence(outer), plain_layout(*b.shape))
    return [
        (a, kernel_gradient(window, inputs, inner, tuple(a.shape))),
        (b, products),
    ]
