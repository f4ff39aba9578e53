"""Who is counted where: deep intersections, inferred groups, tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from configs.schema import EvaluationSettings, SettingError, UserError
from evaluation.fairness import measure_fairness, with_soft_groups
from evaluation.measurements import evaluate
from evaluation.predictions import Predictions
from tests.evaluation.conftest import make_predictions

QUICK = EvaluationSettings(bootstrap_resamples=0, permutations=0)


def _three_attributes(examples: int = 400) -> Predictions:
    predictions = make_predictions(examples)
    age = np.arange(examples) % 3
    return replace(
        predictions,
        groups={**predictions.groups, "age": age},
        group_names={**predictions.group_names, "age": ("young", "middle", "old")},
    )


def test_intersections_reach_any_depth():
    predictions = _three_attributes()
    measured = measure_fairness(predictions, replace(QUICK, intersections=3))["attributes"]
    assert len(measured) == 3 + 3 + 1
    deepest = measured["sex × race × age"]
    kept = (predictions.groups["sex"] == 1) & (predictions.groups["race"] == 0)
    kept &= predictions.groups["age"] == 2
    group = deepest["groups"]["Male × A × old"]
    assert group["count"] == kept.sum()
    low, high = group["rates"]["label 1"]["intervals"]["selection_rate"]
    assert low < predictions.predicted()[kept].mean() < high
    assert any(one["too_small"] for one in deepest["groups"].values())


def test_too_many_intersections_are_refused():
    predictions = make_predictions(40)
    many = replace(
        predictions,
        groups={f"a{index}": predictions.groups["sex"] for index in range(12)},
        group_names={f"a{index}": ("F", "M") for index in range(12)},
    )
    with pytest.raises(SettingError, match=r"evaluation.intersections: expected fewer"):
        measure_fairness(many, replace(QUICK, intersections=6))


def _soft(predictions: Predictions, shares: np.ndarray) -> Predictions:
    return replace(
        predictions,
        groups={"race": predictions.groups["race"]},
        soft_groups={"sex": shares},
    )


def test_certain_probabilities_give_what_known_groups_give():
    predictions = make_predictions(300)
    known = measure_fairness(predictions, QUICK)["attributes"]
    shares = np.eye(2)[predictions.groups["sex"]]
    inferred = measure_fairness(_soft(predictions, shares), QUICK)["attributes"]
    assert inferred["sex"]["soft"] is True
    for gap, described in known["sex"]["gaps"].items():
        assert inferred["sex"]["gaps"][gap]["value"] == pytest.approx(described["value"])
    crossed = inferred["race × sex"]["groups"]["B × Male"]
    assert crossed["count"] == known["sex × race"]["groups"]["Male × B"]["count"]


def test_rates_of_inferred_groups_are_weighted_means():
    predictions = make_predictions(300)
    shares = np.random.default_rng(1).dirichlet([1, 1], 300)
    chosen = replace(QUICK, bootstrap_resamples=100, permutations=20, attributes=["sex"])
    found = measure_fairness(_soft(predictions, shares), chosen)["attributes"]["sex"]
    rates = found["groups"]["Female"]["rates"]["label 1"]
    answers, positives = predictions.predicted(), predictions.labels == 1
    weights = shares[:, 0]
    assert found["groups"]["Female"]["count"] == pytest.approx(weights.sum())
    assert rates["selection_rate"] == pytest.approx(np.average(answers, weights=weights))
    assert rates["true_positive_rate"] == pytest.approx(
        np.average(answers[positives], weights=weights[positives])
    )
    low, high = rates["intervals"]["selection_rate"]
    assert low < rates["selection_rate"] < high
    assert found["gaps"]["demographic_parity_difference"]["p_value"] > 0.01


def test_probabilities_come_from_a_file_by_split(tmp_path):
    predictions = make_predictions(4, split="test")
    (tmp_path / "age_test.csv").write_text("young,old\n1,0\n0.25,0.75\n0.5,0.5\n0,1\n")
    chosen = replace(QUICK, soft_groups={"age": str(tmp_path / "age_{split}.csv")})
    found = with_soft_groups(predictions, chosen)
    assert found.group_names["age"] == ("young", "old")
    assert found.soft_groups["age"][1].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a CSV file of probabilities"),
        ("young,old\n1,0\n", "a row for each of the 4 examples"),
        ("young,old\n" + "1,0\n" * 5, "a row for each of the 4 examples"),
        ("young,old\n1,x\n", "a CSV file of probabilities"),
        ("young,old\n1,0\n1,1\n1,0\n1,0\n", "sum to 1. Received: [1.0, 1.0] for example 1"),
    ],
)
def test_files_that_hold_no_probabilities_are_refused(tmp_path, content, message):
    path = tmp_path / "age.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as refused:
        with_soft_groups(make_predictions(4), replace(QUICK, soft_groups={"age": str(path)}))
    assert message in str(refused.value)


def _tokens() -> Predictions:
    rng = np.random.default_rng(0)
    examples, tokens = 60, 7
    return Predictions(
        logits=rng.normal(size=(examples, tokens, 3)).astype(np.float32),
        labels=rng.integers(0, 3, (examples, tokens)).astype(np.int32),
        label_names=("O", "B", "I"),
        groups={"sex": rng.integers(0, 2, examples)},
        group_names={"sex": ("F", "M")},
        ids=np.arange(examples),
        mask=rng.uniform(size=(examples, tokens)) < 0.6,
    )


def test_each_counted_token_is_an_event_of_its_examples_group():
    predictions = _tokens()
    # What is not counted may hold anything.
    predictions = replace(predictions, labels=np.where(predictions.mask, predictions.labels, -100))
    chosen = replace(QUICK, bootstrap_resamples=30, permutations=30)
    measured = measure_fairness(predictions, chosen)
    assert measured["events"] == "tokens"
    found = measured["attributes"]["sex"]["groups"]["F"]
    inside = predictions.groups["sex"] == 0
    counted = predictions.mask[inside]
    assert found["events"] == counted.sum()
    assert found["count"] == counted.any(axis=1).sum()
    right = (predictions.predicted() == predictions.labels)[inside][counted]
    assert found["accuracy"] == pytest.approx(right.mean())
    whole = evaluate(predictions, chosen)
    assert whole.counts["tokens"] == predictions.mask.sum()
    assert whole.counts["examples"] == 60
    everywhere = (predictions.predicted() == predictions.labels)[predictions.mask]
    assert whole.performance["accuracy"] == pytest.approx(everywhere.mean())


def test_tokens_without_a_mask_are_refused():
    with pytest.raises(UserError, match=r"expected a mask of shape \(60, 7\).*Received: None"):
        replace(_tokens(), mask=None)


def test_nothing_but_padding_is_refused():
    predictions = _tokens()
    with pytest.raises(UserError, match="no tokens to count"):
        replace(predictions, mask=np.zeros_like(predictions.mask))
