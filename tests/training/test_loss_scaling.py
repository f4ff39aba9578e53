"""Plain steps in float16: small gradients are kept, large ones halve the scale and move nothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.conftest import assert_identical, weights_of
from tests.training.test_resume import crash, run_once
from training.fairness import AdversaryTask
from training.losses import cross_entropy
from training.steps import AdversarialStep, PlainStep
from training.steps.loss_scaling import with_loss_scale

ROWS, WIDTH, LABELS = 16, 5, ("a", "b", "c")
# So small a loss has gradients at the logits below what float16 represents (6e-8).
TINY = 1e-8


def make_model(dtype: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((WIDTH,))
    hidden = keras.layers.Dense(8, activation="tanh", dtype=dtype)(inputs)
    return keras.Model(inputs, keras.layers.Dense(len(LABELS), dtype=dtype)(hidden))


def make_batch(real: int = ROWS) -> dict:
    features = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("float32")
    return {
        "inputs": tf.constant(features),
        "labels": tf.constant(features[:, :3].argmax(axis=1), tf.int32),
        "mask": tf.range(ROWS) < real,
    }


def make_step(dtype: str, optimizer=None, *, scaled=True, times=TINY, l2=0.0):
    """A step on a loss of `times` the cross-entropy, its model and its optimizer."""
    model, loss = make_model(dtype), cross_entropy(LABELS)
    optimizer = optimizer or keras.optimizers.SGD(1.0 / times)
    if scaled:
        optimizer = with_loss_scale(optimizer, model)
    step = PlainStep(
        model,
        lambda labels, logits: times * loss(labels, logits),
        optimizer,
        tf.distribute.get_strategy(),
        accumulates=True,
        l2=l2,
    )
    return step, model, optimizer


def take(step: PlainStep, batch: dict, *, accumulated=False) -> float:
    """Takes a step; returns the batch's loss before it."""
    if accumulated:
        step.add(batch)
    draws = step.draws(0, None)
    return step.finish(batch, draws, accumulated=accumulated).loss


def test_gradients_that_vanish_in_float16_are_kept_by_the_scale():
    bare, model, _ = make_step("mixed_float16", scaled=False)
    before = weights_of(model)
    take(bare, make_batch())
    assert_identical(weights_of(model), before)  # else this tests nothing

    step, model, _ = make_step("mixed_float16")
    losses = [take(step, make_batch()) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("accumulated", [False, True])
def test_scaled_step_is_that_of_float32(accumulated):
    moves = []
    for dtype in ("float32", "mixed_float16"):
        step, model, _ = make_step(dtype, l2=1e-10)
        before = weights_of(model)
        take(step, make_batch(ROWS - 3), accumulated=accumulated)
        moves.append([b - a for a, b in zip(before, weights_of(model), strict=True)])
    for full, half in zip(*moves, strict=True):
        np.testing.assert_allclose(half, full, atol=0.01 * np.abs(full).max())


@pytest.mark.parametrize("bound", [{}, {"clipvalue": 0.01}, {"global_clipnorm": 0.01}])
def test_overflow_halves_the_scale_and_moves_nothing(bound):
    inner = keras.optimizers.Adam(0.01, **bound)
    step, model, optimizer = make_step("mixed_float16", inner, times=1.0, l2=0.1)
    optimizer.dynamic_scale.assign(2.0**40)
    before = weights_of(model)
    take(step, make_batch())
    assert_identical(weights_of(model), before)
    assert step.released() == {"loss_scale": 2.0**39, "skipped_steps": 1.0}
    # It goes down until it fits, and then the step is taken.
    for _ in range(39):
        take(step, make_batch())
    found = step.released()
    assert found["loss_scale"] == 2.0 ** (40 - found["skipped_steps"])
    assert 0 < int(optimizer.iterations.numpy()) == 40 - found["skipped_steps"]
    assert all(np.isfinite(weight).all() for weight in weights_of(model))
    assert np.abs(weights_of(model)[0] - before[0]).max() > 0


def test_overflow_in_the_model_does_not_reach_its_adversary():
    model = make_model("mixed_float16")
    optimizer = with_loss_scale(keras.optimizers.Adam(0.01), model)
    step = AdversarialStep(
        model,
        cross_entropy(LABELS),
        optimizer,
        tf.distribute.get_strategy(),
        accumulates=False,
        adversary=AdversaryTask("demographic_parity", 0.5, 0.01, "ward", groups=2, positive=1),
    )
    batch = {**make_batch(), "groups": {"ward": tf.range(ROWS) % 2}}
    optimizer.dynamic_scale.assign(2.0**40)
    before, guessing = weights_of(model), [v.numpy() for v in step.state]
    take(step, batch)
    assert_identical(weights_of(model), before)
    after = [v.numpy() for v in step.state]
    assert all(np.isfinite(v).all() for v in after)
    assert any((a != g).any() for a, g in zip(after, guessing, strict=True))
    optimizer.dynamic_scale.assign(2.0**10)
    take(step, batch)
    assert step.released()["skipped_steps"] == 1
    assert all(np.isfinite(weight).all() for weight in weights_of(model))
    assert (weights_of(model)[0] != before[0]).any()


def test_only_models_in_float16_have_a_scale():
    for dtype in ("float32", "mixed_bfloat16"):
        step, _, optimizer = make_step(dtype)
        assert isinstance(optimizer, keras.optimizers.SGD)
        assert step.released() == {}


class HighScale(keras.callbacks.Callback):
    """Begins a run with a scale that does not fit."""

    def on_train_batch_begin(self, batch, logs=None):
        scale = self.model.optimizer.dynamic_scale
        if float(scale.numpy()) == 2.0**15:
            scale.assign(2.0**25)


def test_resumed_run_keeps_its_scale(recipe, tmp_path):
    half = recipe(precision="mixed_float16", checkpoint_every=2)
    whole, _, _ = run_once(half, tmp_path / "whole", [HighScale])
    crash(half, tmp_path / "cut", 3, [HighScale])
    resumed, _, _ = run_once(half, tmp_path / "cut", [HighScale])
    found = whole.step.released()
    assert 2 < found["skipped_steps"] < 10  # some before the checkpoint, and some steps were taken
    assert found["loss_scale"] == 2.0 ** (25 - found["skipped_steps"])
    assert resumed.step.released() == found
    assert_identical(weights_of(resumed.model), weights_of(whole.model))
