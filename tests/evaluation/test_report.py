import io
from pathlib import Path

from rich.console import Console

from configs.schema import EvaluationSettings
from evaluation.measurements import evaluate
from evaluation.report import print_report
from tests.evaluation.conftest import from_answers


def _report(predictions, privacy=None, width=200, **settings):
    chosen = EvaluationSettings(bootstrap_resamples=50, permutations=20, **settings)
    evaluation = evaluate(predictions, chosen)
    stream = io.StringIO()
    print_report(
        evaluation,
        privacy=privacy,
        seconds={"training": 61.25, "evaluation": 2.0},
        paths={"run": Path("runs/" + "long/" * 30), "export": Path("runs/x/export")},
        console=Console(file=stream, width=width),
    )
    return evaluation, stream.getvalue()


def test_the_report_shows_what_was_measured(predictions):
    evaluation, text = _report(predictions, privacy={"epsilon": 2.9987, "delta": 1.2e-5})
    assert f"{evaluation.performance['accuracy']:.4f}" in text
    assert f"{evaluation.performance['macro']['f1']:.4f}" in text
    assert "2.999" in text
    assert "1.2e-05" in text
    assert "training 61.2" in text
    assert "runs/x/export" in text
    gap = evaluation.fairness["attributes"]["sex"]["gaps"]["demographic_parity_difference"]
    assert f"{gap['value']:.3f} ({gap['low']:.3f}, {gap['high']:.3f})" in text


def test_no_line_is_wider_than_a_hundred_columns_nor_than_the_terminal(predictions):
    for width in (60, 100, 250):
        _, text = _report(predictions, width=width)
        assert max(len(line) for line in text.splitlines()) <= min(width, 100)


def test_no_escape_codes_reach_a_file(predictions):
    _, text = _report(predictions)
    assert "\x1b" not in text


def test_small_groups_are_named(predictions):
    _, text = _report(predictions, minimum_group_size=50)
    assert "fewer than 50 examples, kept out of the gaps" in text


def test_training_without_privacy_is_said_plainly(predictions):
    assert "trained without differential privacy" in _report(predictions)[1]


def test_undefined_measurements_are_said_plainly():
    _, text = _report(from_answers([1, 1], [1, 0], [0, 0]))
    assert "only one label occurs" in text
    assert "fewer than two groups" in " ".join(text.split())


def test_training_examples_are_marked_as_not_covered(predict):
    assert "not covered by ε" in _report(predict(split="train"))[1]


def test_groups_that_are_selected_alike_are_named_once():
    alike = from_answers([1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1])
    _, text = _report(alike, minimum_group_size=1)
    assert text.count("g0 50.0%") == 1
