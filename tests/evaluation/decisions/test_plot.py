"""The picture of a rule's effect draws the numbers that were measured."""

from __future__ import annotations

import pytest

from evaluation.decisions import measure_decisions
from evaluation.decisions.plot import plot_decisions
from evaluation.plots import to_image
from models.decision_rule import AT_HALF, DecisionRule
from tests.evaluation.conftest import make_predictions


def test_bars_are_the_measured_rates_and_gaps() -> None:
    predictions = make_predictions(300)
    rule = DecisionRule(1, "race", dict.fromkeys("ABCD", AT_HALF), 0.0)
    section = measure_decisions(predictions, rule)
    figure = plot_decisions(section)
    groups, numbers = figure.axes
    assert [tick.get_text() for tick in groups.get_xticklabels()] == list("ABCD")
    before, after = ([bar.get_height() for bar in container] for container in groups.containers)
    rates = [group["selection_rate"] for group in section["after"]["groups"].values()]
    # A rule that cuts at one half answers as the largest score does.
    assert before == after == pytest.approx(rates)
    drawn = [bar.get_height() for bar in numbers.containers[1]]
    names = ("accuracy", "worst_group_accuracy")
    assert drawn[:2] == pytest.approx([section["after"][name] for name in names])
    assert to_image(figure).std() > 5


def test_gaps_that_cannot_be_told_have_no_bar() -> None:
    rule = DecisionRule(1, "race", dict.fromkeys("ABCD", AT_HALF), 0.0)
    section = measure_decisions(make_predictions(300), rule, 10_000)
    figure = plot_decisions(section)
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["accuracy"]
