"""Conv2D: a Dense over patches, z[b, t] = patch[b, t] W, with t running over output positions.

The norm uses the patches (or, for 1x1 kernels, the strided input itself); the clipped sum uses the
ordinary backward-filter convolution with the clip factors folded into dz, so no patches are kept
between the two. Source: Rochette et al. 2019 (arXiv:1912.06015) for convolutions' per-example
gradients; Bu et al. 2022 (2205.10683) for mixed ghost norms of patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import (
    Instantiated,
    MatrixLayout,
    OuterProducts,
    scale_rows,
    zero_rows,
)
from training.privacy.rules.base import (
    FusedActivationRule,
    Gradients,
    call_inputs,
    is_trained,
    reduce_to_shape,
)
from training.privacy.rules.dense import as_sequence


@dataclass(frozen=True)
class Geometry:
    """How a 2-D convolution moves over its input, channels last.

    Attributes:
        kernel: Kernel shape (height, width, input channels, filters).
        strides: (height, width).
        dilations: (height, width).
        padding: "VALID" or "SAME".
    """

    kernel: tuple[int, int, int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: str

    @property
    def is_pointwise(self) -> bool:
        return self.kernel[:2] == (1, 1)

    def patches(self, images: tf.Tensor) -> tf.Tensor:
        """(batch, height, width, channels) to (batch, positions, kernel height*width*channels)."""
        if self.is_pointwise:
            return as_sequence(images[:, :: self.strides[0], :: self.strides[1], :])
        patches = tf.image.extract_patches(
            images,
            sizes=[1, *self.kernel[:2], 1],
            strides=[1, *self.strides, 1],
            rates=[1, *self.dilations, 1],
            padding=self.padding,
        )
        return as_sequence(patches)

    def kernel_gradient(self, images: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
        """Gradient of the kernel, summed over the batch."""
        return tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=tf.constant(self.kernel),
            out_backprop=gradients,
            strides=[1, *self.strides, 1],
            dilations=[1, *self.dilations, 1],
            padding=self.padding,
        )


@dataclass(frozen=True)
class ConvolutionKernels:
    """Example i's gradient is that of the kernel of a convolution over image i.

    Attributes:
        images: (batch, height, width, channels).
        output_gradients: (batch, out height, out width, filters).
        geometry: The convolution.
    """

    images: tf.Tensor
    output_gradients: tf.Tensor
    geometry: Geometry

    @cached_property
    def products(self) -> OuterProducts:
        """The same gradient as products of patches and output gradients."""
        kernel = self.geometry.kernel
        layout = MatrixLayout(kernel, (0, 1, 2, 3))
        patches = self.geometry.patches(tf.cast(self.images, tf.float32))
        patches = tf.ensure_shape(patches, [self.images.shape[0], None, prod(kernel[:3])])
        return OuterProducts(patches, as_sequence(self.output_gradients), layout)

    def squared_norms(self) -> tf.Tensor:
        return self.products.squared_norms()

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        if self.geometry.is_pointwise or not self.products.prefers_ghost:
            return self.products.weighted_sum(weights)
        # The patches are not kept between norm and sum: they are several times the images.
        images = tf.cast(self.images, tf.float32)
        return self.geometry.kernel_gradient(images, scale_rows(self.output_gradients, weights))

    def instantiate(self) -> tf.Tensor:
        return self.products.instantiate()

    def zeroed_where(self, bad: tf.Tensor) -> ConvolutionKernels:
        return ConvolutionKernels(
            zero_rows(self.images, bad), zero_rows(self.output_gradients, bad), self.geometry
        )


class Conv2DRule(FusedActivationRule):
    """The common Conv2D; `general_convolution.py` has the rest."""

    def applies_to(self, layer: keras.Layer) -> bool:
        return (
            layer.groups == 1
            and layer.data_format == "channels_last"
            and not layer.lora_enabled
            and layer.padding in ("valid", "same")
        )

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        images = call_inputs(args, kwargs)
        (gradient,) = output_gradients
        found: Gradients = []
        if is_trained(layer, layer._kernel):
            height, width, channels, filters = layer._kernel.shape
            geometry = Geometry(
                (height, width, channels, filters),
                tuple(layer.strides),
                tuple(layer.dilation_rate),
                layer.padding.upper(),
            )
            found.append((layer._kernel, ConvolutionKernels(images, gradient, geometry)))
        if is_trained(layer, layer.bias):
            bias = reduce_to_shape(tf.cast(gradient, tf.float32), tuple(layer.bias.shape))
            found.append((layer.bias, Instantiated(bias)))
        return found
