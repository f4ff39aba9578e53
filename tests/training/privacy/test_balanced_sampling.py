"""Balanced Poisson sampling: drawn as accounted, and one object of sampler, divisor and event."""

from __future__ import annotations

import json
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest

from configs.schema import (
    FairnessSettings,
    MechanismSettings,
    PrivacySettings,
    Recipe,
    SamplingSettings,
    SettingError,
    TrainingSettings,
)
from training.batching import PADDING, Batching
from training.calibration import resolved
from training.privacy.accounting import epsilon_of
from training.privacy.keras_api.datasets import private_dataset
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import BalancedPoissonSampling, PoissonSampling
from training.randomness import Randomness

EXAMPLES, STEPS = 600, 1_000
# Three cells, in no order; public shares that are not quite right.
CELLS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [400, 150, 50]))
SHARES = (0.65, 0.25, 0.1)
SAMPLING = BalancedPoissonSampling(EXAMPLES, 60, SHARES)
ROOT = Randomness.from_seed(0)


def plan_for(shares=SHARES, batch_size: int = 60, **settings) -> PrivacyPlan:
    return PrivacyPlan.from_settings(
        PrivacySettings(enabled=True, **settings),
        num_examples=EXAMPLES,
        batch_size=batch_size,
        steps=30,
        shares=shares,
    )


@pytest.fixture(scope="module")
def membership() -> np.ndarray:
    """Whether each example is in each step's batch, float (steps, examples)."""
    sampler = SAMPLING.sampler(ROOT, CELLS)
    drawn = np.zeros((STEPS, EXAMPLES))
    for step in range(STEPS):
        found = sampler.draw(step)
        assert len(set(found.tolist())) == len(found)
        drawn[step, found] = 1
    return drawn


def test_every_example_is_drawn_at_the_rate_of_its_cell(membership):
    rates = np.array(SAMPLING.rates)
    np.testing.assert_allclose(rates, 20 / (EXAMPLES * np.array(SHARES)))
    expected = rates[CELLS]
    spread = np.sqrt(expected * (1 - expected) / STEPS)
    off = (membership.mean(axis=0) - expected) / spread
    assert np.abs(off).max() < 5
    assert 0.85 < off.std() < 1.15  # neither too even nor too uneven


def test_examples_and_steps_are_drawn_independently(membership):
    expected = np.array(SAMPLING.rates)[CELLS]
    unit = (membership - expected) / np.sqrt(expected * (1 - expected))
    order = np.argsort(CELLS, kind="stable")  # neighbours here are of one cell
    for products in (
        unit[1:] * unit[:-1],
        unit[:, 1:] * unit[:, :-1],
        unit[:, order][:, 1:] * unit[:, order][:, :-1],
    ):
        # Means of 600,000 products of variance 1: standard error 0.0013.
        assert abs(products.mean()) < 0.007


def test_cells_come_alike_where_the_shares_are_right():
    right = tuple(np.bincount(CELLS) / EXAMPLES)
    sampler = BalancedPoissonSampling(EXAMPLES, 60, right).sampler(ROOT, CELLS)
    counts = np.array([np.bincount(CELLS[sampler.draw(t)], minlength=3) for t in range(300)])
    np.testing.assert_allclose(counts.mean(axis=0), 20, atol=5 * np.sqrt(20 / 300))
    assert counts.sum(axis=1).mean() == pytest.approx(60, abs=5 * np.sqrt(60 / 300))


def test_adding_an_example_changes_no_other_ones_rate():
    """Rates are functions of public numbers: of cells they depend on none."""
    few, more = CELLS, CELLS.copy()
    more[:100] = 2
    assert SAMPLING.sampler(ROOT, few).rates == SAMPLING.sampler(ROOT, more).rates


def test_draws_come_in_random_order_and_are_the_same_at_any_time():
    sampler = SAMPLING.sampler(ROOT, CELLS)
    first = [CELLS[sampler.draw(step)[0]] for step in range(300)]
    assert np.bincount(first, minlength=3).min() > 50  # a third each, about
    assert np.array_equal(sampler.draw(7), SAMPLING.sampler(ROOT, CELLS).draw(7))


@pytest.mark.parametrize("replicas", [1, 3])
def test_every_drawn_example_goes_to_exactly_one_replica(replicas):
    sampler = SAMPLING.sampler(ROOT, CELLS)
    batching = Batching(sampler, 24, replicas)
    for step in range(20):
        mine = batching.shares(step, step + 1, range(1))
        others = batching.shares(step, step + 1, range(1, replicas))
        dealt = [*mine, *others]
        assert all(share.shape == (24 // replicas,) for share in dealt)
        rows = np.concatenate(dealt)
        assert sorted(rows[rows != PADDING]) == sorted(sampler.draw(step))


def test_plan_is_one_object_of_sampler_divisor_and_event():
    plan = plan_for(noise_multiplier=1.2)
    assert plan.sampling == SAMPLING
    assert plan.batch_size == 60  # the divisor, whatever is drawn
    largest = 20 / (EXAMPLES * 0.1)
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(largest, dp_accounting.GaussianDpEvent(1.2)), 30
    )
    assert plan.epsilon(30) == epsilon_of(event, plan.delta)
    again = PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert plan.fingerprint != plan_for(shares=None, noise_multiplier=1.2).fingerprint
    assert plan.sampling.describe() in plan.statement(30, reproducible=False)
    assert "accounted at the largest" in plan.sampling.describe()
    assert not plan.needs_one_root


def test_noise_is_calibrated_for_the_largest_rate():
    # The quicker accountant; by either the largest rate counts.
    balanced = plan_for(epsilon=2.0, accountant="rdp")
    assert 1.99 < balanced.epsilon(30) <= 2.0
    noise = balanced.noise_multiplier
    alike = plan_for(shares=None, noise_multiplier=noise, accountant="rdp")
    assert alike.sampling == PoissonSampling(EXAMPLES, 60)
    assert alike.epsilon(30) < 1.0


def test_schedules_of_noise_go_with_it():
    mechanism = MechanismSettings(schedule="linear", final_factor=2.0)
    scheduled = plan_for(noise_multiplier=1.0, mechanism=mechanism).epsilon(30)
    assert plan_for(noise_multiplier=2.0).epsilon(30) < scheduled
    assert scheduled < plan_for(noise_multiplier=1.0).epsilon(30)


def test_batch_size_that_would_need_a_probability_above_one_is_refused():
    assert plan_for(batch_size=180, noise_multiplier=1.0).sampling.probability == 1.0
    with pytest.raises(SettingError, match=r"training\.batch_size: expected at most 180 .*: 181"):
        plan_for(batch_size=181, noise_multiplier=1.0)


@pytest.mark.parametrize("method", ["truncated_poisson", "fixed_size", "balls_in_bins", "shuffled"])
def test_other_ways_of_sampling_are_refused_by_name(method):
    with pytest.raises(SettingError, match=rf"privacy\.sampling\.method: .*: '{method}'"):
        plan_for(noise_multiplier=1.0, sampling=SamplingSettings(method))


@pytest.mark.parametrize(
    "mechanism",
    [MechanismSettings("tree"), MechanismSettings("banded_matrix_factorization", bands=4)],
)
def test_noise_that_steps_share_is_refused(mechanism):
    with pytest.raises(SettingError, match=r"privacy\.mechanism\.method: .*gaussian"):
        plan_for(noise_multiplier=1.0, mechanism=mechanism)


def test_users_whose_examples_may_be_of_several_groups_are_refused():
    with pytest.raises(SettingError, match=r"fairness\.balanced_sampling: .*privacy\.unit: user"):
        plan_for(noise_multiplier=1.0, unit="user", examples_per_user=2)


@pytest.mark.parametrize("shares", [(), (0.5, 0.0, 0.5), (0.5, 0.6), (float("nan"), 1.0)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(SettingError, match=r"fairness\.balanced_sampling"):
        BalancedPoissonSampling(100, 10, shares)


def test_examples_whose_cell_is_not_known_are_refused():
    plan = plan_for(noise_multiplier=1.0)
    with pytest.raises(SettingError, match=r"fairness\.balanced_sampling: .* train by a recipe"):
        plan.sampler(ROOT)
    with pytest.raises(SettingError, match="train by a recipe"):
        private_dataset(plan, np.zeros((EXAMPLES, 2)), np.zeros(EXAMPLES))
    with pytest.raises(ValueError, match="Planned for 600"):
        plan.sampler(ROOT, cells=CELLS[:-1])
    with pytest.raises(ValueError, match=r"in \[0, 3\)"):
        plan.sampler(ROOT, cells=CELLS + 1)


def test_batch_size_is_calibrated_within_the_largest_rate():
    counts = {"a": {"no": 60.0, "yes": 30.0}, "b": {"no": 5.0, "yes": 5.0}}
    privacy = PrivacySettings(
        enabled=True, epsilon=50.0, noise_multiplier=5.0, calibrate="batch_size"
    )
    recipe = Recipe(
        privacy=privacy,
        training=TrainingSettings(steps=3),
        fairness=FairnessSettings(
            attribute="ward", balanced_sampling="group", public_counts=counts
        ),
    )
    found = resolved(recipe, 1_000, lambda training, records: 3, (0.9, 0.1))
    assert found.training.batch_size == 200
    less = replace(recipe, privacy=replace(privacy, epsilon=0.2))
    assert resolved(less, 1_000, lambda training, records: 3, (0.9, 0.1)).training.batch_size < 200
