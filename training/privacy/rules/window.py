"""Sliding windows: the geometry that all convolutions share, of any rank.

A convolution pairs every position p of its output with a window of its input; at window offset k
the paired input positions form a strided view of the (padded) input. With v_k that view,

    dW[k] = sum over p of v_k[p]^T dz[p].

Neither the patches (all views side by side) nor the kernel's products need them all at once:

* patches are laid out axis by axis, sum of the window's sizes copies instead of their product;
* the Gram matrix of the patches is that of the pixels, added up over the window, because
  <patch_p, patch_q> = sum over k of <x[s p + d k], x[s q + d k]>: as many times fewer
  multiplications as the window has places, and no patches at all;
* the sum over the batch is the ordinary backward-filter convolution.

Source: Dumoulin & Visin 2016 (arXiv:1603.07285) for the arithmetic; padding as TensorFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import keras
import tensorflow as tf


def every(x: tf.Tensor, axis: int, start: int, count: int, stride: int) -> tf.Tensor:
    """`x[start], x[start + stride], ...` along an axis, `count` of them.

    TensorFlow's slices with a stride go number by number. Here, the axis is folded in two, so that
    whole runs of memory are copied (conv1 of ResNet50, 32 x 70^2: patches in 17 ms, 63 before).
    """
    before = (slice(None),) * axis
    if stride == 1:
        return x[(*before, slice(start, start + count))]
    size, end = x.shape[axis], start + count * stride
    if end > size:  # the last one's empty neighbours
        x = tf.pad(x, [(0, end - size if a == axis else 0) for a in range(x.shape.rank)])
    x = x[(*before, slice(start, end))]
    folded = tf.reshape(x, [*x.shape[:axis], count, stride, *x.shape[axis + 1 :]])
    return folded[(*before, slice(None), 0)]


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

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def is_pointwise(self) -> bool:
        return prod(self.size) == 1

    def _margins(self, axis: int, inside: int, outside: int) -> tuple[int, int]:
        reach = (self.size[axis] - 1) * self.dilations[axis]
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal":
            return reach, 0
        missing = max((outside - 1) * self.strides[axis] + reach + 1 - inside, 0)
        return missing // 2, missing - missing // 2

    def _padded(self, inputs: tf.Tensor, positions: tuple[int, ...]) -> tf.Tensor:
        inside = inputs.shape[1:-1]
        margins = [self._margins(a, inside[a], positions[a]) for a in range(self.rank)]
        if any(before or after for before, after in margins):
            inputs = tf.pad(inputs, [(0, 0), *margins, (0, 0)])
        return inputs

    def _seen(self, x: tf.Tensor, axis: int, offset: int, count: int, at: int) -> tf.Tensor:
        """What window offset `offset` sees along `axis` of the padded input, at axis `at` of x."""
        return every(x, at, offset * self.dilations[axis], count, self.strides[axis])

    def views(self, inputs: tf.Tensor, positions: tuple[int, ...]) -> list[tf.Tensor]:
        """The inputs seen at each window offset, offsets in the kernel's order.

        Args:
            inputs: (batch, *spatial, channels).
            positions: Spatial sizes of the output.

        Returns:
            As many as the window has places, each (batch, *positions, channels).
        """
        views = [self._padded(inputs, positions)]
        for axis, count in enumerate(positions):
            views = [
                self._seen(view, axis, offset, count, at=1 + axis)
                for view in views
                for offset in range(self.size[axis])
            ]
        return views

    def patches(self, inputs: tf.Tensor, positions: tuple[int, ...]) -> tf.Tensor:
        """(batch, *spatial, channels) to (batch, *positions, window places * channels)."""
        patches = self._padded(inputs, positions)
        for axis in reversed(range(self.rank)):
            slices = [
                self._seen(patches, axis, offset, positions[axis], at=1 + axis)
                for offset in range(self.size[axis])
            ]
            patches = slices[0] if len(slices) == 1 else tf.concat(slices, axis=-1)
        return patches

    def gram(self, inputs: tf.Tensor, positions: tuple[int, ...]) -> tf.Tensor:
        """Inner products of all pairs of patches.

        Args:
            inputs: (batch, *spatial, channels).
            positions: Spatial sizes of the output.

        Returns:
            (batch, prod(positions), prod(positions)).
        """
        batch, *spatial, channels = inputs.shape
        pixels = tf.reshape(inputs, [batch, prod(spatial), channels])
        gram = tf.matmul(pixels, pixels, transpose_b=True)
        for axis, (inside, outside) in enumerate(zip(spatial, positions, strict=True)):
            # Both pixels of a pair move along this axis; what lies around it is flattened.
            done, left = prod(positions[:axis]), prod(spatial[axis + 1 :])
            gram = tf.reshape(gram, [batch, done, inside, left * done, inside, left])
            margins = self._margins(axis, inside, outside)
            if any(margins):
                gram = tf.pad(gram, [(0, 0), (0, 0), margins, (0, 0), margins, (0, 0)])
            terms = [
                self._seen(self._seen(gram, axis, offset, outside, at=2), axis, offset, outside, 4)
                for offset in range(self.size[axis])
            ]
            gram = terms[0] if len(terms) == 1 else tf.add_n(terms)
        return tf.reshape(gram, [batch, prod(positions), prod(positions)])

    def kernel_sum(
        self, inputs: tf.Tensor, gradients: tf.Tensor, kernel: tuple[int, ...]
    ) -> tf.Tensor:
        """Gradient of the kernel, summed over the batch.

        Args:
            inputs: float32 (batch, *spatial, channels).
            gradients: float32 (batch, *positions, filters).
            kernel: (*size, channels, filters).
        """
        positions = tuple(gradients.shape[1:-1])
        if max(self.dilations) > 1:  # the backward-filter kernels on CPU take none
            patches = tf.reshape(self.patches(inputs, positions), [-1, prod(kernel[:-1])])
            flat = tf.reshape(gradients, [-1, kernel[-1]])
            return tf.reshape(tf.matmul(patches, flat, transpose_a=True), kernel)
        padded = self._padded(inputs, positions)
        # Only what the windows reach: an exchanged convolution may have positions beyond.
        reached = [
            slice((positions[a] - 1) * self.strides[a] + self.size[a]) for a in range(self.rank)
        ]
        padded = padded[(slice(None), *reached, slice(None))]
        if self.rank == 3:
            return tf.raw_ops.Conv3DBackpropFilterV2(
                input=padded,
                filter_sizes=tf.constant(kernel),
                out_backprop=gradients,
                strides=[1, *self.strides, 1],
                padding="VALID",
            )
        size, strides = kernel, self.strides
        if self.rank == 1:
            padded, gradients = padded[:, None], gradients[:, None]
            size, strides = (1, *kernel), (self.strides[0], self.strides[0])
        found = tf.raw_ops.Conv2DBackpropFilter(
            input=padded,
            filter_sizes=tf.constant(size),
            out_backprop=gradients,
            strides=[1, *strides, 1],
            padding="VALID",
        )
        return tf.reshape(found, kernel)
