"""The fairness section of an evaluation, from predictions held in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from configs.schema.errors import require
from configs.schema.evaluation import EvaluationSettings
from evaluation.fairness.comparison import compare_answers
from evaluation.fairness.definitions import CONFIDENCE, INTERSECTION
from evaluation.fairness.evidence import Evidence, gather, score
from evaluation.fairness.membership import memberships
from evaluation.fairness.score_comparison import compare_scores
from evaluation.predictions import Predictions

MOST_SCORED_LABELS = 20
"""With more labels than this (and no positive one), only answers are compared, not scores."""


def measure_fairness(predictions: Predictions, settings: EvaluationSettings) -> dict[str, Any]:
    """Compares the groups of each attribute and of their intersections.

    With a positive label, rates are of that label. Without one, a task of more than two labels
    is measured one-vs-rest for every label: a gap is the worst over labels, and `macro` its mean.
    Tokens are events of their example's group; resampling and permuting draw examples.

    Returns:
        `positive_labels`, `minimum_group_size`, `resamples`, `permutations`, `confidence`,
        `events` (what is counted: examples or tokens), and `attributes`: attribute (`sex`, or
        `sex × race`) -> what docs/fairness.md lists field by field:

        - `of`: the attributes crossed; `soft`: whether membership is a probability;
        - `groups`: name -> counts, accuracy, loss, and `rates` by label, each with its interval;
        - `gaps`: name of `GAPS` -> `value`, interval `low` to `high`, `p_value`, the `label` it is
          worst for, the groups `between` which it lies (lowest rate first), the `rate` concerned,
          `left_out` groups, `macro`, a `warning` where it is uncertain, `reason` where it is None;
        - `worst`: `worst_group_accuracy` and `bounded_group_loss`, each with its `group`;
        - `inequality`: label -> generalised entropy and Theil index;
        - `scores`: label -> `groups`, `gaps` and `thresholds` of its scores.

    Raises:
        SettingError: For an attribute or a positive label that the data do not have.
    """
    labels = positive_labels(predictions, settings)
    events = predictions.events()
    belongings = memberships(events, settings)
    scored = score(events, labels, labels if len(labels) <= MOST_SCORED_LABELS else labels[:0])
    evidence = (gather(events, scored, membership) for membership in belongings)
    return describe(
        evidence,
        predictions.label_names,
        labels,
        settings,
        events="examples" if events.example_of is None else "tokens",
    )


def describe(
    evidence: Iterable[Evidence],
    label_names: tuple[str, ...],
    tracked: np.ndarray,
    settings: EvaluationSettings,
    *,
    events: str = "examples",
) -> dict[str, Any]:
    """Turns evidence, one attribute at a time, into the fairness section."""
    names = [label_names[index] for index in tracked]
    return {
        "positive_labels": names,
        "minimum_group_size": settings.minimum_group_size,
        "resamples": settings.bootstrap_resamples,
        "permutations": settings.permutations,
        "confidence": CONFIDENCE,
        "events": events,
        "attributes": {
            INTERSECTION.join(one.of): {
                "of": list(one.of),
                "soft": one.soft,
                **compare_answers(one, names, settings),
                "scores": {
                    label_names[label]: compare_scores(one, scores, settings)
                    for label, scores in one.scores.items()
                },
            }
            for one in evidence
        },
    }


def positive_labels(predictions: Predictions, settings: EvaluationSettings) -> np.ndarray:
    """Returns the labels set against the rest, int64 (labels,).

    Raises:
        SettingError: If the data have no label `settings.positive_label`.
    """
    return tracked_labels(predictions.label_names, settings)


def tracked_labels(names: tuple[str, ...], settings: EvaluationSettings) -> np.ndarray:
    """Returns the labels set against the rest; see `positive_labels`."""
    if settings.positive_label is None:
        return np.array([1]) if len(names) == 2 else np.arange(len(names))
    require(
        settings.positive_label in names,
        "evaluation.positive_label",
        settings.positive_label,
        f"one of {', '.join(names)}",
    )
    return np.array([names.index(settings.positive_label)])
