import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema.errors import UserError
from data.contracts import DatasetInfo, Provenance
from evaluation.predict import predict_arrays, predict_batches, to_logits


def _model(units, activation=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,), name="features")
    return keras.Model({"features": inputs}, keras.layers.Dense(units, activation)(inputs))


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


def test_padding_is_left_out_and_order_kept(features):
    info = DatasetInfo("toy", "features", ("no", "yes"), {"sex": ("F", "M")}, Provenance("test"))
    rows = {
        "inputs": {"features": np.vstack([features, np.zeros((2, 3), np.float32)])},
        "labels": np.array([0, 1] * 6, np.int32),
        "groups": {"sex": np.array([0, 0, 1] * 4, np.int32)},
        "mask": np.arange(12) < 10,
        "ids": np.where(np.arange(12) < 10, np.arange(12), -1),
    }
    model = _model(2)
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(4)
    found = predict_batches(model, batches, info, "test")
    assert found.ids.tolist() == list(range(10))
    assert found.labels.tolist() == [0, 1] * 5
    assert found.groups["sex"].tolist() == ([0, 0, 1] * 4)[:10]
    np.testing.assert_allclose(found.logits, model.predict({"features": features}, verbose=0), 1e-5)


def test_dropout_is_off(features):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.9), keras.layers.Dense(2)])
    first, second = (predict_arrays(model, features, np.zeros(10), {}) for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)


@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (1, "sigmoid")])
def test_probabilities_come_back_out_of_the_logits(features, units, activation):
    model = _model(units, activation)
    found = predict_arrays(
        model, {"features": features}, np.zeros(10), {}, outputs="probabilities", batch_size=4
    )
    expected = model.predict({"features": features}, verbose=0)
    probabilities = np.exp(found.log_probabilities())
    np.testing.assert_allclose(probabilities[:, -1], expected[:, -1], rtol=1e-5)


def test_one_logit_becomes_two_with_the_same_softmax():
    assert to_logits(np.array([2.0, -1.0]), "logits").tolist() == [[0, 2], [0, -1]]


def test_group_values_of_any_kind_become_names(features):
    groups = {"sex": np.array(["M", "F"] * 5), "age": np.array([30, 40] * 5)}
    found = predict_arrays(_model(2), {"features": features}, np.zeros(10), groups)
    assert found.group_names == {"sex": ("F", "M"), "age": ("30", "40")}
    assert found.groups["sex"].tolist() == [1, 0] * 5


def test_no_examples_are_named():
    with pytest.raises(UserError, match="'validation' has no examples"):
        predict_arrays(_model(2), {"features": np.zeros((0, 3))}, np.zeros(0), {})
