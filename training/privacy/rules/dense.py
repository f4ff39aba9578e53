"""Dense: z = x W + b, so the gradient of W is x^T dz and that of b is dz summed over time.

With LoRA (`enable_lora`, Hu et al. 2021), W = W0 + s A B with W0 frozen:
dA = s x^T (dz B^T) and dB = s (x A)^T dz.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import Instantiated, OuterProducts, plain_layout
from training.privacy.rules.base import (
    FusedActivationRule,
    Gradients,
    call_inputs,
    is_trained,
    reduce_to_shape,
)


def as_sequence(x: tf.Tensor) -> tf.Tensor:
    """Flattens (batch, ..., features) to (batch, time, features)."""
    batch, features = x.shape[0], x.shape[-1]
    return tf.reshape(x, [batch, -1, features]) if x.shape.rank != 3 else x


class DenseRule(FusedActivationRule):
    """Dense over any leading axes, with LoRA or without."""

    def applies_to(self, layer: keras.Layer) -> bool:
        return layer.quantization_mode is None

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        inputs = as_sequence(call_inputs(args, kwargs))
        (gradient,) = output_gradients
        outer = as_sequence(gradient)
        found: Gradients = []
        if is_trained(layer, layer._kernel):
            layout = plain_layout(*layer._kernel.shape)
            found.append((layer._kernel, OuterProducts(inputs, outer, layout)))
        if layer.lora_enabled:
            scale = layer.lora_alpha / layer.lora_rank
            a, b = layer.lora_kernel_a, layer.lora_kernel_b
            if is_trained(layer, a):
                inner = scale * tf.matmul(outer, tf.cast(b.value, outer.dtype), transpose_b=True)
                found.append((a, OuterProducts(inputs, inner, plain_layout(*a.shape))))
            if is_trained(layer, b):
                low = scale * tf.matmul(inputs, tf.cast(a.value, inputs.dtype))
                found.append((b, OuterProducts(low, outer, plain_layout(*b.shape))))
        if is_trained(layer, layer.bias):
            bias = reduce_to_shape(tf.cast(gradient, tf.float32), tuple(layer.bias.shape))
            found.append((layer.bias, Instantiated(bias)))
        return found
