"""Penalties: each against its formula in numpy, on batches with padding and missing groups."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.fairness.penalties import MEASURES, Penalty

PARITIES = ("demographic_parity", "equal_opportunity", "equalized_odds")


def make_batch(rng: np.random.Generator, rows: int, groups: int) -> tuple[dict, np.ndarray]:
    batch = {
        "labels": rng.integers(0, 2, rows).astype(np.int32),
        "groups": {"ward": rng.integers(0, groups, rows).astype(np.int32)},
        "mask": rng.random(rows) < 0.8,
    }
    return batch, rng.normal(size=(rows, 2)).astype(np.float32)


def found(batch: dict, logits: np.ndarray, measure: str, parity: str, groups: int) -> float:
    penalty = Penalty(measure, parity, 1.0, "ward", groups, positive=1)
    return float(penalty.of(tf.nest.map_structure(tf.constant, batch), tf.constant(logits)))


def rate_gap(a: np.ndarray, b: np.ndarray) -> float:
    return (a.mean() - b.mean()) ** 2


def mmd(a: np.ndarray, b: np.ndarray) -> float:
    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        return np.exp(-((x[:, None] - y[None, :]) ** 2) / 0.02).mean()

    return mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    membership = np.r_[np.ones(len(a)), np.zeros(len(b))]
    return np.corrcoef(np.r_[a, b], membership)[0, 1] ** 2


EXPECTED = {"rate_gap": rate_gap, "mmd": mmd, "correlation": correlation}


def expected(batch: dict, logits: np.ndarray, measure: str, parity: str, groups: int) -> float:
    wide = logits.astype(np.float64)
    scores = np.exp(wide[:, 1]) / np.exp(wide).sum(1)
    members, labels, mask = batch["groups"]["ward"], batch["labels"], batch["mask"]
    strata = {
        "demographic_parity": [mask],
        "equal_opportunity": [mask & (labels == 1)],
        "equalized_odds": [mask & (labels == 1), mask & (labels == 0)],
    }[parity]
    values = []
    for stratum in strata:
        for group in range(1 if groups == 2 else groups):
            a, b = scores[stratum & (members == group)], scores[stratum & (members != group)]
            if len(a) and len(b):
                values.append(EXPECTED[measure](a, b))
    return float(np.mean(values)) if values else 0.0


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(2, 4),
    measure=st.sampled_from(sorted(EXPECTED)),
    parity=st.sampled_from(PARITIES),
)
def test_penalty_is_its_formula(seed, groups, measure, parity):
    batch, logits = make_batch(np.random.default_rng(seed), 60, groups)
    one = found(batch, logits, measure, parity, groups)
    # float32 sums of 60 terms; a correlation near 0 carries 1e-8 in its denominator.
    assert one == pytest.approx(expected(batch, logits, measure, parity, groups), abs=2e-6)


def test_every_measure_is_held_to_a_formula():
    assert set(MEASURES) == set(EXPECTED)


@pytest.mark.parametrize("measure", sorted(MEASURES))
@pytest.mark.parametrize("parity", PARITIES)
def test_padding_changes_nothing(measure, parity):
    batch, logits = make_batch(np.random.default_rng(1), 40, 3)
    before = found(batch, logits, measure, parity, 3)
    padding = ~batch["mask"]
    batch["labels"][padding], batch["groups"]["ward"][padding] = 0, -1
    logits[padding] = 50.0
    assert found(batch, logits, measure, parity, 3) == pytest.approx(before, abs=1e-7)


@pytest.mark.parametrize("measure", sorted(MEASURES))
@pytest.mark.parametrize("parity", PARITIES)
def test_batch_without_one_of_the_sides_is_fair_and_its_gradient_finite(measure, parity):
    batch, logits = make_batch(np.random.default_rng(2), 20, 2)
    batch["groups"]["ward"][:] = 1
    penalty = Penalty(measure, parity, 1.0, "ward", 2, positive=1)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = penalty.of(tf.nest.map_structure(tf.constant, batch), variable)
    assert float(value) == 0.0
    assert np.array_equal(tape.gradient(value, variable).numpy(), np.zeros_like(logits))


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_following_the_gradient_makes_a_batch_fairer(measure):
    batch, logits = make_batch(np.random.default_rng(3), 200, 2)
    logits[batch["groups"]["ward"] == 1, 1] += 2.0
    penalty = Penalty(measure, "demographic_parity", 1.0, "ward", 2, positive=1)
    tensors, variable = tf.nest.map_structure(tf.constant, batch), tf.Variable(logits)
    first = float(penalty.of(tensors, variable))
    for _ in range(50):
        with tf.GradientTape() as tape:
            value = penalty.of(tensors, variable)
        variable.assign_sub(20.0 * tape.gradient(value, variable))
    assert float(penalty.of(tensors, variable)) < 0.5 * first
