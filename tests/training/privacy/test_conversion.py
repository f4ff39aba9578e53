"""Conversion: what mixes examples is exchanged, all else stays, and the result trains privately."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from models import load_keras, save_keras
from models.frozen_batch_normalization import FrozenBatchNormalization
from models.trainability import train_only
from tests.training.privacy.naive import cross_entropy
from training.privacy.conversion import to_private
from training.privacy.inspection import problems_of

L = keras.layers
IMAGES = np.random.default_rng(7).normal(size=(3, 6, 6, 3)).astype("float32")


def convolutional() -> keras.Model:
    """Two batch normalizations, one of them in a model inside, with statistics of their own."""
    keras.utils.set_random_seed(2)
    inside = keras.Sequential(
        [keras.Input((6, 6, 4)), L.Conv2D(4, 3), L.BatchNormalization(name="deep")], name="inside"
    )
    x = keras.Input((6, 6, 3))
    y = L.BatchNormalization(name="outer")(L.Conv2D(4, 1, name="first")(x))
    model = keras.Model(x, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(inside(y))))
    generator = np.random.default_rng(6)
    for variable in model.non_trainable_variables:
        variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


def paths(model: keras.Model) -> set[str]:
    return {v.path for v in model.trainable_variables}


def test_every_problem_is_listed_at_once_with_layer_and_remedy() -> None:
    found = [str(problem) for problem in problems_of(convolutional())]
    assert len(found) == 2
    assert any("outer" in line for line in found)
    assert any("deep" in line for line in found)
    assert all("group normalization, or fixed statistics" in line for line in found)


def test_sequential_model_is_looked_over_and_converted() -> None:
    layers = [keras.Input((5,)), L.Dense(4), L.BatchNormalization(name="norm"), L.Dense(2)]
    model = keras.Sequential(layers)
    (problem,) = problems_of(model, cross_entropy)
    assert problem.layer_path.endswith("norm")
    assert problems_of(to_private(model, "frozen"), cross_entropy) == []


def test_functions_in_the_graph_are_copied_as_they_are() -> None:
    x = keras.Input((6, 6, 3))
    y = L.BatchNormalization(name="norm")(2.0 * x + 1.0)
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(keras.ops.relu(y))))
    converted = to_private(model, "frozen")
    assert problems_of(converted) == []
    np.testing.assert_allclose(converted(IMAGES), model(IMAGES), atol=1e-6)


@pytest.mark.parametrize("kind", ["frozen", "group"])
def test_converted_model_is_private_and_survives_its_file(kind, tmp_path) -> None:
    model = convolutional()
    converted = to_private(model, kind)
    assert problems_of(converted) == []
    assert problems_of(model)  # untouched
    save_keras(converted, tmp_path / "model.keras")
    loaded = load_keras(tmp_path / "model.keras")
    assert problems_of(loaded) == []
    expected = converted(IMAGES, training=True)
    np.testing.assert_allclose(loaded(IMAGES, training=True), expected, atol=1e-6)
    if kind == "frozen":
        np.testing.assert_allclose(expected, model(IMAGES, training=False), atol=1e-5)


def test_frozen_parts_stay_frozen_and_as_they_are() -> None:
    model = convolutional()
    inside = model.get_layer("inside")
    trained = [*model.get_layer("head").weights, inside.layers[0].bias, inside.layers[1].gamma]
    train_only(model, trained)
    converted = to_private(model, "group")
    assert paths(converted) == paths(model)
    assert len(paths(converted)) == 4
    # It computed by its moving statistics all along: nothing to exchange.
    outer = converted.get_layer("outer")
    assert type(outer) is L.BatchNormalization
    np.testing.assert_array_equal(outer.moving_mean, model.get_layer("outer").moving_mean)
    assert isinstance(converted.get_layer("inside").layers[1], L.GroupNormalization)


def test_frozen_statistics_are_constants_in_training() -> None:
    converted = to_private(convolutional(), "frozen")
    norm = converted.get_layer("outer")
    assert isinstance(norm, FrozenBatchNormalization)
    before = np.array(norm.moving_mean)
    converted(10 * IMAGES, training=True)
    np.testing.assert_array_equal(norm.moving_mean, before)


def test_groups_are_the_most_that_divide_a_layers_channels() -> None:
    x = keras.Input((4, 4, 12))
    model = keras.Model(x, L.BatchNormalization(name="norm")(x))
    assert to_private(model, "group", groups=8).get_layer("norm").groups == 6
