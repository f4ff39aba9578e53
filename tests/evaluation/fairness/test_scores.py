"""Scores by group against scikit-learn, and against the definitions worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import rel_entr
from sklearn.metrics import log_loss, roc_auc_score

from configs.schema import EvaluationSettings
from evaluation.fairness import histograms, measure_fairness
from evaluation.predictions import Predictions
from tests.evaluation.conftest import from_answers, make_predictions

CHOSEN = EvaluationSettings(bootstrap_resamples=40, permutations=40, attributes=["sex"])


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    return make_predictions(1500, seed=3)


@pytest.fixture(scope="module")
def compared(predictions):
    return measure_fairness(predictions, CHOSEN)["attributes"]["sex"]


def _scores(predictions):
    return np.exp(predictions.log_probabilities())[:, 1]


def test_areas_are_scikit_learns(predictions, compared):
    scores, labels, sex = _scores(predictions), predictions.labels, predictions.groups["sex"]
    groups = compared["scores"]["label 1"]["groups"]
    for group, name in enumerate(("Female", "Male")):
        inside = sex == group
        expected = {
            "roc_auc": inside,
            "bpsn_auc": np.where(labels == 1, ~inside, inside),
            "bnsp_auc": np.where(labels == 1, inside, ~inside),
        }
        for measure, kept in expected.items():
            area = roc_auc_score(labels[kept], scores[kept])
            assert groups[name][measure] == pytest.approx(area, abs=1e-9)
            low, high = groups[name]["intervals"][measure]
            assert low < area < high
    gap = compared["scores"]["label 1"]["gaps"]["bpsn_auc_difference"]
    assert gap["value"] == pytest.approx(
        abs(groups["Female"]["bpsn_auc"] - groups["Male"]["bpsn_auc"])
    )
    assert gap["low"] <= gap["value"] <= gap["high"]
    assert gap["p_value"] < 0.05  # men's negatives score higher by construction


def test_binned_areas_are_those_of_scores_rounded_to_bins(predictions):
    scores, labels = _scores(predictions), predictions.labels
    edges = histograms.edges_of(scores)
    place = histograms.bins_of(scores, edges)
    table = np.zeros((1, 2, len(edges) - 1))
    np.add.at(table, (0, labels, place), 1)
    assert histograms.areas(table)["roc_auc"][0] == pytest.approx(roc_auc_score(labels, place))


def test_losses_are_scikit_learns(predictions, compared):
    scores, sex = _scores(predictions), predictions.groups["sex"]
    losses = {
        name: log_loss(predictions.labels[sex == group], scores[sex == group])
        for group, name in enumerate(("Female", "Male"))
    }
    for name, loss in losses.items():
        assert compared["groups"][name]["loss"] == pytest.approx(loss, abs=1e-9)
        low, high = compared["groups"][name]["loss_interval"]
        assert low < loss < high
    worst = compared["worst"]["bounded_group_loss"]
    assert worst["value"] == pytest.approx(max(losses.values()), abs=1e-9)
    assert worst["group"] == max(losses, key=losses.get)


def test_calibration_and_divergence_by_hand(predictions, compared):
    scores, labels, sex = _scores(predictions), predictions.labels, predictions.groups["sex"]
    groups = compared["scores"]["label 1"]["groups"]
    shares = []
    for group, name in enumerate(("Female", "Male")):
        kept = sex == group
        which = np.minimum((scores[kept] * 20).astype(int), 19)
        differences = np.bincount(which, labels[kept] - scores[kept], minlength=20)
        error = np.abs(differences).sum() / kept.sum()
        assert groups[name]["calibration_error"] == pytest.approx(error, abs=1e-9)
        counts = np.bincount(which, minlength=20)
        assert groups[name]["histogram"] == counts.tolist()
        shares.append((counts + 0.5) / (kept.sum() + 10))
    expected = max(rel_entr(*shares).sum(), rel_entr(*shares[::-1]).sum())
    found = compared["scores"]["label 1"]["gaps"]["kl_divergence"]
    assert found["value"] == pytest.approx(expected, abs=1e-9)


def test_thresholds_select_what_reaches_them(predictions, compared):
    scores, labels, sex = _scores(predictions), predictions.labels, predictions.groups["sex"]
    sweep = compared["scores"]["label 1"]["thresholds"]
    assert sweep["thresholds"] == pytest.approx(np.arange(1, 20) / 20)
    for place, threshold in enumerate(sweep["thresholds"]):
        chosen = scores >= threshold
        rates = [chosen[sex == group].mean() for group in (0, 1)]
        # Curves are rounded to four digits.
        assert sweep["groups"]["Male"]["selection_rate"][place] == pytest.approx(rates[1], abs=5e-5)
        assert sweep["accuracy"][place] == pytest.approx((chosen == labels).mean(), abs=5e-5)
        parity = sweep["gaps"]["demographic_parity_difference"]
        assert parity["value"][place] == pytest.approx(abs(rates[0] - rates[1]), abs=5e-5)
        assert parity["low"][place] <= parity["value"][place] <= parity["high"][place]
    half = sweep["gaps"]["equalized_odds_difference"]["value"][9]
    assert half == pytest.approx(compared["gaps"]["equalized_odds_difference"]["value"], abs=5e-5)


def test_roc_curves_run_from_nothing_to_everything(compared):
    curve = compared["scores"]["label 1"]["groups"]["Male"]["roc"]
    for rates in curve.values():
        assert rates[-1] == 1.0
        assert (np.diff(rates) >= 0).all()
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    found = area(curve["true_positive_rate"], curve["false_positive_rate"])
    expected = compared["scores"]["label 1"]["groups"]["Male"]["roc_auc"]
    assert found == pytest.approx(expected, abs=0.01)


def test_equal_scores_and_one_class_are_undefined_with_a_reason():
    predictions = from_answers([0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1])
    found = measure_fairness(
        predictions, replace(CHOSEN, minimum_group_size=1, attributes=["group"])
    )["attributes"]["group"]["scores"]["label 1"]
    assert found["groups"]["g0"]["roc_auc"] == 0.5
    assert found["groups"]["g1"]["roc_auc"] is None
    assert found["groups"]["g1"]["roc"] is None
    assert found["groups"]["g1"]["reasons"]["roc_auc"] == "no positives or no negatives"
    assert found["gaps"]["roc_auc_difference"]["value"] is None
    assert "no positives or no negatives" in found["gaps"]["roc_auc_difference"]["reason"]
    assert found["gaps"]["kl_divergence"]["value"] == pytest.approx(0.0, abs=1e-9)


def test_scores_that_are_no_numbers_leave_the_answers_measured(predictions):
    broken = replace(predictions, logits=predictions.logits.copy())
    broken.logits[0, 0] = np.nan
    found = measure_fairness(broken, CHOSEN)["attributes"]["sex"]
    assert found["scores"] == {}
    assert found["groups"]["Male"]["loss"] is None
    assert found["gaps"]["demographic_parity_difference"]["value"] is not None


def test_every_label_of_three_is_scored_against_the_rest():
    predictions = make_predictions(400, classes=3)
    found = measure_fairness(predictions, CHOSEN)["attributes"]["sex"]["scores"]
    assert list(found) == list(predictions.label_names)
    inside = predictions.groups["sex"] == 1
    scores = np.exp(predictions.log_probabilities())[:, 2]
    expected = roc_auc_score(predictions.labels[inside] == 2, scores[inside])
    assert found["label 2"]["groups"]["Male"]["roc_auc"] == pytest.approx(expected, abs=1e-9)
