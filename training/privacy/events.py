"""What a run costs: the table of what is proven, one line a combination.

A combination of sampling, mechanism and neighbours that is not in the table has no proof here and
is refused. Every entry is a function of the two parts and the number of releases, with its proof or
its source; `dp_accounting` turns its event into epsilon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import dp_accounting

from configs.schema import SettingError, require
from training.privacy import independent_events as independent
from training.privacy.correlated_events import cyclic_banded, shuffled_banded, shuffled_tree
from training.privacy.independent_events import poisson_gaussian_event
from training.privacy.mechanisms import (
    BandedMechanism,
    GaussianMechanism,
    Mechanism,
    TreeMechanism,
)
from training.privacy.sampling import (
    BalancedPoissonSampling,
    BallsInBinsSampling,
    CyclicPoissonSampling,
    FixedSizeSampling,
    PoissonSampling,
    Sampling,
    ShuffledSampling,
    TruncatedPoissonSampling,
)

__all__ = ["EVENTS", "SCHEDULED", "Neighbours", "event_of", "poisson_gaussian_event", "proven"]

Neighbours = Literal["add_remove", "zero_out", "replace_one"]

# (way of sampling, mechanism) -> neighbours -> event of a number of releases >= 1. The first
# neighbours of each are what a recipe that names none gets.
EVENTS: dict[
    tuple[type, type], dict[Neighbours, Callable[[Any, Any, int], dp_accounting.DpEvent]]
] = {
    (PoissonSampling, GaussianMechanism): {
        "add_remove": independent.poisson,
        "zero_out": independent.poisson,
        "replace_one": independent.poisson_replaced,
    },
    (BalancedPoissonSampling, GaussianMechanism): {
        "add_remove": independent.balanced,
        "zero_out": independent.balanced,
        "replace_one": independent.balanced_replaced,
    },
    (TruncatedPoissonSampling, GaussianMechanism): {
        "add_remove": independent.truncated,
        "zero_out": independent.truncated_zeroed,
        "replace_one": independent.truncated_replaced,
    },
    (FixedSizeSampling, GaussianMechanism): {
        "replace_one": independent.fixed_size,
        "zero_out": independent.fixed_size,
    },
    (BallsInBinsSampling, GaussianMechanism): {
        "add_remove": independent.balls_in_bins,
        "zero_out": independent.balls_in_bins,
    },
    (ShuffledSampling, GaussianMechanism): {
        "zero_out": independent.shuffled,
        "replace_one": independent.shuffled_replaced,
    },
    (CyclicPoissonSampling, GaussianMechanism): {
        "zero_out": independent.cyclic,
        "replace_one": independent.cyclic_replaced,
    },
    (ShuffledSampling, TreeMechanism): {"zero_out": shuffled_tree},
    (ShuffledSampling, BandedMechanism): {"zero_out": shuffled_banded},
    (CyclicPoissonSampling, BandedMechanism): {"zero_out": cyclic_banded},
}

# Whose entries compose each step at its own noise multiplier; the others count on one for all.
SCHEDULED: tuple[type, ...] = (
    PoissonSampling,
    BalancedPoissonSampling,
    TruncatedPoissonSampling,
    FixedSizeSampling,
)


def proven(sampling: Sampling, mechanism: Mechanism) -> tuple[Neighbours, ...]:
    """The neighbours for which the combination is accounted, the customary ones first.

    Raises:
        SettingError: If nothing is proven about the combination; names those that are.
    """
    found = EVENTS.get((type(sampling), type(mechanism)))
    if found is None:
        fitting = sorted(str(vars(m)["method"]) for s, m in EVENTS if s is type(sampling))
        raise SettingError(
            "privacy.mechanism.method",
            mechanism.method,
            f"a mechanism that is accounted with privacy.sampling.method: {sampling.method} "
            f"({', '.join(fitting) or 'none is'})",
        )
    return tuple(found)


def event_of(
    sampling: Sampling,
    mechanism: Mechanism,
    releases: int,
    neighbours: Neighbours | None = None,
) -> dp_accounting.DpEvent:
    """What `releases` steps cost, as the accountants understand it.

    Args:
        sampling: Which examples form each batch.
        mechanism: Which noise each sum receives.
        releases: How many are released.
        neighbours: What is to be hidden; None takes the first that is proven.

    Raises:
        SettingError: If nothing is proven about the combination; names those that are.
    """
    choices = proven(sampling, mechanism)
    chosen = neighbours or choices[0]
    require(
        chosen in choices,
        "privacy.neighbours",
        chosen,
        f"{' or '.join(choices)}: no more is proven of privacy.sampling.method: {sampling.method} "
        f"with privacy.mechanism.method: {mechanism.method}",
    )
    if isinstance(mechanism, GaussianMechanism) and len(mechanism.levels) > 1:
        require(
            isinstance(sampling, SCHEDULED),
            "privacy.mechanism.schedule",
            mechanism.levels,
            f"constant with privacy.sampling.method: {sampling.method}; schedules go with "
            + ", ".join(str(vars(cls)["method"]) for cls in SCHEDULED),
        )
    event = EVENTS[type(sampling), type(mechanism)][chosen]
    priced = event(sampling, mechanism, max(1, releases))  # refuses parts that do not fit
    return priced if releases else dp_accounting.NoOpDpEvent()
