"""What a run costs: sampling and mechanism joined into a `DpEvent`, one line a combination.

A combination that is not in the table has no proof here and is refused. Every entry is a function
of the two parts and the number of releases; `dp_accounting` turns its event into epsilon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dp_accounting

from configs.schema import SettingError
from training.privacy.mechanisms import GaussianMechanism, Mechanism
from training.privacy.sampling import PoissonSampling, Sampling


def poisson_gaussian_event(
    sampling_probability: float, noise_multiplier: float, releases: int
) -> dp_accounting.DpEvent:
    """`releases` Gaussian sums, each over a fresh Poisson sample."""
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_probability, gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, releases)


def _poisson_gaussian(
    sampling: PoissonSampling, mechanism: GaussianMechanism, releases: int
) -> dp_accounting.DpEvent:
    return poisson_gaussian_event(sampling.probability, mechanism.noise_multiplier, releases)


# (way of sampling, mechanism) -> event of a number of releases >= 1.
EVENTS: dict[tuple[type, type], Callable[[Any, Any, int], dp_accounting.DpEvent]] = {
    (PoissonSampling, GaussianMechanism): _poisson_gaussian,
}


def event_of(sampling: Sampling, mechanism: Mechanism, releases: int) -> dp_accounting.DpEvent:
    """What `releases` steps cost, as the accountants understand it.

    Raises:
        SettingError: If nothing is proven about the combination; names those that are.
    """
    key = (type(sampling), type(mechanism))
    if key not in EVENTS:
        fitting = sorted(str(vars(m)["method"]) for s, m in EVENTS if s is type(sampling))
        raise SettingError(
            "privacy.mechanism.method",
            mechanism.method,
            f"a mechanism that is accounted with privacy.sampling.method: {sampling.method} "
            f"({', '.join(fitting)})",
        )
    if releases == 0:
        return dp_accounting.NoOpDpEvent()
    return EVENTS[key](sampling, mechanism, releases)
