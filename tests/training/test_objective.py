"""Opacity and leakage: what they are, that they fall when asked to, and what privacy refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import ObjectiveSettings, PrivacySettings, Recipe, SettingError
from tests.training.test_steps import LABELS, draws, make_batch, make_model, make_step
from training.losses import cross_entropy
from training.objective import OpacityModel, Terms, confidence
from training.run_directory import RunDirectory
from training.session import open_session

L = keras.layers
ROWS = 6


def numeric_opacity(model: keras.Model, batch: dict, row: int, step: float = 1e-3) -> float:
    """By central differences, an input at a time."""
    x = batch["inputs"]["features"].numpy()[row : row + 1].astype(np.float64)
    label = batch["labels"][row : row + 1]

    def loss(values: np.ndarray) -> float:
        logits = model({"features": tf.constant(values, tf.float32)})
        return float(cross_entropy(LABELS)(label, logits)[0])

    moves = step * np.eye(x.shape[1])
    slopes = [(loss(x + move) - loss(x - move)) / (2 * step) for move in moves]
    return float(np.sum(np.square(slopes)))


def test_opacity_is_the_squared_gradient_by_an_examples_own_inputs() -> None:
    model, batch = make_model(), make_batch(ROWS)
    logits, losses, opacity = OpacityModel(model)(batch, cross_entropy(LABELS))
    expected = [numeric_opacity(model, batch, row) for row in range(ROWS)]
    # Differences of a float32 loss of about 1 over 2e-3 carry an error of about 1e-4.
    np.testing.assert_allclose(opacity, expected, rtol=5e-3, atol=1e-5)
    np.testing.assert_allclose(logits, model(batch["inputs"]), rtol=1e-6)
    np.testing.assert_allclose(losses, cross_entropy(LABELS)(batch["labels"], logits), rtol=1e-6)


def test_opacity_of_ids_is_by_their_embeddings() -> None:
    ids = keras.Input((4,), dtype="int32", name="ids")
    table = L.Embedding(7, 3, embeddings_initializer=keras.initializers.RandomNormal(seed=2))
    head = L.Dense(3, kernel_initializer=keras.initializers.RandomNormal(seed=3))
    model = keras.Model({"ids": ids}, head(L.GlobalAveragePooling1D()(table(ids))))
    batch = {
        "inputs": {"ids": tf.constant([[0, 1, 1, 6], [2, 2, 2, 2]])},
        "labels": tf.constant([0, 2]),
    }
    logits, _, opacity = OpacityModel(model)(batch, cross_entropy(LABELS))
    wrong = tf.nn.softmax(logits) - tf.one_hot(batch["labels"], 3)
    # The mean over four places: each embedding's gradient is a quarter of the pooled one's.
    by_pooled = tf.linalg.matvec(head.kernel, wrong)
    np.testing.assert_allclose(opacity, tf.reduce_sum(by_pooled**2, -1) / 4, rtol=1e-5)


def test_model_without_a_real_value_on_its_way_has_no_opacity() -> None:
    ids = keras.Input((4,), dtype="int32")
    with pytest.raises(ValueError, match="no real-valued tensor"):
        OpacityModel(keras.Model(ids, L.Flatten()(ids)))


def test_confidence_goes_from_zero_to_the_logarithm_of_the_classes() -> None:
    found = confidence(tf.constant([[5.0, 5, 5, 5], [99, 0, 0, 0], [1, 1, -99, -99]]))
    np.testing.assert_allclose(found, [0, math.log(4), math.log(2)], atol=1e-6)


@pytest.mark.parametrize("private", [False, True])
def test_leakage_is_reported_apart_from_the_loss(private) -> None:
    batch = make_batch(ROWS, real=4)
    reports = []
    for terms in (Terms(), Terms(leakage=0.7)):
        step = make_step(make_model(), private, terms=terms)
        reports.append(step.finish(batch, draws(), accumulated=False))
    without, within = reports
    logits = make_model()(batch["inputs"])
    assert within.loss == pytest.approx(without.loss, rel=1e-5)
    assert within.leakage == pytest.approx(float(tf.reduce_sum(confidence(logits)[:4])), rel=1e-5)
    assert without.leakage == 0


def test_step_descends_the_weighted_sum_of_its_terms() -> None:
    model, batch = make_model(), make_batch(ROWS, real=5)
    before = [v.numpy() for v in model.trainable_variables]
    terms = Terms(opacity=0.5, leakage=0.3)
    report = make_step(model, terms=terms).finish(batch, draws(), accumulated=False)
    moved = [b - v.numpy() for b, v in zip(before, model.trainable_variables, strict=True)]

    fresh = make_model()
    with tf.GradientTape() as tape:
        x = batch["inputs"]["features"][:5]
        labels = batch["labels"][:5]
        with tf.GradientTape() as inner:
            inner.watch(x)
            logits = fresh({"features": x})
            losses = cross_entropy(LABELS)(labels, logits)
            objective = losses + 0.3 * confidence(logits)
        squares = tf.reduce_sum(inner.gradient(objective, x) ** 2)
        total = tf.reduce_sum(objective) + 0.5 * squares
    expected = tape.gradient(total, [v.value for v in fresh.trainable_variables])
    for found, gradient in zip(moved, expected, strict=True):
        np.testing.assert_allclose(found, gradient.numpy() / 5, rtol=1e-4, atol=1e-6)
    assert report.opacity == pytest.approx(float(squares), rel=1e-4)


def after(recipe: Recipe, folder) -> dict[str, float]:
    session = open_session(recipe)
    logs: dict[str, float] = {}
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, last: logs.update(last))
    session.loop(RunDirectory.at(str(folder)), [keep], None, verbose=0).run()
    return logs


def test_terms_of_a_recipe_fall_and_are_logged_on_their_own(recipe, tmp_path) -> None:
    # A weight of next to nothing only shows a term.
    shown = replace(recipe(steps=60), objective=ObjectiveSettings(1e-9, 1e-9))
    weighed = replace(shown, objective=ObjectiveSettings(2.0, 1.0))
    free = after(shown, tmp_path / "free")
    held = after(weighed, tmp_path / "held")
    assert held["opacity"] < free["opacity"] / 2
    assert held["leakage"] < free["leakage"] / 2
    assert held["loss"] > free["loss"]
    assert not {"opacity", "leakage"} & set(after(recipe(steps=2), tmp_path / "none"))


def test_leakage_works_with_privacy_and_opacity_is_refused() -> None:
    private = PrivacySettings(enabled=True, epsilon=3.0)
    Recipe(privacy=private, objective=ObjectiveSettings(leakage_weight=0.1))
    with pytest.raises(SettingError, match=r"objective.opacity_weight: expected 0 with privacy"):
        Recipe(privacy=private, objective=ObjectiveSettings(opacity_weight=0.1))
    with pytest.raises(SettingError, match=r"objective.leakage_weight: expected a number >= 0"):
        ObjectiveSettings(leakage_weight=-1.0)
