"""Layers that run where a tap sees no gradient: exact all the same, or refused; never 0 unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from configs.schema import UserError
from tests.training.privacy.naive import cross_entropy
from tests.training.privacy.test_fallback import BATCH, assert_exact, logits, reals
from training.privacy import watcher
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.sites import find_sites
from training.privacy.survey import survey

L = keras.layers
TIME = 4


class Holder(L.Layer):
    """Holds a dense layer; subclasses say where it runs."""

    def __init__(self, **further: Any):
        super().__init__(**further)
        self.dense = L.Dense(3)

    def build(self, shape: Any) -> None:
        self.dense.build((shape[0], shape[-1]))


class InScan(Holder):
    def call(self, x: Any) -> Any:
        def add(carry: Any, row: Any) -> tuple[Any, Any]:
            total = ops.tanh(self.dense(row) + carry)
            return total, total

        return ops.scan(add, ops.zeros_like(x[:, 0]), ops.transpose(x, (1, 0, 2)))[0]


class InMap(Holder):
    def call(self, x: Any) -> Any:
        return ops.transpose(ops.map(self.dense, ops.transpose(x, (1, 0, 2))), (1, 0, 2))


class InVectorizedMap(Holder):
    def call(self, x: Any) -> Any:
        rows = ops.transpose(x, (1, 0, 2))
        return ops.transpose(ops.vectorized_map(self.dense, rows), (1, 0, 2))


@keras.saving.register_keras_serializable("tests")
class OfItsOwn(L.SimpleRNN):
    """A recurrent layer of a class that no rule knows, whose cell runs in a loop."""


@pytest.mark.parametrize(
    "make",
    [
        InScan,
        InMap,
        InVectorizedMap,
        lambda: OfItsOwn(2),
        lambda: L.Bidirectional(OfItsOwn(2)),
    ],
    ids=["scan", "map", "vectorized_map", "recurrent", "bidirectional"],
)
def test_layer_inside_a_loop_of_its_holder_has_the_gradient_of_the_naive_loop(
    make: Callable[[], L.Layer],
) -> None:
    x = keras.Input((TIME, 3))
    assert_exact(keras.Model(x, logits(make()(x))), reals(TIME, 3))


class InFunction(Holder):
    """Its graph was traced when Keras built the model: no tap sees the layer run again."""

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.run = tf.function(lambda x: self.dense(x), autograph=False)

    def call(self, x: Any) -> Any:
        return self.run(x)


class Recomputed(Holder):
    """`recompute_grad` knows the gradient of variables, and not of values in their place."""

    def call(self, x: Any) -> Any:
        return tf.recompute_grad(lambda y: self.dense(y))(x)


class OwnWeightsRecomputed(L.Layer):
    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(shape[-1], 2), initializer="glorot_uniform")

    def call(self, x: Any) -> Any:
        return tf.recompute_grad(lambda y: ops.matmul(y, self.table))(x)


class OwnWeightsRecomputedInFunction(OwnWeightsRecomputed):
    """What has a gradient of its own lies in a function of the graph, traced anew each time."""

    def call(self, x: Any) -> Any:
        return tf.function(super().call, autograph=False)(x)


@pytest.mark.parametrize(
    "layer", [InFunction, Recomputed, OwnWeightsRecomputed, OwnWeightsRecomputedInFunction]
)
def test_layer_whose_gradient_nobody_sees_is_refused_by_name(layer: type[L.Layer]) -> None:
    x = keras.Input((3,))
    model = keras.Model(x, logits(layer(name="culprit")(x)))
    batch = {
        "inputs": tf.constant(reals(3)),
        "labels": tf.constant(np.arange(BATCH) % 3),
        "mask": tf.ones(BATCH, bool),
    }
    with pytest.raises(UserError, match=r"layer 'culprit.* out of sight"):
        clipped_gradient_sum(model, cross_entropy, batch, 1.0)


def test_gradients_of_ordinary_models_need_not_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("followed")

    monkeypatch.setattr(watcher, "reached", refuse)
    x = keras.Input((TIME, 3))
    y = L.MultiHeadAttention(2, 2)(x, L.Dense(3, activation="gelu")(x))
    y = L.LSTM(2)(L.LayerNormalization()(y))
    assert_exact(keras.Model(x, logits(y)), reals(TIME, 3))


def test_activation_with_a_gradient_of_its_own_hides_nothing() -> None:
    x = keras.Input((5,))
    hidden = L.Dense(4, activation="silu")(x)
    assert_exact(keras.Model(x, logits(hidden)), reals(5))


class Towers(keras.Model):
    """Calls a shared layer for an output held constant, and for one that nothing uses."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.tower, self.out = L.Dense(4, activation="silu"), L.Dense(3)
        self.drop = L.Dropout(dropout)

    def call(self, x: Any) -> Any:
        self.tower(3.0 * x)
        own, target = self.tower(x), ops.stop_gradient(self.tower(0.5 * x))
        return self.drop(self.out(own - target))


def test_calls_that_rightly_have_no_gradient_make_no_larger_layer_be_replayed() -> None:
    model = Towers(dropout=0.5)
    model(reals(5))
    sites = find_sites(model)
    # Of the model as a whole, dropout would be refused.
    batched = survey(model, tf.constant(reals(5)), BATCH, BATCH + 1, sites)
    assert sites == [model.tower, model.out]
    assert len(batched) == 4
    alike = Towers(dropout=0.0)
    alike(reals(5))
    assert_exact(alike, reals(5))


class TwoModes(L.Layer):
    """There and back by one table; one way alone has the bias."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(shape[-1], 4), initializer="glorot_uniform")
        self.bias = self.add_weight(shape=(shape[-1],), initializer="glorot_uniform")

    def call(self, x: Any, back: bool = False) -> Any:
        if back:
            return ops.matmul(x, ops.transpose(self.table)) + self.bias
        return ops.matmul(x, self.table)


class ThereAndBack(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.modes, self.middle, self.out = TwoModes(), L.Dense(4, activation="silu"), L.Dense(3)

    def call(self, x: Any) -> Any:
        once = self.modes(self.middle(self.modes(x)), back=True)
        return self.out(self.modes(once))


def test_layer_with_two_modes_beside_a_gradient_of_its_own_is_exact() -> None:
    model = ThereAndBack()
    model(reals(3))
    assert_exact(model, reals(3))


def adapted() -> keras.Model:
    """A dense layer whose call was patched to add what two others make, as adapters often are."""

    class Adapted(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.down, self.up, self.out = (L.Dense(n) for n in (4, 2, 4, 3))

        def call(self, x: Any) -> Any:
            return self.out(ops.tanh(self.dense(x)))

    model = Adapted()
    for layer, width in ((model.dense, 5), (model.down, 5), (model.up, 2)):
        layer.build((None, width))
    original = model.dense.call
    vars(model.dense)["call"] = lambda x, training=None: original(x) + model.up(model.down(x))
    return model


def reparametrised() -> keras.Model:
    """A dense layer whose call was patched to norm its kernel."""
    dense = L.Dense(4)
    dense.build((None, 5))
    vars(dense)["call"] = lambda x, training=None: (
        ops.matmul(x, dense.kernel / ops.norm(dense.kernel, axis=0)) + dense.bias
    )
    return keras.Sequential([dense, L.Dense(3)])


@pytest.mark.parametrize("make", [adapted, reparametrised])
def test_patched_call_has_the_gradient_of_the_naive_loop(make: Callable[[], keras.Model]) -> None:
    model = make()
    model(reals(5))
    assert_exact(model, reals(5))


class Lends(L.Layer):
    """Has a call of its own weights, within which another's layer runs."""

    def __init__(self, other: L.Layer):
        super().__init__()
        vars(self)["other"] = other  # past Keras' tracking

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x: Any) -> Any:
        return self.other(x * self.gain)


def test_layer_run_within_one_that_does_not_hold_it_trains() -> None:
    other = L.Dense(4, activation="tanh")
    x = keras.Input((5,))
    assert_exact(keras.Model(x, logits(other(x) + Lends(other)(x))), reals(5))


def test_layer_unfrozen_after_a_survey_trains() -> None:
    frozen = L.Dense(4, activation="tanh", trainable=False)
    x = keras.Input((5,))
    model = keras.Model(x, logits(frozen(x)))
    sites = find_sites(model)
    survey(model, tf.constant(reals(5)), BATCH, BATCH + 1, sites)
    frozen.trainable = True
    survey(model, tf.constant(reals(5)), BATCH, BATCH + 1, sites)
    assert frozen in sites


class Keeps(L.Layer):
    """Leaves its output in an attribute, as layers do whose attention is to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(4)

    def build(self, shape: Any) -> None:
        self.dense.build(shape)

    def call(self, x: Any) -> Any:
        vars(self)["kept"] = self.dense(x)
        return self.kept


class ReadsKept(L.Layer):
    def __init__(self, other: L.Layer):
        super().__init__()
        vars(self)["other"] = other

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x: Any) -> Any:
        return x * self.gain + ops.tanh(self.other.kept * self.gain)


def test_layer_replayed_with_what_it_was_not_called_with_is_refused() -> None:
    keeps, x = Keeps(), keras.Input((5,))
    model = keras.Model(x, logits(ReadsKept(keeps)(keeps(x))))
    with pytest.raises(UserError, match=r"'reads_kept.*rows for one example"):
        assert_exact(model, reals(5))
