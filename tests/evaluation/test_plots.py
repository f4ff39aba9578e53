import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs.schema import EvaluationSettings
from evaluation.measurements import evaluate
from evaluation.plots import (
    plot_confusion,
    plot_group_rates,
    plot_overview,
    plot_reliability,
    to_image,
    to_png,
)
from tests.evaluation.conftest import from_answers


def _texts(figure):
    figure.canvas.draw()
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [
        tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()
    ]


def _evaluate(predictions, **settings):
    return evaluate(
        predictions, EvaluationSettings(bootstrap_resamples=0, permutations=0, **settings)
    )


def test_bars_are_as_long_as_the_rates(predictions):
    compared = _evaluate(predictions).fairness["attributes"]["sex"]
    figure = plot_group_rates("sex", compared, "label 1")
    for axes, rate in zip(
        figure.axes, ("selection_rate", "true_positive_rate", "false_positive_rate"), strict=True
    ):
        assert [bar.get_width() for bar in axes.patches] == [
            compared["groups"][name]["rates"]["label 1"][rate] for name in ("Female", "Male")
        ]


def test_an_undefined_rate_says_why():
    fairness = _evaluate(from_answers([0, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1])).fairness
    figure = plot_group_rates("group", fairness["attributes"]["group"], "label 1")
    assert "undefined: no positives" in _texts(figure)


def test_small_groups_are_named_few(predictions):
    fairness = _evaluate(predictions, minimum_group_size=50).fairness
    small = [n for n, g in fairness["attributes"]["race"]["groups"].items() if g["too_small"]]
    shown = [text for text in _texts(plot_overview(fairness)) if "few" in text]
    assert len(shown) == len(small) > 0


def test_headings_are_whole_beside_long_names():
    names = tuple(f"American Indian or Alaska Native {index}" for index in range(5))
    answers = np.arange(200) // 5 % 2
    predictions = from_answers(answers, answers, np.arange(200) % 5, group_names=names)
    fairness = _evaluate(predictions).fairness
    compared = fairness["attributes"]["group"]
    for figure in (plot_overview(fairness), plot_group_rates("group", compared, "label 1")):
        figure.canvas.draw()
        edges = [axes.get_window_extent().x0 for axes in figure.axes[1:]]
        heads = [axes._left_title.get_window_extent() for axes in figure.axes]
        for head, edge in zip(heads, [*edges, figure.bbox.x1], strict=True):
            assert head.width > 0
            assert head.x1 <= edge


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_every_figure_becomes_a_picture_in_card_proportions(predict, classes):
    evaluation = _evaluate(predict(400, classes))
    for figure in (
        plot_overview(evaluation.fairness),
        plot_confusion(evaluation.performance),
        plot_reliability(evaluation.performance),
    ):
        pixels = to_image(figure)
        height, width, channels = pixels.shape
        assert pixels.dtype == np.uint8
        assert channels == 3
        assert width / height == pytest.approx(2.1, abs=0.05)
        assert pixels.min() < 80
        assert pixels.max() == 255
        decoded = Image.open(io.BytesIO(to_png(figure)))
        assert decoded.size == (width, height)


def test_undefined_calibration_says_why(predict):
    predictions = predict(10)
    predictions.logits[0] = np.inf
    figure = plot_reliability(_evaluate(predictions).performance)
    assert any("not finite" in text for text in _texts(figure))


def test_plots_leave_pyplot_alone():
    code = "import sys, evaluation.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
