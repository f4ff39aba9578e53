from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from configs.schema import EvaluationSettings, UserError
from evaluation.fairness import StreamingFairness, measure_fairness
from evaluation.fairness.histograms import bins_of, edges_for_streams
from tests.evaluation.conftest import RACES, SEXES, make_predictions

CHOSEN = EvaluationSettings(bootstrap_resamples=20, permutations=20)
NAMES = {"sex": SEXES, "race": RACES}


def _stream(predictions, rows) -> StreamingFairness:
    stream = StreamingFairness(predictions.label_names, NAMES, CHOSEN)
    for some in rows:
        stream.update(
            predictions.logits[some],
            predictions.labels[some],
            {name: values[some] for name, values in predictions.groups.items()},
        )
    return stream


@pytest.mark.parametrize("classes", [2, 3])
def test_batch_by_batch_measures_what_all_at_once_measures(classes):
    predictions = make_predictions(700, classes)
    rows = np.array_split(np.arange(700), 9)
    found = _stream(predictions, rows).measure()
    expected = measure_fairness(predictions, CHOSEN)
    assert set(found) == set(expected)
    assert list(found["attributes"]) == list(expected["attributes"])
    for attribute, known in expected["attributes"].items():
        compared = found["attributes"][attribute]
        assert compared["worst"]["bounded_group_loss"]["value"] == pytest.approx(
            known["worst"]["bounded_group_loss"]["value"], abs=1e-9
        )
        for name, group in known["groups"].items():
            assert compared["groups"][name]["rates"] == group["rates"]
            assert compared["groups"][name]["loss_interval"] == pytest.approx(
                group["loss_interval"], abs=1e-9
            )
        for name, gap in known["gaps"].items():
            for key in ("value", "low", "high", "p_value", "between"):
                assert compared["gaps"][name][key] == gap[key]
        for label, scores in known["scores"].items():
            streamed = compared["scores"][label]
            for name, group in scores["groups"].items():
                assert streamed["groups"][name]["histogram"] == group["histogram"]
                assert streamed["groups"][name]["calibration_error"] == pytest.approx(
                    group["calibration_error"], abs=1e-9
                )
            _require_areas_of_rounded_scores(predictions, label, attribute, streamed["groups"])
            for name, gap in scores["thresholds"]["gaps"].items():
                assert streamed["thresholds"]["gaps"][name]["value"] == gap["value"]


def _require_areas_of_rounded_scores(predictions, label, attribute, groups):
    if attribute != "sex":
        return
    column = predictions.label_names.index(label)
    scores = np.exp(predictions.log_probabilities())[:, column]
    rounded = bins_of(scores, edges_for_streams())
    for group, name in enumerate(SEXES):
        kept = predictions.groups["sex"] == group
        truth = predictions.labels[kept] == column
        assert groups[name]["roc_auc"] == pytest.approx(roc_auc_score(truth, rounded[kept]))
        # The bins are fine: hardly a pair is tied that was not.
        assert groups[name]["roc_auc"] == pytest.approx(
            roc_auc_score(truth, scores[kept]), abs=2e-3
        )


def test_streams_add_up():
    predictions = make_predictions(300)
    half, other = np.arange(140), np.arange(140, 300)
    first = _stream(predictions, [half])
    first.merge(_stream(predictions, [other]))
    assert first.measure() == _stream(predictions, [half, other]).measure()


def test_different_streams_do_not_add_up():
    with pytest.raises(UserError, match="the same labels"):
        StreamingFairness(("a", "b"), NAMES).merge(StreamingFairness(("a", "c"), NAMES))


def test_what_cannot_be_counted_is_refused():
    stream = StreamingFairness(("a", "b"), NAMES)
    labels, sex = np.array([0, 1]), {"sex": np.array([0, 1])}
    with pytest.raises(UserError, match="nothing can be measured"):
        stream.measure()
    with pytest.raises(UserError, match="expected groups of race"):
        stream.update(np.zeros((2, 2)), labels, sex)
    groups = {**sex, "race": np.array([0, 3])}
    with pytest.raises(UserError, match="finite"):
        stream.update(np.full((2, 2), np.nan), labels, groups)
    with pytest.raises(UserError, match="groups 'race' in 0 to 3"):
        stream.update(np.zeros((2, 2)), labels, {**groups, "race": np.array([0, 4])})


def test_memory_does_not_grow_with_the_number_of_predictions():
    predictions = make_predictions(200)
    stream = _stream(predictions, [np.arange(200)])
    before = _bytes_held(stream)
    for _ in range(20):
        stream.update(predictions.logits, predictions.labels, predictions.groups)
    assert _bytes_held(stream) == before


def _bytes_held(value) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_bytes_held(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes_held(one) for one in value)
    return (
        sum(_bytes_held(one) for one in vars(value).values()) if hasattr(value, "__dict__") else 0
    )
