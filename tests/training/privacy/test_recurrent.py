"""Recurrent layers in the ways models use them equal the naive loop, without a replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.training.privacy.naive import (
    DrawingAlike,
    clipped_sum,
    cross_entropy,
    per_example_gradients_in_batch,
    relative_error,
)
from tests.training.privacy.test_fallback import BATCH, assert_exact, logits, reals
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.rules import fallback, rule_for
from training.privacy.rules.fallback import FallbackRule
from training.privacy.sites import find_sites
from training.privacy.taps import recording

L = keras.layers
TIME = 4
# Padding first, in between, last, and everywhere, which cuDNN does not take.
IDS = np.array([[0, 0, 2, 0, 1], [3, 1, 2, 4, 0], [0, 0, 0, 0, 0]], "int32")


@pytest.fixture
def without_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("taken example by example")

    monkeypatch.setattr(fallback, "map_examples", refuse)


def masked(layer: keras.Layer) -> tuple[keras.Model, Any]:
    ids = keras.Input(IDS.shape[1:], dtype="int32")
    found = layer(L.Embedding(6, 3, mask_zero=True)(ids))
    parts = [L.Flatten()(x) for x in keras.tree.flatten(found)]
    return keras.Model(ids, logits(ops.concatenate(parts, axis=-1))), IDS


def sequence_to_sequence() -> tuple[keras.Model, Any]:
    """The last state of one layer begins another; the padding between its words is skipped."""
    ids = keras.Input(IDS.shape[1:], dtype="int32")
    words = L.Embedding(6, 3)(ids)
    _, *states = L.LSTM(2, return_state=True)(words)
    decoder = L.LSTM(2, return_sequences=True, zero_output_for_mask=True, use_cudnn=False)
    found = decoder(words, initial_state=states, mask=ids > 0)
    return keras.Model(ids, logits(found)), IDS


def called_twice() -> tuple[keras.Model, Any]:
    x, y = keras.Input((TIME, 3)), keras.Input((TIME + 1, 3))
    layer = L.GRU(2)
    return keras.Model([x, y], logits(layer(x) * layer(y))), [reals(TIME, 3), reals(TIME + 1, 3)]


def constant_inputs() -> tuple[keras.Model, Any]:
    """One sequence for all examples, which differ in the state that they begin with."""
    x = keras.Input((2,))
    sequence = ops.convert_to_tensor(reals(TIME, 3)[:1])
    found = L.GRU(2)(sequence, initial_state=L.Dense(2)(x))
    return keras.Model(x, logits(found)), reals(2)


def constant_state() -> tuple[keras.Model, Any]:
    x = keras.Input((TIME, 3))
    state = ops.convert_to_tensor(np.array([[0.5, -1.0]], "float32"))
    return keras.Model(x, logits(L.SimpleRNN(2, unroll=True)(x, initial_state=state))), (
        reals(TIME, 3)
    )


class OfAnyLength(L.Layer):
    """Forgets how long a sequence is, as batches padded to their own longest have it."""

    def call(self, inputs: Any) -> Any:
        shape = [inputs.shape[0], None, inputs.shape[2]]
        return tf.raw_ops.PlaceholderWithDefault(input=inputs, shape=shape)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape[0], None, shape[2]


def learnt_state() -> tuple[keras.Model, Any]:
    """All examples begin with the only row of a table."""
    x = keras.Input((TIME, 3))
    start = L.Embedding(1, 2)(ops.cast(0 * x[:, 0, 0], "int32"))
    return keras.Model(x, logits(L.GRU(2)(x, initial_state=start))), reals(TIME, 3)


def any_length() -> tuple[keras.Model, Any]:
    x = keras.Input((TIME, 3))
    return keras.Model(x, logits(L.GRU(2)(OfAnyLength()(x)))), reals(TIME, 3)


def partly_frozen() -> tuple[keras.Model, Any]:
    x = keras.Input((TIME, 3))
    layer = L.LSTM(2)
    model = keras.Model(x, logits(layer(x)))
    layer.cell.kernel.trainable = False
    return model, reals(TIME, 3)


MODELS: dict[str, Callable[[], tuple[keras.Model, Any]]] = {
    "sequence_to_sequence": sequence_to_sequence,
    "called_twice": called_twice,
    "constant_inputs": constant_inputs,
    "constant_state": constant_state,
    "learnt_state": learnt_state,
    "any_length": any_length,
    "partly_frozen": partly_frozen,
    # Keras puts zeros where the mask, read forwards, is off.
    "unrolled_backwards": lambda: masked(
        L.GRU(
            2,
            return_sequences=True,
            go_backwards=True,
            unroll=True,
            zero_output_for_mask=True,
            use_cudnn=False,
        )
    ),
    "bidirectional": lambda: masked(
        L.Bidirectional(L.GRU(2, return_sequences=True, return_state=True, use_cudnn=False))
    ),
}


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("name", MODELS)
def test_model_equals_the_naive_loop(name: str) -> None:
    assert_exact(*MODELS[name]())


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional_layer_equals_the_naive_loop_however_merged(merge_mode: str | None) -> None:
    assert_exact(*masked(L.Bidirectional(L.SimpleRNN(2), merge_mode=merge_mode)))


@pytest.mark.usefixtures("without_fallback")
def test_float16_stays_close_to_the_naive_loop() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, inputs = masked(L.LSTM(2, use_cudnn=False))
    finally:
        keras.config.set_dtype_policy(before)
    assert_exact(model, inputs, tolerance=2e-2)


class OfItsOwn(L.LSTM):
    """May compute something else."""


def another_implementation_later() -> L.Layer:
    """Keras would take the rows of one mask for the masks of its gates."""
    layer = L.LSTM(2, dropout=0.1)
    layer.cell.implementation = 1
    return layer


@pytest.mark.parametrize(
    "make",
    [
        lambda: OfItsOwn(2),
        another_implementation_later,
        lambda: L.SimpleRNN(2, activation=L.Dropout(0.1)),
        lambda: L.RNN([L.LSTMCell(2), L.GRUCell(2)]),
    ],
    ids=["subclass", "implementation", "layer_inside", "stacked_cells"],
)
def test_what_no_formula_covers_is_left_to_the_fallback(make: Callable[[], L.Layer]) -> None:
    layer = make()
    layer.build((BATCH, TIME, 3))
    assert isinstance(rule_for(layer), FallbackRule)


def dropping(layer: L.Layer) -> tuple[keras.Model, Any]:
    x = keras.Input((TIME, 5))
    return keras.Model(x, logits(layer(x))), reals(TIME, 5)


def dropping_at_any_length() -> tuple[keras.Model, Any]:
    x = keras.Input((TIME, 3))
    layer = L.GRU(2, dropout=0.4, recurrent_dropout=0.4, seed=1)
    return keras.Model(x, logits(layer(OfAnyLength()(x)))), reals(TIME, 3)


def dropping_from_a_state() -> tuple[keras.Model, Any]:
    """One sequence for all examples, with one mask; the states of each have their own."""
    x = keras.Input((3,))
    sequence = ops.convert_to_tensor(reals(TIME, 5)[:1])
    layer = L.GRU(3, dropout=0.4, recurrent_dropout=0.4, reset_after=False, seed=1)
    return keras.Model(x, logits(layer(sequence, initial_state=L.Dense(3)(x)))), reals(3)


def cell_of_two_layers() -> tuple[keras.Model, Any]:
    """One cell goes both ways, not equally far, each with masks of its own."""
    x = keras.Input((TIME, 5))
    cell = L.LSTMCell(3, dropout=0.4, recurrent_dropout=0.4, seed=1)
    found = L.RNN(cell, unroll=True)(x) * L.RNN(cell, go_backwards=True)(x[:, 1:])
    return keras.Model(x, logits(found)), reals(TIME, 5)


DROPPING: dict[str, Callable[[], tuple[keras.Model, Any]]] = {
    "lstm": lambda: dropping(L.LSTM(3, dropout=0.4, seed=1)),
    "gru_of_gates": lambda: dropping(
        # Keras' way to cuDNN knows but one mask.
        L.GRU(3, dropout=0.4, implementation=1, use_bias=False, use_cudnn=False, seed=1)
    ),
    "gru_of_gates_resetting_first": lambda: dropping(
        L.GRU(3, recurrent_dropout=0.4, reset_after=False, go_backwards=True, seed=1)
    ),
    "simple_rnn": lambda: dropping(
        L.SimpleRNN(3, dropout=0.4, recurrent_dropout=0.4, go_backwards=True, seed=1)
    ),
    "cell_of_two_layers": cell_of_two_layers,
    "any_length": dropping_at_any_length,
    "from_a_state": dropping_from_a_state,
    # As Keras' example of the film reviews has it.
    "both_ways_with_padding": lambda: masked(
        L.Bidirectional(
            L.LSTM(3, dropout=0.2, recurrent_dropout=0.2, return_sequences=True, seed=1)
        )
    ),
}


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("name", DROPPING)
def test_dropout_drops_the_same_as_in_the_naive_loop(name: str) -> None:
    model, inputs = DROPPING[name]()
    batch = {"inputs": tf.constant(inputs), "labels": tf.constant(np.arange(BATCH) % 3)}
    alike = DrawingAlike(model)
    gradients = per_example_gradients_in_batch(alike, batch)
    norms = np.sqrt([sum((g**2).sum() for g in example) for example in gradients])
    batch["mask"] = tf.ones(BATCH, bool)

    @tf.function(autograph=False)
    def engine(clipping_norm: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        found = clipped_gradient_sum(model, cross_entropy, batch, clipping_norm)
        return found.gradients, found.norms

    for clipping_norm in (norms.min() / 2, np.median(norms), 2 * norms.max()):
        expected, _ = clipped_sum(gradients, np.ones(BATCH, bool), clipping_norm)
        alike.rewind()
        found, found_norms = engine(tf.constant(clipping_norm, tf.float32))
        np.testing.assert_allclose(found_norms, norms, rtol=1e-5)
        assert relative_error(found, expected) <= 1e-5
    # And it does drop: the next masks give other norms.
    _, others = engine(tf.constant(1.0))
    assert not np.allclose(others, norms, rtol=1e-3)


@pytest.mark.usefixtures("without_fallback")
def test_every_example_has_masks_of_its_own() -> None:
    model, inputs = dropping(L.GRU(3, dropout=0.4, recurrent_dropout=0.4, seed=1))
    batch = {
        "inputs": tf.repeat(inputs[:1], 4, axis=0),
        "labels": tf.zeros(4, tf.int32),
        "mask": tf.ones(4, bool),
    }
    norms = clipped_gradient_sum(model, cross_entropy, batch, 1.0).norms.numpy()
    assert len(np.unique(norms)) == 4


COMPUTING = {
    "gru": lambda: L.GRU(2, return_sequences=True, return_state=True, use_cudnn=False),
    "lstm_dropping": lambda: L.LSTM(2, dropout=0.4, recurrent_dropout=0.4, return_sequences=True),
    "gru_dropping": lambda: L.GRU(2, recurrent_dropout=0.4, reset_after=False),
}
if not keras.__version__.startswith("3.12."):  # which fails at a rate of one
    # The gates of later ones drop nothing then.
    COMPUTING["lstm_dropping_all"] = lambda: L.LSTM(2, dropout=1.0, use_cudnn=False)


@pytest.mark.parametrize("name", COMPUTING)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_layer_computes_in_training_what_it_computes_otherwise(name: str, policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model, ids = masked(L.Bidirectional(COMPUTING[name]()))
    finally:
        keras.config.set_dtype_policy(before)
    alike = DrawingAlike(model)
    with recording(find_sites(model), BATCH, lambda _: None):
        tapped = ops.cast(alike(ids, training=True), "float32")
    expected = ops.cast(alike(ids, training=True), "float32")
    tolerance = 1e-6 if policy == "float32" else 2e-2
    np.testing.assert_allclose(tapped, expected, rtol=tolerance, atol=tolerance)
    assert all("inner_loop" not in layer.__dict__ for layer in model._flatten_layers())
