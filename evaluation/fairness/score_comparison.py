"""Compares the scores that groups get: ranking, calibration, distribution.

A score is the probability of one label; with several labels each is set against the rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from configs.schema.evaluation import EvaluationSettings
from evaluation.fairness import histograms
from evaluation.fairness.comparison import large_groups
from evaluation.fairness.definitions import Parity
from evaluation.fairness.evidence import Evidence, ScoreEvidence
from evaluation.fairness.histograms import COARSE_BINS
from evaluation.fairness.rates import divide, extremes
from evaluation.fairness.tables import GroupTable
from evaluation.fairness.threshold_curves import (
    CURVE_DIGITS,
    gaps_by_threshold,
    rounded,
    threshold_curves,
)
from evaluation.fairness.uncertainty import (
    Drawn,
    collect,
    interval,
    intervals,
    number,
    p_value,
    too_few,
)

SCORE_GAPS: dict[str, Parity] = {
    "roc_auc_difference": "separation",
    "bpsn_auc_difference": "separation",
    "bnsp_auc_difference": "separation",
    "calibration_error_difference": "sufficiency",
    "kl_divergence": "independence",
}
_UNDEFINED = {
    "roc_auc": "no positives or no negatives",
    "bpsn_auc": "no negatives, or no positives elsewhere",
    "bnsp_auc": "no positives, or no negatives elsewhere",
    "calibration_error": "no examples",
}
_ROC_POINTS = 41


def compare_scores(
    evidence: Evidence, scores: ScoreEvidence, settings: EvaluationSettings
) -> dict[str, Any]:
    """Compares the scores of one label.

    Returns:
        `groups`, `gaps` and `thresholds`, as `measure_fairness` describes them.
    """
    groups, names = len(evidence.names), evidence.names
    measured = {**scores.areas, "calibration_error": _calibration(scores)}
    scores = _thinned(scores)
    bins = len(scores.edges) - 1
    large = large_groups(evidence, settings)
    means = _bin_means(scores)
    binned = _values(scores.table.table.reshape(groups, 2, bins), scores.edges, means)

    rng = np.random.default_rng(settings.seed)
    resampled = collect(
        scores.table.resamples(settings.bootstrap_resamples, rng),
        lambda table: _of_tables(table.reshape(-1, groups, 2, bins), scores.edges, means, large),
    )
    # Resamples are binned and the measured value need not be: only their spread is used.
    for name in measured:
        if name in resampled:
            shift = np.nan_to_num(measured[name] - binned[name])
            resampled[name] = resampled[name] + shift
    resampled |= _gaps_of({name: resampled[name][:, large] for name in measured if resampled})
    permuted = _permuted(evidence, scores, means, large, settings, rng)
    return {
        "groups": _groups(evidence, scores, measured, resampled),
        "gaps": _describe_gaps(
            {name: values[large] for name, values in measured.items()},
            histograms.divergences(
                scores.table.table.reshape(groups, 2, bins)[large], scores.edges
            ),
            [names[index] for index in large],
            resampled,
            permuted,
            settings.minimum_group_size,
        ),
        "thresholds": threshold_curves(evidence.names, scores, large, resampled),
    }


def _thinned(scores: ScoreEvidence) -> ScoreEvidence:
    """With no more bins than uncertainty is worth; a stream has ten times as many."""
    if scores.table.contributions is not None:
        return scores  # gathered at once, with few bins
    histogram = scores.table.table.reshape(len(scores.sums), 2, -1)
    edges = histograms.thinned(scores.edges, histogram.sum(axis=(0, 1)))
    fewer = histograms.rebin(histogram, scores.edges, edges)
    return replace(scores, edges=edges, table=GroupTable(fewer.reshape(len(fewer), -1)))


def _values(histogram: np.ndarray, edges: np.ndarray, means: np.ndarray) -> Drawn:
    """Measures of each group, (..., groups), from a histogram (..., groups, 2, bins)."""
    sums = histograms.to_coarse(histogram.sum(axis=-2) * means, edges)
    return {
        **histograms.areas(histogram),
        "calibration_error": histograms.calibration_error(histogram, sums, edges),
    }


def _of_tables(
    histogram: np.ndarray, edges: np.ndarray, means: np.ndarray, large: np.ndarray
) -> Drawn:
    selected, hits, positives = histograms.swept(histogram[:, large], edges)
    size = histogram[:, large].sum(axis=(-2, -1))[..., None]
    parity, odds = gaps_by_threshold(selected, hits, positives, size)
    return {
        **_values(histogram, edges, means),
        "kl_divergence": _largest(histograms.divergences(histogram[:, large], edges)),
        "demographic_parity_difference": parity,
        "equalized_odds_difference": odds,
    }


def _gaps_of(values: Drawn) -> Drawn:
    found = {}
    for name, of_groups in values.items():
        lowest, highest = extremes(of_groups, axis=-1)
        found[f"{name}_difference"] = highest - lowest
    return found


def _largest(divergence: np.ndarray) -> np.ndarray:
    flat = divergence.reshape(*divergence.shape[:-2], -1)
    defined = ~np.isnan(flat)
    largest = np.where(defined, flat, -np.inf).max(axis=-1, initial=-np.inf)
    return np.where(np.isfinite(largest), largest, np.nan)


def _bin_means(scores: ScoreEvidence) -> np.ndarray:
    """A score that stands for each fine bin: its middle, moved to meet the coarse bins' sums."""
    middle = (scores.edges[:-1] + scores.edges[1:]) / 2
    count = scores.table.table.sum(axis=0).reshape(2, -1).sum(axis=0)
    coarse = histograms.coarse_of(scores.edges)
    missing = scores.sums.sum(axis=0) - np.bincount(coarse, count * middle, COARSE_BINS)
    return middle + np.nan_to_num(divide(missing, np.bincount(coarse, count, COARSE_BINS)))[coarse]


def _calibration(scores: ScoreEvidence) -> np.ndarray:
    histogram = scores.table.table.reshape(len(scores.sums), 2, -1)
    return histograms.calibration_error(histogram, scores.sums, scores.edges)


def _permuted(
    evidence: Evidence,
    scores: ScoreEvidence,
    means: np.ndarray,
    large: np.ndarray,
    settings: EvaluationSettings,
    rng: np.random.Generator,
) -> Drawn:
    if len(large) < 2:
        return {}
    bins = len(scores.edges) - 1
    truth, place = np.divmod(np.arange(2 * bins), bins)
    strata: dict[Parity, np.ndarray] = {
        "independence": np.zeros(2 * bins, int),
        "separation": truth,
        "sufficiency": place,
    }

    def measure(table: np.ndarray) -> Drawn:
        histogram = table.reshape(-1, len(large), 2, bins)
        return {
            **_gaps_of(_values(histogram, scores.edges, means)),
            "kl_divergence": _largest(histograms.divergences(histogram, scores.edges)),
        }

    table = scores.table.of_groups(large)
    found: Drawn = {}
    for parity, stratum in strata.items():
        drawn = collect(table.permutations(settings.permutations, stratum, rng), measure)
        found |= {name: drawn[name] for name in drawn if SCORE_GAPS[name] == parity}
    return found


def _groups(
    evidence: Evidence, scores: ScoreEvidence, measured: Drawn, resampled: Drawn
) -> dict[str, Any]:
    groups = len(evidence.names)
    histogram = scores.table.table.reshape(groups, 2, -1)
    coarse = histograms.to_coarse(histogram, scores.edges)
    count = coarse.sum(axis=-2)
    means = divide(scores.sums, count)
    shares = divide(coarse[:, 1], count)
    mean = divide(scores.sums.sum(axis=-1), count.sum(axis=-1))
    rest = histogram.sum(axis=0) - histogram
    bounds = {name: intervals(resampled[name]) for name in measured if name in resampled}
    described = {}
    for group, name in enumerate(evidence.names):
        pair = np.stack([histogram[group], rest[group]])
        values = {one: number(of_groups[group]) for one, of_groups in measured.items()}
        described[name] = {
            "mean": number(mean[group]),
            **values,
            "kl_divergence_from_rest": number(histograms.divergences(pair, scores.edges)[0, 1]),
            "intervals": {one: [number(b[group]) for b in bounds[one]] for one in bounds},
            "reasons": {one: _UNDEFINED[one] for one, value in values.items() if value is None},
            "histogram": [rounded(one) for one in count[group]],
            "calibration": [
                [rounded(score), rounded(share)]
                for score, share in zip(means[group], shares[group], strict=True)
            ],
            "roc": _roc(histogram[group : group + 1]),
        }
    return described


def _roc(histogram: np.ndarray) -> dict[str, list[float]] | None:
    """The curve at evenly spaced false positive rates; None where it is undefined."""
    (false,), (true,) = histograms.roc(histogram)
    if np.isnan(false).any() or np.isnan(true).any():
        return None
    grid = np.linspace(0, 1, _ROC_POINTS) ** 2  # closer together where curves rise
    points = np.interp(grid, false, np.maximum.accumulate(true))
    return {
        "false_positive_rate": [round(float(one), CURVE_DIGITS) for one in grid],
        "true_positive_rate": [round(float(one), CURVE_DIGITS) for one in points],
    }


def _describe_gaps(
    measured: Drawn,
    divergence: np.ndarray,
    names: list[str],
    resampled: Drawn,
    permuted: Drawn,
    minimum: int,
) -> dict[str, Any]:
    values = {**_gaps_of(measured), "kl_divergence": _largest(divergence)}
    described: dict[str, Any] = {}
    for name in SCORE_GAPS:
        value = float(values[name])
        if np.isnan(value):
            reason = f"fewer than two groups have {minimum} examples or more"
            if len(names) >= 2:
                reason = f"{_UNDEFINED[name.removesuffix('_difference')]} in all groups but one"
            described[name] = {
                **dict.fromkeys(("value", "low", "high", "p_value", "warning")),
                "reason": reason,
            }
            continue
        low, high = interval(value, resampled.get(name, np.empty(0)))
        described[name] = {
            "value": value,
            "low": low,
            "high": high,
            "p_value": p_value(value, permuted.get(name, np.empty(0))),
            "between": _between(name, measured, divergence, names),
            "warning": too_few(value, low, high),
            "reason": None,
        }
    return described


def _between(name: str, measured: Drawn, divergence: np.ndarray, names: list[str]) -> list[str]:
    if name == "kl_divergence":
        one, other = np.unravel_index(np.nanargmax(divergence), divergence.shape)
        return [names[one], names[other]]
    values = measured[name.removesuffix("_difference")]
    return [names[np.nanargmin(values)], names[np.nanargmax(values)]]
