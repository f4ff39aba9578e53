import json
from pathlib import Path

import numpy as np
import pytest

from configs.schema import EvaluationSettings, SettingError, UserError
from evaluation.measurements import EVALUATORS, Evaluation, evaluate
from tests.evaluation.conftest import from_answers

SETTINGS = EvaluationSettings(bootstrap_resamples=50, permutations=20)


def test_an_evaluation_survives_json(predictions):
    before = evaluate(predictions, SETTINGS, privacy={"epsilon": 3.0, "delta": 1e-5})
    assert Evaluation.from_json(before.to_json()) == before
    assert before.counts["examples"] == 600
    assert sum(before.counts["labels"].values()) == 600


def test_json_is_strict_even_where_nothing_is_defined():
    evaluation = evaluate(
        from_answers([1], [1], [0]), SETTINGS, efficiency={"loss": float("nan"), "n": np.int64(3)}
    )

    def refuse(constant):
        raise AssertionError(f"not strict JSON: {constant}")

    content = json.loads(evaluation.to_json(), parse_constant=refuse)
    assert content["efficiency"] == {"loss": None, "n": 3}
    assert content["performance"]["roc_auc"] is None


def test_files_are_replaced_whole_and_read_back(predictions, tmp_path):
    path = tmp_path / "run" / "evaluation.json"
    path.parent.mkdir()
    path.write_text("an older one")
    evaluation = evaluate(predictions, SETTINGS, efficiency={"where": Path("a/b")})
    evaluation.write(path)
    assert Evaluation.read(path) == evaluation
    assert [file.name for file in path.parent.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_what_is_not_an_evaluation_is_named(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"evaluation.json: evaluation: "):
        Evaluation.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.json: No such file"):
        Evaluation.read(tmp_path / "nowhere.json")


def test_training_measurements_are_marked_as_not_covered(predict):
    train = evaluate(predict(split="train"), SETTINGS)
    assert json.loads(train.to_json())["covered_by_privacy_guarantee"] is False
    assert evaluate(predict(split="test"), SETTINGS).covered_by_privacy_guarantee


def test_an_evaluator_added_to_the_registry_appears(predictions, monkeypatch):
    monkeypatch.setitem(
        EVALUATORS, "size", lambda predictions, settings: {"n": len(predictions.labels)}
    )
    evaluation = evaluate(predictions, SETTINGS)
    assert evaluation.further == {"size": {"n": 600}}
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_impossible_settings_are_refused(predictions):
    with pytest.raises(SettingError, match=r"evaluation.attributes"):
        evaluate(predictions, EvaluationSettings(attributes=["height"]))
