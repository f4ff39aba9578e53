"""Group thresholds by fairlearn's `ThresholdOptimizer` (Hardt, Price, Srebro 2016,
arXiv:1610.02413), read out as step functions.

Promises: fairlearn alone chooses the thresholds; what it would answer and what the rule answers
have the same probability at every score. (Its private attribute `interpolation_dict` is read, as
its own `predict` does.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from fairlearn.postprocessing import ThresholdOptimizer
from sklearn.base import BaseEstimator, ClassifierMixin

from configs.schema import DecisionSettings, ThresholdSettings
from evaluation.predictions import Predictions
from models.decision_rule import AT_HALF, DecisionRule, Steps


class _ScoresAsTheyAre(ClassifierMixin, BaseEstimator):
    """A fitted estimator whose input is its score already."""

    classes_ = np.array([0, 1])

    def fit(self, scores: np.ndarray, labels: np.ndarray) -> _ScoresAsTheyAre:
        return self

    def decision_function(self, scores: np.ndarray) -> np.ndarray:
        return np.asarray(scores).reshape(-1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def scores_of(predictions: Predictions, positive: int) -> np.ndarray:
    """Probability of the label `positive`, float64 (examples,)."""
    return np.exp(predictions.log_probabilities()[:, positive])


def fit_rule(predictions: Predictions, settings: DecisionSettings, positive: int) -> DecisionRule:
    """The rule that the settings ask for, fitted on these predictions.

    Args:
        predictions: Of the validation split, over two labels; every group with examples of both.
        settings: What is asked for.
        positive: Index of the positive label.
    """
    attribute = settings.thresholds.attribute
    if attribute is None:
        return DecisionRule(positive, None, {"": AT_HALF}, settings.abstain.width)
    found = _thresholds(
        scores_of(predictions, positive),
        predictions.labels == positive,
        predictions.groups[attribute],
        settings.thresholds,
    )
    names = predictions.group_names[attribute]
    steps = {name: found.get(index, AT_HALF) for index, name in enumerate(names)}
    return DecisionRule(positive, attribute, steps, settings.abstain.width)


def fit_from_counts(
    counts: np.ndarray,
    group_names: Sequence[str],
    settings: DecisionSettings,
    positive: int,
    enough: float,
) -> tuple[DecisionRule, tuple[str, ...]]:
    """The rule fitted on (noisy) counts of people by group, label and score.

    Each (group, label)'s counts are first brought to the nearest ones >= 0 with the same sum: to
    set only the negative ones to 0 would add people. Then every count is rounded, and as many
    people stand at the middle of the bin. It reads nothing but the counts: post-processing.

    Args:
        counts: float (groups, 2, bins), the label's second index being the positive one's; equal
            bins of the score from 0 to 1.
        group_names: Names of the groups.
        settings: What is asked for; with `thresholds.attribute`.
        positive: Index of the positive label.
        enough: A group with fewer people than this of either label keeps the threshold 0.5; where
            fewer than two groups are left, all do, since there is nobody to be treated alike.

    Returns:
        The rule, and the names of the groups that keep the threshold 0.5.
    """
    bins = counts.shape[-1]
    whole = np.array([[_as_counts(row) for row in group] for group in counts])
    fitting = np.flatnonzero(
        (counts.sum(axis=-1) >= enough).all(axis=1) & (whole.sum(axis=-1) > 0).all(axis=1)
    )
    middles = (np.arange(bins) + 0.5) / bins
    kept = whole[fitting]
    group, label, middle = (axis.ravel() for axis in np.indices(kept.shape))
    times = kept.ravel()
    found: Mapping[int, Steps] = {}
    if len(fitting) > 1:
        found = _thresholds(
            np.repeat(middles[middle], times),
            np.repeat(label == 1, times),
            np.repeat(fitting[group], times),
            settings.thresholds,
        )
    steps = {name: found.get(index, AT_HALF) for index, name in enumerate(group_names)}
    rule = DecisionRule(positive, settings.thresholds.attribute, steps, settings.abstain.width)
    return rule, tuple(name for index, name in enumerate(group_names) if index not in found)


def _thresholds(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, settings: ThresholdSettings
) -> dict[int, Steps]:
    optimizer = ThresholdOptimizer(
        estimator=_ScoresAsTheyAre(),
        constraints=settings.constraint,
        objective=settings.objective,
        prefit=True,
        predict_method="decision_function",
        tol=settings.tolerance,
    )
    optimizer.fit(scores[:, None], labels.astype(int), sensitive_features=groups)
    strength = settings.strength
    found = {}
    for group, mix in optimizer.interpolated_thresholder_.interpolation_dict.items():
        ignored = float(mix.get("p_ignore", 0.0))
        heeded = strength * (1 - ignored)
        parts = [
            (_threshold(mix.operation0), heeded * mix.p0),
            (_threshold(mix.operation1), heeded * mix.p1),
            (0.5, 1 - strength),
        ]
        always = strength * ignored * float(mix.get("prediction_constant", 0.0))
        found[int(group)] = Steps.mixture(parts, always)
    return found


def _threshold(operation: object) -> float:
    # Without `flip`, fairlearn only ever compares with ">".
    return float(vars(operation)["_threshold"])


def _as_counts(noisy: np.ndarray) -> np.ndarray:
    """The nearest point >= 0 with the same sum (Duchi et al. 2008, figure 1), rounded; int64."""
    total = noisy.sum()
    if total <= 0:
        return np.zeros(len(noisy), np.int64)
    descending = np.sort(noisy)[::-1]
    excess = (np.cumsum(descending) - total) / np.arange(1, len(noisy) + 1)
    shift = excess[np.flatnonzero(descending > excess)[-1]]
    # Rounded as cumulative sums, so that the total stays.
    edges = np.rint(np.cumsum(np.maximum(noisy - shift, 0))).astype(np.int64)
    return np.diff(edges, prepend=0)
