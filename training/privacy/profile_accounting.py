"""`dp_accounting`'s accountants, taught the releases that Sterling describes by a `Profile`.

A profile is read at every multiple of the accountant's bucket width and joined by straight lines in
e^epsilon (connect-the-dots, Doroshenko et al. 2022, arXiv:2207.04380): since a true profile is
convex there, the result is never below it. From then on it is a privacy loss distribution like any
other, and composes with the package's own.

Tails below `_TAIL` go to infinity, which adds at most that much to delta at every release.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation as Relation
from dp_accounting import pld, rdp
from dp_accounting.pld import pld_pmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

from training.privacy.profiles import Profile

_TAIL = 1e-18
_MOST_EPSILON = 500.0


@dataclass(frozen=True)
class ProfiledDpEvent(dp_accounting.DpEvent):
    """A release whose cost is a `Profile`.

    Attributes:
        profile: Its cost.
        renyi: An event of `dp_accounting` that bounds it too, for the Renyi accountant; None where
            there is none.
    """

    profile: Profile
    renyi: dp_accounting.DpEvent | None = None


class ProfilePldAccountant(pld.PLDAccountant):
    """The exact accountant; also takes `ProfiledDpEvent`."""

    _pld: PrivacyLossDistribution

    def _maybe_compose(self, event: dp_accounting.DpEvent, count: int, do_compose: bool) -> Any:
        if not isinstance(event, ProfiledDpEvent):
            return super()._maybe_compose(event, count, do_compose)
        if do_compose:
            one = loss_distribution(event.profile, self._value_discretization_interval)
            self._pld = self._pld.compose(one.self_compose(count))
        return None


class ProfileRdpAccountant(rdp.RdpAccountant):
    """The Renyi accountant; of a `ProfiledDpEvent` it takes the event that bounds it."""

    def _maybe_compose(self, event: dp_accounting.DpEvent, count: int, do_compose: bool) -> Any:
        if not isinstance(event, ProfiledDpEvent):
            return super()._maybe_compose(event, count, do_compose)
        if event.renyi is not None:
            return super()._maybe_compose(event.renyi, count, do_compose)
        return self.CompositionErrorDetails(event, "has no Renyi bound")


def relation_of(event: dp_accounting.DpEvent) -> Relation:
    """The relation under which `dp_accounting` proves `event`.

    An event here already is that of the plan's neighbours; this only tells the package which of
    its proofs is meant.
    """
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        return relation_of(event.event)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        found = {relation_of(part) for part in event.events} - {Relation.ADD_OR_REMOVE_ONE}
        return found.pop() if found else Relation.ADD_OR_REMOVE_ONE
    if isinstance(event, ProfiledDpEvent) and event.renyi is not None:
        return relation_of(event.renyi)
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        return Relation.REPLACE_ONE
    if isinstance(event, dp_accounting.SingleEpochTreeAggregationDpEvent):
        return Relation.REPLACE_SPECIAL
    return Relation.ADD_OR_REMOVE_ONE


def compositions(event: dp_accounting.DpEvent) -> int:
    """Releases that `event` is made of."""
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        return int(event.count) * compositions(event.event)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        return sum(compositions(part) for part in event.events)
    return 1


def loss_distribution(profile: Profile, interval: float) -> PrivacyLossDistribution:
    """A privacy loss distribution at least as bad as `profile`, on multiples of `interval`."""
    forward = _mass(profile.forward, profile.backward, interval)
    # Some profiles are their own mirror image; composing one distribution is half the work.
    grid = np.array([0.0, 0.1, 1.0])
    if np.array_equal(profile.forward(grid), profile.backward(grid)):
        return PrivacyLossDistribution(forward)
    return PrivacyLossDistribution(forward, _mass(profile.backward, profile.forward, interval))


def _mass(
    divergence: Callable[[np.ndarray], np.ndarray],
    reverse: Callable[[np.ndarray], np.ndarray],
    interval: float,
) -> pld_pmf.PLDPmf:
    lowest, highest = -_reach(reverse, interval), _reach(divergence, interval)
    losses = np.arange(lowest, highest + 1) * interval
    negative = losses < 0
    deltas = np.empty_like(losses)
    deltas[~negative] = divergence(losses[~negative])
    # H_g(P || Q) = 1 - g + g H_(1/g)(Q || P).
    below = losses[negative]
    deltas[negative] = -np.expm1(below) + np.exp(below) * reverse(-below)
    # Rounding must not make a later value larger than an earlier one; upwards is the safe side.
    deltas = np.clip(np.maximum.accumulate(deltas[::-1])[::-1], 0.0, 1.0)
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
        interval, int(lowest), int(highest), deltas
    )


def _reach(divergence: Callable[[np.ndarray], np.ndarray], interval: float) -> int:
    """The bucket from which on `divergence` falls by no more than `_TAIL`."""
    floor = divergence(np.array([_MOST_EPSILON]))[0]

    def is_high(epsilon: float) -> bool:
        return bool(divergence(np.array([epsilon]))[0] - floor > _TAIL)

    low, high = 0.0, interval
    while high < _MOST_EPSILON and is_high(high):
        low, high = high, min(2 * high, _MOST_EPSILON)
    while high - low > interval:
        middle = (low + high) / 2
        if is_high(middle):
            low = middle
        else:
            high = middle
    return max(1, int(np.ceil(high / interval)))
