"""What a plan has spent stays with its weights, in whatever model they are."""

from __future__ import annotations

from collections.abc import Callable

import keras
import pytest

from configs.schema import UserError
from tests.training.privacy.keras_cases import PLAN, L, X, Y, compiled, moved, small_model, weights
from training.privacy import make_private

LINE = "hold 3 releases of another plan"


def test_second_plan_made_before_the_first_has_spent_is_refused_once_it_has() -> None:
    model = small_model()
    first, second = compiled(model), compiled(model)
    first.fit(X, Y, epochs=1, verbose=0)
    after = weights(model)
    with pytest.raises(UserError, match=LINE):
        second.fit(X, Y, epochs=1, verbose=0)
    assert second.releases == 0
    assert not moved(after, weights(model))
    first.fit(X, Y, epochs=1, verbose=0)
    assert first.releases == 6


def another_head(encoder: L.Layer, trained: keras.Model) -> keras.Model:
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(encoder(x)))


def head_on_top(encoder: L.Layer, trained: keras.Model) -> keras.Model:
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(trained(x)))


def frozen(encoder: L.Layer, trained: keras.Model) -> keras.Model:
    encoder.trainable = False
    return another_head(encoder, trained)


@pytest.mark.parametrize("make", [another_head, head_on_top, frozen])
def test_another_model_of_spent_weights_is_refused(make: Callable[..., keras.Model]) -> None:
    encoder = L.Dense(4, activation="tanh", name="encoder")
    x = keras.Input((5,))
    model = keras.Model(x, L.Dense(2)(encoder(x)))
    compiled(model).fit(X, Y, epochs=1, verbose=0)
    with pytest.raises(UserError, match=rf"'encoder/kernel'.*{LINE}"):
        make_private(make(encoder, model), PLAN)


def test_weights_that_no_plan_trained_may_be_shared() -> None:
    encoder = L.Dense(4, trainable=False)
    for _ in range(2):
        x = keras.Input((5,))
        compiled(keras.Model(x, L.Dense(2)(encoder(x)))).fit(X, Y, epochs=1, verbose=0)
