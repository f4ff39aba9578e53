"""Noise schedules: each step has the noise it is accounted with."""

import json

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp

from configs.schema import MechanismSettings, PrivacySettings, SamplingSettings, SettingError
from tests.training.privacy.mechanisms.released import STDDEV, released_noise
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.mechanisms.schedules import STAIRS, schedule_levels
from training.privacy.plan import PrivacyPlan

SIZES = {"num_examples": 2_000, "batch_size": 50, "steps": 12}
STEP = {"schedule": "step", "milestones": {4: 0.5, 10: 2.0}}


def plan_for(noise_multiplier=None, epsilon=None, sampling="poisson", **mechanism) -> PrivacyPlan:
    settings = PrivacySettings(
        enabled=True,
        noise_multiplier=noise_multiplier,
        epsilon=epsilon,
        accountant="rdp",
        sampling=SamplingSettings(method=sampling),
        mechanism=MechanismSettings(**mechanism),
    )
    return PrivacyPlan.from_settings(settings, **SIZES)


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
@pytest.mark.parametrize("steps", [1, 2, STAIRS, 1000])
def test_stairs_go_from_one_to_the_final_factor(schedule, steps):
    settings = MechanismSettings(schedule=schedule, final_factor=0.25)
    levels = schedule_levels(settings, steps)
    factors = [factor for _, factor in levels]
    assert len(levels) == min(STAIRS, steps)
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert steps == 1 or factors[-1] == pytest.approx(0.25)
    widths = np.diff([first for first, _ in levels] + [steps])
    assert widths.max() - widths.min() <= 1
    ratios, differences = np.divide(factors[1:], factors[:-1]), np.diff(factors)
    even = ratios if schedule == "exponential" else differences
    assert np.allclose(even, even[:1])


def test_milestones_hold_until_the_next():
    mechanism = plan_for(2.0, **STEP).mechanism
    steps = [0, 3, 4, 9, 10, 11]
    assert [mechanism.multiplier_at(step) for step in steps] == [2.0, 2.0, 1.0, 1.0, 4.0, 4.0]


def test_noise_of_each_step_is_that_of_its_level():
    mechanism = GaussianMechanism(1.0, ((0, 1.0), (1, 0.5), (2, 3.0)))
    # 40,000 draws: standard error of the deviation 0.35 %.
    found = released_noise(mechanism, 4, 40_000).std(axis=1) / STDDEV
    assert found == pytest.approx([1.0, 0.5, 3.0, 3.0], rel=0.02)


@pytest.mark.parametrize("releases", [4, 5, 12])
@pytest.mark.parametrize("schedule", [STEP, {"schedule": "exponential", "final_factor": 0.4}])
def test_every_step_is_accounted_with_its_own_noise(releases, schedule):
    plan = plan_for(1.3, **schedule)
    steps = [
        dp_accounting.PoissonSampledDpEvent(
            0.025, dp_accounting.GaussianDpEvent(plan.mechanism.multiplier_at(step))
        )
        for step in range(releases)
    ]
    one_by_one = rdp.RdpAccountant().compose(dp_accounting.ComposedDpEvent(steps))
    assert plan.epsilon(releases) == pytest.approx(one_by_one.get_epsilon(plan.delta), rel=1e-9)


def test_calibration_scales_the_whole_schedule():
    plan = plan_for(epsilon=2.0, **STEP)
    assert 1.98 < plan.epsilon(plan.steps) <= 2.0
    assert plan.mechanism.levels == ((0, 1.0), (4, 0.5), (10, 2.0))


def test_exact_accountant_composes_a_schedule_too():
    plan = plan_for(1.3, **STEP)
    exact = PrivacyPlan.from_dict({**plan.to_dict(), "accountant": "pld"})
    assert 0.5 * plan.epsilon(12) < exact.epsilon(12) < plan.epsilon(12)


def test_plan_with_a_schedule_survives_the_ledger():
    plan = plan_for(1.3, **STEP)
    again = PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.fingerprint == plan.fingerprint != plan_for(1.3).fingerprint


def test_statement_names_the_schedule():
    text = plan_for(1.3, **STEP).statement(12, reproducible=False)
    assert "noise multiplier 1.3) times a schedule (1 from step 0, 0.5 from step 4" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, r"mechanism\.milestones: expected steps with factors where"),
        ({"milestones": {5: 0.5}}, r"mechanism\.milestones: expected steps with factors where"),
        ({"schedule": "step", "milestones": {5: 0.0}}, r"mechanism\.milestones: expected steps >="),
        (
            {"schedule": "step", "milestones": {12: 2.0}},
            r"milestones: expected steps below .* 12",
        ),
        (
            {"schedule": "linear", "final_factor": 0.0},
            r"mechanism\.final_factor: expected a number",
        ),
        ({"final_factor": 0.5}, r"mechanism\.final_factor: expected .*schedule: linear or exp"),
        ({"method": "tree", **STEP}, r"mechanism\.schedule: expected constant where .* is tree"),
    ],
)
def test_schedule_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        plan_for(1.0, **settings)
