"""PrivacyPlan: one object that sampling, clipping, noise and accounting cannot contradict."""

import json

import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import rdp

from configs.schema import PrivacySettings, SamplingSettings, SettingError
from training.privacy.accounting import epsilon_of
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness

SIZES = {"num_examples": 5_000, "batch_size": 100, "steps": 150}


def plan_for(**settings) -> PrivacyPlan:
    return PrivacyPlan.from_settings(PrivacySettings(enabled=True, **settings), **SIZES)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_plan_never_spends_more_than_its_epsilon(epsilon, accountant):
    plan = plan_for(epsilon=epsilon, accountant=accountant)
    assert 0.995 * epsilon < plan.epsilon(plan.steps) <= epsilon


def test_noise_multiplier_is_taken_as_it_is():
    plan = plan_for(noise_multiplier=1.7, clipping_norm=0.5)
    assert (plan.noise_multiplier, plan.noise_stddev) == (1.7, 0.85)
    expected = rdp.RdpAccountant().compose(plan.event(plan.steps)).get_epsilon(plan.delta)
    assert epsilon_of(plan.event(plan.steps), plan.delta, "rdp") == expected


def test_event_sampler_and_query_are_of_the_same_plan():
    plan = plan_for(noise_multiplier=1.7, clipping_norm=0.5)
    event = plan.event(plan.steps)
    assert event.count == plan.steps
    assert event.event.sampling_probability == plan.sampling.probability == 0.02
    assert event.event.event.noise_multiplier == plan.noise_multiplier
    sampler = plan.sampler(Randomness.from_seed(0))
    assert (sampler.num_examples, sampler.probability) == (5_000, 0.02)
    state = plan.query().seeded_global_state(tf.zeros([1, 1, 2], tf.int64), tf.ones(1))
    assert float(state.l2_norm_clip) == 0.5
    assert float(state.stddev) == pytest.approx(0.85)


def test_delta_defaults_to_n_to_the_minus_1_1():
    assert plan_for(noise_multiplier=1.0).delta == pytest.approx(5_000**-1.1)


@pytest.mark.parametrize("delta", [1 / 5_000, 0.01])
def test_delta_of_one_over_n_is_refused(delta):
    with pytest.raises(SettingError, match=r"privacy\.delta: expected less than 1/N = 0\.0002"):
        plan_for(noise_multiplier=1.0, delta=delta)


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(SettingError, match=r"training\.batch_size: expected at most the 10 train"):
        PrivacyPlan.from_settings(
            PrivacySettings(enabled=True, epsilon=1.0), num_examples=10, batch_size=11, steps=5
        )


def test_statement_says_what_it_rests_on():
    plan = plan_for(noise_multiplier=1.2)
    text = plan.statement(40, reproducible=False)
    assert f"({plan.epsilon(40):.4g}, {plan.delta:.3g})-differentially private" in text
    for assumption in (
        "adding or removing one training example",
        "40 releases",
        "(Poisson sampling, 100 expected of 5000",
        "clipped to L2 norm 1",
        "noise multiplier 1.2",
        "Assumed public: which records form the training split and their number",
        "Not covered: choices made by looking at the training data",
        "people who appear in more than one example",
        "Mironov 2012",
    ):
        assert assumption in text
    assert "whoever knows it can subtract the noise" not in text
    assert "whoever knows it can subtract the noise" in plan.statement(40, reproducible=True)


def test_fingerprint_changes_with_everything_the_guarantee_depends_on():
    base = {**SIZES, "clipping_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
    changes = {
        "num_examples": 5_001,
        "batch_size": 101,
        "clipping_norm": 1.1,
        "noise_multiplier": 1.1,
        "delta": 1e-6,
        "accountant": "rdp",
    }
    prints = {
        PrivacyPlan.dp_sgd(**{**base, key: value}).fingerprint for key, value in changes.items()
    }
    assert len(prints | {PrivacyPlan.dp_sgd(**base).fingerprint}) == len(changes) + 1
    # The length alone may differ: a longer run goes on under the same plan.
    assert (
        PrivacyPlan.dp_sgd(**{**base, "steps": 9}).fingerprint
        == PrivacyPlan.dp_sgd(**base).fingerprint
    )


def test_plan_draws_its_expected_batch_size_on_average():
    sampler = plan_for(noise_multiplier=1.0).sampler(Randomness.from_seed(3))
    # 60 draws of Binomial(5000, 0.02): mean 100, standard error 9.9 / sqrt(60) = 1.28.
    assert np.mean([len(sampler.draw(step)) for step in range(60)]) == pytest.approx(100, abs=5)


WAYS = [
    SamplingSettings(),
    SamplingSettings("truncated_poisson", max_batch=130),
    SamplingSettings("fixed_size"),
    SamplingSettings("balls_in_bins"),
    SamplingSettings("shuffled"),
    SamplingSettings("cyclic", bands=4),
]


@pytest.mark.parametrize("sampling", WAYS, ids=lambda s: s.method)
def test_plan_survives_the_ledger_in_every_way_of_sampling(sampling):
    plan = plan_for(noise_multiplier=2.0, sampling=sampling)
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.sampling.describe() in plan.statement(3, reproducible=False)
    # An epoch that was begun anew halfway would use examples twice: such runs keep one root.
    assert plan.needs_one_root == (plan.sampling.period > 1)


@pytest.mark.parametrize(
    ("neighbours", "words"),
    [
        (None, "with respect to adding or removing one training example."),
        ("zero_out", "with respect to blanking one training example (zero-out"),
        ("replace_one", "with respect to replacing one training example by any other."),
    ],
)
def test_statement_names_the_neighbours(neighbours, words):
    plan = plan_for(noise_multiplier=1.2, neighbours=neighbours)
    assert words in plan.statement(4, reproducible=False)


def test_neighbours_are_part_of_the_fingerprint():
    prints = {
        plan_for(noise_multiplier=1.2, neighbours=name).fingerprint
        for name in ("add_remove", "zero_out", "replace_one")
    }
    assert len(prints) == 3


def test_unproven_neighbours_are_refused_before_anything_runs():
    with pytest.raises(
        SettingError, match=r"privacy\.neighbours: expected zero_out or replace_one"
    ):
        plan_for(
            noise_multiplier=1.2, neighbours="add_remove", sampling=SamplingSettings("shuffled")
        )


def test_statement_of_a_run_that_ended_early_names_what_is_proven_of_adaptive_stopping():
    plan = plan_for(noise_multiplier=1.2)
    early = plan.statement(plan.steps - 1, reproducible=False)
    assert f"what is proven is the epsilon of all {plan.steps} planned releases" in early
    assert f"{plan.epsilon(plan.steps):.4g}" in early
    assert "fixed beforehand" not in plan.statement(plan.steps, reproducible=False)


def test_bound_too_small_for_float32_norms_is_refused():
    with pytest.raises(SettingError, match=r"privacy\.clipping_norm: expected a number >= 1e-12"):
        plan_for(noise_multiplier=1.2, clipping_norm=1e-20)


def test_plan_made_by_hand_refuses_a_delta_that_allows_publishing_a_record():
    values = {"batch_size": 10, "steps": 5, "clipping_norm": 1.0, "noise_multiplier": 1.0}
    with pytest.raises(SettingError, match=r"privacy.delta: expected less than 1/N = 0.01"):
        PrivacyPlan.dp_sgd(num_examples=100, delta=0.01, **values)
    PrivacyPlan.dp_sgd(num_examples=100, delta=0.0099, **values)
