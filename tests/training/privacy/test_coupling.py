"""One example reaching another is read off the graph, whether or not a run would show it."""

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
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.coupling import couplings
from training.privacy.inspection import probe, problems_of

L = keras.layers
SIZE = 101


class Through(L.Layer):
    """Passes its input through a function."""

    def __init__(self, function: Callable[[Any], Any], **further: Any):
        super().__init__(**further)
        self.function = function

    def call(self, inputs: Any) -> Any:
        return self.function(inputs)


class ManifoldMixup(L.Layer):
    """Says how much it mixes in the words in which Keras' dropout says how much it drops."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate, self.seed_generator = rate, keras.random.SeedGenerator(1)

    def call(self, x: Any) -> Any:
        order = ops.argsort(keras.random.uniform((ops.shape(x)[0],), seed=self.seed_generator))
        return (1 - self.rate) * x + self.rate * ops.take(x, order, axis=0) if self.rate else x


def model_with(layer: L.Layer) -> keras.Model:
    x = keras.Input((4, 3))
    return keras.Model(x, L.Dense(2)(L.Flatten()(layer(L.Dense(3)(x)))))


def batch(size: int = 6) -> dict[str, Any]:
    inputs = np.random.default_rng(3).normal(size=(size, 4, 3)).astype("float32")
    return {
        "inputs": tf.constant(inputs),
        "labels": tf.constant(np.arange(size) // 4),  # sorted, as files often are
        "mask": tf.ones(size, bool),
    }


def sometimes(x: Any, mixed: Any) -> Any:
    return tf.where(tf.random.uniform(()) < 1e-3, mixed, x)


def of_large_batches(x: Any) -> Any:
    return x - tf.reduce_mean(x, 0) if (x.shape[0] or 1) > 16 else x


LAYERS: dict[str, Callable[[], L.Layer]] = {
    "not yet": lambda: Through(lambda x: x - tf.nn.relu(tf.reduce_mean(x, 0) - 9.0)),
    "rarely": lambda: Through(lambda x: sometimes(x, (x + x[::-1]) / 2)),
    "little": lambda: Through(lambda x: x + 1e-6 * tf.roll(x, 1, axis=0)),
    "in larger batches": lambda: Through(of_large_batches),
    "in a branch": lambda: Through(
        lambda x: tf.cond(tf.reduce_any(x[0] > 99.0), lambda: x - tf.reduce_mean(x, 0), lambda: x)
    ),
    "in a function": lambda: Through(tf.function(lambda x: x + 1e-6 * tf.cumsum(x, axis=0))),
    "by Python": lambda: Through(
        lambda x: x + tf.ensure_shape(tf.numpy_function(np.ptp, [x * 1e-6], tf.float32), [])
    ),
    "a mixup named as dropout is": lambda: ManifoldMixup(0.3),
    "every example against every other": lambda: Through(
        lambda x: x + 1e-6 * tf.einsum("ijc,kjc->ij", x, tf.tanh(x))[..., None]
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_that_couples_examples_is_refused_though_no_run_shows_it(name: str) -> None:
    model = model_with(LAYERS[name]())
    (problem, *_) = problems_of(model)
    assert "other examples of its batch" in str(problem)
    with pytest.raises(UserError, match=r"layer '.*other examples of its batch"):
        clipped_gradient_sum(model, cross_entropy, batch(), 1.0)


@tf.custom_gradient
def bounded_together(x: Any) -> Any:
    return tf.identity(x), lambda outer: tf.clip_by_norm(outer, 1e3)


@tf.custom_gradient
def bounded_apart(x: Any) -> Any:
    return tf.identity(x), lambda outer: tf.clip_by_norm(outer, 1e3, axes=[-2, -1])


def test_gradient_of_ones_own_that_couples_examples_is_refused_before_it_does() -> None:
    with pytest.raises(UserError, match="other examples of its batch"):
        clipped_gradient_sum(model_with(Through(bounded_together)), cross_entropy, batch(), 1.0)
    assert not problems_of(model_with(Through(bounded_apart)))

    def loss(labels: Any, logits: Any) -> Any:
        return cross_entropy(labels, bounded_together(logits))

    with pytest.raises(UserError, match=r"loss makes.*other examples of its batch"):
        probe(model_with(L.Activation("tanh")), loss, batch(4))


def balanced(labels: Any, logits: Any) -> Any:
    """Weights the classes by how many of the batch are in them."""
    counts = tf.reduce_sum(tf.one_hot(labels, 2), axis=0)
    share = tf.gather(counts, labels) / tf.cast(tf.shape(labels)[0], tf.float32)
    return cross_entropy(labels, logits) / share


def hardest(labels: Any, logits: Any) -> Any:
    losses = cross_entropy(labels, logits)
    kept = tf.shape(losses)[0] * 3 // 4 + 1
    return tf.where(losses >= tf.sort(losses, direction="DESCENDING")[kept - 1], losses, 0.0)


def later(labels: Any, logits: Any) -> Any:
    return cross_entropy(labels, logits) + tf.nn.relu(tf.reduce_mean(logits) - 9.0)


@pytest.mark.parametrize("loss", [balanced, hardest, later])
def test_loss_that_couples_examples_is_refused_though_few_examples_do_not_show_it(
    loss: Callable[[Any, Any], Any],
) -> None:
    with pytest.raises(UserError, match=r"loss makes.*other examples of its batch"):
        probe(model_with(L.Activation("tanh")), loss, batch(4))


class Remembering(keras.losses.Loss):
    """Weighs losses by their running mean, which hardly moves in a step."""

    def __init__(self, variable: Any):
        super().__init__()
        self.mean = variable

    def call(self, labels: Any, logits: Any) -> Any:
        losses = cross_entropy(labels, logits)
        self.mean.assign(0.9999 * self.mean + 0.0001 * ops.mean(losses))
        return losses / ops.convert_to_tensor(self.mean)


@pytest.mark.parametrize("kind", [keras.Variable, tf.Variable])
def test_loss_that_remembers_is_refused_and_writes_nothing(kind: Callable[..., Any]) -> None:
    loss = Remembering(kind(2.0, trainable=False))
    with pytest.raises(UserError, match="loss writes a variable"):
        probe(model_with(L.Activation("tanh")), loss.call, batch(4))


def test_loss_that_reads_a_metric_is_refused() -> None:
    accuracy = keras.metrics.Mean()

    def easier(labels: Any, logits: Any) -> Any:
        return cross_entropy(labels, logits) * (1.0 + accuracy.result())

    with pytest.raises(UserError, match="loss reads a metric"):
        probe(
            model_with(L.Activation("tanh")),
            easier,
            batch(4),
            measured=accuracy.variables,
        )


def test_loss_that_reads_a_trainable_weight_is_refused() -> None:
    model = model_with(L.Activation("tanh"))
    kernel = model.trainable_variables[0]

    def penalised(labels: Any, logits: Any) -> Any:
        return cross_entropy(labels, logits) + 1e-6 * ops.sum(kernel**2)

    with pytest.raises(UserError, match="loss reads a trainable weight"):
        probe(model, penalised, batch(4))


class WritesIn(L.Layer):
    """Keeps a mean that moves by less than rounding shows, in a way that is hard to see."""

    def __init__(self, way: str):
        super().__init__()
        self.seen, self.way = tf.Variable(tf.zeros(3), trainable=False), way

    def call(self, x: Any) -> Any:
        last = 1e-6 * x[0, 0]
        if self.way == "branch":
            tf.cond(tf.reduce_all(last < 9), lambda: self.seen.assign(last), self.seen.read_value)
        elif self.way == "function":
            tf.function(lambda: self.seen.assign_add(last))()
        else:
            self.seen.scatter_nd_update([[0]], last[:1])
        return x + self.seen


@pytest.mark.parametrize("way", ["branch", "function", "scatter"])
def test_state_outside_keras_is_found_wherever_it_is_written(way: str) -> None:
    assert any("writes the variable" in str(p) for p in problems_of(model_with(WritesIn(way))))


def seen(function: Callable[[Any], Any], shape: tuple[int, ...] = (SIZE, 4, 3)) -> list[str]:
    x = tf.TensorSpec(shape)
    graph = tf.function(function, autograph=False).get_concrete_function(x).graph
    return [coupling.kind for coupling in couplings(graph.inputs, graph.outputs, SIZE)]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.matmul(x, x, transpose_b=True),
        lambda x: tf.reshape(tf.reshape(x, [-1, 3]) @ tf.ones((3, 5)), [-1, 4, 5]),
        lambda x: tf.transpose(tf.cumsum(tf.transpose(x, [1, 0, 2]), axis=0), [1, 0, 2]),
        lambda x: x[:, ::-1] + tf.reverse(x, [1]) + tf.roll(x, 1, axis=-1),
        lambda x: tf.gather(tf.reshape(x, [-1, 3]), tf.range(SIZE) * 4),
        lambda x: tf.gather(x, tf.argsort(x[..., 0]), batch_dims=1),
        lambda x: tf.stack(tf.unstack(x)),
        lambda x: tf.map_fn(lambda row: tf.reduce_mean(row, 0), x),
        lambda x: tf.vectorized_map(lambda row: row / tf.norm(row), x),
        lambda x: tf.concat([x, -x], 0)[:SIZE] * 2.0,
        lambda x: x / tf.cast(tf.size(x), x.dtype) + tf.ones_like(tf.reduce_mean(x, 0)),
        lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.tanh(y)), (0, x))[1],
        lambda x: tf.sort(x, axis=1) + tf.nn.softmax(x, axis=1),
        lambda x: tf.gather(tf.reshape(x, [-1, 3]), tf.cumsum(tf.argmax(x[..., 0], 1))),
        lambda x: tf.stack([2.0 * x[i] for i in range(SIZE)]),
        lambda x: tf.math.bincount(tf.cast(x[..., 0], tf.int32), axis=-1),
        lambda x: tf.nn.conv1d(x, tf.ones((3, 3, 3)), 1, "SAME"),
    ],
)
def test_what_is_made_of_each_example_alone_is_no_coupling(function: Callable[[Any], Any]) -> None:
    assert seen(function) == []


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x - tf.reduce_max(x), "Max"),
        (lambda x: x @ tf.einsum("bic,bid->cd", x, x), "Einsum"),
        (lambda x: tf.nn.softmax(x, axis=0), "Softmax"),
        (lambda x: tf.gather(x, tf.argsort(x[:, 0, 0])), "GatherV2"),
        (lambda x: tf.random.shuffle(x), "RandomShuffle"),
        (lambda x: x + x[:1], "StridedSlice"),
        (lambda x: x * tf.nn.l2_loss(x), "L2Loss"),
        (lambda x: tf.sort(x, axis=0), "TopKV2"),
        (
            lambda x: tf.nn.conv1d(tf.transpose(x, [1, 0, 2]), tf.ones((3, 3, 3)), 1, "SAME"),
            "Conv2D",
        ),
        (lambda x: tf.while_loop(lambda y: tf.reduce_max(y) > 1, lambda y: y / 2, [x]), "Max"),
        (
            lambda x: tf.compat.v1.nn.fused_batch_norm(x[:, None], tf.ones(3), tf.zeros(3))[0],
            "FusedBatchNormV3",
        ),
    ],
)
def test_coupling_is_named_by_its_operation(function: Callable[[Any], Any], kind: str) -> None:
    assert kind in seen(function)


def test_constant_axis_of_the_surveyed_size_is_taken_for_no_batch() -> None:
    def through_a_wide_constant(x: Any) -> Any:
        return x + tf.reduce_mean(x[..., None] * tf.ones(SIZE), axis=-1)

    assert problems_of(model_with(Through(through_a_wide_constant))) == []
