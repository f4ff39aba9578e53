"""Pictures of scores by group, and over epochs."""

from __future__ import annotations

import numpy as np
import pytest

from configs.schema import EvaluationSettings
from evaluation.fairness import measure_fairness
from evaluation.group_plots import plot_gap_history, plot_group_history, plot_roc, plot_scores
from evaluation.plots import to_image
from tests.evaluation.conftest import from_answers, make_predictions

CHOSEN = EvaluationSettings(bootstrap_resamples=20, permutations=0)


@pytest.fixture(scope="module")
def history():
    return [
        (epoch, measure_fairness(make_predictions(300, seed=epoch), CHOSEN)) for epoch in (1, 2)
    ]


def test_gap_curves_carry_their_bands(history):
    figure = plot_gap_history("sex", history)
    axes = figure.axes[0]
    gaps = [f["attributes"]["sex"]["gaps"]["demographic_parity_difference"] for _, f in history]
    (line,) = axes.lines
    assert line.get_ydata().tolist() == [gap["value"] for gap in gaps]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(min(gap["low"] for gap in gaps))
    assert band.max() == pytest.approx(max(gap["high"] for gap in gaps))


def test_group_curves_are_the_groups_rates(history):
    figure = plot_group_history("race", history, "label 1")
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(drawn) == ["A", "B", "C", "D"]
    for name, values in drawn.items():
        expected = [
            f["attributes"]["race"]["groups"][name]["rates"]["label 1"]["selection_rate"]
            for _, f in history
        ]
        assert np.asarray(values).tolist() == expected


def test_scores_and_curves_by_group_become_pictures(history):
    comparison = history[-1][1]["attributes"]["race"]
    for draw in (plot_roc, plot_scores):
        pixels = to_image(draw("race", comparison, "label 1"))
        assert pixels.std() > 5


def test_a_group_without_positives_has_no_curve_and_says_why():
    measured = measure_fairness(from_answers([0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]), CHOSEN)
    figure = plot_roc("group", measured["attributes"]["group"], "label 1")
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["g0 1.000", "g1 undefined: no positives or no negatives"]
    history = [(1, measured)]
    assert to_image(plot_gap_history("group", history)).std() > 1
