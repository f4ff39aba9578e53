"""1,000 random and 50 degenerate inputs: equal to fairlearn to 1e-9 wherever both define a value.

fairlearn disaggregates by control features too, so one MetricFrame answers for all inputs at once.
Where nobody can be counted (a group without positives has no true positive rate) fairlearn says 0
and Sterling says undefined; such a gap is compared with fairlearn's over the other groups.
"""

from __future__ import annotations

from unittest import mock

import fairlearn.metrics as fairlearn
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn import metrics

from evaluation.fairness.rates import CellLayout, GroupCounts

RANDOM, DEGENERATE = 1000, 50
# Its fixtures take long: one process makes them.
pytestmark = pytest.mark.xdist_group("parity")

GROUPS = 4
LAYOUT = CellLayout(np.array([1]), 2)
OF_FAIRLEARN = {
    "selection_rate": fairlearn.selection_rate,
    "true_positive_rate": fairlearn.true_positive_rate,
    "false_positive_rate": fairlearn.false_positive_rate,
    "accuracy": metrics.accuracy_score,  # as in its accuracy_score_difference and _ratio
}
GAPS_OF_RATE = {
    "selection_rate": "demographic_parity",
    "true_positive_rate": "equal_opportunity",
    "accuracy": "accuracy",
}


def _random(rng) -> tuple[np.ndarray, ...]:
    examples = rng.integers(30, 90)
    groups = rng.integers(0, rng.choice([2, 2, 2, 3, GROUPS]), examples)
    labels = (rng.uniform(size=examples) < rng.uniform(0.2, 0.8, GROUPS)[groups]).astype(int)
    answers = (rng.uniform(size=examples) < rng.uniform(0.2, 0.8, GROUPS)[groups]).astype(int)
    return labels, answers, groups


def _degenerate(kind: int, rng) -> tuple[np.ndarray, ...]:
    labels, answers, groups = _random(rng)
    change = kind % 7
    if change == 0:  # an empty group between others
        groups = np.where(groups == 1, 3, groups)
    elif change == 1:  # one class only
        labels = np.full_like(labels, kind // 7 % 2)
    elif change == 2:  # every score equal: all are selected, or nobody
        answers = np.full_like(answers, kind // 7 % 2)
    elif change == 3:  # a group without positives
        labels = np.where(groups == 0, 0, labels)
    elif change == 4:  # a group without negatives, never selected
        labels, answers = np.where(groups == 0, 1, labels), np.where(groups == 0, 0, answers)
    elif change == 5:  # one example a group
        labels, answers, groups = labels[:GROUPS], answers[:GROUPS], np.arange(GROUPS)
    else:  # nothing but one class, answered rightly
        labels = answers = np.full_like(labels, kind // 7 % 2)
    return labels, answers, groups


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return [_random(rng) for _ in range(RANDOM)] + [_degenerate(k, rng) for k in range(DEGENERATE)]


@pytest.fixture(scope="module")
def counts(inputs) -> GroupCounts:
    tables = np.zeros((len(inputs), GROUPS, LAYOUT.size))
    for table, (labels, answers, groups) in zip(tables, inputs, strict=True):
        np.add.at(table, (groups, LAYOUT.cells(labels, answers)), 1)
    return LAYOUT.counts(tables, np.arange(LAYOUT.size))


@pytest.fixture(scope="module")
def frame(inputs) -> fairlearn.MetricFrame:
    # Both of fairlearn's odds ask scikit-learn for one and the same confusion matrix.
    count, counted = metrics.confusion_matrix, {}

    def count_once(y_true, y_pred, **options):
        key = (np.asarray(y_true).tobytes(), np.asarray(y_pred).tobytes())
        if key not in counted:
            counted[key] = count(y_true, y_pred, **options)
        return counted[key]

    labels, answers, groups = (np.concatenate(column) for column in zip(*inputs, strict=True))
    trials = np.repeat(np.arange(len(inputs)), [len(one[0]) for one in inputs])
    # scikit-learn's checks of its arguments take longer than its counting.
    quickly = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with quickly, mock.patch.object(metrics, "confusion_matrix", count_once):
        return fairlearn.MetricFrame(
            metrics=OF_FAIRLEARN,
            y_true=labels,
            y_pred=answers,
            sensitive_features=pd.Series(groups, name="group"),
            control_features=pd.Series(trials, name="trial"),
        )


@pytest.mark.parametrize("rate", OF_FAIRLEARN)
def test_rates_of_groups(counts, frame, rate):
    ours = counts.rates()[rate][..., 0]
    theirs = frame.by_group[rate].unstack("group").to_numpy(float)
    defined = ~np.isnan(ours)
    assert defined.sum() > 0.7 * (counts.examples > 0).sum()
    np.testing.assert_allclose(ours[defined], theirs[defined], rtol=0, atol=1e-9)


@pytest.mark.parametrize("rate", GAPS_OF_RATE)
@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_gaps_where_every_group_has_somebody_to_count(counts, frame, rate, kind):
    ours = counts.gaps()[f"{GAPS_OF_RATE[rate]}_{kind}"][:, 0]
    theirs = getattr(frame, kind)()[rate].to_numpy(float)
    _compare(ours, theirs, _complete(counts, rate), kind)


@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_equalized_odds_where_every_group_has_somebody_to_count(counts, frame, kind):
    ours = counts.gaps()[f"equalized_odds_{kind}"][:, 0]
    odds = getattr(frame, kind)()[["true_positive_rate", "false_positive_rate"]].astype(float)
    theirs = odds.max(axis=1) if kind == "difference" else odds.min(axis=1)
    complete = _complete(counts, "true_positive_rate") & _complete(counts, "false_positive_rate")
    # pandas would leave a ratio of zeros out of the minimum.
    complete &= odds.notna().all(axis=1).to_numpy()
    _compare(ours, theirs.to_numpy(), complete, kind)


def test_gaps_that_leave_groups_out_are_fairlearns_over_the_others(inputs, counts):
    incomplete = np.flatnonzero(~_complete(counts, "true_positive_rate"))
    ours = counts.gaps()["equal_opportunity_difference"][:, 0]
    compared = 0
    for trial in incomplete:
        labels, answers, groups = inputs[trial]
        kept = np.isin(groups, np.flatnonzero(counts.positives[trial, :, 0] > 0))
        if len(np.unique(groups[kept])) < 2:
            assert np.isnan(ours[trial])
            continue
        expected = fairlearn.equal_opportunity_difference(
            labels[kept], answers[kept], sensitive_features=groups[kept]
        )
        assert ours[trial] == pytest.approx(expected, abs=1e-9)
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("trial", [*range(10), *range(RANDOM, RANDOM + 10)])
def test_rates_that_scikit_learn_defines(inputs, counts, trial):
    labels, answers, groups = inputs[trial]
    for group in np.unique(groups):
        truth, answer = labels[groups == group], answers[groups == group]
        rates = {name: rate[trial, group, 0] for name, rate in counts.rates().items()}
        precision = metrics.precision_score(truth, answer, zero_division=np.nan)
        withheld = metrics.precision_score(truth, answer, pos_label=0, zero_division=np.nan)
        expected = {
            "accuracy": metrics.accuracy_score(truth, answer),
            "precision": precision,
            "false_discovery_rate": 1 - precision,
            "false_omission_rate": 1 - withheld,
        }
        for name, value in expected.items():
            assert rates[name] == pytest.approx(value, abs=1e-9, nan_ok=True)


def _complete(counts: GroupCounts, rate: str) -> np.ndarray:
    """Where every group that occurs, of two or more, has somebody to count."""
    present = counts.examples > 0
    undefined = np.isnan(counts.rates()[rate][..., 0])
    return (present.sum(axis=1) >= 2) & ~(present & undefined).any(axis=1)


def _compare(ours: np.ndarray, theirs: np.ndarray, complete: np.ndarray, kind: str) -> None:
    assert complete.sum() > 900
    np.testing.assert_allclose(ours[complete], theirs[complete], rtol=0, atol=1e-9)
