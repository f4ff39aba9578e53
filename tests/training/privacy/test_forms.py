"""All forms of a matrix gradient give the same norms and the same sum, that of the plain loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from training.privacy.column_blocks import ColumnBlocks
from training.privacy.cost_model import Form
from training.privacy.gradients import Instantiated, OuterProducts, plain_layout
from training.privacy.merging import merge
from training.privacy.norms import MatrixGradient, norms_of, within_memory
from training.privacy.rules.convolution_kernels import ConvolutionKernels
from training.privacy.rules.window import Window

WEIGHTS = np.array([0.5, 0.0, 2.0], np.float32)
# Spatial sizes, window, strides, dilations, padding: every rank, and what the kernels treat apart.
CONVOLUTIONS = [
    ((7,), (3,), (1,), (1,), "causal"),
    ((9,), (3,), (1,), (2,), "causal"),
    ((8,), (3,), (2,), (1,), "same"),
    ((6, 5), (3, 2), (1, 1), (1, 1), "same"),
    ((8, 7), (3, 3), (2, 2), (1, 1), "same"),
    ((8, 7), (2, 3), (3, 3), (1, 1), "valid"),
    ((7, 6), (3, 2), (1, 1), (2, 2), "same"),
    ((4, 5, 3), (2, 3, 2), (1, 1, 1), (1, 1, 1), "same"),
    ((5, 5, 5), (2, 2, 2), (2, 2, 2), (1, 1, 1), "valid"),
]


@pytest.fixture
def numbers() -> Callable[..., np.ndarray]:
    """Draws arrays of a shape: the same ones whichever tests ran before in the process."""
    generator = np.random.default_rng(0)
    return lambda *shape: generator.normal(size=shape).astype(np.float32)


def check(gradient: MatrixGradient, expected: np.ndarray) -> None:
    """Compares every form with the gradients themselves, (batch, *variable shape)."""
    axes = tuple(range(1, expected.ndim))
    for form in Form:
        chosen = gradient.with_form(form)
        norms = chosen.squared_norms().numpy()
        np.testing.assert_allclose(norms, (expected**2).sum(axes), rtol=1e-5)
        total = np.tensordot(WEIGHTS, expected, axes=1)
        found = chosen.weighted_sum(tf.constant(WEIGHTS)).numpy()
        np.testing.assert_allclose(found, total, rtol=1e-4, atol=1e-5 * np.abs(total).max())
        np.testing.assert_allclose(chosen.instantiate().numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("time", [1, 6])
def test_forms_of_a_matrix_agree_with_the_loop(numbers, time):
    inputs, outer = numbers(3, time, 4), numbers(3, time, 5)
    gradient = OuterProducts(tf.constant(inputs), tf.constant(outer), plain_layout(4, 5))
    check(gradient, np.einsum("btd,btp->bdp", inputs, outer))


@pytest.mark.parametrize("time", [1, 6])
def test_forms_of_blocks_of_columns_agree_with_the_loop(numbers, time):
    def blocks(time: int) -> tuple[ColumnBlocks, np.ndarray]:
        parts = [(numbers(3, time, 4), numbers(3, time, width)) for width in (5, 2)]
        products = [
            OuterProducts(*map(tf.constant, p), plain_layout(4, p[1].shape[-1])) for p in parts
        ]
        expected = [np.einsum("btd,btp->bdp", *p) for p in parts]
        return ColumnBlocks(tuple(products)), np.concatenate(expected, axis=-1)

    gradient, expected = blocks(time)
    assert gradient.work.columns == 7
    check(gradient, expected)
    again, further = blocks(3)
    joined = merge([gradient, again])
    assert isinstance(joined, ColumnBlocks)
    check(joined, expected + further)
    plain = OuterProducts(again.blocks[0].inputs, tf.constant(numbers(3, 3, 7)), plain_layout(4, 7))
    mixed = merge([gradient, plain])
    # Numbers up to 8 are added up, in float32: where they cancel their rounding of 5e-7 is left.
    total = expected + plain.instantiate()
    np.testing.assert_allclose(mixed.instantiate(), total, rtol=1e-5, atol=2e-6)


def test_block_of_next_to_nothing_puts_no_norm_in_doubt(numbers):
    inputs, outer = numbers(2, 2, 4), numbers(2, 2, 5)
    same = np.ones((2, 2, 4), np.float32)
    tiny = 1e-3 * np.array([1.0, -1.0], np.float32)[None, :, None] * np.ones((2, 1, 3), np.float32)
    parts = [(inputs, outer), (same, tiny)]
    blocks = ColumnBlocks(
        tuple(OuterProducts(*map(tf.constant, p), plain_layout(4, p[1].shape[-1])) for p in parts)
    ).with_form(Form.GHOST)
    assert blocks.blocks[1].quick_squared_norms()[1]
    assert not blocks.quick_squared_norms()[1]


@pytest.mark.parametrize(("sizes", "window", "strides", "dilations", "padding"), CONVOLUTIONS)
def test_forms_of_a_convolution_agree_with_the_loop(
    numbers, sizes, window, strides, dilations, padding
):
    images, kernel = numbers(3, *sizes, 2), tf.constant(numbers(*window, 2, 3))

    def convolved(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        own = padding
        if padding == "causal":
            image = tf.pad(image, [(0, 0), ((window[0] - 1) * dilations[0], 0), (0, 0)])
            own = "valid"
        if max(strides) == 1 and max(dilations) > 1:
            return ops.conv(image, kernel, padding=own, dilation_rate=dilations)
        return ops.conv(image, kernel, strides=strides, padding=own)

    outer = numbers(*convolved(tf.constant(images), kernel).shape)
    expected = []
    for image, gradient in zip(images, outer, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            total = tf.reduce_sum(convolved(tf.constant(image[None]), kernel) * gradient)
        expected.append(tape.gradient(total, kernel).numpy())
    moving = Window(window, strides, dilations, padding)
    check(ConvolutionKernels(tf.constant(images), tf.constant(outer), moving), np.stack(expected))


def test_one_doubtful_gradient_leaves_the_norms_of_the_others_alone(numbers):
    certain = OuterProducts(
        tf.constant(numbers(2, 3, 4)), tf.constant(numbers(2, 3, 5)), plain_layout(4, 5), Form.GHOST
    )
    inputs = np.ones((2, 2, 4), np.float32)
    outer = np.stack([np.ones((2, 5)), -np.ones((2, 5)) * (1 - 1e-3)], axis=1).astype(np.float32)
    doubtful = OuterProducts(
        tf.constant(inputs), tf.constant(outer), plain_layout(4, 5), Form.GHOST
    )
    biases = Instantiated(tf.constant(numbers(2, 5)))
    found = norms_of([certain, doubtful, biases])
    np.testing.assert_array_equal(found[0], certain.squared_norms())
    exact = np.einsum("btd,btp->bdp", inputs.astype(np.float64), outer.astype(np.float64))
    np.testing.assert_allclose(found[1], (exact**2).sum((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(found[2], biases.squared_norms())


def test_no_memory_keeps_no_gradients_and_leaves_other_kinds_alone(numbers):
    # Long and narrow: Gram matrices cost most, so that the fastest form keeps the gradients.
    long = OuterProducts(
        tf.constant(numbers(2, 64, 4)), tf.constant(numbers(2, 64, 4)), plain_layout(4, 4)
    )
    biases = Instantiated(tf.constant(numbers(2, 5)))
    assert within_memory({"a": long}, 1e9)["a"].chosen_form is Form.INSTANTIATE
    chosen = within_memory({"a": long, "b": biases}, 0.0)
    assert chosen["a"].chosen_form is not Form.INSTANTIATE
    assert chosen["b"] is biases
