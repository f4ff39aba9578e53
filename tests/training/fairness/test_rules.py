"""How multipliers move and what they charge: each rule against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.fairness.constraints import BoundedGroupLoss, RateConstraint
from training.fairness.group_dro import GroupDro
from training.fairness.reweighing import GroupWeights, ReleasedWeights

GROUPS, LABELS = ("a", "b", "c"), ("no", "yes")
STRATA = {
    "demographic_parity": {"all": (True, True)},
    "equalized_odds": {"yes": (False, True), "no": (True, False)},
}


def people(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def rates(parity: str, **changes) -> RateConstraint:
    fields = {"slack": 0.1, "step_size": 0.5, "multiplier_bound": 3.0, **changes}
    return RateConstraint(GROUPS, STRATA[parity], **fields)


def some_people(seed: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups, labels and scores."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, rows), rng.integers(0, 2, rows), rng.random(rows)


def table_of(groups: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    table = np.zeros((3, 2, 2))
    np.add.at(table, (groups, labels), np.stack([1 - values, values], -1))
    return table


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), parity=st.sampled_from(sorted(STRATA)))
def test_prices_are_the_lagrangian_of_the_proxy(seed, parity):
    rng, rule = people(seed), rates(parity)
    groups, labels, scores = some_people(seed)
    multipliers = rng.random(rule.initial().shape)
    counts = table_of(groups, labels, scores).sum(-1)
    weights, costs = rule.prices(
        tf.constant(multipliers, tf.float32), tf.constant(counts / counts.sum(), tf.float32)
    )
    losses = rng.random(len(scores))
    of_examples = weights.numpy()[groups, labels] * losses + costs.numpy()[groups, labels] * scores
    expected = losses.mean()
    for j, kept in enumerate(STRATA[parity].values()):
        inside = np.array(kept)[labels]
        for g in range(3):
            gap = scores[inside & (groups == g)].mean() - scores[inside].mean()
            expected += (multipliers[0, j, g] - multipliers[1, j, g]) * gap
    expected /= 1 + np.abs(multipliers[0] - multipliers[1]).sum()
    assert of_examples.mean() == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), parity=st.sampled_from(sorted(STRATA)))
def test_multipliers_grow_by_what_is_above_the_slack_and_stay_within_their_bound(seed, parity):
    rule = rates(parity)
    groups, labels, scores = some_people(seed)
    answers = (scores < 0.2 + 0.3 * groups).astype(float)
    multipliers = 3 * people(seed).random(rule.initial().shape)
    found = rule.updated(
        tf.constant(multipliers, tf.float32),
        tf.constant(table_of(groups, labels, answers), tf.float32),
    ).numpy()
    for j, kept in enumerate(STRATA[parity].values()):
        inside = np.array(kept)[labels]
        for g in range(3):
            gap = answers[inside & (groups == g)].mean() - answers[inside].mean()
            for side, sign in enumerate((1, -1)):
                grown = multipliers[side, j, g] + 0.5 * (sign * gap - 0.1)
                assert found[side, j, g] == pytest.approx(np.clip(grown, 0, 3), abs=1e-5)


def test_group_of_whom_too_little_is_known_is_left_alone():
    rule = rates("demographic_parity", slack=0.0, least_share=0.05)
    table = np.array([[[50, 50], [0, 0]], [[0, 100], [0, 0]], [[-3, 5], [1, -2]]], np.float64)
    moved = rule.updated(tf.constant(rule.initial()), tf.constant(table, tf.float32)).numpy()
    assert (moved[:, :, 2] == 0).all()
    assert moved[:, :, 1].max() > 0.05
    shares = table.sum(-1).clip(0) / table.sum(-1).clip(0).sum()
    multipliers = np.ones_like(moved) * np.array([[[1]], [[0]]])
    _, costs = rule.prices(tf.constant(multipliers, tf.float32), tf.constant(shares, tf.float32))
    assert np.isfinite(costs.numpy()).all()
    # One person of it costs no more than everybody's part; never 1 over a share near zero.
    assert np.abs(costs.numpy()[2]).max() < 3.0


@pytest.mark.parametrize(
    "rule",
    [
        rates("equalized_odds"),
        BoundedGroupLoss(GROUPS, 0.3, 1.0, 0.5, 3.0),
        GroupDro(GROUPS, LABELS, True, 200, 0.1, 0.0, 1.0),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_before_anything_is_known_every_example_counts_one(rule):
    multipliers = tf.constant(rule.initial())
    weights, costs = rule.prices(multipliers, tf.zeros([3, 2]))
    assert np.array_equal(weights.numpy(), np.ones((3, 2)))
    assert np.array_equal(costs.numpy(), np.zeros((3, 2)))
    same = rule.updated(multipliers, tf.zeros([3, 2, 2])).numpy()
    assert same == pytest.approx(rule.initial(), abs=1e-6)


def test_bounded_group_loss_charges_the_groups_above_the_bound():
    rule = BoundedGroupLoss(GROUPS, 0.3, 2.0, 0.5, 3.0)
    groups, labels, losses = some_people(5)
    table = table_of(groups, labels, losses / 2.0)
    moved = rule.updated(tf.constant([0.0, 0.1, 2.9]), tf.constant(table, tf.float32)).numpy()
    means = np.array([losses[groups == g].mean() for g in range(3)])
    assert moved == pytest.approx(np.clip([0, 0.1, 2.9] + 0.5 * (means - 0.3), 0, 3), abs=1e-5)
    counts = table.sum(-1)
    weights, costs = rule.prices(tf.constant(moved), tf.constant(counts / counts.sum(), tf.float32))
    objective = (weights.numpy()[groups, labels] * losses).mean()
    assert objective == pytest.approx((losses.mean() + moved @ means) / (1 + moved.sum()), rel=1e-5)
    assert not costs.numpy().any()


@pytest.mark.parametrize("by_label", [False, True])
def test_group_dro_is_algorithm_1(by_label):
    rule = GroupDro(GROUPS, LABELS, by_label, 200, 0.4, 1.5, 1.0)
    groups, labels, losses = some_people(6)
    cells = groups * 2 + labels if by_label else groups
    means = np.array([losses[cells == c].mean() for c in range(cells.max() + 1)])
    sizes = np.bincount(cells)
    q = np.full(len(means), 1 / len(means)) * np.exp(0.4 * (means + 1.5 / np.sqrt(sizes)))
    q /= q.sum()
    table = table_of(groups, labels, losses)
    found = rule.updated(tf.constant(rule.initial()), tf.constant(table, tf.float32))
    assert found.numpy().ravel() == pytest.approx(q, rel=1e-5)
    counts = table.sum(-1)
    weights, _ = rule.prices(found, tf.constant(counts / counts.sum(), tf.float32))
    objective = (weights.numpy()[groups, labels] * losses).mean()
    assert objective == pytest.approx(q @ means, rel=1e-5)


def test_released_weights_are_those_of_the_counts():
    counts = np.array([[60.0, 40.0], [90.0, 10.0], [150.0, 50.0]])
    rule = ReleasedWeights(GROUPS, LABELS, 1e-3)
    found = rule.updated(tf.constant(rule.initial()), tf.constant(counts[..., None], tf.float32))
    assert found.numpy() == pytest.approx(GroupWeights.from_counts("ward", counts).table, rel=1e-5)


def test_released_weight_has_a_public_maximum_whatever_the_noise():
    rule = ReleasedWeights(GROUPS, LABELS, 0.02)
    counts = np.array([[600.0, -40.0], [900.0, 0.0], [1.0, 500.0]])
    found = rule.updated(tf.constant(rule.initial()), tf.constant(counts[..., None], tf.float32))
    assert found.numpy().max() <= 1 / 0.02
    assert found.numpy().min() > 0
