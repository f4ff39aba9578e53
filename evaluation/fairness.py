"""How differently groups are treated: rates by group, gaps between groups, intervals.

Promises: groups come apart through fairlearn's MetricFrame and gaps follow fairlearn's
definitions. Every group is listed; one below `minimum_group_size` is marked `too_small` and only
kept out of the gaps. What is undefined (nobody to count) is None with a reason, never NaN.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from configs.schema.errors import require
from configs.schema.evaluation import EvaluationSettings
from evaluation.group_counts import RATES, GroupCounts, count_groups, resample_groups
from evaluation.predictions import Predictions

GAPS = (
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
)
INTERSECTION = " × "
CONFIDENCE = 0.95

_NOBODY = {
    "selection_rate": "no examples",
    "true_positive_rate": "no positive examples",
    "false_positive_rate": "no negative examples",
}
_RATES_OF_GAP = {
    "demographic_parity_difference": ("selection_rate",),
    "demographic_parity_ratio": ("selection_rate",),
    "equalized_odds_difference": ("true_positive_rate", "false_positive_rate"),
    "equalized_odds_ratio": ("true_positive_rate", "false_positive_rate"),
}


def measure_fairness(predictions: Predictions, settings: EvaluationSettings) -> dict[str, Any]:
    """Compares the groups of each attribute and of each pair of attributes.

    With a positive label, rates are of that label. Without one, a task of more than two labels
    is measured one-vs-rest for every label, and a gap is the worst over labels.

    Returns:
        `positive_labels`, `minimum_group_size`, `resamples`, `confidence`, and `attributes`:
        attribute (`sex`, or `sex × race`) ->

        - `of`: the attributes crossed;
        - `groups`: name -> `count`, `too_small`, `accuracy`, and `rates`: label -> `positives`,
          `negatives`, `selection_rate`, `true_positive_rate`, `false_positive_rate`, `reasons`;
        - `gaps`: name of `GAPS` -> `value`, 95 % bootstrap percentile interval `low` to `high`,
          the `label` it is worst for, the groups `between` which it lies (lowest rate first)
          and the `rate` concerned, `left_out` groups, and `reason` where it is None.

        Crossed attributes list the combinations that occur.

    Raises:
        SettingError: For an attribute or a positive label that the data do not have.
    """
    positives = positive_labels(predictions, settings)
    crossings = _crossings(predictions, settings)
    return {
        "positive_labels": [predictions.label_names[index] for index in positives],
        "minimum_group_size": settings.minimum_group_size,
        "resamples": settings.bootstrap_resamples,
        "confidence": CONFIDENCE,
        "attributes": {
            INTERSECTION.join(crossed): {
                "of": list(crossed),
                **_compare(predictions, crossed, positives, settings),
            }
            for crossed in crossings
        },
    }


def positive_labels(predictions: Predictions, settings: EvaluationSettings) -> np.ndarray:
    """Returns the labels set against the rest, int64 (labels,).

    Raises:
        SettingError: If the data have no label `settings.positive_label`.
    """
    names = predictions.label_names
    if settings.positive_label is None:
        return np.array([1]) if len(names) == 2 else np.arange(len(names))
    require(
        settings.positive_label in names,
        "evaluation.positive_label",
        settings.positive_label,
        f"one of {', '.join(names)}",
    )
    return np.array([names.index(settings.positive_label)])


def _crossings(predictions: Predictions, settings: EvaluationSettings) -> list[tuple[str, ...]]:
    known = list(predictions.groups)
    chosen = known if settings.attributes is None else settings.attributes
    for attribute in chosen:
        require(
            attribute in known,
            "evaluation.attributes",
            attribute,
            f"one of {', '.join(known)}" if known else "nothing: the data have no group attributes",
        )
    alone: list[tuple[str, ...]] = [(attribute,) for attribute in chosen]
    return alone + (list(combinations(chosen, 2)) if settings.intersections else [])


def _cross(predictions: Predictions, crossed: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Returns the group of each example, int (examples,), and the groups' names."""
    if len(crossed) == 1:
        (attribute,) = crossed
        return predictions.groups[attribute], list(predictions.group_names[attribute])
    values = np.stack([predictions.groups[attribute] for attribute in crossed])
    occurring, groups = np.unique(values, axis=1, return_inverse=True)
    names = [
        INTERSECTION.join(
            predictions.group_names[attribute][value]
            for attribute, value in zip(crossed, combination, strict=True)
        )
        for combination in occurring.T
    ]
    return groups.reshape(-1), names


def _compare(
    predictions: Predictions,
    crossed: tuple[str, ...],
    positives: np.ndarray,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    groups, names = _cross(predictions, crossed)
    predicted = predictions.predicted()
    arguments = (predictions.labels, predicted, groups, len(names), positives)
    counts = count_groups(*arguments)
    accuracy = counts.accuracy()
    large = np.flatnonzero(counts.examples >= settings.minimum_group_size)
    resampled = None
    if settings.bootstrap_resamples and len(large) >= 2:
        resampled = resample_groups(
            *arguments, resamples=settings.bootstrap_resamples, seed=settings.seed
        ).of_groups(large)
    label_names = [predictions.label_names[index] for index in positives]
    return {
        "groups": {
            name: {
                "count": int(counts.examples[index]),
                "too_small": bool(counts.examples[index] < settings.minimum_group_size),
                "accuracy": _number(accuracy[index]),
                "rates": _rates_of(counts, index, label_names),
            }
            for index, name in enumerate(names)
        },
        "gaps": _gaps(
            counts.of_groups(large),
            resampled,
            label_names,
            [names[index] for index in large],
            settings.minimum_group_size,
        ),
    }


def _rates_of(counts: GroupCounts, group: int, label_names: list[str]) -> dict[str, Any]:
    rates = counts.rates()
    described = {}
    for column, label in enumerate(label_names):
        values = {name: _number(rates[name][group, column]) for name in RATES}
        positives = int(counts.positives[group, column])
        described[label] = {
            "positives": positives,
            "negatives": int(counts.examples[group]) - positives,
            **values,
            "reasons": {name: _NOBODY[name] for name, value in values.items() if value is None},
        }
    return described


def _gaps(
    counts: GroupCounts,
    resampled: GroupCounts | None,
    label_names: list[str],
    group_names: list[str],
    minimum: int,
) -> dict[str, Any]:
    observed = counts.gaps()
    drawn = None if resampled is None else resampled.gaps()
    rates = counts.rates()
    described: dict[str, dict[str, Any]] = {}
    for gap in GAPS:
        values = observed[gap]  # (labels,)
        worst = _worst(gap, values)
        if worst is None:
            reason = _why_undefined(gap, rates, len(group_names), minimum)
            described[gap] = {"value": None, "low": None, "high": None, "reason": reason}
            continue
        rate, between, left_out = _where(gap, rates, worst, group_names)
        low, high = (None, None) if drawn is None else _interval(gap, values, drawn[gap])
        described[gap] = {
            "value": float(values[worst]),
            "low": low,
            "high": high,
            "label": label_names[worst],
            "rate": rate,
            "between": between,
            "left_out": left_out,
            "reason": None,
        }
    return described


def _worst(gap: str, values: np.ndarray) -> int | None:
    """Returns the column of the largest difference, or smallest ratio; None if all undefined."""
    if np.isnan(values).all():
        return None
    return int(np.nanargmin(values) if gap.endswith("ratio") else np.nanargmax(values))


def _interval(gap: str, observed: np.ndarray, drawn: np.ndarray) -> tuple[Any, Any]:
    """Percentile interval of the worst value over labels.

    A largest difference is biased upwards by resampling (noise never lowers it below zero), so
    the percentiles may miss the observed value; the interval is then widened to hold it.
    """
    ratio = gap.endswith("ratio")
    comparable = ~np.isnan(observed)  # a label left out of the observed gap stays out
    columns = drawn[:, comparable]
    filled = np.where(np.isnan(columns), np.inf if ratio else -np.inf, columns)
    worst = filled.min(axis=1) if ratio else filled.max(axis=1)
    worst = worst[np.isfinite(worst)]
    if not len(worst):
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(worst, [tail, 1 - tail])
    value = (np.nanmin if ratio else np.nanmax)(observed)
    return float(min(low, value)), float(max(high, value))


def _where(
    gap: str, rates: dict[str, np.ndarray], column: int, group_names: list[str]
) -> tuple[str, list[str], dict[str, str]]:
    """Which rate the gap is in, between which two groups, and who is left out of it and why."""

    def size(name: str) -> float:
        rate = rates[name][:, column]
        lowest, highest = np.nanmin(rate), np.nanmax(rate)
        return -lowest / highest if gap.endswith("ratio") else highest - lowest

    rate = max(_RATES_OF_GAP[gap], key=size)
    values = rates[rate][:, column]
    left_out = {
        group_names[index]: _NOBODY[name]
        for name in _RATES_OF_GAP[gap]
        for index in np.flatnonzero(np.isnan(rates[name][:, column]))
    }
    between = [group_names[np.nanargmin(values)], group_names[np.nanargmax(values)]]
    return rate, between, left_out


def _why_undefined(gap: str, rates: dict[str, np.ndarray], groups: int, minimum: int) -> str:
    if groups < 2:
        return f"fewer than two groups have {minimum} examples or more"
    for name in _RATES_OF_GAP[gap]:
        if ((~np.isnan(rates[name])).sum(axis=0) < 2).all():
            return f"{name}: fewer than two groups remain, the others have {_NOBODY[name]}"
    return "a rate is zero in every group, so its ratio is undefined"


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
