"""One gap between groups in words and figures: how large, how sure, between whom, why undefined."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.fairness.definitions import FOUR_FIFTHS, GAPS, NOBODY
from evaluation.fairness.rates import GroupCounts
from evaluation.fairness.uncertainty import Drawn, interval, number, p_value, too_few


class GapReport:
    """Describes gaps between groups, one at a time.

    Args:
        counts: Of the groups that are compared.
        label_names: The tracked labels.
        group_names: The groups compared.
        minimum: Examples that a group needs to be compared.
        resampled: Gap -> (resamples, labels).
        permuted: Gap -> (permutations, labels).
    """

    def __init__(
        self,
        counts: GroupCounts,
        label_names: list[str],
        group_names: list[str],
        minimum: int,
        resampled: Drawn,
        permuted: Drawn,
    ):
        self._values, self._rates = counts.gaps(), counts.rates()
        self._label_names, self._group_names, self._minimum = label_names, group_names, minimum
        self._resampled, self._permuted = resampled, permuted

    def of(self, name: str) -> dict[str, Any]:
        """Returns the entry of `gaps` for one of `GAPS`."""
        values, ratio = self._values[name], GAPS[name].kind == "ratio"
        defined = ~np.isnan(values)
        if not defined.any():
            return {
                **dict.fromkeys(("value", "low", "high", "p_value", "macro", "warning")),
                "reason": self._why_undefined(name),
            }
        worst = int(np.nanargmin(values) if ratio else np.nanargmax(values))
        value = float(values[worst])
        drawn = _worst_over_labels(self._resampled.get(name), defined, ratio)
        low, high = interval(value, drawn)
        rate, between, left_out = self._where(name, worst)
        described: dict[str, Any] = {
            "value": value,
            "low": low,
            "high": high,
            "p_value": p_value(
                value,
                _worst_over_labels(self._permuted.get(name), defined, ratio),
                small_is_extreme=ratio,
            ),
            "label": self._label_names[worst],
            "rate": rate,
            "between": between,
            "left_out": left_out,
            "macro": float(values[defined].mean()),
            "warning": too_few(1 - value if ratio else value, low, high),
            "reason": None,
        }
        if len(values) > 1:
            described["by_label"] = {
                label: number(one) for label, one in zip(self._label_names, values, strict=True)
            }
        if name == "demographic_parity_ratio":
            described["four_fifths"] = value >= FOUR_FIFTHS
        return described

    def _where(self, name: str, column: int) -> tuple[str, list[str], dict[str, str]]:
        """Which rate the gap is in, between which two groups, and who is left out and why."""

        def size(rate: str) -> float:
            values = self._rates[rate][:, column]
            lowest, highest = np.nanmin(values), np.nanmax(values)
            if GAPS[name].kind == "difference":
                return highest - lowest
            return -lowest / highest if highest > 0 else -np.inf

        rate = max(GAPS[name].rates, key=size)
        values = self._rates[rate][:, column]
        left_out = {
            self._group_names[group]: NOBODY[one]
            for one in GAPS[name].rates
            for group in np.flatnonzero(np.isnan(self._rates[one][:, column]))
        }
        lowest, highest = np.nanargmin(values), np.nanargmax(values)
        return rate, [self._group_names[lowest], self._group_names[highest]], left_out

    def _why_undefined(self, name: str) -> str:
        if len(self._group_names) < 2:
            return f"fewer than two groups have {self._minimum} examples or more"
        for rate in GAPS[name].rates:
            if ((~np.isnan(self._rates[rate])).sum(axis=0) < 2).all():
                return f"{NOBODY[rate]} in all groups but one or none, so no {rate} to compare"
        return "a rate is zero in every group, so its ratio is undefined"


def _worst_over_labels(drawn: np.ndarray | None, defined: np.ndarray, ratio: bool) -> np.ndarray:
    """The worst over the labels that the observed gap is defined for, (tables,)."""
    if drawn is None:
        return np.empty(0)
    columns = drawn[:, defined]
    filled = np.where(np.isnan(columns), np.inf if ratio else -np.inf, columns)
    worst = filled.min(axis=1) if ratio else filled.max(axis=1)
    return np.where(np.isfinite(worst), worst, np.nan)
