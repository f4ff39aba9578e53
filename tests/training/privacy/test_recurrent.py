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
    clipped_sum,
    cross_entropy,
    per_example_gradients_in_batch,
    relative_error,
)
from tests.training.privacy.test_fallback import BATCH, assert_exact, logits, reals
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.rules import fallback, rule_for
from training.privacy.rules.fallback import FallbackRule
from training.privacy.taps import find_sites, recording

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


@pytest.mark.parametrize(
    "make",
    [
        lambda: OfItsOwn(2),
        lambda: L.LSTM(2, dropout=0.1, implementation=1),
        lambda: L.GRU(2, recurrent_dropout=0.1),
        lambda: L.SimpleRNN(2, activation=L.Dropout(0.1)),
        lambda: L.RNN(L.LSTMCell(2)),
        lambda: L.RNN([L.LSTMCell(2), L.GRUCell(2)]),
    ],
    ids=["subclass", "dropout", "recurrent_dropout", "layer_inside", "cell", "stacked_cells"],
)
def test_what_no_formula_covers_is_left_to_the_fallback(make: Callable[[], L.Layer]) -> None:
    layer = make()
    layer.build((BATCH, TIME, 3))
    assert isinstance(rule_for(layer), FallbackRule)


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize(
    "make",
    [
        lambda: L.LSTM(3, dropout=0.4, seed=1),
        lambda: L.GRU(3, dropout=0.4, seed=1),
        lambda: L.SimpleRNN(3, dropout=0.4, recurrent_dropout=0.4, go_backwards=True, seed=1),
    ],
    ids=["lstm", "gru", "simple_rnn"],
)
def test_dropout_drops_the_same_as_in_the_naive_loop(make: Callable[[], L.Layer]) -> None:
    x = keras.Input((TIME, 5))
    layer = make()
    model = keras.Model(x, logits(layer(x)))
    state = layer.cell.seed_generator.state
    start = state.numpy()
    batch = {"inputs": tf.constant(reals(TIME, 5)), "labels": tf.constant(np.arange(BATCH) % 3)}

    def drawing_alike(model: keras.Model) -> Callable[..., Any]:
        def call(*arguments: Any, **further: Any) -> Any:
            state.assign(start)
            return model(*arguments, **further)

        call.trainable_variables = model.trainable_variables
        return call

    gradients = per_example_gradients_in_batch(drawing_alike(model), batch)
    expected, norms = clipped_sum(gradients, np.ones(BATCH, bool), 0.1)
    state.assign(start)
    found = clipped_gradient_sum(model, cross_entropy, {**batch, "mask": tf.ones(BATCH, bool)}, 0.1)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)
    assert relative_error(list(found.gradients), expected) <= 1e-5
    # And it does drop: without it the norms are others.
    layer.cell.dropout = layer.cell.recurrent_dropout = 0.0
    alike = clipped_gradient_sum(model, cross_entropy, {**batch, "mask": tf.ones(BATCH, bool)}, 0.1)
    assert not np.allclose(alike.norms, norms, rtol=1e-2)


def test_layer_computes_in_training_what_it_computes_otherwise() -> None:
    model, ids = masked(
        L.Bidirectional(L.GRU(2, return_sequences=True, return_state=True, use_cudnn=False))
    )
    with recording(find_sites(model), BATCH, lambda _: None):
        tapped = model(ids, training=True)
    np.testing.assert_allclose(tapped, model(ids), rtol=1e-6, atol=1e-6)
    assert all("inner_loop" not in layer.__dict__ for layer in model._flatten_layers())
