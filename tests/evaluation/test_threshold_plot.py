"""The picture of the threshold sweep holds the sweep's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from configs.schema import EvaluationSettings
from evaluation.fairness import measure_fairness
from evaluation.plots import to_image
from evaluation.threshold_plot import plot_thresholds
from tests.evaluation.conftest import from_answers, make_predictions

GAPS = {
    "demographic parity": "demographic_parity_difference",
    "equalized odds": "equalized_odds_difference",
}


@pytest.mark.parametrize("resamples", [0, 20])
def test_curves_and_bands_are_those_of_the_sweep(resamples):
    chosen = EvaluationSettings(bootstrap_resamples=resamples, permutations=0)
    comparison = measure_fairness(make_predictions(300), chosen)["attributes"]["sex"]
    sweep = comparison["scores"]["label 1"]["thresholds"]
    figure = plot_thresholds("sex", comparison, "label 1")
    left, right = figure.axes
    (accuracy,) = left.lines
    assert list(accuracy.get_xdata()) == sweep["thresholds"]
    assert list(accuracy.get_ydata()) == sweep["accuracy"]
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in right.lines}
    assert list(drawn) == list(GAPS)
    for words, name in GAPS.items():
        expected = np.array(sweep["gaps"][name]["value"], float)
        np.testing.assert_array_equal(drawn[words], expected)
        assert np.nanmax(expected) > np.nanmin(expected)
    assert len(right.collections) == (2 if resamples else 0)
    for band, name in zip(right.collections, GAPS.values(), strict=False):
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(np.nanmax(np.array(sweep["gaps"][name]["high"])))
    assert to_image(figure).std() > 5


def test_groups_too_small_to_compare_leave_accuracy_alone():
    chosen = EvaluationSettings(bootstrap_resamples=0, permutations=0, minimum_group_size=30)
    few = from_answers([0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1])
    comparison = measure_fairness(few, chosen)["attributes"]["group"]
    left, right = plot_thresholds("group", comparison, "label 1").axes
    assert len(left.lines) == 1
    assert not right.lines
    assert [text.get_text() for text in right.texts] == ["no two groups to compare"]
