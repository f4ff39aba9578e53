"""`make_private`: losses of Keras, by name or object, become losses of single examples."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.privacy.keras_cases import (
    L,
)
from training.privacy import per_example_loss

LOSSES = {
    "mse": (lambda y, p: ((y - p) ** 2).mean(-1)),
    "mae": (lambda y, p: np.abs(y - p).mean(-1)),
}


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none", None, "mean"])
def test_keras_losses_become_per_example_whatever_their_reduction(reduction) -> None:
    y, p = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    found = per_example_loss(keras.losses.MeanSquaredError(reduction=reduction))(
        tf.constant(y), tf.constant(p)
    )
    np.testing.assert_allclose(found, LOSSES["mse"](y, p), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_by_name_average_over_the_axes_of_an_example(name) -> None:
    y, p = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    found = per_example_loss(name)(tf.constant(y), tf.constant(p))
    np.testing.assert_allclose(found, LOSSES[name](y, p).mean(-1), rtol=1e-5)
    assert float(tf.reduce_mean(found)) == pytest.approx(
        float(keras.losses.MeanSquaredError()(y, p))
        if name == "mse"
        else float(keras.losses.MeanAbsoluteError()(y, p)),
        rel=1e-5,
    )


def test_binary_labels_without_an_axis_of_their_own_fit_one_output() -> None:
    labels, outputs = tf.constant([0, 1, 1]), tf.constant([[0.2], [0.9], [0.4]])
    found = per_example_loss("binary_crossentropy")(labels, outputs)
    np.testing.assert_allclose(found, -np.log([0.8, 0.9, 0.4]), rtol=1e-4)


def test_positions_that_keras_masks_are_left_out_of_an_examples_mean() -> None:
    x = keras.Input((3,), dtype="int32")
    outputs = L.Embedding(5, 2, mask_zero=True)(x)
    model = keras.Model(x, outputs)
    ids, labels = tf.constant([[1, 2, 0], [3, 3, 3]]), tf.ones((2, 3, 2))
    predicted = model(ids)
    found = per_example_loss("mse")(labels, predicted)
    every = ((1 - predicted.numpy()) ** 2).mean(-1)
    np.testing.assert_allclose(found, [every[0, :2].mean(), every[1].mean()], rtol=1e-5)


@pytest.mark.parametrize("loss", ["mse", "hinge", keras.losses.CategoricalCrossentropy()])
def test_labels_as_texts_are_refused_by_losses_of_keras(loss) -> None:
    with pytest.raises(UserError, match=r"fit\(y\): the labels are texts, and .* takes numbers"):
        per_example_loss(loss)(tf.constant([["1"], ["0"]]), tf.constant([[0.2], [0.9]]))


def looked_up(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_number(labels) - outputs


def test_labels_as_texts_are_left_to_a_loss_that_reads_them() -> None:
    labels, outputs = tf.constant([["1"], ["0"]]), tf.constant([[0.25], [0.5]])
    np.testing.assert_allclose(per_example_loss(looked_up)(labels, outputs), [0.75, -0.5])
