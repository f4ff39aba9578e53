"""Layers without a rule, and uses of layers that no rule expects, equal the naive loop."""

from __future__ import annotations

import logging
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
    per_example_gradients,
    relative_error,
)
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.rules import vectorization

L = keras.layers
BATCH = 3


class ClassToken(L.Layer):
    """Own weights broadcast over the batch, beside a layer with weights."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal")
        self.dense = L.Dense(shape[-1], activation="tanh")
        self.dense.build(shape)

    def call(self, inputs: Any) -> Any:
        token = ops.tile(self.token, (ops.shape(inputs)[0], 1, 1))
        return ops.concatenate([token, self.dense(inputs)], axis=1)

    def compute_output_shape(self, shape: Any) -> Any:
        # Keras 3.12 cannot infer it through `tile`.
        return shape[0], shape[1] + 1, shape[2]


class Blend(L.Layer):
    """Several inputs and outputs, a tensor and a plain value among the keyword arguments."""

    def build(self, first_shape: Any, second_shape: Any, gate_shape: Any = None) -> None:
        self.weight = self.add_weight(shape=(first_shape[-1],), initializer="normal")

    def call(self, first: Any, second: Any, gate: Any = None, scale: float = 1.0) -> Any:
        mixed = first * self.weight + second
        return mixed * gate * scale, ops.mean(mixed, axis=1)


class Positions(L.Layer):
    """Token plus position embeddings; subclasses look positions up in different ways."""

    def __init__(self, lookup: Callable[[Any, int], Any]):
        super().__init__()
        self.tokens, self.positions, self.lookup = L.Embedding(7, 4), L.Embedding(9, 4), lookup

    def build(self, shape: Any) -> None:
        self.tokens.build(shape)
        self.positions.build(shape)

    def call(self, ids: Any) -> Any:
        return self.tokens(ids) + self.lookup(self.positions, ids.shape[-1])


class Borrower(L.Layer):
    """Uses the weight of a layer that it does not own, outside any call of that layer."""

    def __init__(self, lender: L.Embedding):
        super().__init__()
        self.lender = lender

    def call(self, inputs: Any) -> Any:
        return ops.matmul(inputs, ops.transpose(self.lender.embeddings))


class Masked(L.Layer):
    """Own weights around attention, which takes the mask from its input tensor."""

    supports_masking = True

    def build(self, shape: Any) -> None:
        self.attention = L.MultiHeadAttention(2, 3)
        self.attention.build(shape, shape)
        self.gain = self.add_weight(shape=(shape[-1],), initializer="normal")

    def call(self, inputs: Any) -> Any:
        return self.attention(inputs, inputs) * self.gain


class AddsConstant(L.Layer):
    """Takes a constant whose first axis has the size of the batch."""

    def build(self, inputs_shape: Any, constant_shape: Any) -> None:
        self.gain = self.add_weight(shape=(inputs_shape[-1],), initializer="normal")

    def call(self, inputs: Any, constant: Any) -> Any:
        return ops.matmul(inputs * self.gain, constant)


class NotVectorisable(L.Layer):
    """Holds an operation that no vectorisation knows."""

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(shape[-1],), initializer="normal")

    def call(self, inputs: Any) -> Any:
        doubled = tf.py_function(lambda x: 2 * x, [tf.stop_gradient(inputs)], inputs.dtype)
        return tf.stop_gradient(tf.ensure_shape(doubled, inputs.shape)) * self.gain


class Block(L.Layer):
    """Projections without a rule of their own: of one example, products of shape (1, time, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 8)
        self.project = L.EinsumDense("btd,de->bte", output_shape=(None, 16))

    def build(self, shape: Any) -> None:
        self.attention.build(shape, shape)
        self.project.build(shape)
        self.scale = self.add_weight(shape=(16,), initializer="glorot_uniform")

    def call(self, x: Any) -> Any:
        return self.project(self.attention(x, x) * self.scale)


@keras.saving.register_keras_serializable("tests")
class OwnCell(L.GRUCell):
    """A cell that no rule knows."""


def reals(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(BATCH, *shape)).astype("float32")


def numbers(*shape: int, below: int = 6) -> np.ndarray:
    return np.random.default_rng(4).integers(0, below, (BATCH, *shape)).astype("int32")


def logits(x: Any) -> Any:
    return L.Dense(3)(L.Flatten()(x))


def class_token() -> tuple[keras.Model, Any]:
    x = keras.Input((4, 5))
    return keras.Model(x, logits(ClassToken()(x))), reals(4, 5)


def many_inputs() -> tuple[keras.Model, Any]:
    x, y = keras.Input((4, 5)), keras.Input((4, 5))
    a, b = Blend()(x, y, gate=ops.sigmoid(x), scale=0.5)
    return keras.Model([x, y], logits(a) + logits(b)), [reals(4, 5), reals(4, 5) + 1]


def unused_output() -> tuple[keras.Model, Any]:
    x = keras.Input((4, 5))
    a, _ = Blend()(x, x, gate=x)
    L.Dense(2)(x)
    return keras.Model(x, logits(a)), reals(4, 5)


def nested_and_shared() -> tuple[keras.Model, Any]:
    tower = keras.Sequential([keras.Input((5,)), L.Dense(4, "tanh"), L.LayerNormalization()])
    inner = keras.Input((5,))
    nested = keras.Model(inner, tower(inner) + L.Dense(4)(inner))
    x, y = keras.Input((5,)), keras.Input((5,))
    return keras.Model([x, y], logits(nested(x) * tower(y))), [reals(5), reals(5) + 1]


def same_variable_in_two_layers() -> tuple[keras.Model, Any]:
    first, second = L.Dense(5, "tanh"), L.Dense(5)
    x = keras.Input((5,))
    y = second(first(x))
    second._untrack_variable(second._kernel)
    second._tracker.unlock()
    second._kernel = first._kernel
    second._tracker.lock()
    return keras.Model(x, logits(y)), reals(5)


def with_activation_layer() -> tuple[keras.Model, Any]:
    x = keras.Input((5,))
    return keras.Model(x, logits(L.Dense(4, activation=L.PReLU("normal"))(x))), reals(5)


def returned_twice() -> tuple[keras.Model, Any]:
    x = keras.Input((4, 3))
    return keras.Model(x, logits(L.Concatenate()(L.RNN(OwnCell(3), return_state=True)(x)))), (
        reals(4, 3)
    )


def masked_bidirectional() -> tuple[keras.Model, Any]:
    x = keras.Input((4,), dtype="int32")
    y = L.Bidirectional(L.RNN(OwnCell(2)))(L.Embedding(6, 3, mask_zero=True)(x))
    padded = np.array([[2, 1, 2, 0], [1, 0, 0, 0], [2, 2, 1, 1]], "int32")
    return keras.Model(x, logits(y)), padded


def masked_inside() -> tuple[keras.Model, Any]:
    x = keras.Input((5,), dtype="int32")
    y = Masked()(L.Embedding(6, 4, mask_zero=True)(x))
    return keras.Model(x, logits(L.GlobalAveragePooling1D()(y))), numbers(5, below=3)


def borrowed_weight() -> tuple[keras.Model, Any]:
    x = keras.Input((5,), dtype="int32")
    embedding = L.Embedding(6, 4)
    return keras.Model(x, logits(Borrower(embedding)(embedding(x)))), numbers(5)


def borrowed_by_the_graph() -> tuple[keras.Model, Any]:
    x = keras.Input((5,), dtype="int32")
    embedding = L.Embedding(6, 4)
    hidden = embedding(x)
    return keras.Model(x, logits(ops.matmul(hidden, ops.transpose(embedding._embeddings)))), (
        numbers(5)
    )


def constant_of_batch_size() -> tuple[keras.Model, Any]:
    x = keras.Input((4, BATCH))
    constant = np.arange(BATCH * 2, dtype="float32").reshape(BATCH, 2)
    return keras.Model(x, logits(AddsConstant()(x, ops.convert_to_tensor(constant)))), (
        reals(4, BATCH)
    )


def diagonal_of_inputs() -> tuple[keras.Model, Any]:
    x = keras.Input((3, 3))
    return keras.Model(x, logits(L.EinsumDense("abb,bc->ac", 4, bias_axes="c")(x))), reals(3, 3)


def diagonal_of_kernel() -> tuple[keras.Model, Any]:
    x = keras.Input((5, 3))
    return keras.Model(x, logits(L.EinsumDense("abc,ccd->abd", (5, 4))(x))), reals(5, 3)


def products_with_shared_weights() -> tuple[keras.Model, Any]:
    x = keras.Input((6, 16))
    return keras.Model(x, logits(Block()(x))), reals(6, 16)


def not_vectorisable() -> tuple[keras.Model, Any]:
    x = keras.Input((5,))
    return keras.Model(x, logits(NotVectorisable()(x))), reals(5)


LOOKUPS = {
    "unbatched": lambda table, time: table(ops.arange(time)),
    "row": lambda table, time: table(ops.arange(time)[None]),
    "row_indexed": lambda table, time: table(ops.arange(time)[None])[0],
}

MODELS = [
    class_token,
    many_inputs,
    unused_output,
    nested_and_shared,
    same_variable_in_two_layers,
    with_activation_layer,
    returned_twice,
    masked_bidirectional,
    masked_inside,
    borrowed_weight,
    borrowed_by_the_graph,
    constant_of_batch_size,
    diagonal_of_inputs,
    diagonal_of_kernel,
    products_with_shared_weights,
]


def assert_exact(model: keras.Model, inputs: Any, tolerance: float = 1e-5) -> None:
    batch = {
        "inputs": tf.nest.map_structure(tf.constant, inputs),
        "labels": tf.constant(np.arange(BATCH) % 3),
        "mask": tf.ones(BATCH, bool),
    }
    gradients = per_example_gradients(model, batch)
    norms = np.sqrt([sum((g**2).sum() for g in example) for example in gradients])
    expected, _ = clipped_sum(gradients, np.ones(BATCH, bool), float(np.median(norms)))

    @tf.function(autograph=False)
    def engine(batch: Any) -> Any:
        found = clipped_gradient_sum(model, cross_entropy, batch, float(np.median(norms)))
        return found.gradients, found.norms

    found, found_norms = engine(batch)
    assert relative_error(found, expected) <= tolerance
    np.testing.assert_allclose(found_norms, norms, rtol=tolerance)


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_model_equals_the_naive_loop(build: Callable[[], tuple[keras.Model, Any]]) -> None:
    assert_exact(*build())


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("time", [BATCH, BATCH + 1, 6])
def test_position_lookups_equal_the_naive_loop_whatever_the_length(lookup: str, time: int) -> None:
    x = keras.Input((time,), dtype="int32")
    model = keras.Model(x, logits(L.LayerNormalization()(Positions(LOOKUPS[lookup])(x))))
    assert_exact(model, numbers(time))


def test_fallback_in_half_precision_stays_close() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, inputs = class_token()
    finally:
        keras.config.set_dtype_policy(before)
    assert_exact(model, inputs, tolerance=2e-2)


def test_layer_that_cannot_be_vectorised_is_looped_with_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectorization, "_warned", set())
    model, inputs = not_vectorisable()
    with caplog.at_level(logging.WARNING):
        assert_exact(model, inputs)
        assert_exact(model, inputs)
    assert caplog.text.count("cannot be vectorised") == 1


@keras.saving.register_keras_serializable("tests")
class SeesItsKernels(L.GRU):
    """Notes what it may use whenever it runs."""

    def inner_loop(self, *arguments: Any, **further: Any) -> Any:
        self.__dict__.setdefault("seen", []).append(self.use_cudnn)
        return super().inner_loop(*arguments, **further)


def test_recurrent_layer_runs_without_cudnn_where_it_is_vectorised_and_there_alone() -> None:
    x = keras.Input((4, 3))
    layer = SeesItsKernels(2)
    model = keras.Model(x, logits(layer(x)))
    layer.__dict__["seen"] = []
    assert_exact(model, reals(4, 3))
    assert "auto" in layer.seen  # the forward pass
    assert False in layer.seen  # the gradient of one example
    assert layer.use_cudnn == "auto"
