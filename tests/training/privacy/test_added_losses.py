"""Losses that layers add: what counts for nothing is let be, the rest refused with a way out."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.privacy.keras_cases import X as FEATURES
from tests.training.privacy.keras_cases import Y as LABELS
from tests.training.privacy.keras_cases import compiled
from tests.training.privacy.naive import (
    clipped_sum,
    cross_entropy,
    per_example_gradients,
    relative_error,
)
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.inspection import probe, problems_of

L = keras.layers
BATCH = 3
X, Y = FEATURES.astype(np.float32), LABELS


class Experts(L.Layer):
    """Two experts, and a loss by which the tokens of a batch are spread over them."""

    def __init__(self, balance_loss_coef: float):
        super().__init__(name="experts")
        self.balance_loss_coef = balance_loss_coef
        self.router, self.experts = L.Dense(2), [L.Dense(4), L.Dense(4)]

    def build(self, shape: Any) -> None:
        for layer in (self.router, *self.experts):
            layer.build(shape)

    def call(self, inputs: Any, training: bool = False) -> Any:
        shares = keras.ops.softmax(self.router(inputs))
        if training:
            of_batch = keras.ops.mean(shares, axis=0)
            self.add_loss(self.balance_loss_coef * keras.ops.sum(of_batch * of_batch))
        return sum(shares[:, i : i + 1] * expert(inputs) for i, expert in enumerate(self.experts))


def model_with(coefficient: float) -> keras.Model:
    keras.utils.set_random_seed(5)
    inputs = keras.Input((X.shape[1],))
    return keras.Model(inputs, L.Dense(2)(Experts(coefficient)(inputs)))


def test_loss_over_the_batch_is_refused_and_its_coefficient_named() -> None:
    model = model_with(0.02)
    (problem,) = problems_of(model)
    assert str(problem).startswith("layer 'experts' adds a loss of its own (add_loss)")
    assert problem.remedy.startswith("Set balance_loss_coef to 0, ")
    # And that is a way out, of a model that was built with another too.
    model.get_layer("experts").balance_loss_coef = 0
    assert problems_of(model) == []


@pytest.mark.parametrize("zero", [0, 0.0])
def test_what_a_zero_coefficient_leaves_is_trained_exactly(zero: float) -> None:
    model = model_with(zero)
    labels, mask = tf.constant(Y[:BATCH]), tf.ones(BATCH, tf.bool)
    batch = {"inputs": tf.constant(X[:BATCH]), "labels": labels, "mask": mask}
    probe(model, cross_entropy, batch)
    found = clipped_gradient_sum(model, cross_entropy, batch, 0.1)
    expected, norms = clipped_sum(per_example_gradients(model, batch), np.ones(BATCH, bool), 0.1)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)
    assert relative_error(list(found.gradients), expected) <= 1e-5


def test_fit_takes_a_model_whose_loss_counts_for_nothing() -> None:
    private = compiled(model_with(0.0))
    before = [np.array(w) for w in private.get_weights()]
    private.fit(X, Y, epochs=1, verbose=0)
    assert any((w != b).any() for w, b in zip(private.get_weights(), before, strict=True))
