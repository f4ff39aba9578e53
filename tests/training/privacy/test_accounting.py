"""Accounting: against published figures, and against dp_accounting used directly."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp

from configs.schema import PrivacySettings, SettingError
from training.privacy.accounting import (
    calibrate_noise,
    default_delta,
    epsilon_of,
    require_supported,
)
from training.privacy.comparison import compared
from training.privacy.events import event_of, poisson_gaussian_event
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.sampling import PoissonSampling

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


# Published with other noise and other libraries' accountants: Opacus' documentation of
# compute_dp_sgd_privacy (60,000 examples, batches of 256, delta 1e-5): noise 1.12, 60 epochs,
# epsilon 2.95, by Renyi orders 10, 20 and 100 alone and Mironov's conversion.
def test_renyi_curve_gives_the_epsilon_that_opacus_published():
    orders = [10, 20, 100]
    accountant = rdp.RdpAccountant(orders).compose(mnist_event(1.12, 60))
    found = np.min(accountant.rdp - np.log(DELTA) / (np.array(orders) - 1))
    assert found == pytest.approx(2.95, abs=0.01)


def test_prv_brackets_the_exact_accountant_from_both_sides():
    """Gopi et al. 2021: [lower, estimate, upper] by their own package."""
    from prv_accountant import PRVAccountant
    from prv_accountant.privacy_random_variables import PoissonSubsampledGaussianMechanism

    event = mnist_event(1.1, 15)
    variable = PoissonSubsampledGaussianMechanism(
        sampling_probability=BATCH / MNIST, noise_multiplier=1.1
    )
    steps = event.count
    accountant = PRVAccountant(
        prvs=[variable], max_self_compositions=[steps], eps_error=0.01, delta_error=1e-8
    )
    lower, _, upper = accountant.compute_epsilon(DELTA, [steps])
    assert lower < epsilon_of(event, DELTA) < upper
    assert compared(event, DELTA)["prv"] == pytest.approx(upper, rel=1e-6)


def test_comparison_shows_that_the_central_limit_can_understate():
    said = compared(mnist_event(0.7, 1), DELTA)
    assert list(said) == ["pld", "rdp", "gdp", "prv"]
    assert said["gdp"] < said["pld"] < said["rdp"]


def test_comparison_of_plain_gaussians_is_exact_by_gdp():
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(6.0), 4)
    said = compared(event, DELTA)
    assert said["gdp"] == pytest.approx(said["pld"], rel=1e-3)


def test_comparison_leaves_out_who_has_nothing_to_say():
    event = event_of(PoissonSampling(1_000, 50), GaussianMechanism(1.0), 9, "replace_one")
    assert list(compared(event, DELTA)) == ["pld"]
    with pytest.raises(SettingError, match=r"privacy\.accountant: expected pld: of this"):
        require_supported(event, "rdp")


@pytest.mark.parametrize(("name", "reason"), [("gdp", "can understate"), ("prv", "at least as")])
def test_accountants_without_a_guarantee_are_refused(name, reason):
    with pytest.raises(
        SettingError, match=rf"privacy\.accountant: expected pld or rdp: .*{reason}"
    ):
        PrivacySettings(enabled=True, epsilon=1.0, accountant=name)


def test_noise_is_calibrated_where_renyi_has_no_bound():
    def replaced(noise_multiplier: float) -> dp_accounting.DpEvent:
        mechanism = GaussianMechanism(noise_multiplier)
        return event_of(PoissonSampling(5_000, 50), mechanism, 100, "replace_one")

    noise = calibrate_noise(replaced, 1.0, 1e-5)
    assert 0.995 < epsilon_of(replaced(noise), 1e-5) <= 1.0
