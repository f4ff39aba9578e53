"""Rules decide as fairlearn would, and noisy counts keep their totals."""

from dataclasses import replace

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference
from fairlearn.postprocessing import ThresholdOptimizer
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import DecisionSettings, EvaluationSettings, ThresholdSettings
from evaluation import Predictions, fit_from_counts, fit_rule, measure_decisions, scores_of
from evaluation.decisions.fitting import _as_counts, _ScoresAsTheyAre
from evaluation.fairness import measure_fairness
from models.decision_rule import AT_HALF, DecisionRule, Steps


def people(count: int = 2000, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    sex = generator.integers(2, size=count).astype(np.int32)
    labels = (generator.random(count) < np.where(sex, 0.2, 0.5)).astype(np.int32)
    margin = 1.5 * labels - 1.0 * sex - 0.3 + generator.normal(size=count)
    logits = np.stack([np.zeros(count), margin], axis=1).astype(np.float32)
    return Predictions(
        logits, labels, ("no", "yes"), {"sex": sex}, {"sex": ("m", "w")}, np.arange(count)
    )


def settings(**thresholds) -> DecisionSettings:
    return DecisionSettings(thresholds=ThresholdSettings(attribute="sex", **thresholds))


def fairlearn_pmf(predictions: Predictions, scores: np.ndarray, groups: np.ndarray, **options):
    optimizer = ThresholdOptimizer(
        estimator=_ScoresAsTheyAre(), prefit=True, predict_method="decision_function", **options
    )
    own = scores_of(predictions, 1)
    optimizer.fit(own[:, None], predictions.labels, sensitive_features=predictions.groups["sex"])
    return optimizer._pmf_predict(scores[:, None], sensitive_features=groups)[:, 1]


CONSTRAINTS = ["demographic_parity", "equalized_odds", "true_positive_rate_parity"]


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_rule_answers_with_the_probabilities_of_fairlearn(constraint):
    predictions, fresh = people(), people(seed=1)
    rule = fit_rule(predictions, settings(constraint=constraint), 1)
    scores = np.concatenate([scores_of(fresh, 1), [0.0, 1.0]])
    groups = np.concatenate([fresh.groups["sex"], [0, 1]])
    expected = fairlearn_pmf(predictions, scores, groups, constraints=constraint)
    np.testing.assert_allclose(rule.selection(scores, groups), expected, atol=1e-12)


def test_tolerance_leaves_that_gap_and_costs_less_accuracy():
    predictions = people()
    full = measure_decisions(predictions, fit_rule(predictions, settings(), 1))
    part = measure_decisions(predictions, fit_rule(predictions, settings(tolerance=0.1), 1))
    gap = "demographic_parity_difference"
    assert full["after"][gap] < 0.01 < part["after"][gap] < 0.1 + 1e-9
    assert (
        full["after"]["accuracy"] < part["after"]["accuracy"] <= part["before"]["accuracy"] + 0.02
    )


def test_strength_lies_between_the_largest_score_and_the_thresholds():
    predictions = people()
    scores, groups = scores_of(predictions, 1), predictions.groups["sex"]
    full = fit_rule(predictions, settings(), 1).selection(scores, groups)
    half = fit_rule(predictions, settings(strength=0.5), 1).selection(scores, groups)
    np.testing.assert_allclose(half, 0.5 * full + 0.5 * (scores > 0.5), atol=1e-12)


def test_expected_measurements_are_the_mean_over_draws():
    predictions = people()
    rule = fit_rule(predictions, settings(constraint="equalized_odds"), 1)
    after = measure_decisions(predictions, rule)["after"]
    probability = rule.selection(scores_of(predictions, 1), predictions.groups["sex"])
    generator = np.random.default_rng(5)
    draws = generator.random((400, len(probability))) < probability
    accuracy = (draws == predictions.labels).mean()
    assert after["accuracy"] == pytest.approx(accuracy, abs=2e-3)
    rates = [draws[:, predictions.groups["sex"] == group].mean() for group in (0, 1)]
    assert after["groups"]["m"]["selection_rate"] == pytest.approx(rates[0], abs=2e-3)
    assert after["demographic_parity_difference"] == pytest.approx(
        abs(rates[0] - rates[1]), abs=3e-3
    )


def test_measurements_before_are_fairlearns_own():
    predictions = people()
    before = measure_decisions(predictions, fit_rule(predictions, settings(), 1))["before"]
    expected = demographic_parity_difference(
        predictions.labels, predictions.predicted(), sensitive_features=predictions.groups["sex"]
    )
    assert before["demographic_parity_difference"] == pytest.approx(expected, abs=1e-12)
    assert before["worst_group_accuracy"] < before["accuracy"]


def test_group_of_few_or_without_positives_takes_no_part_in_the_gaps_of_decisions():
    everybody = people()
    strange = np.arange(60)
    sex, labels = everybody.groups["sex"].copy(), everybody.labels.copy()
    sex[strange], labels[strange] = 2, 0
    sex[-3:] = 3
    named = {"sex": ("m", "w", "without positives", "few")}
    found = replace(everybody, groups={"sex": sex}, labels=labels, group_names=named)
    rule = DecisionRule(1, "sex", dict.fromkeys(named["sex"], AT_HALF))
    before = measure_decisions(found, rule, 30)["before"]
    gaps = measure_fairness(found, EvaluationSettings(bootstrap_resamples=0, permutations=0))
    sex_gaps = gaps["attributes"]["sex"]["gaps"]
    assert "without positives" in sex_gaps["equalized_odds_difference"]["left_out"]
    for name in ("demographic_parity_difference", "equalized_odds_difference"):
        assert before[name] == pytest.approx(sex_gaps[name]["value"], abs=1e-12)
    assert set(before["groups"]) == set(named["sex"])
    alone = measure_decisions(found, rule, 10_000)["before"]
    assert alone["worst_group_accuracy"] is alone["equalized_odds_difference"] is None
    assert alone["demographic_parity_difference"] is None


def histogram(predictions: Predictions, bins: int) -> np.ndarray:
    counts = np.zeros((2, 2, bins))
    which = np.minimum((scores_of(predictions, 1) * bins).astype(int), bins - 1)
    np.add.at(counts, (predictions.groups["sex"], predictions.labels, which), 1)
    return counts


def test_counts_without_noise_give_nearly_the_thresholds_of_the_people():
    predictions = people(4000)
    exact = measure_decisions(predictions, fit_rule(predictions, settings(), 1))
    rule, kept = fit_from_counts(histogram(predictions, 64), ("m", "w"), settings(), 1, 10)
    counted = measure_decisions(predictions, rule)
    assert kept == ()
    assert counted["after"]["demographic_parity_difference"] < 0.03
    assert counted["after"]["accuracy"] == pytest.approx(exact["after"]["accuracy"], abs=0.01)


def test_group_with_too_few_people_keeps_the_threshold_one_half():
    counts = np.concatenate([histogram(people(), 16), np.zeros((1, 2, 16))])
    counts[2, 1, 3] = 9
    rule, kept = fit_from_counts(counts, ("m", "w", "x"), settings(), 1, 10)
    assert kept == ("x",)
    assert rule.steps["x"] == AT_HALF
    assert AT_HALF not in (rule.steps["m"], rule.steps["w"])


def test_group_that_is_left_alone_has_nobody_to_be_treated_alike():
    counts = histogram(people(), 16)
    counts[1] = 0
    rule, kept = fit_from_counts(counts, ("m", "w"), settings(), 1, 10)
    assert kept == ("m", "w")
    assert set(rule.steps.values()) == {AT_HALF}


def test_counts_of_nobody_keep_every_threshold_at_one_half():
    rule, kept = fit_from_counts(np.full((2, 2, 8), -0.3), ("m", "w"), settings(), 1, 10)
    assert kept == ("m", "w")
    assert set(rule.steps.values()) == {Steps((0.5,), (0.0, 1.0))}


@given(st.lists(st.floats(-20, 60), min_size=1, max_size=40))
def test_counts_are_whole_not_negative_and_keep_the_total(noisy):
    whole = _as_counts(np.array(noisy))
    assert (whole >= 0).all()
    assert abs(whole.sum() - max(0.0, sum(noisy))) <= 0.5 + 1e-6


def test_steps_that_do_not_fit_are_refused():
    for edges, selection in (((0.5,), (0.0,)), ((0.5, 0.4), (0, 0.5, 1)), ((), (1.5,))):
        with pytest.raises(ValueError, match="ascending edges and one probability more"):
            Steps(edges, selection)


def test_edge_belongs_to_what_is_below_it():
    steps = Steps.mixture([(0.3, 0.25), (0.6, 0.5), (-np.inf, 0.125), (np.inf, 0.125)])
    scores = np.array([0.3, 0.31, 0.6, 0.61])
    np.testing.assert_allclose(steps.at(scores), [0.125, 0.375, 0.375, 0.875])
    assert steps.near(scores, 0.05).tolist() == [True, True, True, True]
    assert steps.near(np.array([0.45]), 0.1).tolist() == [False]
