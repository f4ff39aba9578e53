"""What the function-level API takes, and models that compute in float16."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.privacy.naive import cross_entropy, relative_error
from training.privacy.clip_methods import FlatClipping, PerLayerClipping
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.inspection import probe

L = keras.layers
BATCH = 5


def model(dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    y = L.Dense(4, activation="tanh", name="first", dtype=dtype)(x)
    return keras.Model(x, L.Dense(3, name="head", dtype=dtype)(y))


def batch() -> dict[str, Any]:
    inputs = np.random.default_rng(1).normal(size=(BATCH, 6)).astype("float32")
    return {
        "inputs": tf.constant(inputs),
        "labels": tf.constant(np.arange(BATCH) % 3),
        "mask": tf.ones(BATCH, bool),
    }


@pytest.mark.parametrize("bound", [0.5, np.float32(0.5), tf.constant(0.5), tf.Variable(0.5)])
def test_number_tensor_and_method_mean_the_same_bound(bound: Any) -> None:
    net = model()
    expected = clipped_gradient_sum(net, cross_entropy, batch(), FlatClipping(0.5)).gradients
    found = clipped_gradient_sum(net, cross_entropy, batch(), bound).gradients
    assert relative_error(found, [g.numpy() for g in expected]) == 0


def test_products_are_whole_float32_from_the_first_clipped_sum_on() -> None:
    tf.config.experimental.enable_tensor_float_32_execution(True)  # TensorFlow's default
    clipped_gradient_sum(model(), cross_entropy, batch(), 1.0)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_example_that_is_not_finite_in_one_layer_is_left_out_of_all() -> None:
    some = batch()
    without = {**some, "mask": tf.range(BATCH) != 2}
    inputs = some["inputs"].numpy()
    # tanh saturates: the head's gradient is finite, the first layer's is 0 times infinity.
    inputs[2] = np.inf
    net, method = model(), PerLayerClipping(0.5)
    expected = clipped_gradient_sum(net, cross_entropy, without, method).gradients
    some["inputs"] = tf.constant(inputs)
    found = clipped_gradient_sum(net, cross_entropy, some, method)
    assert int(found.non_finite) == 1
    assert relative_error(found.gradients, [g.numpy() for g in expected]) <= 1e-6


def small_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return 1e-7 * cross_entropy(labels, logits)


def large_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.where(labels == 2, 1e6, 1.0) * cross_entropy(labels, logits)


@pytest.mark.parametrize(
    ("loss", "tolerance"),
    # Float16 has 11 digits; of a gradient of 1e-7, times the scale of 256, it has 8 left.
    [(cross_entropy, 3e-3), (small_loss, 2e-2)],
    ids=["ordinary", "vanishing"],
)
def test_float16_model_has_the_gradients_of_its_float32_twin(loss: Any, tolerance: float) -> None:
    half, full = model("mixed_float16"), model()
    expected = clipped_gradient_sum(full, loss, batch(), 1e6)
    found = clipped_gradient_sum(half, loss, batch(), 1e6)
    assert int(found.non_finite) == 0
    assert all(g.dtype == tf.float32 for g in found.gradients)
    assert relative_error(found.gradients, [g.numpy() for g in expected.gradients]) <= tolerance
    np.testing.assert_allclose(found.norms, expected.norms, rtol=tolerance)


def test_example_that_overflows_float16_counts_as_zero() -> None:
    net, some = model("mixed_float16"), batch()
    others = {**some, "mask": some["labels"] != 2}
    expected = clipped_gradient_sum(net, large_loss, others, 0.5).gradients
    found = clipped_gradient_sum(net, large_loss, some, 0.5)
    assert int(found.non_finite) == 1
    assert relative_error(found.gradients, [g.numpy() for g in expected]) <= 1e-6


def test_several_outputs_reach_the_loss_as_the_model_nests_them() -> None:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    first, second = L.Dense(3, "tanh")(x), L.Dense(3)(x)
    nested = keras.Model(x, {"a": first, "more": [second]})
    joined = keras.Model(x, L.Concatenate()([first, second]))

    def of_nested(labels: tf.Tensor, outputs: Any) -> tf.Tensor:
        return cross_entropy(labels, outputs["a"]) + cross_entropy(labels, outputs["more"][0])

    def of_joined(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return cross_entropy(labels, outputs[:, :3]) + cross_entropy(labels, outputs[:, 3:])

    expected = clipped_gradient_sum(joined, of_joined, batch(), 0.5)
    found = clipped_gradient_sum(nested, of_nested, batch(), 0.5)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-6)
    assert relative_error(found.gradients, [g.numpy() for g in expected.gradients]) <= 1e-6
    np.testing.assert_allclose(found.logits["a"], expected.logits[:, :3], rtol=1e-6)
    probe(nested, of_nested, batch())

    def coupled(labels: tf.Tensor, outputs: Any) -> tf.Tensor:
        return of_nested(labels, outputs) * tf.reduce_mean(outputs["a"] ** 2)

    with pytest.raises(UserError, match=r"loss makes.*other examples of its batch"):
        probe(nested, coupled, batch())
