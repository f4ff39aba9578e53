"""Sliding windows: the geometry that all convolutions share, of any rank.

A convolution pairs every position p of its output with a window of its input; at window offset k
the paired input positions form a strided view of the (padded) input. With v_k that view,

    dW[k] = sum over p of v_k[p]^T dz[p].

Neither the patches (all views side by side) nor the kernel's products need them all at once:

* patches are laid out axis by axis, sum of the window's sizes copies instead of their product;
* along one axis the output gradients can be laid out in place of the inputs, and the product of the
  two has every pair of offsets in a block of its own;
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
import numpy as np
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


def side_by_side(x: tf.Tensor, axis: int, seen: np.ndarray) -> tf.Tensor:
    """For each position along an axis all that it sees there, side by side along the channels.

    One copy, where slices and their concatenation are two (patches of conv1, 32 x 102^2, on two
    cores: 8 ms, with slices 26; of 3x3 on 24^2 with 64 channels 6 ms and 13).

    Args:
        x: (batch, *spatial, channels).
        axis: Counted in `x`.
        seen: (positions, places), indices along the axis.
    """
    batch, *spatial, channels = x.shape
    before, after = spatial[: axis - 1], spatial[axis:]
    # What lies after the axis comes before the places, which belong beside the channels.
    around = np.arange(prod(after))[:, None]
    pixels = (seen[:, None, :] * prod(after) + around).reshape(-1)
    flat = tf.reshape(x, [batch * prod(before), -1, channels])
    found = tf.gather(flat, tf.constant(pixels, tf.int32), axis=1)
    return tf.reshape(found, [batch, *before, len(seen), *after, seen.shape[1] * channels])


def _has_accelerator() -> bool:
    """Whether slices are what is known to be quick here."""
    return any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))


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

    def patches(
        self, inputs: tf.Tensor, positions: tuple[int, ...], first_axis: int = 0
    ) -> tf.Tensor:
        """Lays out patches: (batch, *spatial, channels) to (batch, *positions, places * channels).

        Along axes before `first_axis` the padded inputs stay as they are.
        """
        patches = self._padded(inputs, positions)
        for axis in reversed(range(first_axis, self.rank)):
            if self.size[axis] == 1:
                patches = self._seen(patches, axis, 0, positions[axis], at=1 + axis)
            elif _has_accelerator():
                slices = [
                    self._seen(patches, axis, offset, positions[axis], at=1 + axis)
                    for offset in range(self.size[axis])
                ]
                patches = tf.concat(slices, axis=-1)
            else:
                first = np.arange(positions[axis]) * self.strides[axis]
                offsets = np.arange(self.size[axis]) * self.dilations[axis]
                patches = side_by_side(patches, 1 + axis, first[:, None] + offsets)
        return patches

    def lays_out_gradients(self, channels: int, filters: int) -> bool:
        """Whether `shifted_gradients` copy less than patches along the first axis would."""
        along, across = self.size[0], prod(self.size[1:])
        fits = self.rank > 1 and along > 1 and self.strides[0] == 1
        return fits and filters < (along - 1) * across * channels

    def shifted_gradients(self, gradients: tf.Tensor, rows: int) -> tf.Tensor:
        """Gradients beside the padded inputs that each offset of the first axis pairs them with.

        Args:
            gradients: (batch, *positions, filters); the stride along the first axis is one.
            rows: Of the padded inputs, along the first axis.

        Returns:
            (batch, rows, *positions[1:], size[0] * filters).
        """
        spare = rows - gradients.shape[1]
        offsets = [k * self.dilations[0] for k in range(self.size[0])]
        around = [(0, 0)] * (gradients.shape.rank - 2)
        shifted = [tf.pad(gradients, [(0, 0), (k, spare - k), *around]) for k in offsets]
        return tf.concat(shifted, axis=-1)

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
