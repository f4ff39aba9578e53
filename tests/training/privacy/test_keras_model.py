"""`make_private`: Keras' own compile and fit, exact, counted, and closed to what voids epsilon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.privacy import naive
from training.privacy import Ledger, PrivacyPlan, make_private, per_example_loss, private_dataset
from training.privacy.clip_methods import AdaptiveClipping
from training.privacy.keras_api.sources import source_of
from training.privacy.sampling import ShuffledSampling

L = keras.layers
ROOT = Path(__file__).parents[3]
EXAMPLES, STEPS = 60, 12
PLAN = PrivacyPlan.dp_sgd(
    num_examples=EXAMPLES,
    batch_size=20,
    steps=STEPS,
    clipping_norm=0.5,
    noise_multiplier=1.0,
    delta=1e-3,
)
GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(EXAMPLES, 5))
Y = (X[:, 0] > 0).astype("int64")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(x))


def compiled(
    model: keras.Model | None = None, plan: PrivacyPlan = PLAN, loss: Any = None, **further: Any
) -> Any:
    private = make_private(small_model() if model is None else model, plan, **further)
    private.compile(keras.optimizers.SGD(0.5), CROSS_ENTROPY if loss is None else loss)
    return private


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.array(w) for w in model.get_weights()]


def moved(before: list[np.ndarray], after: list[np.ndarray]) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def distance(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(some, others, strict=True))))


@pytest.mark.parametrize("physical", [None, 7])
def test_step_is_the_clipped_sum_plus_planned_noise_by_the_expected_batch_size(physical) -> None:
    private = compiled(seed=5, physical_batch_size=physical)
    before = weights(private.inner)
    twin = small_model()
    twin.set_weights(before)
    private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0)
    root = private._root()
    drawn = PLAN.sampler(root).draw(0)
    batch = {"inputs": tf.constant(X[drawn], tf.float32), "labels": tf.constant(Y[drawn])}
    sums, _ = naive.clipped_sum(
        naive.per_example_gradients(twin, batch), np.ones(len(drawn), bool), PLAN.clipping_norm
    )
    draws, query = PLAN.draws(0, root, len(sums)), PLAN.query()
    state = query.seeded_global_state(tf.constant(draws.seeds), tf.constant(draws.coefficients))
    noised, _, _ = query.get_noised_result([tf.constant(s, tf.float32) for s in sums], state)
    for old, new, gradient in zip(before, weights(private.inner), noised, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * gradient / PLAN.batch_size, atol=1e-5)


def test_fit_learns_what_is_there_to_learn() -> None:
    x = np.random.default_rng(0).normal(size=(400, 5)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    plan = PrivacyPlan.dp_sgd(
        num_examples=400,
        batch_size=100,
        steps=40,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        delta=1e-3,
    )
    private = make_private(small_model(), plan, seed=0)
    private.compile("adam", CROSS_ENTROPY, metrics=["accuracy"], steps_per_execution=3)
    private.optimizer.learning_rate = 0.05
    history = private.fit(x, y, validation_data=(x, y), verbose=0).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history["loss"]) == 10
    assert history["val_accuracy"][-1] > 0.9
    assert private.predict(x, verbose=0).shape == (400, 2)
    assert private.evaluate(x, y, verbose=0)[1] == pytest.approx(history["val_accuracy"][-1])
    assert private.releases == plan.steps


def test_metrics_are_those_of_the_drawn_examples_alone() -> None:
    private = make_private(small_model(), PLAN, seed=2)
    private.compile(keras.optimizers.SGD(0.0), CROSS_ENTROPY, metrics=["accuracy"])
    logs = private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0).history
    drawn = PLAN.sampler(private._root()).draw(0)
    outputs = private.inner.predict(X[drawn], verbose=0)
    assert logs["accuracy"][0] == pytest.approx((outputs.argmax(1) == Y[drawn]).mean())
    assert logs["loss"][0] == pytest.approx(float(CROSS_ENTROPY(Y[drawn], outputs)), rel=1e-5)


def test_privacy_spent_is_the_plans_and_the_weights_are_shared() -> None:
    model = small_model()
    private = compiled(model)
    assert private.privacy_spent().epsilon == 0
    before = weights(model)
    private.fit(X, Y, epochs=2, verbose=0)
    assert moved(before, weights(model))
    epsilon, delta, statement = private.privacy_spent()
    assert (epsilon, delta) == (PLAN.epsilon(6), PLAN.delta)
    assert "6 releases" in statement
    assert "whoever knows it" not in statement
    assert "whoever knows it" in compiled(seed=1).privacy_spent().statement


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


def test_every_input_structure_that_keras_takes_is_taken() -> None:
    a, b = keras.Input((5,), name="a"), keras.Input((1,), name="b", dtype="int32")
    both = L.Concatenate()([a, L.Flatten()(L.Embedding(4, 3)(b))])
    ids = np.arange(EXAMPLES)[:, None] % 4
    for x, inputs in (({"a": X, "b": ids}, {"a": a, "b": b}), ([X, ids], [a, b])):
        private = compiled(keras.Model(inputs, L.Dense(2)(both)))
        private.fit(x, Y, epochs=1, verbose=0)
        assert private.releases == 3


def test_any_random_access_source_is_read_example_by_example() -> None:
    class Examples:
        def __len__(self) -> int:
            return EXAMPLES

        def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
            return X[i], Y[i]

    one, other = compiled(seed=4), compiled(seed=4)
    other._context = one._context = lambda source: "the same data"
    one.fit(X, Y, epochs=1, verbose=0)
    other.fit(Examples(), epochs=1, verbose=0)
    assert not moved(weights(one), weights(other))


def test_private_dataset_is_a_source_for_fit_with_a_transform_of_each_example() -> None:
    records = [{"features": X[i], "label": Y[i]} for i in range(EXAMPLES)]
    dataset = private_dataset(PLAN, records, transform=lambda r: (r["features"] * 2, r["label"]))
    private = compiled(seed=4)
    private.fit(dataset, epochs=1, verbose=0)
    assert private.releases == 3


def test_private_dataset_holds_what_the_plan_draws() -> None:
    dataset = private_dataset(PLAN, X, Y, physical_batch_size=8, seed=3)
    first, second = (
        [
            (int(e["step"]), bool(e["last"]), int(tf.reduce_sum(tf.cast(e["mask"], tf.int32))))
            for e in dataset
        ]
        for _ in range(2)
    )
    assert first == second
    sizes = [sum(n for step, _, n in first if step == wanted) for wanted in range(STEPS)]
    assert [last for _, last, _ in first].count(True) == STEPS
    assert 10 < np.mean(sizes) < 30
    assert len(set(sizes)) > 1
    fresh = private_dataset(PLAN, X, Y)
    passes = [[tuple(e["mask"].numpy()) for e in fresh] for _ in range(2)]
    assert passes[0] != passes[1]


def test_weights_of_examples_and_classes_weigh_before_clipping() -> None:
    plan = PLAN.with_noise(1e-6)
    private = compiled(plan=plan, seed=1)
    before = weights(private)
    private.fit(X, Y, sample_weight=np.full(EXAMPLES, 1e6), epochs=1, steps_per_epoch=1, verbose=0)
    # However large, a weighted example adds no more than the clipping norm.
    drawn = len(plan.sampler(private._root()).draw(0))
    bound = 0.5 * drawn * plan.clipping_norm / plan.batch_size
    after = weights(private)
    assert 0.1 * bound < distance(before, after) <= bound * 1.001
    private.fit(X, Y, class_weight={0: 0.0, 1: 0.0}, epochs=1, steps_per_epoch=1, verbose=0)
    assert distance(after, weights(private)) < 1e-5  # the noise alone


LOSSES = {
    "mse": (lambda y, p: ((y - p) ** 2).mean(-1)),
    "mae": (lambda y, p: np.abs(y - p).mean(-1)),
}


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none", None, "mean"])
def test_keras_losses_become_per_example_whatever_their_reduction(reduction) -> None:
    y, p = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    found = per_example_loss(keras.losses.MeanSquaredError(reduction=reduction))(
        tf.constant(y), tf.constant(p)
    )
    np.testing.assert_allclose(found, LOSSES["mse"](y, p), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_by_name_average_over_the_axes_of_an_example(name) -> None:
    y, p = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    found = per_example_loss(name)(tf.constant(y), tf.constant(p))
    np.testing.assert_allclose(found, LOSSES[name](y, p).mean(-1), rtol=1e-5)
    assert float(tf.reduce_mean(found)) == pytest.approx(
        float(keras.losses.MeanSquaredError()(y, p))
        if name == "mse"
        else float(keras.losses.MeanAbsoluteError()(y, p)),
        rel=1e-5,
    )


def test_binary_labels_without_an_axis_of_their_own_fit_one_output() -> None:
    labels, outputs = tf.constant([0, 1, 1]), tf.constant([[0.2], [0.9], [0.4]])
    found = per_example_loss("binary_crossentropy")(labels, outputs)
    np.testing.assert_allclose(found, -np.log([0.8, 0.9, 0.4]), rtol=1e-4)


def test_positions_that_keras_masks_are_left_out_of_an_examples_mean() -> None:
    x = keras.Input((3,), dtype="int32")
    outputs = L.Embedding(5, 2, mask_zero=True)(x)
    model = keras.Model(x, outputs)
    ids, labels = tf.constant([[1, 2, 0], [3, 3, 3]]), tf.ones((2, 3, 2))
    predicted = model(ids)
    found = per_example_loss("mse")(labels, predicted)
    every = ((1 - predicted.numpy()) ** 2).mean(-1)
    np.testing.assert_allclose(found, [every[0, :2].mean(), every[1].mean()], rtol=1e-5)


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
    "centred by the batch": (against_the_others, "not that of the example alone"),
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


def of_tensors() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y))


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
    assert not refusing._budget._ledger._path.exists()


def test_batch_made_by_hand_is_refused(refusing) -> None:
    for call in (refusing.train_on_batch, lambda *_: refusing.make_train_function()):
        with pytest.raises(UserError, match="not one that the plan drew"):
            call(X[:20], Y[:20])


COMPILE = {
    "loss weights": {"loss_weights": [2.0]},
    "weighted metrics": {"weighted_metrics": ["accuracy"]},
    "eager": {"run_eagerly": True},
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


def test_model_class_of_ones_own_is_built_by_the_first_examples() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = L.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self.head(inputs)

    private = compiled(Own())
    private.fit(X, Y, epochs=1, verbose=0)
    assert private.releases == 3
    frozen = small_model()
    frozen.trainable = False
    with pytest.raises(UserError, match="has no trainable weight"):
        compiled(frozen).fit(X, Y, epochs=1, verbose=0)


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


def test_ledger_is_written_before_the_weights_move_and_survives_the_process(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    private = compiled(ledger=path)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(Ledger.existing(path).releases)

    private.fit(X, Y, epochs=1, verbose=0, callbacks=[Watch()])
    assert seen == [1, 2, 3]
    later = compiled(ledger=path)
    assert later.releases == 3
    later.fit(X, Y, verbose=0)
    assert Ledger.existing(path).releases == STEPS
    assert later.privacy_spent().epsilon == PLAN.epsilon(STEPS)


def test_interrupted_step_leaves_no_examples_behind_for_the_next() -> None:
    """Half a logical batch, added to the next one, would count its examples twice."""
    private = compiled(physical_batch_size=2, seed=3)
    private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0)
    step, calls = private._step, []
    finish = step.finish

    def failing(*arguments: Any, **further: Any) -> Any:
        calls.append(arguments)
        raise KeyboardInterrupt

    step.finish = failing
    with pytest.raises(KeyboardInterrupt):
        private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0)
    step.finish = finish
    assert calls
    assert any(float(tf.reduce_sum(tf.abs(t))) > 0 for t in step._accumulated)
    assert private.releases == 2  # the broken one counts
    private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0)
    assert private._step is not step


def test_adaptive_bound_is_kept_when_the_model_is_compiled_again() -> None:
    plan = replace(PLAN, clipping=AdaptiveClipping(PLAN.clipping_norm))
    private = compiled(plan=plan)
    logs = private.fit(X, Y, epochs=1, verbose=0).history
    (reached,) = logs["clipping_norm"]  # released, and so covered by epsilon
    assert reached != PLAN.clipping_norm
    private.compile(keras.optimizers.SGD(0.5), CROSS_ENTROPY)
    step = private._prepared_step(source_of(X, Y))
    assert step.released() == {"clipping_norm": pytest.approx(reached)}


def test_callbacks_of_keras_work(tmp_path) -> None:
    model = small_model()
    private = make_private(model, PLAN)
    private.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, metrics=["accuracy"])
    rates: list[float] = []
    callbacks = [
        keras.callbacks.TensorBoard(str(tmp_path / "logs")),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="val_loss"),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1)),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: rates.append(float(private.optimizer.learning_rate))
        ),
        keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=1e9),
    ]
    private.fit(X, Y, epochs=4, validation_data=(X, Y), callbacks=callbacks, verbose=0)
    assert rates == pytest.approx([0.1, 0.05])  # stopped early
    assert (tmp_path / "log.csv").read_text().startswith("epoch,accuracy,loss,val_")
    assert list((tmp_path / "logs").rglob("events.*"))
    saved = keras.saving.load_model(tmp_path / "best.keras")
    assert type(saved) is type(model)
    assert not moved(weights(saved), weights(model))


def test_saved_model_is_the_model_inside(tmp_path) -> None:
    private = compiled()
    private.fit(X, Y, epochs=1, verbose=0)
    private.save(tmp_path / "model.keras")
    private.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), private.predict(X, verbose=0))
    other = compiled()
    other.load_weights(tmp_path / "model.weights.h5")
    assert not moved(weights(other), weights(private))


def test_fit_compiled_with_xla_trains() -> None:
    private = make_private(small_model(), replace(PLAN, steps=3), seed=1)
    private.compile("adam", CROSS_ENTROPY, metrics=["accuracy"], jit_compile=True)
    before = weights(private)
    private.fit(X, Y, verbose=0)
    assert moved(before, weights(private))


@pytest.mark.slow
def test_two_replicas_train_as_one_device_does() -> None:
    """In a process of its own: logical devices must be made before TensorFlow starts."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.privacy.mirrored_fit"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["replicas"] == 0
    # float32 sums of ten steps in another order.
    assert found["strategies"] < 1e-5
    assert found["moved"] > 1e-2
    assert found["releases"] == [6, 6]
    assert found["accuracy"][0] == pytest.approx(found["accuracy"][1], abs=1e-6)
