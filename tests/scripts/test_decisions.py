"""Group thresholds and abstention, from the recipe to the SavedModel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from scripts.cli import main

# Its fixtures take long: one process makes them.
pytestmark = pytest.mark.xdist_group("decisions")

RECIPE = """
data: {source: csv, validation_fraction: 0.4, test_fraction: 0.3, table: {train: people.csv,
  features: [a, b], label: label, groups: [sex, town]}}
model: {name: mlp, mlp: {hidden_units: [4]}}
training: {epochs: 1, batch_size: 30, seed: 3, optimizer: {learning_rate: 0.1}}
evaluation: {bootstrap_resamples: 0, permutations: 0}
decision: {thresholds: {attribute: sex}}
"""
# Noise that is given: to calibrate it takes longer than to train.
PRIVATE = ["--privacy.enabled=true", "--privacy.noise_multiplier=1"]

# Run by a Python that sees nothing of Sterling.
SERVE = """
import sys
import numpy as np
import tensorflow as tf
directory, examples, answers = sys.argv[1:]
assert not {"models", "keras_hub", "fairlearn"} & set(sys.modules)
given = np.load(examples)
decide = tf.saved_model.load(directory).signatures["decide"]
outputs = decide(features=tf.constant(given["features"]), group=tf.constant(given["group"]))
np.savez(answers, **{key: value.numpy() for key, value in outputs.items()})
"""


def write_people(path: Path, count: int = 2400) -> None:
    """People of two sexes whose score depends on sex through `a`, and three of them in a town."""
    generator = np.random.default_rng(0)
    sex = generator.random(count) < 0.4
    label = generator.random(count) < np.where(sex, 0.25, 0.5)
    a = 1.2 * label - 0.8 * sex + generator.normal(size=count)
    b = label + generator.normal(size=count)
    rows = [
        f"{a[i]:.4f},{b[i]:.4f},{'yes' if label[i] else 'no'},{'w' if sex[i] else 'm'},"
        f"{'tiny' if i < 3 else 'large'}"
        for i in range(count)
    ]
    path.write_text("\n".join(["a,b,label,sex,town", *rows]) + "\n")


@pytest.fixture(scope="module")
def recipe(folder) -> Path:
    write_people(folder / "people.csv")
    path = folder / "people.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def decided_run(recipe) -> Path:
    run = recipe.parent / "run"
    assert main(["train", str(recipe), "--run", str(run), "--decision.abstain.width=0.02"]) == 0
    return run


@pytest.fixture(scope="module")
def private_run(recipe) -> Path:
    run = recipe.parent / "private"
    options = [*PRIVATE, "--decision.epsilon=2"]
    assert main(["train", str(recipe), "--run", str(run), *options]) == 0
    return run


def measured(run: Path) -> dict:
    return json.loads((run / "evaluation.json").read_text())


def test_thresholds_narrow_the_gap_they_are_fitted_for(decided_run):
    section = measured(decided_run)["further"]["decisions"]
    gap = "demographic_parity_difference"
    assert section["before"][gap] > 0.2
    assert section["after"][gap] < 0.5 * section["before"][gap]
    assert set(section["rule"]["steps"]) == {"m", "w"}
    assert section["fitted_on"]["split"] == "validation"
    assert 0 < section["abstained"]["share"] < 0.3
    assert section["private"] is None


def test_undecided_numbers_beside_the_rule_are_those_of_the_evaluation(decided_run):
    found = measured(decided_run)
    before = found["further"]["decisions"]["before"]
    assert before["accuracy"] == pytest.approx(found["performance"]["accuracy"], abs=1e-12)
    gaps = found["fairness"]["attributes"]["sex"]["gaps"]
    for name in ("demographic_parity_difference", "equalized_odds_difference"):
        assert before[name] == pytest.approx(gaps[name]["value"], abs=1e-9)


def test_fresh_process_with_tensorflow_alone_decides_the_same(decided_run, tmp_path):
    from models.decision_rule import DecisionRule

    generator = np.random.default_rng(1)
    features = generator.normal(size=(400, 2)).astype(np.float32)
    group = np.array(["m", "w"])[generator.integers(2, size=400)]
    np.savez(tmp_path / "given.npz", features=features, group=group)
    directory = decided_run / "export" / "saved_model"
    arguments = [str(directory), str(tmp_path / "given.npz"), str(tmp_path / "answers.npz")]
    subprocess.run(
        [sys.executable, "-c", SERVE, *arguments],
        check=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    answers = np.load(tmp_path / "answers.npz", allow_pickle=True)
    decide = tf.saved_model.load(str(directory)).signatures["decide"]
    here = decide(features=tf.constant(features), group=tf.constant(group))
    np.testing.assert_array_equal(answers["decision"], here["decision"].numpy())

    found = json.loads((decided_run / "decision.json").read_text())
    rule = DecisionRule.from_dict(found["rule"])
    scores = answers["probabilities"][:, rule.positive].astype(float)
    indices = np.array([rule.groups.index(name) for name in group])
    expected = rule.selection(scores, indices)
    withheld = rule.abstains(scores, indices)
    np.testing.assert_allclose(answers["selection_probability"], expected, atol=1e-6)
    np.testing.assert_array_equal(answers["decision_index"] == -1, withheld)
    assert set(answers["decision"][withheld]) == {b"abstain"}
    certain = ~withheld & ((expected == 0) | (expected == 1))
    names = np.array([b"no", b"yes"], object)
    np.testing.assert_array_equal(
        answers["decision"][certain], names[expected[certain].astype(int)]
    )
    assert certain.mean() > 0.5


def test_group_that_is_missing_or_unknown_at_serving_is_named(decided_run):
    model = tf.saved_model.load(str(decided_run / "export" / "saved_model"))
    decide, two = model.signatures["decide"], tf.zeros([2, 2])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"group: expected one of m, w.*x"):
        decide(features=two, group=tf.constant(["m", "x"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="group: expected one of m, w"):
        decide(features=two, group=tf.constant(["", "m"]))
    with pytest.raises(TypeError, match="group"):
        decide(features=two)
    assert model.signatures["serving_default"](features=two)["label"].shape == (2,)
    # What is asked of a call goes with the export, since TensorFlow's own words do not say it.
    notes = (decided_run / "export" / "saved_model" / "assets" / "serving.txt").read_text()
    assert "decide(features, group)\n  group: required; string (batch,), the sex of" in notes
    assert "\n    m, w\n" in notes


def test_exporting_and_evaluating_again_take_the_rule_that_was_fitted(decided_run, tmp_path):
    output = tmp_path / "export"
    assert main(["export", "--run", str(decided_run), "--output", str(output)]) == 0
    loaded = [
        tf.saved_model.load(str(folder / "saved_model")).signatures["decide"]
        for folder in (output, decided_run / "export")
    ]
    features = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    features, group = tf.constant(features), tf.constant(["m", "w"] * 25)
    first, second = (decide(features=features, group=group)["decision"] for decide in loaded)
    np.testing.assert_array_equal(first, second)
    again = tmp_path / "again.json"
    assert main(["evaluate", "--run", str(decided_run), "--output", str(again)]) == 0
    section = json.loads(again.read_text())["further"]["decisions"]
    assert section == measured(decided_run)["further"]["decisions"]


def test_private_thresholds_are_paid_for_and_said(private_run):
    found = measured(private_run)
    paid = found["privacy"]["validation"]
    assert paid["epsilon"] == pytest.approx(2, rel=0.01)
    assert paid["epsilon"] <= 2
    assert paid["releases"] == 1
    assert "thresholds of groups are (" in (private_run / "privacy.txt").read_text()
    lines = [json.loads(line) for line in (private_run / "ledger.jsonl").read_text().splitlines()]
    assert [line["validation"]["epsilon"] for line in lines if "validation" in line] == [2.0]
    assert found["privacy"]["releases"] == sum("release" in line for line in lines)
    section = found["further"]["decisions"]
    assert section["private"]["noise_stddev"] == pytest.approx(paid["noise_stddev"])
    gap = "demographic_parity_difference"
    assert section["after"][gap] < section["before"][gap]


def test_thresholds_once_released_are_not_released_again(private_run, recipe):
    before = (private_run / "ledger.jsonl").read_bytes()
    kept = (private_run / "decision.json").read_bytes()
    (private_run / "evaluation.json").unlink()
    options = [*PRIVATE, "--decision.epsilon=2"]
    assert main(["train", str(recipe), "--run", str(private_run), *options]) == 0
    assert (private_run / "ledger.jsonl").read_bytes() == before
    assert (private_run / "decision.json").read_bytes() == kept


@pytest.mark.slow
def test_small_group_of_a_private_run_is_named_after_the_release_not_refused_before(
    recipe, tmp_path
):
    options = [*PRIVATE, "--decision.epsilon=2"]
    attribute = "--decision.thresholds.attribute=town"
    run = tmp_path / "run"
    assert main(["train", str(recipe), "--run", str(run), attribute, *options]) == 0
    section = measured(run)["further"]["decisions"]
    # The large group alone has nobody to be treated alike.
    assert section["private"]["groups_kept_at_half"] == ["large", "tiny"]
    assert section["rule"]["steps"]["tiny"] == {"edges": [0.5], "selection": [0.0, 1.0]}
    assert section["after"]["accuracy"] == section["before"]["accuracy"]


def test_ledger_command_shows_the_release_of_validation_examples(private_run, capfd):
    assert main(["ledger", str(private_run)]) == 0
    assert "Of the validation examples: a histogram at epsilon 2," in capfd.readouterr().out


def test_terminal_and_tensorboard_show_both_ways_of_answering(decided_run, recipe, capfd):
    options = ["--decision.abstain.width=0.02"]
    assert main(["train", str(recipe), "--run", str(decided_run), *options]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "Answers by the largest score, and decided by thresholds by sex" in shown
    section = measured(decided_run)["further"]["decisions"]
    assert f"{section['after']['accuracy']:.4f}" in shown
    assert f"No answer: {section['abstained']['share']:.1%}" in shown
    tags, pictures = {}, []
    for file in (decided_run / "logs").rglob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == "5 decisions/0 before and after":
                    pictures.append(tf.io.decode_png(tf.make_ndarray(value.tensor)[2]))
                elif value.tag.startswith("5 decisions/"):
                    tags[value.tag] = float(tf.make_ndarray(value.tensor))
    after = section["after"]["demographic_parity_difference"]
    assert tags["5 decisions/3 demographic parity difference after"] == pytest.approx(after)
    assert len(tags) == 9
    assert pictures[-1].numpy().std() > 5


def test_abstaining_alone_needs_no_group(recipe, tmp_path):
    options = ["--decision.thresholds.attribute=null", "--decision.abstain.width=0.1"]
    run = tmp_path / "run"
    assert main(["train", str(recipe), "--run", str(run), *options]) == 0
    section = measured(run)["further"]["decisions"]
    assert section["after"]["accuracy"] > section["before"]["accuracy"]
    decide = tf.saved_model.load(str(run / "export" / "saved_model")).signatures["decide"]
    features = np.random.default_rng(2).normal(size=(300, 2)).astype(np.float32)
    answers = decide(features=tf.constant(features))
    score = answers["probabilities"].numpy()[:, 1]
    np.testing.assert_array_equal(answers["decision_index"] == -1, abs(score - 0.5) < 0.1)
    np.testing.assert_array_equal(
        answers["decision_index"].numpy()[abs(score - 0.5) >= 0.1],
        (score > 0.5)[abs(score - 0.5) >= 0.1],
    )
