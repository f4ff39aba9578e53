"""What groups would get at every threshold on their scores: rates, accuracy and gaps as curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.fairness import histograms
from evaluation.fairness.evidence import ScoreEvidence
from evaluation.fairness.histograms import THRESHOLDS
from evaluation.fairness.rates import divide, extremes
from evaluation.fairness.uncertainty import Drawn, intervals

CURVE_DIGITS = 4  # they are drawn, not computed with


def threshold_curves(
    names: Sequence[str], scores: ScoreEvidence, large: np.ndarray, resampled: Drawn
) -> dict[str, Any]:
    """Rates of every group and gaps between the large ones, as `measure_fairness` describes them.

    Args:
        names: Of all groups.
        scores: Of one label.
        large: Indices of the groups that take part in gaps.
        resampled: Gap -> (resamples, thresholds).
    """
    histogram = scores.table.table.reshape(len(names), 2, -1)
    selected, hits, positives = histograms.swept(histogram, scores.edges)
    size = np.broadcast_to(histogram.sum(axis=(-2, -1))[:, None], selected.shape)
    rates = {
        "selection_rate": divide(selected, size),
        "true_positive_rate": divide(hits, positives),
        "false_positive_rate": divide(selected - hits, size - positives),
    }
    right = (size - positives - selected + 2 * hits).sum(axis=0) / size.sum(axis=0)
    parity, odds = gaps_by_threshold(selected[large], hits[large], positives[large], size[large])
    gaps = {"demographic_parity_difference": parity, "equalized_odds_difference": odds}
    return {
        "thresholds": [rounded(one) for one in THRESHOLDS],
        "accuracy": [rounded(one) for one in right],
        "groups": {
            name: {rate: [rounded(one) for one in values[group]] for rate, values in rates.items()}
            for group, name in enumerate(names)
        },
        "gaps": {name: _band(values, resampled.get(name)) for name, values in gaps.items()},
    }


def _band(values: np.ndarray, drawn: np.ndarray | None) -> dict[str, Any]:
    band: dict[str, Any] = {"value": [rounded(one) for one in values]}
    if drawn is not None:
        low, high = intervals(drawn)
        band["low"] = [rounded(one) for one in np.fmin(low, values)]
        band["high"] = [rounded(one) for one in np.fmax(high, values)]
    return band


def rounded(value: Any) -> float | None:
    """A point of a curve, for JSON; None where it is undefined."""
    return None if np.isnan(value) else round(float(value), CURVE_DIGITS)


def gaps_by_threshold(
    selected: np.ndarray, hits: np.ndarray, positives: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Demographic parity and equalized odds difference by threshold, (..., thresholds)."""

    def spread(rate: np.ndarray) -> np.ndarray:
        lowest, highest = extremes(rate, axis=-2)
        return highest - lowest

    everyone = np.broadcast_to(size, selected.shape)
    return spread(divide(selected, everyone)), np.maximum(
        spread(divide(hits, positives)), spread(divide(selected - hits, everyone - positives))
    )
