"""What a mechanism costs: thin functions over `dp_accounting`, which does the composition.

An event already is that of its neighbours (`training.privacy.events`); the number of training
examples N, the steps and the batch size are taken as public. `pld` and `rdp` give upper bounds and
may carry a guarantee; what others say stands in `training.privacy.comparison`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import dp_accounting

from configs.schema import SettingError
from training.privacy.profile_accounting import (
    ProfilePldAccountant,
    ProfileRdpAccountant,
    Relation,
    compositions,
    relation_of,
)

# Width of the buckets that privacy losses are rounded up to. Coarser is quicker and only ever
# overstates epsilon: at 1e-3 by less than 0.1 % over 10^4 releases (tested).
_COARSEST, _FINEST = 1e-3, 1e-5
_MOST_DOUBLINGS = 20


def _pld(releases: int, relation: Relation) -> dp_accounting.PrivacyAccountant:
    interval = min(_COARSEST, max(_FINEST, 10.0 / max(1, releases)))
    return ProfilePldAccountant(relation, value_discretization_interval=interval)


def _rdp(releases: int, relation: Relation) -> dp_accounting.PrivacyAccountant:
    return ProfileRdpAccountant(neighboring_relation=relation)


# Name -> accountant for a number of releases under a relation.
ACCOUNTANTS: dict[str, Callable[[int, Relation], dp_accounting.PrivacyAccountant]] = {
    "pld": _pld,
    "rdp": _rdp,
}


def accountant_for(event: dp_accounting.DpEvent, name: str) -> dp_accounting.PrivacyAccountant:
    """A fresh accountant, fit to compose `event` or one like it."""
    return ACCOUNTANTS[name](compositions(event), relation_of(event))


def require_supported(event: dp_accounting.DpEvent, accountant: str) -> None:
    """Makes sure that `accountant` can bound `event`.

    Raises:
        SettingError: If it cannot.
    """
    if not accountant_for(event, accountant).supports(event):
        others = [name for name in ACCOUNTANTS if accountant_for(event, name).supports(event)]
        raise SettingError(
            "privacy.accountant",
            accountant,
            f"{' or '.join(others)}: of this sampling and these neighbours no other bound is here",
        )


def default_delta(num_examples: int) -> float:
    """N^-1.1, the usual choice: well below one over the number of people."""
    return float(num_examples) ** -1.1


@lru_cache(maxsize=256)
def epsilon_of(event: dp_accounting.DpEvent, delta: float, accountant: str = "pld") -> float:
    """Epsilon of `event` at `delta`; 0 for an event that releases nothing."""
    if isinstance(event, dp_accounting.NoOpDpEvent):
        return 0.0
    return float(accountant_for(event, accountant).compose(event).get_epsilon(delta))


def calibrate_noise(
    event_of: Callable[[float], dp_accounting.DpEvent],
    epsilon: float,
    delta: float,
    accountant: str = "pld",
) -> float:
    """The least noise multiplier whose event costs at most `epsilon` at `delta`, within 0.1 %.

    Raises:
        SettingError: If no noise multiplier is found that suffices.
    """
    enough = _enough_noise(event_of, epsilon, delta)
    if accountant == "rdp":
        return enough
    too_little = 0.8 * enough
    while epsilon_of(event_of(too_little), delta, accountant) <= epsilon:
        enough, too_little = too_little, 0.8 * too_little
    example = event_of(enough)
    try:
        return float(
            dp_accounting.calibrate_dp_mechanism(
                lambda: accountant_for(example, accountant),
                event_of,
                epsilon,
                delta,
                bracket_interval=dp_accounting.ExplicitBracketInterval(too_little, enough * 1.01),
                tol=1e-3 * enough,
            )
        )
    except ValueError as error:
        # So small an epsilon drowns in the rounding of the exact accountant.
        raise _unreachable(epsilon, delta, error) from error


def _enough_noise(
    event_of: Callable[[float], dp_accounting.DpEvent], epsilon: float, delta: float
) -> float:
    """A noise multiplier that suffices, not far from the least.

    By the quick Renyi accountant where it has a bound, because the exact one takes tens of
    gigabytes where the noise is tiny; else by doubling.
    """
    event = event_of(1.0)
    if not accountant_for(event, "rdp").supports(event):
        for doublings in range(_MOST_DOUBLINGS):
            if epsilon_of(event_of(2.0**doublings), delta, "pld") <= epsilon:
                return 2.0**doublings
        raise _unreachable(epsilon, delta, ValueError(f"not by {2.0**_MOST_DOUBLINGS:g}"))
    try:
        return float(
            dp_accounting.calibrate_dp_mechanism(
                lambda: accountant_for(event, "rdp"),
                event_of,
                epsilon,
                delta,
                bracket_interval=dp_accounting.LowerEndpointAndGuess(0.05, 1.0),
                tol=1e-4,
            )
        )
    except (dp_accounting.mechanism_calibration.NoBracketIntervalFoundError, ValueError) as error:
        raise _unreachable(epsilon, delta, error) from error


def _unreachable(epsilon: float, delta: float, error: Exception) -> SettingError:
    reason = str(error).split("\n")[0].rstrip(".")
    return SettingError(
        "privacy.epsilon",
        epsilon,
        f"a value that some noise can reach at delta {delta:.2g} ({reason})",
    )
