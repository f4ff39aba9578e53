"""`make_private`: Keras' own compile and fit, exact, counted, and kept over interruptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.privacy import naive
from tests.training.privacy.keras_cases import (
    CROSS_ENTROPY,
    EXAMPLES,
    HELD_OUT,
    PLAN,
    ROOT,
    STEPS,
    L,
    X,
    Y,
    compiled,
    distance,
    moved,
    small_model,
    weights,
)
from training.privacy import Ledger, PrivacyPlan, make_private, private_dataset
from training.privacy.clip_methods import AdaptiveClipping
from training.privacy.keras_api.sources import source_of


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
    x, held_out = np.random.default_rng(0).normal(size=(2, 400, 5)).astype("float32")
    y, labels = (x[:, 0] > 0).astype("int64"), (held_out[:, 0] > 0).astype("int64")
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
    history = private.fit(x, y, validation_data=(held_out, labels), verbose=0).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history["loss"]) == 10
    assert history["val_accuracy"][-1] > 0.9
    assert private.predict(x, verbose=0).shape == (400, 2)
    accuracy = private.evaluate(held_out, labels, verbose=0)[1]
    assert accuracy == pytest.approx(history["val_accuracy"][-1])
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


def test_every_input_structure_that_keras_takes_is_taken() -> None:
    ids = np.arange(EXAMPLES)[:, None] % 4
    for named in (True, False):
        a, b = keras.Input((5,), name="a"), keras.Input((1,), name="b", dtype="int32")
        both = L.Concatenate()([a, L.Flatten()(L.Embedding(4, 3)(b))])
        x, inputs = ({"a": X, "b": ids}, {"a": a, "b": b}) if named else ([X, ids], [a, b])
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
    assert any(float(tf.reduce_sum(tf.abs(t))) > 0 for t in step._accumulated.sums)
    assert private.releases == 2  # the broken one counts
    private.fit(X, Y, epochs=1, steps_per_epoch=1, verbose=0)
    assert private._step is not step


def test_adaptive_bound_is_kept_when_the_model_is_compiled_again() -> None:
    plan = replace(PLAN, clipping=AdaptiveClipping(PLAN.clipping_norm))
    private = compiled(plan=plan, seed=6)
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
    private.fit(X, Y, epochs=4, validation_data=(HELD_OUT, Y), callbacks=callbacks, verbose=0)
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
