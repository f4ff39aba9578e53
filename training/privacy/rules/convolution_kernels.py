"""Per-example gradients of convolution kernels: products of patches, with as few patches as can be.

The norm takes the Gram matrix of the pixels, or the patches of one layer at a time; the clipped
sum takes the ordinary backward-filter convolution with the clip factors folded into dz. No patches
are kept between the two. Grouped and depthwise kernels are small and are instantiated.

Source: Rochette et al. 2019 (arXiv:1912.06015) for convolutions' per-example gradients; Bu et al.
2022 (2205.10683) for mixed ghost norms of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import tensorflow as tf

from training.privacy.cost_model import Form, MatrixWork, fastest
from training.privacy.gradients import (
    Instantiated,
    MatrixLayout,
    OuterProducts,
    PerExampleGradient,
    plain_layout,
    scale_rows,
    zero_rows,
)
from training.privacy.norms import ghost_norms, norms_of
from training.privacy.rules.dense import as_sequence
from training.privacy.rules.window import Window


@dataclass(frozen=True)
class ConvolutionKernels:
    """Example i's gradient is that of the kernel of a convolution over image i.

    Attributes:
        images: (batch, *spatial, channels).
        output_gradients: (batch, *positions, filters).
        window: The convolution's geometry.
        form: How it is clipped; none for the fastest.
    """

    images: tf.Tensor
    output_gradients: tf.Tensor
    window: Window
    form: Form | None = None

    @property
    def kernel(self) -> tuple[int, ...]:
        return (*self.window.size, self.images.shape[-1], self.output_gradients.shape[-1])

    @property
    def work(self) -> MatrixWork:
        batch, *positions, columns = self.output_gradients.shape
        return MatrixWork(
            batch,
            prod(positions),
            prod(self.kernel[:-1]),
            columns,
            places=prod(self.window.size),
            pixels=prod(self.images.shape[1:-1]),
        )

    @property
    def chosen_form(self) -> Form:
        return self.form or fastest(self.work)

    def with_form(self, form: Form) -> ConvolutionKernels:
        return ConvolutionKernels(self.images, self.output_gradients, self.window, form)

    @property
    def _positions(self) -> tuple[int, ...]:
        return tuple(self.output_gradients.shape[1:-1])

    @cached_property
    def products(self) -> OuterProducts:
        """The same gradient as products of patches and output gradients."""
        return self._products()

    def _products(self) -> OuterProducts:
        # The images are there long before the output gradients: without this, the patches of
        # every layer would wait in memory for the backward pass.
        with tf.control_dependencies([self.output_gradients]):
            images = tf.identity(tf.cast(self.images, tf.float32))
        window, gradients, layout = self.window, self.output_gradients, plain_layout(*self.kernel)
        shifts = window.lays_out_gradients(*self.kernel[-2:])
        patches = window.patches(images, self._positions, first_axis=int(shifts))
        if shifts:
            along, *rows, filters = self.kernel
            layout = MatrixLayout(
                (*rows, along, filters), (len(rows), *range(len(rows)), len(rows) + 1)
            )
            gradients = window.shifted_gradients(gradients, rows=patches.shape[1])
        return OuterProducts(as_sequence(patches), as_sequence(gradients), layout, self.chosen_form)

    def quick_squared_norms(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        if self.chosen_form is not Form.GHOST:
            return self.exact_squared_norms(), None
        gram = self.window.gram(tf.cast(self.images, tf.float32), self._positions)
        outer = tf.cast(as_sequence(self.output_gradients), tf.float32)
        return ghost_norms(gram, tf.matmul(outer, outer, transpose_b=True))

    def exact_squared_norms(self) -> tf.Tensor:
        # In a branch of its own where the form is ghost: nothing made there may be kept.
        ghost = self.chosen_form is Form.GHOST
        return (self._products() if ghost else self.products).exact_squared_norms()

    def squared_norms(self) -> tf.Tensor:
        return norms_of([self])[0]

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        if self.chosen_form is Form.INSTANTIATE:
            return self.products.weighted_sum(weights)
        images = tf.cast(self.images, tf.float32)
        scaled = scale_rows(self.output_gradients, weights)
        return self.window.kernel_sum(images, scaled, self.kernel)

    def instantiate(self) -> tf.Tensor:
        return self._products().instantiate()

    def zeroed_where(self, bad: tf.Tensor) -> ConvolutionKernels:
        return ConvolutionKernels(
            zero_rows(self.images, bad),
            zero_rows(self.output_gradients, bad),
            self.window,
            self.form,
        )


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
        kernel: Shape of the variable: window, channels of a group, filters.
        groups: Groups of channels.
    """
    if groups > 1:
        return _grouped(window, inputs, gradients, kernel, groups)
    if not window.is_pointwise:
        return ConvolutionKernels(inputs, gradients, window)
    seen = window.views(inputs, tuple(gradients.shape[1:-1]))[0]
    layout = plain_layout(*kernel)
    return OuterProducts(as_sequence(seen), as_sequence(gradients), layout)


def depthwise_gradient(
    window: Window, inputs: tf.Tensor, gradients: tf.Tensor, kernel: tuple[int, ...]
) -> PerExampleGradient:
    """The same where every channel is a group; `kernel` is (window, channels, multiplier)."""
    # (channels, multiplier) lies in memory as (1, channels * multiplier), a grouped kernel.
    return _grouped(window, inputs, gradients, kernel, inputs.shape[-1])


def _grouped(
    window: Window,
    inputs: tf.Tensor,
    gradients: tf.Tensor,
    kernel: tuple[int, ...],
    groups: int,
) -> Instantiated:
    views = window.views(tf.cast(inputs, tf.float32), tuple(gradients.shape[1:-1]))
    batch, width = inputs.shape[0], gradients.shape[-1] // groups
    outer = tf.cast(as_sequence(gradients), tf.float32)
    if groups == inputs.shape[-1]:
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
