"""Seeded fits that visibly differ share no noise; data whose place counts are known again."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.privacy.keras_cases import EXAMPLES, PLAN, X, Y, compiled
from training.privacy.keras_api.datasets import private_dataset, x_as_source
from training.privacy.keras_api.losses import named_loss
from training.privacy.keras_api.naming import named, named_callbacks, named_class
from training.privacy.keras_api.sources import source_of
from training.privacy.sampling import BallsInBinsSampling


class Examples:
    """A sequence of examples that can be reordered, as a loader shuffles its own between epochs."""

    def __init__(self, factor: float = 1.0):
        self.order, self.factor = np.arange(EXAMPLES), factor
        self.read: set[int] = set()

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        self.read.add(i)
        return self.factor * X[self.order[i]], Y[self.order[i]]


def test_sequence_reshuffled_between_two_fits_is_refused_where_places_count() -> None:
    plan = replace(PLAN, sampling=BallsInBinsSampling(EXAMPLES, PLAN.batch_size))
    examples, private = Examples(), compiled(plan=plan)
    private.fit(examples, epochs=1, steps_per_epoch=1, verbose=0)
    private.fit(examples, epochs=1, steps_per_epoch=1, verbose=0)
    examples.order = examples.order[::-1]
    with pytest.raises(UserError, match=r"in their order .of a sequence: item i the same"):
        private.fit(examples, epochs=1, steps_per_epoch=1, verbose=0)
    assert private.releases == 2


def test_sequence_is_not_read_through_where_nothing_depends_on_it() -> None:
    examples, private = Examples(), compiled()
    private.fit(examples, epochs=1, steps_per_epoch=1, verbose=0)
    assert 0 < len(examples.read) < EXAMPLES  # one draw of about a third, and a few to look at


def context_of(x: Any, y: Any = None) -> str:
    """What names the random streams of a seeded fit, but for its callbacks."""
    return compiled(seed=9)._context(x_as_source(PLAN, x, y))


def root_of(*callbacks: Any) -> int:
    private = compiled(seed=9)
    private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0, callbacks=list(callbacks))
    return private._root().root


def test_seeded_fits_over_other_sequences_or_transforms_share_no_noise() -> None:
    def transformed(factor: float) -> tf.data.Dataset:
        return private_dataset(PLAN, X, Y, transform=lambda e: (factor * e[0], e[1]))

    contexts = [
        context_of(x) for x in (Examples(), Examples(2.0), transformed(3.0), transformed(4.0))
    ]
    assert len(set(contexts)) == 4
    assert context_of(Examples(2.0)) == contexts[1]
    assert context_of(transformed(3.0)) == contexts[2]


@pytest.mark.parametrize("transform", [None, lambda e: (2.0 * e[0], e[1])])
def test_seeded_fits_over_examples_of_other_users_share_no_noise(transform: Any) -> None:
    users = np.arange(EXAMPLES) // 3
    contents = {
        source_of(X, Y, transform=transform).of_users(whose).content()
        for whose in (users, users, np.roll(users, 1))
    }
    assert len(contents) == 2


def test_seeded_fits_under_other_callbacks_share_no_noise(tmp_path) -> None:
    class Halving(keras.callbacks.Callback):
        def __init__(self, after: int):
            super().__init__()
            self.after = after

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch >= self.after:
                self.model.optimizer.learning_rate.assign(0.25)

    logger = keras.callbacks.CSVLogger(str(tmp_path / "log"))
    bare, halved = root_of(), root_of(Halving(1), logger)
    assert root_of(Halving(1)) == halved
    assert len({bare, halved, root_of(Halving(2))}) == 3


def test_functions_are_known_by_what_they_do_and_enclose() -> None:
    def scaled(factor: Any) -> Any:
        return lambda labels, outputs: factor * keras.losses.mean_squared_error(labels, outputs)

    def other(factor: Any) -> Any:
        return lambda labels, outputs: factor + keras.losses.mean_squared_error(labels, outputs)

    weights = np.array([1.0, 2.0])
    functions = [scaled(1.0), scaled(2.0), other(1.0), scaled(weights), scaled(2 * weights)]
    names = [repr(named(function)) for function in functions]
    assert len(set(names)) == len(names)
    assert [repr(named(scaled(f))) for f in (1.0, 2.0)] == names[:2]
    assert named(keras.losses.mean_squared_error) != named(keras.losses.mean_absolute_error)


def test_own_classes_are_known_by_their_methods() -> None:
    def loss_of(power: int) -> type:
        if power == 2:

            class Own(keras.losses.Loss):
                def call(self, y_true: Any, y_pred: Any) -> Any:
                    return (y_true - y_pred) ** 2

            return Own

        class Own(keras.losses.Loss):  # type: ignore[no-redef]
            def call(self, y_true: Any, y_pred: Any) -> Any:
                return (y_true - y_pred) ** 4

        return Own

    assert named_class(loss_of(2)) == named_class(loss_of(2))
    assert named_class(loss_of(2)) != named_class(loss_of(4))
    stopping = keras.callbacks.EarlyStopping
    few, many = (named_callbacks([stopping("val_loss", patience=p)]) for p in (1, 2))
    assert few != many
    assert named_callbacks([keras.callbacks.History()]) == []


class Focal(keras.losses.Loss):
    """Says no settings of its own."""

    def __init__(self, gamma: Any):
        super().__init__()
        self._gamma = gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return abs(y_true - y_pred) ** self._gamma


class Scheduled(keras.callbacks.Callback):
    def __init__(self, settings: Any):
        super().__init__()
        self.settings = settings


def encloses(held: Any) -> Any:
    return lambda labels, outputs: held * (labels - outputs)


def by_keyword(held: Any) -> Any:
    return functools.partial(encloses, held=held)


def decayed(rate: float) -> Any:
    return keras.callbacks.LearningRateScheduler(
        keras.optimizers.schedules.ExponentialDecay(rate, 10, 0.9)
    )


def of_callback(value: Any) -> Any:
    return named_callbacks([value])


PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "enclosed tensor": (named_loss, lambda v: encloses(tf.constant([1.0, v])), (2.0, 3.0)),
    "enclosed variable": (named_loss, lambda v: encloses(keras.Variable([1.0, v])), (2.0, 3.0)),
    "enclosed class weights": (named_loss, lambda v: encloses({0: 1.0, 1: v}), (2.0, 3.0)),
    "enclosed function": (named_loss, lambda v: encloses(encloses(v)), (2.0, 3.0)),
    "enclosed layer": (named_loss, lambda v: encloses(built_layer(v)), (2.0, 3.0)),
    "partial": (named_loss, by_keyword, ([2.0], [3.0])),
    "loss without settings": (named_loss, Focal, (1, 3)),
    "loss's method": (named_loss, lambda v: Focal(v).call, (1, 3)),
    "list": (of_callback, lambda v: Scheduled([1, [v]]), (2, 3)),
    "dict": (of_callback, lambda v: Scheduled({"epochs": {5: v}}), (0.1, 0.2)),
    "array": (of_callback, lambda v: Scheduled(np.array([1.0, v])), (0.1, 0.2)),
    "array of texts": (of_callback, lambda v: Scheduled(np.array(["a", v], object)), ("b", "c")),
    "object": (of_callback, lambda v: Scheduled(Examples(v)), (0.1, 0.2)),
    "schedule": (of_callback, decayed, (0.1, 0.2)),
}


def built_layer(value: float) -> keras.Layer:
    layer = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(value))
    layer.build((None, 3))
    layer.kernel.assign(layer.kernel * value)
    return layer


@pytest.mark.parametrize("case", PAIRS)
def test_what_functions_and_objects_hold_is_seen(case: str) -> None:
    name_of, make, (one, other) = PAIRS[case]
    assert json.dumps(name_of(make(one))) == json.dumps(name_of(make(one)))
    assert name_of(make(one)) != name_of(make(other))


def test_what_holds_itself_has_a_name() -> None:
    held: list[Any] = []
    callback = Scheduled(held)
    held += [callback, held, encloses(held), keras, Focal, tf.data.Dataset.range(3)]
    assert len(json.dumps(named_callbacks([callback]))) < 100_000
