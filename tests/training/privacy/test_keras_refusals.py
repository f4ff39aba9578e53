"""`make_private`: what would void epsilon is refused before anything is spent."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.privacy.keras_cases import (
    CROSS_ENTROPY,
    EXAMPLES,
    PLAN,
    STEPS,
    L,
    X,
    Y,
    compiled,
    moved,
    of_tensors,
    small_model,
    weights,
)
from training.privacy import make_private, private_dataset


class Overriding(keras.losses.Loss):
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return tf.reduce_max(y_pred)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred[:, 0]


def reduced_to_one(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_mean((tf.cast(y_true, tf.float32) - y_pred[:, 0]) ** 2)


def against_the_others(y_true: Any, y_pred: Any) -> Any:
    """One number an example, but each looks at the whole batch."""
    centred = y_pred[:, 0] - tf.reduce_mean(y_pred[:, 0])
    return (tf.cast(y_true, tf.float32) - centred) ** 2


BATCH_COUPLED = {
    "one number a batch": (reduced_to_one, "it mixes the examples of a batch"),
    "centred by the batch": (against_the_others, "loss makes.*other examples of its batch"),
    "overridden call": (Overriding(), "overrides __call__"),
    "several": ({"a": "mse", "b": "mse"}, "expected one loss"),
    "none": ([], "expected one loss"),
}


@pytest.mark.parametrize(("loss", "line"), BATCH_COUPLED.values(), ids=BATCH_COUPLED)
def test_loss_that_couples_examples_is_refused_before_the_first_step(loss, line) -> None:
    model = small_model()
    before = weights(model)
    with pytest.raises(UserError, match=line):
        compiled(model, loss=loss).fit(X, Y, epochs=1, verbose=0)
    assert not moved(before, weights(model))


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> Any:
        return X[:20], Y[:20]


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "own batches": ({"x": of_tensors().batch(20)}, "not as the plan draws its batches"),
    "changed private dataset": (
        {"x": private_dataset(PLAN, X, Y).map(lambda e: e)},
        "not as the plan draws its batches",
    ),
    "batched by a sequence": ({"x": Batches()}, "batches of its own making"),
    "generator": ({"x": (pair for pair in zip(X, Y, strict=True))}, "number of training examples"),
    "size": ({"x": X[:50], "y": Y[:50]}, "plan is for 60 training examples, and there are 50"),
    "rows": ({"y": Y[:50]}, "one row an example. Received rows: 50, 60"),
    "labels as texts": (
        {"y": Y.astype(str)},
        "labels are texts, and sparse_categorical_crossentropy takes numbers",
    ),
    "no labels": ({"y": None}, "y is missing"),
    "batch size": ({"batch_size": 32}, "expected none, or the plan's 20"),
    "validation split": ({"validation_split": 0.2}, "would take examples away"),
    "order": ({"shuffle": False}, "the plan draws the batches"),
    "weights of a batch": ({"sample_weight": np.ones(20)}, "expected one number an example"),
    "weights by place": ({"sample_weight": np.ones((EXAMPLES, 2))}, "one number an example"),
    "both weights": ({"sample_weight": Y, "class_weight": {0: 2}}, "not both"),
    "too many steps": ({"epochs": 5}, "12 steps, 0 are taken, and 15 were asked for"),
    "no step": ({"epochs": 0}, "at least one step"),
    "stops on training loss": (
        {"callbacks": [keras.callbacks.EarlyStopping("loss")]},
        "expected one that monitors validation",
    ),
    "validates on what it trains on": ({"validation_data": (X, Y)}, "that are not trained on"),
    "validates on a part of it": ({"validation_data": (X[:9], Y[:9])}, "that are not trained on"),
    "validates on a copy": ({"validation_data": (X.copy(), Y)}, "that are not trained on"),
    "stops on NaN": ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, "would void epsilon"),
}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory) -> Any:
    """A compiled model that is never to take a step."""
    return compiled(ledger=tmp_path_factory.mktemp("refused") / "ledger.jsonl")


@pytest.mark.parametrize(("request_", "line"), REQUESTS.values(), ids=REQUESTS)
def test_request_that_would_void_epsilon_is_refused_and_nothing_is_spent(
    refusing, request_, line
) -> None:
    before = weights(refusing)
    with pytest.raises(UserError, match=line):
        refusing.fit(**{"x": X, "y": Y, "epochs": 1, "verbose": 0, **request_})
    assert not moved(before, weights(refusing))
    assert refusing.releases == 0


def test_refused_requests_left_no_ledger(refusing) -> None:
    with pytest.raises(UserError, match="compile"):
        make_private(small_model(), PLAN).fit(X, Y)
    assert refusing.releases == 0
    assert not refusing._budget._ledger._file.path.exists()


def test_batch_made_by_hand_is_refused(refusing) -> None:
    for call in (refusing.train_on_batch, lambda *_: refusing.make_train_function()):
        with pytest.raises(UserError, match="not one that the plan drew"):
            call(X[:20], Y[:20])


COMPILE = {
    "loss weights": {"loss_weights": [2.0]},
    "weighted metrics": {"weighted_metrics": ["accuracy"]},
    "eager": {"run_eagerly": True},
    "metric that poses as validation": {
        "metrics": [keras.metrics.SparseCategoricalAccuracy(name="val_accuracy")]
    },
    "loss scale": {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())},
}


@pytest.mark.parametrize("arguments", COMPILE.values(), ids=COMPILE)
def test_compile_refuses_what_the_private_step_cannot_do(refusing, arguments) -> None:
    with pytest.raises(UserError, match=r"expected|scale it"):
        refusing.compile(**{"loss": CROSS_ENTROPY, **arguments})


def test_model_that_mixes_examples_is_refused_with_its_layer_and_remedy() -> None:
    x = keras.Input((5,))
    model = keras.Model(x, L.Dense(2)(L.BatchNormalization(name="mixer")(x)))
    with pytest.raises(UserError, match=r"'mixer' \(BatchNormalization.*group normalization"):
        make_private(model, PLAN)
    with pytest.raises(UserError, match=r"expected a keras.Model. Received: str"):
        make_private("model", PLAN)


@pytest.mark.parametrize("labels", [Y, (Y, Y)], ids=["one", "several"])
def test_model_with_several_outputs_is_refused_in_words(labels) -> None:
    x = keras.Input((5,))
    private = compiled(keras.Model(x, [L.Dense(2)(x), L.Dense(2)(x)]))
    with pytest.raises(UserError, match=r"expected one output and one array of labels.*2 output"):
        private.fit(X, labels, epochs=1, verbose=0)
    assert private.releases == 0


def test_budget_is_never_overdrawn() -> None:
    private = compiled(on_exhausted="stop")
    private.fit(X, Y, epochs=3, verbose=0)
    history = private.fit(X, Y, epochs=3, verbose=0)
    assert private.releases == STEPS
    assert len(history.epoch) == 1  # 12 planned steps: four epochs of three
    after = weights(private)
    with pytest.raises(UserError, match="12 steps, 12 are taken"):
        private.fit(X, Y, epochs=1, verbose=0)
    assert not moved(after, weights(private))
    with pytest.raises(UserError, match="expected 'raise' or 'stop'"):
        make_private(small_model(), PLAN, on_exhausted="ignore")


def test_second_plan_for_spent_weights_is_refused() -> None:
    model = small_model()
    make_private(model, PLAN)
    compiled(model).fit(X, Y, epochs=1, verbose=0)
    with pytest.raises(UserError, match="hold 3 releases of another plan"):
        make_private(model, PLAN)


def test_validation_on_other_rows_of_the_same_array_is_taken() -> None:
    everything = np.concatenate([X, X[:20] + 1])
    private = compiled()
    held_out = (everything[EXAMPLES:], Y[:20])
    history = private.fit(everything[:EXAMPLES], Y, epochs=1, verbose=0, validation_data=held_out)
    assert "val_loss" in history.history


class OwnObjective(keras.Sequential):
    def compute_loss(self, **arguments: Any) -> Any:
        return 2.0 * super().compute_loss(**arguments)


class OwnStep(OwnObjective):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


@pytest.mark.parametrize(
    ("kind", "line"),
    [(OwnObjective, "OwnObjective has a compute_loss"), (OwnStep, "OwnStep has a train_step")],
)
def test_model_that_says_itself_how_it_trains_is_refused(kind, line) -> None:
    with pytest.raises(UserError, match=line):
        make_private(kind([keras.Input((5,)), L.Dense(2)]), PLAN)


def test_loss_that_reads_a_compiled_metric_is_refused() -> None:
    accuracy = keras.metrics.SparseCategoricalAccuracy()

    def easier(y_true: Any, y_pred: Any) -> Any:
        return y_pred[:, 0] ** 2 * (1.0 + accuracy.result())

    private = make_private(small_model(), PLAN)
    private.compile("sgd", easier, metrics=[accuracy])
    with pytest.raises(UserError, match="loss reads a metric"):
        private.fit(X, Y, epochs=1, verbose=0)
    assert private.releases == 0


def test_what_was_adapted_to_data_is_said_to_be_left_out(caplog) -> None:
    adapted, given = L.Normalization(name="adapted"), L.Normalization(mean=0.0, variance=1.0)
    adapted.adapt(X)
    make_private(keras.Sequential([keras.Input((5,)), adapted, given, L.Dense(2)]), PLAN)
    (line,) = [record.getMessage() for record in caplog.records if "adapt" in record.getMessage()]
    assert "layer 'adapted' (Normalization)" in line
