"""What other accountants say of the same releases, for comparison only.

`pld` and `rdp` are upper bounds. `gdp` is the central limit of Gaussian differential privacy (Dong
et al. 2019, arXiv:1905.02383; Bu et al. 2020, 1911.11607), computed by TF-Privacy: it is an
approximation, which can lie below the true epsilon, so it may not carry a guarantee. `prv` (Gopi et
al. 2021, arXiv:2106.02848) is the upper end of its interval, where the package `prv-accountant` is
installed; `pld` with connect-the-dots is at least as tight (the tests compare).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from math import inf, sqrt

import dp_accounting
import numpy as np

from training.privacy.accounting import ACCOUNTANTS, accountant_for, epsilon_of

_PRV_ERROR = 0.01  # of epsilon, and a thousandth of delta


def compared(event: dp_accounting.DpEvent, delta: float) -> dict[str, float]:
    """Accountant -> epsilon of `event` at `delta`, for all that have something to say of it."""
    found = {
        name: epsilon_of(event, delta, name)
        for name in ACCOUNTANTS
        if accountant_for(event, name).supports(event)
    }
    terms = list(_sampled_gaussians(event, 1))
    if terms and all(term is not None for term in terms):
        known = [term for term in terms if term is not None]
        found["gdp"] = _gdp(known, delta)
        if importlib.util.find_spec("prv_accountant") is not None:
            try:
                found["prv"] = _prv(known, delta)
            except RuntimeError as error:
                # Its grid is too coarse for some events; a comparison is worth no finished run.
                logging.info("The PRV accountant has nothing to compare with: %s", error)
    return found


def _sampled_gaussians(
    event: dp_accounting.DpEvent, count: int
) -> Iterator[tuple[float, float, int] | None]:
    """(sampling probability, noise multiplier, number) of all parts; None for any other part."""
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        yield from _sampled_gaussians(event.event, count * event.count)
    elif isinstance(event, dp_accounting.ComposedDpEvent):
        for part in event.events:
            yield from _sampled_gaussians(part, count)
    elif isinstance(event, dp_accounting.GaussianDpEvent):
        yield 1.0, event.noise_multiplier, count
    elif isinstance(event, dp_accounting.PoissonSampledDpEvent) and isinstance(
        event.event, dp_accounting.GaussianDpEvent
    ):
        yield event.sampling_probability, event.event.noise_multiplier, count
    elif not isinstance(event, dp_accounting.NoOpDpEvent):
        yield None


def _gdp(terms: list[tuple[float, float, int]], delta: float) -> float:
    from training.privacy.tf_privacy import gdp_accountant

    squared = 0.0
    for probability, noise_multiplier, count in terms:
        if probability == 1.0:
            squared += count / noise_multiplier**2  # exactly, without a limit
        else:
            # Of "n = 1" examples a batch is `probability`, and an epoch 1 / probability steps.
            epochs = count * probability
            squared += (
                gdp_accountant.compute_mu_poisson(epochs, noise_multiplier, 1, probability) ** 2
            )
    with np.errstate(over="ignore"):
        if not 0 < squared < 900:  # beyond that its search for epsilon, up to 500, finds nothing
            return inf
        return float(gdp_accountant.eps_from_mu(sqrt(squared), delta))


def _prv(terms: list[tuple[float, float, int]], delta: float) -> float:
    from prv_accountant import PRVAccountant
    from prv_accountant.privacy_random_variables import (
        GaussianMechanism,
        PoissonSubsampledGaussianMechanism,
    )

    variables = [
        GaussianMechanism(noise_multiplier)
        if probability == 1.0
        else PoissonSubsampledGaussianMechanism(
            sampling_probability=probability, noise_multiplier=noise_multiplier
        )
        for probability, noise_multiplier, _ in terms
    ]
    counts = [count for _, _, count in terms]
    accountant = PRVAccountant(
        prvs=variables,
        max_self_compositions=counts,
        eps_error=_PRV_ERROR,
        delta_error=delta * 1e-3,
    )
    return float(accountant.compute_epsilon(delta, counts)[2])
