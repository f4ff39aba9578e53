"""What a decision rule does to accuracy and to the gaps between groups, beside the undecided model.

Rules may draw lots. Everything here is the expected value over those draws: an example counts as
answered positive with the rule's probability and as answered negative with the rest, as a weight
in fairlearn's own metrics. As in the rest of an evaluation, a group of few, or without anybody to
count a rate of, takes no part in a gap: fairlearn would call its rate 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    false_positive_rate_difference,
    selection_rate,
    true_positive_rate_difference,
)
from sklearn.metrics import accuracy_score

from evaluation.decisions.fitting import scores_of
from evaluation.predictions import Predictions
from models.decision_rule import DecisionRule


def measure_decisions(
    predictions: Predictions, rule: DecisionRule, minimum_group_size: int = 1
) -> dict[str, Any]:
    """Measures answers by the largest score beside the answers of a rule.

    Args:
        predictions: Answers over a whole split, two labels, with the rule's attribute.
        rule: What decides.
        minimum_group_size: Groups with fewer examples are listed, but kept out of the gaps and of
            the worst group's accuracy.

    Returns:
        `rule` (see `DecisionRule.to_dict`), `measured` (how draws were counted), `before` and
        `after`, each with `accuracy` and, where the rule has an attribute,
        `worst_group_accuracy`, `demographic_parity_difference`, `equalized_odds_difference` and
        `groups` (name -> `count`, `selection_rate`, `accuracy`); None is what cannot be told,
        with fewer than two groups to compare. Of a rule that abstains, `after` is of those who are
        answered, and `abstained` has `share` and, by group, `groups`.
    """
    scores, actual = scores_of(predictions, rule.positive), predictions.labels == rule.positive
    groups = names = None
    if rule.attribute is not None:
        groups = predictions.groups[rule.attribute]
        names = predictions.group_names[rule.attribute]
    least = minimum_group_size
    undecided = (predictions.predicted() == rule.positive).astype(float)
    withheld = rule.abstains(scores, groups)
    measured: dict[str, Any] = {
        "rule": rule.to_dict(),
        "split": predictions.split,
        "measured": "expected values over the rule's draws",
        "before": _performance(undecided, actual, groups, names, least),
        "after": None,
    }
    kept = ~withheld
    if kept.any():
        answers = rule.selection(scores, groups)
        measured["after"] = _performance(
            answers[kept], actual[kept], None if groups is None else groups[kept], names, least
        )
    if rule.width > 0:
        measured["abstained"] = {"share": float(withheld.mean())}
        if groups is not None and names is not None:
            measured["abstained"]["groups"] = {
                name: float(withheld[groups == index].mean())
                for index, name in enumerate(names)
                if (groups == index).any()
            }
    return measured


def _performance(
    selection: np.ndarray,
    actual: np.ndarray,
    groups: np.ndarray | None,
    names: tuple[str, ...] | None,
    least: int,
) -> dict[str, Any]:
    """Expected metrics where example i is answered positive with probability `selection[i]`."""
    answered = np.repeat([1, 0], len(actual))
    truth = np.tile(actual.astype(int), 2)
    weights = np.concatenate([selection, 1 - selection])
    accuracy = float(accuracy_score(truth, answered, sample_weight=weights))
    if groups is None or names is None:
        return {"accuracy": accuracy}
    members = np.tile(groups, 2)
    frame = MetricFrame(
        metrics={"accuracy": accuracy_score, "selection_rate": selection_rate},
        y_true=truth,
        y_pred=answered,
        sensitive_features=members,
        sample_params={name: {"sample_weight": weights} for name in ("accuracy", "selection_rate")},
    )
    large = np.bincount(groups, minlength=len(names)) >= least

    def difference(metric: Callable[..., float], counted: np.ndarray) -> float | None:
        """Of the large groups that have somebody among the examples counted."""
        compared = large & (np.bincount(groups[counted], minlength=len(names)) > 0)
        if compared.sum() < 2:
            return None
        rows = compared[members]
        common = {"sensitive_features": members[rows], "sample_weight": weights[rows]}
        return float(metric(truth[rows], answered[rows], **common))

    true = difference(true_positive_rate_difference, actual)
    false = difference(false_positive_rate_difference, ~actual)
    right = frame.by_group["accuracy"]
    of_large = right[large[right.index.to_numpy()]]
    return {
        "accuracy": accuracy,
        "worst_group_accuracy": float(of_large.min()) if len(of_large) else None,
        "demographic_parity_difference": difference(
            demographic_parity_difference, np.ones(len(actual), bool)
        ),
        "equalized_odds_difference": None if true is None or false is None else max(true, false),
        "groups": {
            names[index]: {
                "count": int((groups == index).sum()),
                **{key: float(value) for key, value in row.items()},
            }
            for index, row in frame.by_group.iterrows()
        },
    }
