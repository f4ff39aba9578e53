"""Banded matrix factorisation: its noise is C^-1 z, and costs what its theorem says."""

import json

import dp_accounting
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import pld

from configs.schema import MechanismSettings, PrivacySettings, SamplingSettings, SettingError
from tests.training.privacy.mechanisms.released import (
    ROOT,
    STDDEV,
    assert_covariance,
    fresh_draws,
    released_noise,
)
from tests.training.privacy.mechanisms.test_toeplitz import strategy
from tests.training.privacy.test_accounting import BATCH, MNIST, PUBLISHED
from training.privacy.accounting import epsilon_of
from training.privacy.events import event_of, poisson_gaussian_event
from training.privacy.mechanisms import BandedMechanism
from training.privacy.mechanisms.toeplitz import best_coefficients, noise_in_prefix_sums
from training.privacy.noise_memory import NoiseMemory
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import CyclicPoissonSampling, PoissonSampling, ShuffledSampling

MECHANISM = BandedMechanism(1.0, best_coefficients(4, 24))


def plan_for(sampling: SamplingSettings, bands=None, **settings) -> PrivacyPlan:
    mechanism = MechanismSettings("banded_matrix_factorization", bands=bands)
    return PrivacyPlan.from_settings(
        PrivacySettings(enabled=True, sampling=sampling, mechanism=mechanism, **settings),
        num_examples=3_000,
        batch_size=50,
        steps=240,
    )


CYCLIC, SHUFFLED = SamplingSettings("cyclic", bands=6), SamplingSettings("shuffled")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_noise_is_the_inverse_of_the_strategy_times_fresh_draws(jit_compile):
    found = released_noise(MECHANISM, 24, 9, jit_compile=jit_compile)
    c = strategy(MECHANISM.coefficients, 24) / MECHANISM.column_norm
    fresh = fresh_draws(24, 9, jit_compile=jit_compile)
    # Rounding of float32 through 24 steps of the recursion.
    assert found == pytest.approx(np.linalg.solve(c, fresh), abs=5e-5)


def test_noise_has_the_planned_covariance():
    inverse = np.linalg.inv(strategy(MECHANISM.coefficients, 12)) * MECHANISM.column_norm
    assert_covariance(released_noise(MECHANISM, 12, 40_000), inverse @ inverse.T)


def test_noise_in_prefix_sums_is_that_of_the_theory_and_less_than_independent_noise():
    found = np.cumsum(released_noise(MECHANISM, 24, 20_000), axis=0).var(axis=1) / STDDEV**2
    planned = noise_in_prefix_sums(MECHANISM.coefficients, 24)
    # A variance of 20,000 draws has standard error 1 %.
    assert found == pytest.approx(planned, rel=0.05)
    assert found.mean() < 0.6 * np.arange(1, 25).mean()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_recalled_noise_goes_on_with_the_same_bits(jit_compile):
    def memory() -> NoiseMemory:
        return NoiseMemory(
            [(50, 3), (7,)],
            MECHANISM.slots,
            STDDEV,
            tf.distribute.get_strategy(),
            jit_compile=jit_compile,
        )

    def draws_of(step: int):
        return MECHANISM.draws(step, ROOT, 2)

    def noises(memory: NoiseMemory, step: int) -> list[np.ndarray]:
        memory.advance(draws_of(step))
        return [noise.numpy() for noise in memory.noises(tf.constant(draws_of(step).slot))]

    whole, resumed = memory(), memory()
    for step in range(11):
        expected = noises(whole, step)
        if step == 5:
            resumed.recall(5, draws_of)
        if step >= 5:
            for one, other in zip(noises(resumed, step), expected, strict=True):
                assert np.array_equal(one, other)


@pytest.mark.parametrize("releases", [1, 6, 7, 240])
def test_cyclic_sampling_costs_a_round_of_dp_sgd_a_turn(releases):
    plan = plan_for(CYCLIC, noise_multiplier=1.4)
    round_ = dp_accounting.PoissonSampledDpEvent(6 * 50 / 3_000, dp_accounting.GaussianDpEvent(1.4))
    rounds = -(-releases // 6)
    direct = pld.PLDAccountant(value_discretization_interval=1e-3)
    direct.compose(dp_accounting.SelfComposedDpEvent(round_, rounds))
    assert plan.epsilon(releases) == pytest.approx(direct.get_epsilon(plan.delta), rel=1e-6)


# b groups of TF-Privacy's MNIST each, b times its steps: theorem 4 gives its published figures.
@pytest.mark.parametrize(("noise_multiplier", "epochs", "published"), PUBLISHED)
def test_groups_cost_what_was_published_for_one_of_them(noise_multiplier, epochs, published):
    bands, steps = 4, epochs * MNIST // BATCH
    event = event_of(
        CyclicPoissonSampling(bands * MNIST, BATCH, bands),
        BandedMechanism(noise_multiplier, best_coefficients(bands, 100)),
        bands * steps,
    )
    assert event == poisson_gaussian_event(BATCH / MNIST, noise_multiplier, steps)
    assert 0.5 * published < epsilon_of(event, 1e-5, "rdp") < published


def test_one_epoch_costs_one_gaussian_release():
    sampling = ShuffledSampling(3_000, 50)
    assert event_of(sampling, MECHANISM, 60) == dp_accounting.GaussianDpEvent(1.0)


def test_epochs_cost_at_least_as_many_releases_as_epochs():
    event = event_of(ShuffledSampling(3_000, 50), MECHANISM, 240)
    squared = event.noise_multiplier**-2
    # Four participations, of which two pairs may overlap by at most all of a column.
    assert 4 < squared < 8


@pytest.mark.parametrize("sampling", [CYCLIC, SHUFFLED], ids=["cyclic", "shuffled"])
def test_calibrated_plan_spends_its_epsilon(sampling):
    plan = plan_for(sampling, epsilon=2.0, accountant="rdp")
    assert 1.98 < plan.epsilon(240) <= 2.0
    assert plan.mechanism.bands == (6 if sampling is CYCLIC else 8)
    assert plan.needs_one_root


def test_plan_survives_the_ledger():
    plan = plan_for(CYCLIC, noise_multiplier=1.0, bands=3)
    again = PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert (again, again.fingerprint) == (plan, plan.fingerprint)


def test_statement_names_bands_and_noise():
    text = plan_for(CYCLIC, noise_multiplier=1.0).statement(240, reproducible=False)
    assert "noise correlated over 6 steps by banded matrix factorisation" in text


@pytest.mark.parametrize(
    ("sampling", "bands", "message"),
    [
        (CYCLIC, 7, r"mechanism\.bands: expected at most the 6 groups of privacy\.sampling"),
        (SHUFFLED, 61, r"mechanism\.bands: expected at most the 60 steps of an epoch"),
        (SHUFFLED, 241, r"mechanism\.bands: expected at least 2 and at most the run's 240 steps"),
        (SamplingSettings(), 4, r"mechanism\.method: expected a mechanism .*poisson"),
    ],
)
def test_combination_without_a_proof_is_refused(sampling, bands, message):
    with pytest.raises(SettingError, match=message):
        plan_for(sampling, bands, noise_multiplier=1.0)


def test_bands_without_banded_noise_are_refused():
    with pytest.raises(SettingError, match=r"mechanism\.bands: expected a whole number >= 2 where"):
        MechanismSettings(bands=4)


@pytest.mark.parametrize("coefficients", [(1.0,), (0.5, 0.2), (1.0, -0.1)])
def test_strategy_that_no_theorem_covers_is_refused(coefficients):
    with pytest.raises(SettingError, match=r"two or more numbers >= 0 of which the first is 1"):
        BandedMechanism(1.0, coefficients)


def test_gaussian_noise_under_poisson_needs_no_root():
    plan = PrivacyPlan.dp_sgd(
        num_examples=100, batch_size=10, steps=5, clipping_norm=1.0, noise_multiplier=1, delta=1e-3
    )
    assert isinstance(plan.sampling, PoissonSampling)
    assert not plan.needs_one_root
