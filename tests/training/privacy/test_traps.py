"""The traps of private training, one test each, and the bound on which epsilon rests."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.privacy.naive import (
    clipped_sum,
    cross_entropy,
    per_example_gradients,
    relative_error,
)
from training.privacy.clipping import clip_factors, clipped_gradient_sum
from training.privacy.sites import find_sites

L = keras.layers
BATCH, CLIPPING_NORM = 6, 0.3


def small_model() -> keras.Model:
    keras.utils.set_random_seed(5)
    x = keras.Input((4, 5))
    y = L.LayerNormalization()(L.Dense(6, activation="gelu")(x))
    y = L.MultiHeadAttention(2, 3)(y, y)
    return keras.Model(x, L.Dense(3)(L.Flatten()(y)))


@pytest.fixture(scope="module")
def engine() -> Any:
    model = small_model()
    sites = find_sites(model)

    @tf.function(autograph=False)
    def run(inputs: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> list[tf.Tensor]:
        batch = {"inputs": inputs, "labels": labels, "mask": mask}
        return clipped_gradient_sum(model, cross_entropy, batch, CLIPPING_NORM, sites).gradients

    def numpy(inputs: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        found = run(
            tf.constant(inputs, tf.float32), tf.constant(labels, tf.int32), tf.constant(mask)
        )
        return np.concatenate([g.numpy().ravel().astype(np.float64) for g in found])

    return numpy


scales = st.sampled_from([0.0, 1e-6, 1.0, 1e3, 1e6, np.inf, np.nan])


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(seed=st.integers(0, 10_000), scale=scales, changed=st.integers(0, BATCH - 1))
def test_one_example_moves_the_sum_by_no_more_than_the_bound(
    engine: Any, seed: int, scale: float, changed: int
) -> None:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(BATCH, 4, 5)) * generator.choice([0.1, 1.0, 10.0])
    labels = generator.integers(0, 3, BATCH)
    mask = generator.random(BATCH) < 0.8
    mask[changed] = True
    with np.errstate(invalid="ignore"):
        inputs[changed] *= scale
    without = mask.copy()
    without[changed] = False
    moved = engine(inputs, labels, mask) - engine(inputs, labels, without)
    assert np.linalg.norm(moved) <= CLIPPING_NORM * (1 + 1e-5)
    # Replacing one example moves it by no more than adding one and removing one.
    other = inputs.copy()
    other[changed] = generator.normal(size=(4, 5))
    replaced = engine(inputs, labels, mask) - engine(other, labels, mask)
    assert np.linalg.norm(replaced) <= 2 * CLIPPING_NORM * (1 + 1e-5)


def test_bound_is_reached_by_a_large_gradient(engine: Any) -> None:
    inputs = np.random.default_rng(1).normal(size=(BATCH, 4, 5))
    alone = np.arange(BATCH) == 0
    assert np.linalg.norm(engine(inputs, np.arange(BATCH) % 3, alone)) == pytest.approx(
        CLIPPING_NORM, rel=1e-5
    )


def exact(model: keras.Model, inputs: np.ndarray) -> None:
    labels = np.arange(len(inputs)) % 3
    batch = {
        "inputs": tf.constant(inputs),
        "labels": tf.constant(labels),
        "mask": tf.ones(len(inputs), bool),
    }
    gradients = per_example_gradients(model, batch)
    norms = np.sqrt([sum((g**2).sum() for g in example) for example in gradients])
    expected, _ = clipped_sum(gradients, np.ones(len(inputs), bool), float(np.median(norms)))
    found = clipped_gradient_sum(model, cross_entropy, batch, float(np.median(norms)))
    assert relative_error(found.gradients, expected) <= 1e-5
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)


def test_fused_activation_is_differentiated_before_its_tap() -> None:
    x = keras.Input((5,))
    model = keras.Model(x, L.Dense(3)(L.Dense(4, activation="sigmoid")(x)))
    exact(model, np.random.default_rng(1).normal(size=(4, 5)).astype("float32"))


def test_tied_embedding_norm_includes_cross_terms() -> None:
    x = keras.Input((4,), dtype="int32")
    table = L.ReversibleEmbedding(3, 5, embeddings_initializer="ones")
    logits = table(L.GlobalAveragePooling1D()(table(x)), reverse=True)
    model = keras.Model(x, logits)
    ids = np.random.default_rng(1).integers(0, 3, (4, 4)).astype("int32")
    exact(model, ids)


def test_repeated_ids_of_one_example_interact() -> None:
    x = keras.Input((4,), dtype="int32")
    model = keras.Model(x, L.Dense(3)(L.Flatten()(L.Embedding(5, 2)(x))))
    exact(model, np.array([[1, 1, 1, 1], [0, 1, 2, 3], [4, 4, 0, 0]], "int32"))


def test_norms_and_factors_of_half_precision_models_are_float32() -> None:
    factors, _ = clip_factors(tf.constant([4.0]), tf.constant([True]), 1.0)
    assert factors.dtype == tf.float32
    x = keras.Input((5,))
    layer = L.Dense(3, dtype="mixed_float16")
    model = keras.Model(x, L.Activation("linear", dtype="float32")(layer(x)))
    batch = {
        # Squares of these overflow float16.
        "inputs": tf.fill((2, 5), 300.0),
        "labels": tf.constant([0, 1]),
        "mask": tf.ones(2, bool),
    }
    found = clipped_gradient_sum(model, cross_entropy, batch, 1.0)
    assert found.norms.dtype == tf.float32
    assert np.isfinite(found.norms).all()
    assert int(found.non_finite) == 0


def test_weight_regularizer_stays_out_of_the_clipped_gradient() -> None:
    x = keras.Input((5,))
    plain, regularized = L.Dense(3), L.Dense(3, kernel_regularizer="l2")
    first, second = keras.Model(x, plain(x)), keras.Model(x, regularized(x))
    second.set_weights(first.get_weights())
    batch = {
        "inputs": tf.ones((2, 5)),
        "labels": tf.constant([0, 1]),
        "mask": tf.ones(2, bool),
    }
    expected = clipped_gradient_sum(first, cross_entropy, batch, 0.1).gradients
    found = clipped_gradient_sum(second, cross_entropy, batch, 0.1).gradients
    assert relative_error(found, [g.numpy() for g in expected]) == 0


def test_padding_is_worth_nothing_in_a_sum_over_several_physical_batches(engine: Any) -> None:
    generator = np.random.default_rng(8)
    inputs, labels = generator.normal(size=(BATCH, 4, 5)), generator.integers(0, 3, BATCH)
    first = np.arange(BATCH) < 2
    whole = engine(inputs, labels, np.ones(BATCH, bool))
    parts = engine(inputs, labels, first) + engine(inputs, labels, ~first)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
