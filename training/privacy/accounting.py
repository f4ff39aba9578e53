"""What a mechanism costs: thin functions over `dp_accounting`, which does the proofs.

Neighbouring datasets differ by one example added or removed; the number of training examples N,
the steps and the batch size are taken as public.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import dp_accounting
from dp_accounting import pld, rdp

from configs.schema import SettingError

ACCOUNTANTS: dict[str, Callable[[], dp_accounting.PrivacyAccountant]] = {
    "pld": pld.PLDAccountant,
    "rdp": rdp.RdpAccountant,
}


def default_delta(num_examples: int) -> float:
    """N^-1.1, the usual choice: well below one over the number of people."""
    return float(num_examples) ** -1.1


def poisson_gaussian_event(
    sampling_probability: float, noise_multiplier: float, releases: int
) -> dp_accounting.DpEvent:
    """`releases` Gaussian sums, each over a fresh Poisson sample."""
    if releases == 0:
        return dp_accounting.NoOpDpEvent()
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_probability, gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, releases)


@lru_cache(maxsize=256)
def epsilon_of(event: dp_accounting.DpEvent, delta: float, accountant: str = "pld") -> float:
    """Epsilon of `event` at `delta`; 0 for an event that releases nothing."""
    if isinstance(event, dp_accounting.NoOpDpEvent):
        return 0.0
    return float(ACCOUNTANTS[accountant]().compose(event).get_epsilon(delta))


def calibrate_noise(
    event_of: Callable[[float], dp_accounting.DpEvent],
    epsilon: float,
    delta: float,
    accountant: str = "pld",
) -> float:
    """The least noise multiplier whose event costs at most `epsilon` at `delta`.

    Raises:
        SettingError: If no noise multiplier up to 10^6 suffices.
    """
    try:
        return float(
            dp_accounting.calibrate_dp_mechanism(
                ACCOUNTANTS[accountant],
                event_of,
                epsilon,
                delta,
                bracket_interval=dp_accounting.LowerEndpointAndGuess(1e-3, 1.0),
                tol=1e-4,
            )
        )
    except (dp_accounting.mechanism_calibration.NoBracketIntervalFoundError, ValueError) as error:
        raise SettingError(
            "privacy.epsilon",
            epsilon,
            f"a value that some noise can reach at delta {delta:.2g} ({error})",
        ) from error
