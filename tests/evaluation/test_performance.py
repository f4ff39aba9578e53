import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from configs.schema.errors import UserError
from evaluation.performance import calibrate, measure_performance
from evaluation.predictions import Predictions
from tests.evaluation.conftest import from_answers, make_predictions


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.integers(1, 80), st.integers(0, 10_000))
def test_measures_agree_with_scikit_learn(classes, examples, seed):
    predictions = make_predictions(examples, classes, seed)
    measured = measure_performance(predictions)
    labels, answers = predictions.labels, predictions.logits.argmax(axis=1)
    every = range(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn remarks on labels that do not occur
        balanced = metrics.balanced_accuracy_score(labels, answers)
        loss = metrics.log_loss(labels, _softmax(predictions.logits.astype(float)), labels=every)
    assert measured["accuracy"] == pytest.approx(metrics.accuracy_score(labels, answers), abs=1e-12)
    assert measured["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert measured["loss"] == pytest.approx(loss, abs=1e-9)
    assert (
        measured["confusion_matrix"]
        == metrics.confusion_matrix(labels, answers, labels=every).tolist()
    )
    for average in ("macro", "weighted"):
        expected = metrics.precision_recall_fscore_support(
            labels, answers, labels=every, average=average, zero_division=0
        )
        found = measured[average]
        assert [found[k] for k in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    per_class = metrics.precision_recall_fscore_support(
        labels, answers, labels=every, zero_division=0
    )
    for index, name in enumerate(predictions.label_names):
        found = measured["labels"][name]
        assert [found[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx(
            [column[index] for column in per_class]
        )


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_roc_auc_is_scikit_learns(classes):
    predictions = make_predictions(500, classes)
    probabilities = _softmax(predictions.logits.astype(float))
    expected = (
        metrics.roc_auc_score(predictions.labels, probabilities[:, 1])
        if classes == 2
        else metrics.roc_auc_score(predictions.labels, probabilities, multi_class="ovr")
    )
    assert measure_performance(predictions)["roc_auc"] == pytest.approx(expected, abs=1e-9)


def test_roc_auc_of_one_occurring_label_is_none_with_a_reason():
    measured = measure_performance(from_answers([1, 1, 1], [1, 0, 1], [0, 0, 0]))
    assert measured["roc_auc"] is None
    assert "one label" in measured["reasons"]["roc_auc"]
    assert measured["accuracy"] == pytest.approx(2 / 3)


def test_roc_auc_says_which_share_of_labels_it_leaves_out():
    measured = measure_performance(from_answers([0, 1, 1, 0], [0, 1, 1, 0], [0] * 4, classes=3))
    assert measured["roc_auc"] == 1.0
    assert "1 of 3" in measured["reasons"]["roc_auc"]


def test_a_label_named_like_a_row_of_the_report_keeps_its_own_row():
    predictions = from_answers([0, 1, 1], [0, 1, 0], [0, 0, 0])
    renamed = Predictions(
        **{**vars(predictions), "label_names": ("accuracy", "macro avg")}  # scikit-learn's rows
    )
    assert measure_performance(renamed)["labels"]["macro avg"]["recall"] == 0.5


def test_broken_logits_leave_probabilities_undefined_and_the_rest_measured():
    predictions = make_predictions(20)
    predictions.logits[3] = np.nan
    measured = measure_performance(predictions)
    assert measured["loss"] is measured["roc_auc"] is measured["calibration"] is None
    assert measured["reasons"]["loss"].startswith("1 examples")
    assert 0 <= measured["accuracy"] <= 1


def test_huge_logits_have_a_finite_loss():
    predictions = from_answers([0, 1], [1, 1], [0, 0])
    huge = Predictions(**{**vars(predictions), "logits": predictions.logits * 1e4})
    assert measure_performance(huge)["loss"] == pytest.approx(1.5e4)


def test_calibration_error_by_hand():
    # Two bins are used: (0.6, 0.667] holds two examples, one right; (0.867, 0.933] one, right.
    probabilities = np.array([[0.65, 0.35], [0.35, 0.65], [0.1, 0.9]])
    found = calibrate(probabilities, np.array([0, 0, 1]))
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 0.65) + abs(1 - 0.9)) / 3)
    assert [b["count"] for b in found["bins"] if b["count"]] == [2, 1]


def test_bins_are_closed_above():
    found = calibrate(np.array([[1.0, 0.0], [0.6, 0.4]]), np.array([0, 0]))
    assert found["bins"][14]["count"] == 1
    assert found["bins"][8]["count"] == 1  # (8/15, 9/15]


def test_confidence_equal_to_accuracy_has_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=200_000)
    probabilities = np.stack([1 - p, p], axis=1)
    labels = (rng.uniform(size=len(p)) < p).astype(int)
    assert calibrate(probabilities, labels)["ece"] < 0.005


def test_a_split_without_examples_is_named():
    with pytest.raises(UserError, match="'test' has no examples"):
        Predictions(np.zeros((0, 2)), np.zeros(0), ("a", "b"), {}, {}, np.zeros(0))


def test_logits_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(UserError, match=r"expected logits of shape \(3, 2\)"):
        Predictions(np.zeros((3, 5)), np.zeros(3, int), ("a", "b"), {}, {}, np.zeros(3))


def test_a_label_without_a_name_is_refused():
    with pytest.raises(UserError, match="labels in 0 to 1"):
        Predictions(np.zeros((2, 2)), np.array([0, 2]), ("a", "b"), {}, {}, np.zeros(2))
