"""What cannot be private is refused by name with a remedy, before the first step; all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from configs.schema import UserError
from models.frozen_batch_normalization import FrozenBatchNormalization
from tests.training.privacy.naive import cross_entropy
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.conversion import to_private
from training.privacy.inspection import probe, problems_of

L = keras.layers


class AddsLoss(L.Layer):
    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.mean(inputs))
        return inputs


class Counts(L.Layer):
    """Remembers a mean of what it has seen."""

    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, inputs: Any) -> Any:
        self.seen.assign(ops.mean(inputs))
        return inputs * 1.0


class CountsOutsideKeras(L.Layer):
    """Remembers in a variable that Keras does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = tf.Variable(0.0, trainable=False)

    def call(self, inputs: Any) -> Any:
        self.seen.assign(tf.reduce_mean(inputs))
        return inputs * 1.0


class Centers(L.Layer):
    """Subtracts the mean over the batch: every shape looks right."""

    def call(self, inputs: Any) -> Any:
        return inputs - ops.mean(inputs, axis=0, keepdims=True)


class NoisyBlock(L.Layer):
    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs * self.gain + tf.random.normal(ops.shape(inputs))


class DropsOut(L.Layer):
    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.dropout = L.Dropout(0.5)

    def call(self, inputs: Any) -> Any:
        return self.dropout(inputs * self.gain)


def model_with(layer: keras.Layer, shape: tuple[int, ...] = (4, 3)) -> keras.Model:
    x = keras.Input(shape)
    return keras.Model(x, L.Dense(2)(L.Flatten()(layer(L.Dense(3)(x)))))


class Equalizes(L.Layer):
    """In a graph of layers Keras leaves it out."""

    def __init__(self) -> None:
        super().__init__()
        self.equalize = L.Equalization()

    def call(self, inputs: Any) -> Any:
        return self.equalize(inputs[..., None])[..., 0]

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


REFUSED: dict[str, tuple[Callable[[], keras.Layer], str]] = {
    "batch_normalization": (L.BatchNormalization, "mixes the examples"),
    "batch_normalization_without_weights": (
        lambda: L.BatchNormalization(center=False, scale=False),
        "mixes the examples",
    ),
    "batch_normalization_inside": (
        lambda: L.TimeDistributed(keras.Sequential([L.Dense(2), L.BatchNormalization()])),
        "mixes the examples",
    ),
    "activity_regularizer": (lambda: L.Dense(2, activity_regularizer="l2"), "activity regularizer"),
    "add_loss": (AddsLoss, "adds a loss"),
    "spectral_normalization": (lambda: L.SpectralNormalization(L.Dense(2)), "writes the variable"),
    "shared_state": (lambda: Counts(name="counts"), "writes the variable 'counts/seen'"),
    "shared_state_outside_keras": (CountsOutsideKeras, "writes the variable"),
    "dropout_inside_replayed_layer": (DropsOut, "draws random numbers"),
    "recurrent_dropout": (
        lambda: L.RNN([L.LSTMCell(2, recurrent_dropout=0.2), L.GRUCell(2)]),
        "draws random numbers",
    ),
    "mix_up": (
        lambda: keras.Sequential([L.Reshape((4, 3, 1)), L.MixUp(), L.Dense(2)]),
        "by the others of its batch",
    ),
    "equalization": (Equalizes, "by the others of its batch"),
    "float8": (
        lambda: L.Dense(
            2, dtype=keras.dtype_policies.QuantizedFloat8DTypePolicy("float8", "float32")
        ),
        "computes in float8",
    ),
    "randomness_outside_keras": (NoisyBlock, "draws random numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_layer_and_remedy(name: str) -> None:
    make, what = REFUSED[name]
    model = model_with(make())
    problems = problems_of(model)
    assert len(problems) == 1, problems
    assert what in str(problems[0])
    assert problems[0].remedy.endswith(".")
    batch = {
        "inputs": tf.ones((2, 4, 3)),
        "labels": tf.zeros(2, tf.int32),
        "mask": tf.ones(2, tf.bool),
    }
    with pytest.raises(UserError, match=what):
        clipped_gradient_sum(model, cross_entropy, batch, 1.0)


def test_stateful_recurrence_is_refused() -> None:
    x = keras.Input((4, 3), batch_size=3)
    model = keras.Model(x, L.Dense(2)(L.LSTM(2, stateful=True)(x)))
    assert any("stateful=True" in str(problem) for problem in problems_of(model))


def test_all_problems_are_listed_at_once() -> None:
    x = keras.Input((4, 3))
    y = L.BatchNormalization(name="norm")(L.Dense(3, activity_regularizer="l1", name="dense")(x))
    y = AddsLoss(name="loss")(y)
    problems = problems_of(keras.Model(x, L.Dense(2)(L.Flatten()(y))))
    assert [problem.layer_path for problem in problems] == ["dense", "norm", "loss"]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.Dropout(0.5),
        lambda: L.GroupNormalization(1),
        lambda: L.Dense(2, kernel_regularizer="l2"),
        FrozenBatchNormalization,
        lambda: L.BatchNormalization(trainable=False),
    ],
)
def test_harmless_layers_are_no_problem(layer: Callable[[], keras.Layer]) -> None:
    assert problems_of(model_with(layer()), cross_entropy) == []


def test_loss_that_reduces_over_the_batch_is_a_problem() -> None:
    def mean(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(cross_entropy(labels, logits))

    (problem,) = problems_of(model_with(L.Activation("relu")), mean)
    assert problem.layer_path == "loss"


def examples(size: int = 6) -> dict[str, Any]:
    generator = np.random.default_rng(3)
    return {
        "inputs": generator.normal(size=(size, 4, 3)).astype("float32"),
        "labels": generator.integers(0, 2, size),
        "mask": np.ones(size, bool),
    }


def test_probe_finds_examples_that_mix_behind_innocent_shapes() -> None:
    with pytest.raises(UserError, match="other examples of its batch"):
        probe(model_with(Centers()), cross_entropy, examples())


def test_probe_passes_a_model_with_dropout_and_leaves_it_as_it_was() -> None:
    model = model_with(L.Dropout(0.5, name="dropout"))
    probe(model, cross_entropy, examples())
    assert model.get_layer("dropout").rate == 0.5


class Gated(keras.layers.Layer):
    """A gate that starts shut, its gradient too, before something that `add` makes of the batch."""

    def __init__(self, add: Callable[[Any], Any]):
        super().__init__()
        self.add = add

    def build(self, input_shape: Any) -> None:
        self.gate = self.add_weight(shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        return inputs + self.gate**2 * self.add(inputs)


def row_number(x: Any) -> Any:
    return tf.cast(tf.range(tf.shape(x)[0]), x.dtype)[:, None, None]


@pytest.mark.parametrize("random", [False, True])
def test_probe_finds_what_would_mix_examples_once_a_gate_has_opened(random: bool) -> None:
    mixing = Gated(lambda x: tf.reduce_mean(x, axis=0))
    layers = [Jitter(), mixing] if random else [mixing]
    with pytest.raises(UserError, match="other examples of its batch"):
        probe(model_with(keras.Sequential(layers)), cross_entropy, examples())


def test_probe_finds_outputs_that_go_by_the_row_and_leaves_weights_as_they_were() -> None:
    layer = Gated(row_number)
    model = model_with(layer)
    before = [weight.numpy() for weight in model.weights]
    # One more example in the batch would move those behind it, clipped or not.
    with pytest.raises(UserError, match="changes with its row"):
        probe(model, cross_entropy, examples())
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_probe_passes_a_gate_before_what_is_each_examples_own() -> None:
    probe(model_with(Gated(tf.tanh)), cross_entropy, examples())


class Jitter(keras.layers.Layer):
    """Random numbers under no name that Keras knows."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self.draws = keras.random.SeedGenerator(4)

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.draws)


def test_probe_passes_a_model_with_random_numbers_and_leaves_its_generators_alone() -> None:
    jitter = Jitter()
    model = model_with(keras.Sequential([jitter, L.Dropout(0.5)]))
    before = jitter.draws.state.numpy().copy()
    probe(model, cross_entropy, examples())
    np.testing.assert_array_equal(jitter.draws.state.numpy(), before)


class Drops(keras.layers.Layer):
    def __init__(self, drop: Callable[..., Any]):
        super().__init__()
        self.drop = drop

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.drop(inputs, 0.3) if training else inputs


def test_probe_passes_random_numbers_of_keras_own_generator() -> None:
    probe(model_with(Drops(keras.random.dropout)), cross_entropy, examples())


def test_random_numbers_of_tensorflow_are_refused_for_what_they_are() -> None:
    with pytest.raises(UserError, match=r"random numbers by TensorFlow.*SeedGenerator"):
        probe(model_with(Drops(tf.nn.dropout)), cross_entropy, examples())


def test_probe_finds_what_mixes_examples_behind_random_numbers() -> None:
    with pytest.raises(UserError, match="other examples of its batch"):
        probe(model_with(keras.Sequential([Jitter(), Centers()])), cross_entropy, examples())

    def coupled(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        # In a loop over the rows, which no axis tells of.
        return tf.scan(lambda before, own: own + before / 2, cross_entropy(labels, logits))

    with pytest.raises(UserError, match="not that of the example alone"):
        probe(model_with(Jitter()), coupled, examples())


class Shuffled(keras.layers.Layer):
    """Adds to every example another one, or by chance itself."""

    def __init__(self, seed: int):
        super().__init__()
        self.draws = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any) -> Any:
        size = tf.shape(inputs)[0]
        order = tf.argsort(keras.random.uniform((size,), seed=self.draws))
        return inputs + 0.5 * tf.gather(inputs, order)


@pytest.mark.parametrize("seed", range(8))
def test_probe_finds_examples_that_mix_only_some_of_the_time(seed: int) -> None:
    with pytest.raises(UserError, match="other examples of its batch"):
        probe(model_with(Shuffled(seed)), cross_entropy, examples())


def convolutional() -> keras.Model:
    block = keras.Sequential(
        [keras.Input((8, 8, 6)), L.Conv2D(6, 3), L.BatchNormalization(name="inner")]
    )
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization(name="outer", beta_initializer="ones")(L.Conv2D(6, 1)(x))
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(block(y))))
    generator = np.random.default_rng(6)
    for variable in model.non_trainable_variables:
        variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


def test_conversion_to_frozen_statistics_keeps_what_the_model_computes() -> None:
    model = convolutional()
    images = np.random.default_rng(7).normal(size=(3, 8, 8, 3)).astype("float32")
    private = to_private(model)
    assert problems_of(model)
    assert problems_of(private) == []
    np.testing.assert_allclose(
        private(images, training=True), model(images, training=False), atol=1e-5
    )


def test_conversion_to_group_normalization_keeps_scale_and_offset() -> None:
    private = to_private(convolutional(), "group", groups=4)
    assert problems_of(private) == []
    norm = private.get_layer("outer")
    assert isinstance(norm, L.GroupNormalization)
    assert norm.groups == 3
    np.testing.assert_array_equal(norm.beta, np.ones(6))


def test_models_of_a_class_of_their_own_are_not_converted() -> None:
    class Own(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    with pytest.raises(UserError, match="class of its own"):
        to_private(Own())
