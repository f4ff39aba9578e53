import json
from dataclasses import replace

import fairlearn.metrics as fairlearn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import EvaluationSettings, SettingError
from evaluation.fairness import GAPS, RATES, measure_fairness
from tests.evaluation.conftest import from_answers, make_predictions

QUICK = EvaluationSettings(minimum_group_size=1, bootstrap_resamples=0, permutations=0)
FAIRLEARNS = (
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
)


def _rates(measured, attribute, group, label="label 1"):
    return measured["attributes"][attribute]["groups"][group]["rates"][label]


def test_rates_come_out_under_their_groups_names():
    labels, answers, groups = [0, 1, 1, 0, 1, 0, 1], [0, 1, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]
    measured = measure_fairness(from_answers(labels, answers, groups), QUICK)
    compared = measured["attributes"]["group"]
    assert compared["groups"]["g0"]["count"] == 3
    assert compared["groups"]["g0"]["accuracy"] == pytest.approx(2 / 3)
    rates = _rates(measured, "group", "g1")
    assert {name: rates[name] for name in RATES} == {
        "selection_rate": 1.0,
        "true_positive_rate": 1.0,
        "false_positive_rate": 1.0,
        "precision": 0.5,
        "false_discovery_rate": 0.5,
        "false_omission_rate": None,
    }
    assert rates["reasons"] == {"false_omission_rate": "everybody selected"}
    gaps = compared["gaps"]
    assert gaps["equalized_odds_difference"]["value"] == 1.0
    assert gaps["equalized_odds_difference"]["rate"] == "false_positive_rate"
    assert gaps["demographic_parity_ratio"]["value"] == pytest.approx(1 / 3)
    assert gaps["demographic_parity_ratio"]["four_fifths"] is False
    assert compared["worst"]["worst_group_accuracy"]["group"] == "g1"


@settings(deadline=None, max_examples=12)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12
    ),
    st.integers(1, 4),
)
def test_degenerate_data_give_values_or_reasons_and_strict_json(rows, minimum):
    labels, answers, groups = (np.array(column) for column in zip(*rows, strict=True))
    predictions = from_answers(labels, answers, groups, 3, ("a", "b", "c", "d"))
    chosen = EvaluationSettings(minimum_group_size=minimum, bootstrap_resamples=20, permutations=20)
    measured = measure_fairness(predictions, chosen)
    json.dumps(measured, allow_nan=False)
    compared = measured["attributes"]["group"]
    assert set(compared["groups"]) == {"a", "b", "c", "d"}
    for gap in compared["gaps"].values():
        assert (gap["value"] is None) == bool(gap["reason"])
    for group in compared["groups"].values():
        assert group["too_small"] == (group["count"] < minimum)
        for rates in group["rates"].values():
            undefined = {name for name, value in rates.items() if value is None}
            assert undefined == set(rates["reasons"])


def test_worst_of_three_labels_is_the_one_vs_rest_gap():
    predictions = make_predictions(900, classes=3)
    measured = measure_fairness(predictions, QUICK)["attributes"]["sex"]["gaps"]
    answers = predictions.predicted()
    for gap in FAIRLEARNS:
        each = {
            name: getattr(fairlearn, gap)(
                predictions.labels == index,
                answers == index,
                sensitive_features=predictions.groups["sex"],
            )
            for index, name in enumerate(predictions.label_names)
        }
        worst = (min if gap.endswith("ratio") else max)(each, key=each.get)
        assert measured[gap]["value"] == pytest.approx(each[worst], abs=1e-9)
        assert measured[gap]["label"] == worst
        assert measured[gap]["macro"] == pytest.approx(np.mean(list(each.values())), abs=1e-9)
        assert measured[gap]["by_label"] == pytest.approx(each, abs=1e-9)


def test_positive_label_turns_the_rates_round(predictions):
    other = measure_fairness(predictions, replace(QUICK, positive_label="label 0"))
    usual = measure_fairness(predictions, QUICK)
    assert other["positive_labels"] == ["label 0"]
    assert usual["positive_labels"] == ["label 1"]
    rate = _rates(usual, "sex", "Male")["selection_rate"]
    assert _rates(other, "sex", "Male", "label 0")["selection_rate"] == pytest.approx(1 - rate)


def test_small_groups_are_listed_but_kept_out_of_the_gaps():
    labels = [0, 1] * 30 + [0, 1]
    answers = [0, 1] * 30 + [1, 1]
    groups = [0] * 30 + [1] * 30 + [2] * 2
    chosen = EvaluationSettings(minimum_group_size=30)
    measured = measure_fairness(from_answers(labels, answers, groups), chosen)["attributes"][
        "group"
    ]
    assert measured["groups"]["g2"]["too_small"] is True
    assert measured["groups"]["g2"]["count"] == 2
    assert measured["groups"]["g2"]["rates"]["label 1"]["selection_rate"] == 1.0
    assert measured["gaps"]["demographic_parity_difference"]["value"] == 0.0


def test_a_group_without_positives_is_left_out_of_the_true_positive_gap_with_a_reason():
    labels = [0, 1, 0, 1, 0, 0]
    answers = [0, 1, 0, 0, 1, 0]
    measured = measure_fairness(from_answers(labels, answers, [0, 0, 1, 1, 2, 2]), QUICK)
    rates = _rates(measured, "group", "g2")
    assert rates["true_positive_rate"] is None
    assert rates["reasons"] == {"true_positive_rate": "no positives"}
    odds = measured["attributes"]["group"]["gaps"]["equalized_odds_difference"]
    assert odds["value"] == 1.0  # g0 finds all of its positives, g1 none
    assert odds["left_out"] == {"g2": "no positives"}
    assert odds["between"] == ["g1", "g0"]


def test_one_group_alone_has_no_gap():
    measured = measure_fairness(from_answers([0, 1], [0, 1], [0, 0]), QUICK)
    gap = measured["attributes"]["group"]["gaps"]["demographic_parity_difference"]
    assert gap["value"] is None
    assert "fewer than two groups" in gap["reason"]


def test_intersections_list_the_combinations_that_occur(predictions):
    measured = measure_fairness(predictions, QUICK)["attributes"]
    assert list(measured) == ["sex", "race", "sex × race"]
    crossed = measured["sex × race"]
    sexes, races = predictions.groups["sex"], predictions.groups["race"]
    assert crossed["groups"]["Male × B"]["count"] == ((sexes == 1) & (races == 1)).sum()
    assert sum(group["count"] for group in crossed["groups"].values()) == len(predictions.labels)
    alone = measure_fairness(predictions, replace(QUICK, intersections=1))["attributes"]
    assert list(alone) == ["sex", "race"]


def test_unknown_attribute_is_refused_with_those_that_exist(predictions):
    with pytest.raises(
        SettingError, match=r"evaluation.attributes: expected one of sex, race.*age"
    ):
        measure_fairness(predictions, replace(QUICK, attributes=["sex", "age"]))


def test_unknown_positive_label_is_refused_with_those_that_exist(predictions):
    with pytest.raises(SettingError, match=r"expected one of label 0, label 1.*'rich'"):
        measure_fairness(predictions, replace(QUICK, positive_label="rich"))


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_contain_the_value_and_shrink_with_more_examples(predict, classes):
    chosen = EvaluationSettings(bootstrap_resamples=200, permutations=0, attributes=["sex"])

    def widths(examples):
        measured = measure_fairness(predict(examples, classes), chosen)
        gaps = measured["attributes"]["sex"]["gaps"]
        assert all(gap["low"] <= gap["value"] <= gap["high"] for gap in gaps.values())
        return {name: gap["high"] - gap["low"] for name, gap in gaps.items()}

    few, many = widths(500), widths(10_000)
    # Widths fall like 1 / sqrt(n), here to 0.22; a half leaves room for the bootstrap's own chance.
    assert all(many[gap] < 0.5 * few[gap] for gap in GAPS)


def test_intervals_are_the_same_for_the_same_seed(predictions):
    first = measure_fairness(predictions, EvaluationSettings(seed=1, attributes=["sex"]))
    assert first == measure_fairness(predictions, EvaluationSettings(seed=1, attributes=["sex"]))
    assert first != measure_fairness(predictions, EvaluationSettings(seed=2, attributes=["sex"]))


def test_intervals_cover_the_true_gap_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered, trials = 0, 60
    for trial in range(trials):
        groups = rng.integers(0, 2, 400)
        answers = (rng.uniform(size=400) < np.where(groups == 1, 0.5, 0.3)).astype(int)
        counts = from_answers(rng.integers(0, 2, 400), answers, groups)
        found = measure_fairness(
            counts, EvaluationSettings(seed=trial, bootstrap_resamples=200, permutations=0)
        )
        gap = found["attributes"]["group"]["gaps"]["demographic_parity_difference"]
        covered += gap["low"] <= 0.2 <= gap["high"]
    assert covered / trials > 0.88
