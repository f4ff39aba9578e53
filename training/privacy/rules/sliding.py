"""Sliding windows: the geometry that all convolutions share, of any rank.

A convolution pairs every position p of its output with a window of its input; at window offset k
the paired input positions form a strided view of the (padded) input. With v_k that view,

    dW[k] = sum over p of v_k[p]^T dz[p],

group by group of channels. A transposed convolution is the same with input and output exchanged.
Views instead of patch operations, because they exist for every rank, stride and dilation.

Source: Dumoulin & Visin 2016 (arXiv:1603.07285) for the arithmetic; padding as TensorFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import keras
import tensorflow as tf

from training.privacy.gradients import (
    Instantiated,
    MatrixLayout,
    OuterProducts,
    PerExampleGradient,
)
from training.privacy.rules.base import Gradients, is_trained
from training.privacy.rules.dense import as_sequence


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its input.

    Attributes:
        size: Kernel size, one number a spatial axis.
        strides: Steps between windows.
        dilations: Steps inside a window.
        padding: "valid", "same" or (one spatial axis) "causal".
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str

    @classmethod
    def of(cls, layer: keras.Layer) -> Window:
        """The window of a Keras convolution."""
        return cls(
            tuple(layer.kernel_size),
            tuple(layer.strides),
            tuple(layer.dilation_rate),
            layer.padding,
        )

    def _margins(self, axis: int, inside: int, outside: int) -> tuple[int, int]:
        reach = (self.size[axis] - 1) * self.dilations[axis]
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal":
            return reach, 0
        missing = max((outside - 1) * self.strides[axis] + reach + 1 - inside, 0)
        return missing // 2, missing - missing // 2

    def views(self, inputs: tf.Tensor, positions: tuple[int, ...]) -> list[tf.Tensor]:
        """The inputs seen at each window offset, offsets in the kernel's order.

        Args:
            inputs: (batch, *spatial, channels).
            positions: Spatial sizes of the output.

        Returns:
            As many as the window has places, each (batch, *positions, channels).
        """
        rank = len(self.size)
        margins = [self._margins(a, inputs.shape[1 + a], positions[a]) for a in range(rank)]
        if any(before or after for before, after in margins):
            inputs = tf.pad(inputs, [(0, 0), *margins, (0, 0)])

        def view(offset: tuple[int, ...]) -> tf.Tensor:
            starts = [o * d for o, d in zip(offset, self.dilations, strict=True)]
            spatial = [
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, count, stride in zip(starts, positions, self.strides, strict=True)
            ]
            return inputs[(slice(None), *spatial, slice(None))]

        return [view(offset) for offset in product(*map(range, self.size))]


def kernel_gradient(
    window: Window,
    inputs: tf.Tensor,
    gradients: tf.Tensor,
    kernel: tuple[int, ...],
    groups: int = 1,
) -> PerExampleGradient:
    """Per-example gradient of a convolution's kernel.

    Args:
        window: The geometry.
        inputs: (batch, *spatial, channels).
        gradients: (batch, *positions, filters), the gradient at the output.
        kernel: Shape of the variable: window, channels of a group, filters; or window, channels,
            multiplier for depthwise kernels, which lie alike in memory.
        groups: Groups of channels.
    """
    views = window.views(tf.cast(inputs, tf.float32), tuple(gradients.shape[1:-1]))
    channels, filters = inputs.shape[-1], gradients.shape[-1]
    if groups == 1:
        patches = as_sequence(tf.concat(views, axis=-1))  # (batch, positions, window * channels)
        axes = (*window.size, channels, filters)
        layout = MatrixLayout(axes, tuple(range(len(axes))))
        return OuterProducts(patches, as_sequence(gradients), layout)
    batch, width = inputs.shape[0], filters // groups
    outer = tf.cast(as_sequence(gradients), tf.float32)
    if groups == channels:
        outer = tf.reshape(outer, [batch, -1, groups, width])
        parts = [tf.reduce_sum(as_sequence(view)[..., None] * outer, axis=1) for view in views]
    else:
        outer = tf.transpose(tf.reshape(outer, [batch, -1, groups, width]), [0, 2, 1, 3])
        parts = [_by_group(as_sequence(view), outer) for view in views]
    return Instantiated(tf.reshape(tf.stack(parts, axis=1), [batch, *kernel]))


def _by_group(view: tf.Tensor, outer: tf.Tensor) -> tf.Tensor:
    """(batch, positions, channels), (batch, groups, positions, width) to (batch, c/groups, f)."""
    batch, groups, _, width = outer.shape
    inner = view.shape[-1] // groups
    view = tf.transpose(tf.reshape(view, [batch, -1, groups, inner]), [0, 2, 3, 1])
    products = tf.matmul(view, outer)  # (batch, groups, c / groups, width)
    return tf.reshape(tf.transpose(products, [0, 2, 1, 3]), [batch, inner, groups * width])


def channels_last(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """`x` with its channels moved to the last axis, if the layer has them first."""
    if layer.data_format == "channels_last":
        return x
    return tf.transpose(x, [0, *range(2, x.shape.rank), 1])


def bias_is_along_channels(layer: keras.Layer) -> bool:
    """Whether the bias surely runs along the channels.

    With channels first, Keras adds it along the last axis where that has the same size.
    """
    return layer.data_format == "channels_last" or not layer.use_bias


def bias_gradient(layer: keras.Layer, gradients: tf.Tensor) -> Gradients:
    """The bias, if it is trained: the output gradient summed over positions, channels last."""
    if not is_trained(layer, layer.bias):
        return []
    positions = prod(gradients.shape[1:-1])
    flat = tf.reshape(tf.cast(gradients, tf.float32), [gradients.shape[0], positions, -1])
    return [(layer.bias, Instantiated(tf.reduce_sum(flat, axis=1)))]
