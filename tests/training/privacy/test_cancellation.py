"""Norms whose terms nearly cancel: a Gram matrix would lose them to rounding, and not clip."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.privacy.cost_model import Form
from training.privacy.gradients import (
    GatheredRows,
    MatrixLayout,
    OuterProducts,
    plain_layout,
)
from training.privacy.merging import merge


def cancelling(time: int, width: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Nearly equal inputs over time, and output gradients of alternating sign."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1, 1, width)) + 1e-4 * rng.normal(size=(2, time, width))
    direction = rng.normal(size=(1, 1, width))
    signs = np.where(np.arange(time) % 2, 1.0, -1.0)[None, :, None]
    gradients = size * signs * direction / np.linalg.norm(direction) * np.ones((2, 1, 1))
    return inputs.astype(np.float32), gradients.astype(np.float32)


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_matrix_norm_survives_cancellation(size):
    inputs, gradients = cancelling(64, 512, size)
    products = OuterProducts(tf.constant(inputs), tf.constant(gradients), plain_layout(512, 512))
    products = products.with_form(Form.GHOST)
    exact = np.einsum("btd,btp->bdp", inputs.astype(np.float64), gradients.astype(np.float64))
    expected = (exact**2).sum(axis=(1, 2))
    # 64 float32 terms of size |input||gradient| leave that much rounding in each entry's sum.
    np.testing.assert_allclose(products.squared_norms().numpy(), expected, rtol=1e-2)


def test_lookup_norm_survives_cancellation_of_a_repeated_id():
    rng = np.random.default_rng(0)
    row = rng.normal(size=8)
    gradients = np.stack([1e4 * row, -1e4 * row, 1e-2 * row]).astype(np.float32)[None]
    gathered = GatheredRows(tf.constant([[3, 3, 5]]), tf.constant(gradients), 9)
    expected = ((gradients[0, 0].astype(np.float64) + gradients[0, 1]) ** 2).sum()
    expected += (gradients[0, 2].astype(np.float64) ** 2).sum()
    np.testing.assert_allclose(gathered.squared_norms().numpy(), [expected], rtol=1e-5)


def test_tied_table_norm_survives_cancellation_of_its_two_uses():
    rng = np.random.default_rng(0)
    ids = tf.constant([[2, 4]])
    lookup = 1e3 * rng.normal(size=(1, 2, 6)).astype(np.float32)
    # A projection that takes back, but for a thousandth, what the lookup adds.
    outputs = np.zeros((1, 2, 7), np.float32)
    outputs[0, 0, 2] = outputs[0, 1, 4] = -1.0
    inputs = (lookup * 0.999).astype(np.float32)
    tied = merge(
        [
            GatheredRows(ids, tf.constant(lookup), 7),
            OuterProducts(tf.constant(inputs), tf.constant(outputs), MatrixLayout((6, 7), (1, 0))),
        ]
    )
    expected = ((lookup.astype(np.float64) - inputs.astype(np.float64)) ** 2).sum()
    np.testing.assert_allclose(tied.squared_norms().numpy(), [expected], rtol=1e-4)
