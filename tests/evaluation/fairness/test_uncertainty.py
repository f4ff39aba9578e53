from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from configs.schema import EvaluationSettings
from evaluation.fairness import measure_fairness
from evaluation.fairness.uncertainty import interval, p_value, too_few, wilson
from tests.evaluation.conftest import from_answers


def test_wilson_is_scipys():
    successes, trials = np.array([0, 3, 28, 400, 10]), np.array([5, 7, 28, 1000, 10])
    low, high = wilson(successes, trials)
    for k, n, *found in zip(successes, trials, low, high, strict=True):
        expected = stats.binomtest(int(k), int(n)).proportion_ci(0.95, "wilson")
        assert found == pytest.approx([expected.low, expected.high], abs=1e-9)


def test_wilson_of_nobody_is_undefined():
    assert np.isnan(wilson(np.zeros(1), np.zeros(1))).all()


def test_a_small_group_of_which_all_are_right_is_not_thought_certain():
    measured = measure_fairness(
        from_answers([0, 1] * 50 + [1] * 5, [0, 1] * 50 + [1] * 5, [0] * 100 + [1] * 5),
        EvaluationSettings(bootstrap_resamples=0, permutations=0),
    )["attributes"]["group"]["groups"]
    assert measured["g1"]["too_small"]
    assert measured["g1"]["accuracy_interval"] == pytest.approx([0.566, 1.0], abs=1e-3)
    assert measured["g0"]["accuracy_interval"][0] > 0.95


def test_an_interval_always_holds_its_value():
    assert interval(0.0, np.array([0.1, 0.2, np.nan])) == (0.0, pytest.approx(0.2, abs=0.01))
    assert interval(0.5, np.full(3, np.nan)) == (None, None)


def test_p_values_are_never_zero_and_count_the_undefined_as_extreme():
    assert p_value(0.9, np.zeros(99)) == pytest.approx(0.01)
    assert p_value(0.9, np.append(np.zeros(98), np.nan)) == pytest.approx(0.02)
    assert p_value(0.2, np.ones(99), small_is_extreme=True) == pytest.approx(0.01)
    assert p_value(0.2, np.empty(0)) is None


def test_an_interval_wider_than_its_gap_is_warned_of():
    assert "too few examples" in too_few(0.1, 0.02, 0.3)
    assert too_few(0.3, 0.2, 0.4) is None
    assert too_few(0.3, None, None) is None


def _p_values(biased: bool, gap: str, trials: int = 40) -> np.ndarray:
    """Of data in which only what the null hypothesis allows depends on the group."""
    chosen = EvaluationSettings(bootstrap_resamples=0, permutations=99)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(trials):
        groups = rng.integers(0, 2, 400)
        labels = (rng.uniform(size=400) < 0.3 + 0.4 * groups).astype(int)
        base = 0.2 + 0.5 * labels + (0.2 * groups if biased else 0)
        answers = (rng.uniform(size=400) < base).astype(int)
        predictions = from_answers(labels, answers, groups)
        predictions.logits[0, 0] = np.nan  # no scores are measured then: quick
        measured = measure_fairness(predictions, chosen)["attributes"]["group"]["gaps"]
        found.append(measured[gap]["p_value"])
    return np.array(found)


def test_separation_is_tested_given_the_label():
    """Base rates differ, error rates do not: selection must differ, equalized odds must not."""
    fair = _p_values(False, "equalized_odds_difference")
    assert (fair <= 0.05).mean() <= 0.175  # 2 of 40 expected; 8 or more have probability 0.0014
    assert (_p_values(False, "demographic_parity_difference", 10) <= 0.05).all()
    assert (_p_values(True, "equalized_odds_difference", 10) <= 0.05).mean() >= 0.8
