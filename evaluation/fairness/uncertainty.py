"""How sure a measured rate or gap is: intervals, p-values, and a warning where it is not.

Sources: percentile bootstrap, Efron 1979; score interval of a share, Wilson 1927, "Probable
Inference, the Law of Succession, and Statistical Inference"; permutation p-values that are never
zero, Phipson & Smyth 2010, "Permutation P-values Should Never Be Zero".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import stats

from evaluation.fairness.definitions import CONFIDENCE

_TAIL = (1 - CONFIDENCE) / 2
_EQUAL = 1e-12  # differences of the same counts that only rounding sets apart

Drawn = dict[str, np.ndarray]
"""Name of a measure -> its value in each drawn table, first axis."""


def interval(value: float, drawn: np.ndarray) -> tuple[float | None, float | None]:
    """Percentile interval of resampled values, widened to hold the observed one.

    A largest difference is biased upwards by resampling (noise never lowers it below zero), so
    the percentiles alone may miss the value they belong to.

    Args:
        value: The observed value.
        drawn: float (resamples,); those that are undefined are left out.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return float(min(low, value)), float(max(high, value))


def intervals(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals along the first axis; NaN where nothing is defined."""
    undefined = np.isnan(drawn).all(axis=0)
    filled = np.where(undefined[None], 0.0, drawn)
    low, high = np.nanquantile(filled, [_TAIL, 1 - _TAIL], axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def wilson(successes: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Score interval of a share k/n, NaN for n = 0; honest for few trials, and for 0 or n of n.

    .. math:: (k + z^2/2 \pm z \sqrt{k (n - k) / n + z^2/4}) / (n + z^2)
    """
    z = stats.norm.ppf(1 - _TAIL)
    defined = trials > 0
    k, n = successes, np.where(defined, trials, 1)
    centre = k + z**2 / 2
    half = z * np.sqrt(np.maximum(k * (n - k), 0) / n + z**2 / 4)
    low, high = (centre - half) / (n + z**2), (centre + half) / (n + z**2)
    return (
        np.where(defined, np.maximum(low, 0.0), np.nan),
        np.where(defined, np.minimum(high, 1.0), np.nan),
    )


def p_value(value: float, drawn: np.ndarray, *, small_is_extreme: bool = False) -> float | None:
    """Share of permutations at least as extreme as the observed value, it among them.

    Permutations in which the gap is undefined count as extreme, so that p is never too small.

    Args:
        value: The observed value.
        drawn: float (permutations,).
        small_is_extreme: For ratios, whose parity is 1.
    """
    if not len(drawn):
        return None
    extreme = drawn <= value + _EQUAL if small_is_extreme else drawn >= value - _EQUAL
    return float((1 + (extreme | np.isnan(drawn)).sum()) / (1 + len(drawn)))


def too_few(gap: float, low: float | None, high: float | None) -> str | None:
    """Says so where an interval is wider than the gap it measures."""
    if low is None or high is None or high - low <= gap:
        return None
    return (
        f"too few examples: the interval is {high - low:.3f} wide, the gap it measures is {gap:.3f}"
    )


def number(value: Any) -> float | None:
    """A float for JSON; None where it is undefined."""
    return None if np.isnan(value) else float(value)


def collect(tables: Iterator[np.ndarray], measure: Callable[[np.ndarray], Drawn]) -> Drawn:
    """Measures tables chunk by chunk; empty where there are none."""
    chunks = [measure(table) for table in tables]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in (chunks or [{}])[0]}
