"""Accounting: against published figures, and against dp_accounting used directly."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp

from configs.schema import SettingError
from training.privacy.accounting import (
    calibrate_noise,
    default_delta,
    epsilon_of,
)
from training.privacy.events import poisson_gaussian_event

# TF-Privacy's MNIST tutorial: 60,000 examples, batches of 256, delta 1e-5.
MNIST, BATCH, DELTA = 60_000, 256, 1e-5
PUBLISHED = [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]


def mnist_event(noise_multiplier: float, epochs: int) -> dp_accounting.DpEvent:
    return poisson_gaussian_event(BATCH / MNIST, noise_multiplier, epochs * MNIST // BATCH)


@pytest.mark.parametrize(("noise_multiplier", "epochs", "published"), PUBLISHED)
def test_renyi_curve_gives_the_epsilon_that_tf_privacy_published(
    noise_multiplier, epochs, published
):
    accountant = rdp.RdpAccountant()
    accountant.compose(mnist_event(noise_multiplier, epochs))
    orders, curve = np.array(accountant._orders), np.array(accountant._rdp)
    # The conversion in use then: Mironov 2017, proposition 3.
    assert np.min(curve - np.log(DELTA) / (orders - 1)) == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize(("noise_multiplier", "epochs", "published"), PUBLISHED)
def test_newer_accounting_never_costs_more(noise_multiplier, epochs, published):
    event = mnist_event(noise_multiplier, epochs)
    exact, renyi = epsilon_of(event, DELTA, "pld"), epsilon_of(event, DELTA, "rdp")
    assert 0.5 * published < exact < renyi < published


@pytest.mark.parametrize(("sampling_probability", "noise_multiplier"), [(0.01, 0.8), (0.02, 2.0)])
def test_coarse_buckets_overstate_epsilon_by_less_than_a_thousandth(
    sampling_probability, noise_multiplier
):
    event = poisson_gaussian_event(sampling_probability, noise_multiplier, 10_000)
    fine = pld.PLDAccountant(value_discretization_interval=2e-4).compose(event).get_epsilon(1e-5)
    assert 1.0 <= epsilon_of(event, 1e-5) / fine < 1.001


def test_epsilon_is_that_of_dp_accounting_used_directly():
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0)), 500
    )
    direct = pld.PLDAccountant(value_discretization_interval=1e-4).compose(event).get_epsilon(1e-6)
    found = epsilon_of(poisson_gaussian_event(0.01, 1.0, 500), 1e-6)
    assert found == pytest.approx(direct, rel=2e-3)
    direct = rdp.RdpAccountant().compose(event).get_epsilon(1e-6)
    assert epsilon_of(poisson_gaussian_event(0.01, 1.0, 500), 1e-6, "rdp") == direct


def test_no_release_costs_nothing():
    assert epsilon_of(dp_accounting.NoOpDpEvent(), 1e-6) == 0.0


def test_epsilon_grows_with_every_release():
    spent = [epsilon_of(poisson_gaussian_event(0.05, 1.0, n), 1e-5) for n in (1, 10, 100, 1000)]
    assert spent == sorted(spent)
    assert spent[0] < spent[-1]


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("target", [0.1, 1.0, 3.0])
def test_calibrated_noise_meets_the_target_and_wastes_little(target, accountant):
    def event_of(noise_multiplier: float) -> dp_accounting.DpEvent:
        return poisson_gaussian_event(256 / 30_000, noise_multiplier, 300)

    noise = calibrate_noise(event_of, target, 1e-5, accountant)
    assert 0.995 * target < epsilon_of(event_of(noise), 1e-5, accountant) <= target


@pytest.mark.parametrize(("target", "delta"), [(1e-9, 1e-5), (1e-6, 1e-9)])
def test_target_that_no_noise_reaches_is_refused_by_name(target, delta):
    with pytest.raises(SettingError, match=rf"privacy\.epsilon: expected a value.*: {target}$"):
        calibrate_noise(lambda noise: poisson_gaussian_event(0.01, noise, 100), target, delta)


def test_default_delta_is_below_one_over_the_number_of_people():
    assert default_delta(32_561) == pytest.approx(32_561**-1.1)
    assert all(default_delta(n) < 1 / n for n in (2, 100, 10**6))
