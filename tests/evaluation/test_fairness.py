import json
import time
from dataclasses import replace

import fairlearn.metrics as fairlearn
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from configs.schema import EvaluationSettings, SettingError
from evaluation.fairness import GAPS, measure_fairness
from evaluation.group_counts import count_groups, resample_groups
from tests.evaluation.conftest import from_answers, make_predictions

QUICK = EvaluationSettings(minimum_group_size=1, bootstrap_resamples=0)


def _rates(measured, attribute, group, label="label 1"):
    return measured["attributes"][attribute]["groups"][group]["rates"][label]


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_gaps_and_rates_are_fairlearns(data):
    examples = data.draw(st.integers(8, 60))
    groups_count = data.draw(st.integers(2, 4))

    def draw(top):
        return np.array(
            data.draw(st.lists(st.integers(0, top), min_size=examples, max_size=examples))
        )

    labels, answers, groups = draw(1), draw(1), draw(groups_count - 1)
    defined = all(
        len(set(labels[groups == group])) == 2 for group in range(groups_count)
    )  # fairlearn calls the rate of nobody 0; Sterling calls it undefined
    assume(defined)
    measured = measure_fairness(from_answers(labels, answers, groups), QUICK)["attributes"]["group"]
    for gap in GAPS:
        expected = getattr(fairlearn, gap)(labels, answers, sensitive_features=groups)
        value = measured["gaps"][gap]["value"]
        if value is None:
            assert gap.endswith("ratio")
            assert "zero in every group" in measured["gaps"][gap]["reason"]
        else:
            assert value == pytest.approx(expected, abs=1e-9)
    frame = fairlearn.MetricFrame(
        metrics={
            "selection_rate": fairlearn.selection_rate,
            "true_positive_rate": fairlearn.true_positive_rate,
            "false_positive_rate": fairlearn.false_positive_rate,
        },
        y_true=labels,
        y_pred=answers,
        sensitive_features=groups,
    )
    for group in range(groups_count):
        found = measured["groups"][f"g{group}"]
        assert found["count"] == (groups == group).sum()
        assert found["accuracy"] == pytest.approx((labels == answers)[groups == group].mean())
        for name, value in frame.by_group.loc[group].items():
            assert found["rates"]["label 1"][name] == pytest.approx(value, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12
    ),
    st.integers(1, 4),
)
def test_degenerate_data_give_values_or_reasons_and_strict_json(rows, minimum):
    labels, answers, groups = (np.array(column) for column in zip(*rows, strict=True))
    predictions = from_answers(labels, answers, groups, 3, ("a", "b", "c", "d"))
    chosen = EvaluationSettings(minimum_group_size=minimum, bootstrap_resamples=20)
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
    for gap in GAPS:
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
    assert rates["reasons"] == {"true_positive_rate": "no positive examples"}
    odds = measured["attributes"]["group"]["gaps"]["equalized_odds_difference"]
    assert odds["value"] == 1.0  # g0 finds all of its positives, g1 none
    assert odds["left_out"] == {"g2": "no positive examples"}
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
    alone = measure_fairness(predictions, replace(QUICK, intersections=False))["attributes"]
    assert list(alone) == ["sex", "race"]


def test_unknown_attribute_is_refused_with_those_that_exist(predictions):
    with pytest.raises(
        SettingError, match=r"evaluation.attributes: expected one of sex, race.*age"
    ):
        measure_fairness(predictions, replace(QUICK, attributes=["sex", "age"]))


def test_unknown_positive_label_is_refused_with_those_that_exist(predictions):
    with pytest.raises(SettingError, match=r"expected one of label 0, label 1.*'rich'"):
        measure_fairness(predictions, replace(QUICK, positive_label="rich"))


@pytest.mark.parametrize("classes", [2, 4])
def test_intervals_contain_the_value_and_shrink_with_more_examples(predict, classes):
    def widths(examples):
        measured = measure_fairness(predict(examples, classes), EvaluationSettings())
        gaps = measured["attributes"]["sex"]["gaps"]
        assert all(gap["low"] <= gap["value"] <= gap["high"] for gap in gaps.values())
        return {name: gap["high"] - gap["low"] for name, gap in gaps.items()}

    few, many = widths(500), widths(20_000)
    assert all(many[gap] < 0.4 * few[gap] for gap in GAPS)


def test_intervals_are_the_same_for_the_same_seed(predictions):
    first = measure_fairness(predictions, EvaluationSettings(seed=1))
    assert first == measure_fairness(predictions, EvaluationSettings(seed=1))
    assert first != measure_fairness(predictions, EvaluationSettings(seed=2))


@pytest.mark.parametrize("classes", [2, 3])
def test_multinomial_resamples_are_distributed_as_examples_drawn_with_replacement(classes):
    predictions = make_predictions(300, classes)
    counted = np.array([1]) if classes == 2 else np.arange(classes)
    arguments = (predictions.labels, predictions.predicted(), predictions.groups["race"])
    drawn = resample_groups(*arguments, 4, counted, resamples=3000, seed=0).gaps()
    rng = np.random.default_rng(1)
    by_hand = [
        count_groups(*(column[chosen] for column in arguments), 4, counted).gaps()
        for chosen in rng.integers(0, 300, (150, 300))
    ]
    for gap in ("demographic_parity_difference", "equalized_odds_difference"):
        expected = np.array([one[gap] for one in by_hand])  # (resamples, labels)
        deviation = np.nanstd(expected, axis=0)
        error = 4 * deviation / np.sqrt(len(expected))
        assert np.nanmean(drawn[gap], axis=0) == pytest.approx(
            np.nanmean(expected, axis=0), abs=max(error)
        )
        assert np.nanstd(drawn[gap], axis=0) == pytest.approx(deviation, rel=0.25)


def test_intervals_cover_the_true_gap_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered, trials = 0, 100
    for trial in range(trials):
        groups = rng.integers(0, 2, 400)
        answers = (rng.uniform(size=400) < np.where(groups == 1, 0.5, 0.3)).astype(int)
        counts = from_answers(rng.integers(0, 2, 400), answers, groups)
        found = measure_fairness(counts, EvaluationSettings(seed=trial, bootstrap_resamples=200))
        gap = found["attributes"]["group"]["gaps"]["demographic_parity_difference"]
        covered += gap["low"] <= 0.2 <= gap["high"]
    assert covered / trials > 0.88


def test_sixteen_thousand_examples_take_about_a_second(predict):
    predictions = predict(16_281)
    started = time.perf_counter()
    measure_fairness(predictions, EvaluationSettings(bootstrap_resamples=500))
    assert time.perf_counter() - started < 5
