"""Which root the fits of a private model draw from: one a run, and none that another run has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from configs.schema import UserError
from tests.training.privacy.keras_cases import (
    CROSS_ENTROPY,
    EXAMPLES,
    PLAN,
    L,
    X,
    Y,
    compiled,
    moved,
    weights,
)
from training.privacy.keras_api.sources import source_of
from training.privacy.sampling import ShuffledSampling


def test_seed_repeats_a_run_and_other_data_draw_other_noise() -> None:
    def trained(x: np.ndarray) -> Any:
        private = compiled(seed=9)
        private.fit(x, Y, epochs=1, verbose=0)
        return private

    one, again, other = trained(X), trained(X), trained(np.roll(X, 1, axis=0))
    assert not moved(weights(one), weights(again))
    assert one._root() != other._root()


def test_seeded_runs_of_models_that_differ_beside_their_weights_share_no_noise() -> None:
    def root_of(rate: float, activation: str) -> str:
        keras.utils.set_random_seed(1)
        x = keras.Input((5,))
        hidden = L.Dropout(rate)(L.Dense(4, activation=activation)(x))
        private = compiled(keras.Model(x, L.Dense(2)(hidden)), seed=9)
        private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0)
        return private._root().fingerprint

    first = root_of(0.1, "relu")
    assert root_of(0.1, "relu") == first  # whatever numbers Keras gives the layers
    assert root_of(0.2, "relu") != first
    assert root_of(0.1, "tanh") != first


def test_seeded_runs_under_two_losses_share_no_noise() -> None:
    roots = []
    for loss in (
        CROSS_ENTROPY,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1),
    ):
        private = compiled(seed=9, loss=loss)
        private._prepared_step(source_of(X, Y))
        roots.append(private._root().root)
    assert len(set(roots)) == 2


def test_examples_keep_their_places_where_steps_depend_on_each_other() -> None:
    plan = replace(
        PLAN, sampling=ShuffledSampling(EXAMPLES, PLAN.batch_size), neighbours="zero_out"
    )
    private = compiled(plan=plan)
    private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0)
    with pytest.raises(UserError, match="expected the arrays of the first fit, in their order"):
        private.fit(X[::-1].copy(), Y[::-1].copy(), epochs=1, verbose=0)
    assert private.releases == 1
    private.fit(X, Y, epochs=1, verbose=0)
