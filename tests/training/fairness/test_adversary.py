"""The adversary: what it is shown, and what the model does against it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.adversarial_step import AdversarialStep
from training.fairness import Adversary, AdversaryTask
from training.losses import cross_entropy
from training.randomness import Randomness

ROWS = 40


def task_of(parity: str, weight: float = 0.7) -> AdversaryTask:
    return AdversaryTask(parity, weight, 0.01, "ward", groups=3, positive=1)


def make_batch(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "inputs": {"features": tf.constant(rng.normal(size=(ROWS, 4)), tf.float32)},
        "labels": tf.constant(rng.integers(0, 2, ROWS), tf.int32),
        "groups": {"ward": tf.constant(rng.integers(0, 3, ROWS), tf.int32)},
        "mask": tf.range(ROWS) < ROWS - 3,
    }


def adversary_of(parity: str, weight: float = 0.7) -> tuple[Adversary, list[np.ndarray]]:
    """One whose weights are not zero, and these."""
    adversary = Adversary(task_of(parity, weight), tf.distribute.get_strategy())
    rng = np.random.default_rng(1)
    for variable in adversary.variables:
        variable.assign(rng.normal(size=variable.shape))
    return adversary, [v.numpy() for v in adversary.variables]


@pytest.mark.parametrize("parity", ["demographic_parity", "equal_opportunity", "equalized_odds"])
def test_adversary_guesses_from_score_and_label_as_published(parity):
    batch = make_batch()
    logits = np.random.default_rng(2).normal(size=(ROWS, 3)).astype(np.float32)
    adversary, (kernel, bias, sharpness) = adversary_of(parity)
    found = adversary.losses(batch, tf.constant(logits)).numpy()
    p = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    s = 1 / (1 + (p / (1 - p)) ** -(1 + abs(sharpness)))
    y = (batch["labels"].numpy() == 1).astype(float)
    shown = np.stack([s, s * y, s * (1 - y), y], 1)[:, : len(kernel)]
    guess = shown @ kernel + bias
    log_p = guess - np.log(np.exp(guess).sum(1, keepdims=True))
    expected = -log_p[np.arange(ROWS), batch["groups"]["ward"].numpy()]
    guessed = batch["mask"].numpy() & ((y == 1) | (parity != "equal_opportunity"))
    assert found == pytest.approx(np.where(guessed, expected, 0), abs=1e-5)


def test_model_is_moved_by_the_projected_gradient():
    adversary, _ = adversary_of("demographic_parity", weight=0.7)
    rng = np.random.default_rng(3)
    task = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 2), (2,))]
    against = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 2), (2,))]
    found = adversary.against([*map(tf.constant, task)], [*map(tf.constant, against)])
    p, a = (np.concatenate([x.ravel() for x in part]) for part in (task, against))
    unit = a / np.linalg.norm(a)
    expected = p - (p @ unit) * unit - 0.7 * a
    assert np.concatenate([x.numpy().ravel() for x in found]) == pytest.approx(expected, abs=1e-5)
    # Without its own term nothing is left that helps the adversary.
    adversary.task = task_of("demographic_parity", weight=0.0)
    left = adversary.against([*map(tf.constant, task)], [*map(tf.constant, against)])
    assert sum((x.numpy() * b).sum() for x, b in zip(left, against, strict=True)) == pytest.approx(
        0, abs=1e-4
    )


def test_adversary_that_learns_nothing_leaves_the_task_as_it_is():
    adversary, _ = adversary_of("demographic_parity")
    task = [tf.constant([1.0, 2.0])]
    assert np.array_equal(adversary.against(task, [tf.zeros([2])])[0], task[0])


def make_step(accumulates: bool) -> tuple[keras.Model, AdversarialStep]:
    features = keras.Input((4,), name="features")
    initializer = keras.initializers.GlorotUniform(seed=1)
    logits = keras.layers.Dense(2, kernel_initializer=initializer)(features)
    model = keras.Model({"features": features}, logits)
    step = AdversarialStep(
        model,
        cross_entropy(("no", "yes")),
        keras.optimizers.SGD(1.0),
        tf.distribute.get_strategy(),
        adversary=task_of("equalized_odds"),
        accumulates=accumulates,
    )
    return model, step


def test_step_in_two_parts_is_the_step_in_one():
    batch = make_batch()
    parts = [
        tf.nest.map_structure(lambda x, first=first: x[first : first + 20], batch)
        for first in (0, 20)
    ]
    (whole, step), (halves, other) = make_step(False), make_step(True)
    for _ in range(2):
        draws = step.draws(0, Randomness.from_seed(0))
        totals = step.finish(batch, draws, accumulated=False)
        other.add(parts[0])
        other.finish(parts[1], draws, accumulated=True)
    assert totals.adversary_loss > 0
    for one, two in zip(whole.get_weights(), halves.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    for one, two in zip(step.state, other.state, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-5)
