"""Compares the groups of one attribute: rates, gaps, their uncertainty, who is worst off.

Every group is listed, however small, with the interval of each of its rates; a group below
`minimum_group_size` is marked `too_small` and only kept out of the gaps. What is undefined (nobody
to count) is None with a reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.schema.evaluation import EvaluationSettings
from evaluation.fairness.definitions import ACCURACY, GAPS, NOBODY, RATES, Parity
from evaluation.fairness.entropy import INDICES, inequality
from evaluation.fairness.evidence import Evidence
from evaluation.fairness.gap_report import GapReport
from evaluation.fairness.rates import GroupCounts
from evaluation.fairness.uncertainty import (
    Drawn,
    collect,
    interval,
    intervals,
    number,
    wilson,
)


def compare_answers(
    evidence: Evidence, label_names: list[str], settings: EvaluationSettings
) -> dict[str, Any]:
    """Compares the answers that groups are given.

    Args:
        evidence: Of one attribute.
        label_names: The tracked labels' names.
        settings: Minimum size, resamples, permutations, seed.

    Returns:
        `groups`, `gaps`, `worst` and `inequality`, as `measure_fairness` describes them.
    """
    counts = evidence.layout.counts(evidence.answers.table, evidence.cells)
    large = large_groups(evidence, settings)
    rng = np.random.default_rng(settings.seed)
    resampled = collect(
        evidence.answers.resamples(settings.bootstrap_resamples, rng),
        lambda table: _of_resample(evidence, evidence.layout.counts(table, evidence.cells), large),
    )
    permuted = _permuted_gaps(evidence, large, settings, rng) if len(large) >= 2 else {}
    gaps = GapReport(
        counts.of_groups(large),
        label_names,
        [evidence.names[index] for index in large],
        settings.minimum_group_size,
        resampled,
        permuted,
    )
    return {
        "groups": _groups(evidence, counts, label_names, settings, resampled),
        "gaps": {name: gaps.of(name) for name in GAPS},
        "worst": _worst_off(evidence, counts, large, resampled),
        "inequality": _inequality(counts, label_names, resampled),
    }


def large_groups(evidence: Evidence, settings: EvaluationSettings) -> np.ndarray:
    """Returns the indices of the groups that take part in gaps."""
    return np.flatnonzero(evidence.examples >= settings.minimum_group_size)


def _of_resample(evidence: Evidence, counts: GroupCounts, large: np.ndarray) -> Drawn:
    found = counts.of_groups(large).gaps()
    if evidence.answers.contributions is not None:
        found |= {f"rate {name}": rate for name, rate in counts.rates().items()}
    accuracy = counts.accuracy()[..., large]
    found["worst_group_accuracy"] = np.where(np.isnan(accuracy), np.inf, accuracy).min(
        axis=-1, initial=np.inf
    )
    for name, parts in inequality(counts).items():
        found |= {f"{name} {part}": values for part, values in parts.items()}
    return found


def _permuted_gaps(
    evidence: Evidence, large: np.ndarray, settings: EvaluationSettings, rng: np.random.Generator
) -> Drawn:
    cells, layout = evidence.cells, evidence.layout
    strata: dict[Parity, np.ndarray] = {
        "independence": np.zeros(len(cells), int),
        "separation": layout.truth(cells),
        "sufficiency": layout.answer(cells),
    }
    table = evidence.answers.of_groups(large)
    found: Drawn = {}
    for parity, stratum in strata.items():
        drawn = collect(
            table.permutations(settings.permutations, stratum, rng),
            lambda permuted: layout.counts(permuted, cells).gaps(),
        )
        found |= {name: drawn[name] for name in drawn if GAPS[name].parity == parity}
    return found


def _groups(
    evidence: Evidence,
    counts: GroupCounts,
    label_names: list[str],
    settings: EvaluationSettings,
    resampled: Drawn,
) -> dict[str, Any]:
    rates = counts.rates()
    bounds = _rate_intervals(evidence, counts, resampled)
    described = {}
    for group, name in enumerate(evidence.names):
        examples = evidence.examples[group]
        described[name] = {
            "count": _count(examples),
            "events": _count(counts.examples[group]),
            "too_small": bool(examples < settings.minimum_group_size),
            "accuracy": number(rates[ACCURACY][group, 0]),
            "accuracy_interval": [number(bound[group, 0]) for bound in bounds[ACCURACY]],
            "loss": number(evidence.loss[group]),
            "loss_interval": [
                number(evidence.loss[group] + sign * evidence.loss_error[group]) for sign in (-1, 1)
            ],
            "rates": {
                label: _rates_of(counts, rates, bounds, group, column)
                for column, label in enumerate(label_names)
            },
        }
    return described


def _rates_of(
    counts: GroupCounts,
    rates: dict[str, np.ndarray],
    bounds: dict[str, tuple[np.ndarray, np.ndarray]],
    group: int,
    column: int,
) -> dict[str, Any]:
    values = {name: number(rates[name][group, column]) for name in RATES}
    positives = counts.positives[group, column]
    return {
        "positives": _count(positives),
        "negatives": _count(counts.examples[group] - positives),
        **values,
        "intervals": {
            name: [number(bound[group, column]) for bound in bounds[name]] for name in RATES
        },
        "reasons": {name: RATES[name] for name, value in values.items() if value is None},
    }


def _rate_intervals(
    evidence: Evidence, counts: GroupCounts, resampled: Drawn
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Wilson's where events are independent and whole, the bootstrap's otherwise."""
    if evidence.answers.contributions is None:
        return {name: wilson(*fraction) for name, fraction in counts.fractions().items()}
    if not resampled:
        unknown = np.full(counts.selected.shape, np.nan)
        return {name: (unknown, unknown) for name in NOBODY}
    return {name: intervals(resampled[f"rate {name}"]) for name in NOBODY}


def _worst_off(
    evidence: Evidence, counts: GroupCounts, large: np.ndarray, resampled: Drawn
) -> dict[str, Any]:
    accuracy, loss = counts.accuracy()[large], evidence.loss[large]
    found: dict[str, Any] = {
        name: {"value": None, "low": None, "high": None, "reason": reason}
        for name, reason in (
            ("worst_group_accuracy", "no group is large enough"),
            ("bounded_group_loss", "no group is large enough, or logits are not finite"),
        )
    }
    if not np.isnan(accuracy).all():
        least = int(np.nanargmin(accuracy))
        low, high = interval(
            float(accuracy[least]), resampled.get("worst_group_accuracy", np.empty(0))
        )
        found["worst_group_accuracy"] = {
            "value": float(accuracy[least]),
            "low": low,
            "high": high,
            "group": evidence.names[large[least]],
            "reason": None,
        }
    if not np.isnan(loss).all():
        greatest = int(np.nanargmax(loss))
        error = evidence.loss_error[large[greatest]]
        found["bounded_group_loss"] = {
            "value": float(loss[greatest]),
            "low": float(loss[greatest] - error),
            "high": float(loss[greatest] + error),
            "group": evidence.names[large[greatest]],
            "reason": None,
        }
    return found


def _inequality(
    counts: GroupCounts, label_names: list[str], resampled: Drawn
) -> dict[str, dict[str, Any]]:
    found = inequality(counts)
    described: dict[str, dict[str, Any]] = {}
    for column, label in enumerate(label_names):
        described[label] = {}
        for name in INDICES:
            parts = {part: number(values[column]) for part, values in found[name].items()}
            low, high = None, None
            if parts["all"] is not None and resampled:
                low, high = interval(parts["all"], resampled[f"{name} all"][:, column])
            reason = "nobody benefits" if parts["all"] is None else None
            described[label][name] = {**parts, "low": low, "high": high, "reason": reason}
    return described


def _count(value: float) -> int | float:
    """Whole where it is a count, a fraction where it is a sum of probabilities."""
    return int(value) if float(value).is_integer() else float(value)
