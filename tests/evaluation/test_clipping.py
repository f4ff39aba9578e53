"""Clipping by group: exact from bare counts, honest about noise, marked wherever it is bare."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from configs.schema import EvaluationSettings
from evaluation import ClippingCallback, clipping_section, evaluate
from evaluation.clipping import measure_clipping
from evaluation.clipping_plot import plot_clipping
from evaluation.report import print_report

EDGES = 2.0 ** np.arange(-8, 9)
FINE = 2.0 ** (np.arange(-128, 129) / 8)


def counted(norms: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(norms, edges)[0].astype(float)


def test_bare_counts_give_shares_and_quantiles():
    norms = [np.exp(np.random.default_rng(i).normal(i - 0.5, 1, 4_000)) for i in range(2)]
    counts = np.array([counted(of, FINE) for of in norms])
    found = measure_clipping(["a", "b"], FINE, counts, 0.0)["groups"]
    for name, of in zip("ab", norms, strict=True):
        assert found[name]["examples"] == 4_000
        assert found[name]["clipped_share"] == pytest.approx((of > 1).mean())
        assert found[name]["standard_error"] == 0
        for q, value in found[name]["relative_norm"].items():
            # A bin is an eighth of an octave wide.
            assert value == pytest.approx(np.quantile(of, float(q)), rel=0.03)
    assert found["a"]["clipped_share"] < found["b"]["clipped_share"]


def test_standard_error_is_that_of_the_noise():
    generator = np.random.default_rng(0)
    norms = np.exp(generator.normal(-0.5, 1, 5_000))
    counts = counted(norms, EDGES)
    shares, medians = [], []
    for _ in range(400):
        noisy = (counts + generator.normal(0, 40, 16))[None]
        group = measure_clipping(["a"], EDGES, noisy, 40.0)["groups"]["a"]
        shares.append(group["clipped_share"])
        medians.append(group["relative_norm"]["0.5"])
    expected = measure_clipping(["a"], EDGES, counts[None], 40.0)["groups"]["a"]["standard_error"]
    # Of 400 draws the standard error of their deviation is 3.5 %.
    assert np.std(shares) == pytest.approx(expected, rel=0.15)
    assert np.mean(shares) == pytest.approx((norms > 1).mean(), abs=0.01)
    assert np.mean(medians) == pytest.approx(np.median(norms), rel=0.1)


def test_group_no_larger_than_its_noise_is_undefined_with_the_reason():
    noisy = np.random.default_rng(1).normal(2, 40, (1, 16))
    group = measure_clipping(["few"], EDGES, noisy, 40.0)["groups"]["few"]
    assert group["clipped_share"] is None
    assert group["reason"] == "too few for the noise (160)"
    nobody = measure_clipping(["none"], EDGES, np.zeros((1, 16)), 0.0)["groups"]["none"]
    assert nobody["reason"] == "nobody was drawn"


def section(covered: bool) -> dict:
    counts = np.zeros((2, 16))
    counts[0, 4:8], counts[1, 6:10] = 250, 100
    noise = 5.0 if covered else 0.0
    return clipping_section(
        "sex", ("Male", "Female"), EDGES, (counts, noise), (3 * counts, 2 * noise), covered=covered
    )


@pytest.mark.parametrize("covered", [True, False])
def test_tensorboard_shows_it_beside_fairness_and_marks_what_is_bare(tmp_path, covered):
    callback = ClippingCallback(lambda: section(covered), tmp_path)
    callback.on_train_begin()
    callback.on_epoch_end(0, {})
    callback.on_epoch_end(1, {})
    events = EventAccumulator(str(tmp_path)).Reload()
    mark = "released, covered by ε" if covered else "train, not covered by ε"
    short = mark.split(", ")[1]
    assert sorted(events.Tags()["tensors"]) == [
        f"1 overview/5 who is clipped, by sex ({mark})",
        f"3 fairness/6 {short}: Female clipped",
        f"3 fairness/6 {short}: Male clipped",
    ]
    shares = events.Tensors(f"3 fairness/6 {short}: Female clipped")
    assert [float(make_ndarray(event.tensor_proto)) for event in shares] == [0.5, 0.5]
    described = events.SummaryMetadata(f"3 fairness/6 {short}: Male clipped").summary_description
    assert ("ε pays for" in described) == covered
    assert ("do not publish" in described) != covered


def test_pictures_are_drawn_of_about_ten_epochs_and_of_the_last(tmp_path):
    callback = ClippingCallback(lambda: section(True), tmp_path)
    callback.set_params({"epochs": 25})
    callback.on_train_begin()
    for epoch in range(4):
        callback.on_epoch_end(epoch, {})
    callback.on_train_end()  # stopped early
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    (picture,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("1 overview"))
    assert [event.step for event in events.Tensors(picture)] == [1, 3, 4]
    shares = events.Tensors("3 fairness/6 covered by ε: Male clipped")
    assert [event.step for event in shares] == [1, 2, 3, 4]


@pytest.mark.parametrize("covered", [True, False])
def test_picture_says_who_is_cut_most_who_is_unknown_and_whether_it_may_be_shown(covered):
    groups = section(covered)["epoch"]["groups"]
    noisy = measure_clipping(["Few"], EDGES, np.full((1, 16), 9.0), 40.0)["groups"]
    run = {**section(covered)["run"]["groups"], **noisy}
    figure = plot_clipping("sex", [(3, groups), (4, {**groups, **noisy})], run, covered=covered)
    title = figure.get_suptitle()
    if covered:
        error = 100 * run["Female"]["standard_error"]
        assert title.startswith(f"Clipped by sex: Female 50.0 ± {error:.1f} %, Male 0.0 ± ")
    else:
        assert title == "Clipped by sex: Female 50.0 %, Male 0.0 % (run)"
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["Male", "Female"]
    assert [text.get_text() for text in right.get_yticklabels()] == ["Male", "Female"]
    below = figure.get_supxlabel()
    assert below.endswith("too few to say: Few")
    assert ("Released with noise: ε covers it" in below) == covered
    assert ("NOT covered by ε, do not publish" in below) != covered
    alone = plot_clipping("sex", [(1, noisy)], noisy, covered=covered)
    assert "too few of every group to say" in alone.get_suptitle()


def test_group_that_the_noise_hides_now_keeps_its_curve_and_says_so():
    groups = section(True)["epoch"]["groups"]
    few = measure_clipping(["Female"], EDGES, np.full((1, 16), 9.0), 40.0)["groups"]
    latest = {**groups, **few}
    figure = plot_clipping("sex", [(1, groups), (2, latest)], latest, covered=True)
    left, right = figure.axes
    drawn = {bars.get_label(): bars.lines[0].get_ydata() for bars in left.containers}
    assert drawn["Female"][0] == pytest.approx(50.0)
    assert np.isnan(drawn["Female"][1])
    assert {text.get_text() for text in right.get_yticklabels()} == {"Male", "Female"}
    assert "too few to say" in [text.get_text() for text in right.texts]


def test_group_too_small_for_every_epoch_is_told_of_by_the_runs_total():
    few = measure_clipping(["Few"], EDGES, np.full((1, 16), 9.0), 40.0)["groups"]
    total = measure_clipping(["Few"], EDGES, np.full((1, 16), 90.0), 50.0)["groups"]
    epoch, run = section(True)["epoch"]["groups"], section(True)["run"]["groups"]
    history = [(1, {**epoch, **few}), (2, {**epoch, **few})]
    figure = plot_clipping("sex", history, {**run, **total}, covered=True)
    left, right = figure.axes
    assert f"Few 50.0 ± {100 * total['Few']['standard_error']:.1f} %" in figure.get_suptitle()
    assert "too few" not in figure.get_supxlabel() + "".join(t.get_text() for t in right.texts)
    totals = [bars for bars in left.containers if len(bars.lines[0].get_ydata()) == 1]
    assert [bars.lines[0].get_ydata()[0] for bars in totals] == pytest.approx([0, 50, 50])
    assert {bars.lines[0].get_xdata()[0] for bars in totals} == {left.get_xticks()[-1]}
    assert left.get_xticklabels()[-1].get_text() == "run"
    lengths = [list(line.get_xdata()) for line in right.lines]
    low, middle, high = total["Few"]["relative_norm"].values()
    assert [low, high] in lengths
    assert [middle] in lengths


@pytest.mark.parametrize("covered", [True, False])
def test_picture_holds_many_groups_of_long_names(covered):
    names = [f"Asian or Pacific Islander {index}" for index in range(5)]
    counts = np.random.default_rng(0).integers(20, 400, (5, 16)).astype(float)
    groups = measure_clipping(names, EDGES, counts, 5.0 if covered else 0.0)["groups"]
    few = measure_clipping(names[:2], EDGES, np.full((2, 16), 9.0), 40.0)["groups"]
    history = [(9, groups), (10, {**groups, **few})]
    figure = plot_clipping("native country", history, groups, covered=covered)
    figure.canvas.draw()
    left, right = figure.axes
    for text in (figure._suptitle, figure._supxlabel, left.xaxis.label, right.xaxis.label):
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    for axes in (left, right):
        assert axes.get_window_extent().width > 0.24 * figure.bbox.width
    ticks = [tick.get_window_extent() for tick in right.get_xticklabels() if tick.get_text()]
    inside = right.get_window_extent()
    ticks = [box for box in ticks if box.x1 > inside.x0 and box.x0 < inside.x1]
    assert all(one.x1 < other.x0 for one, other in pairwise(ticks))


def test_first_epoch_stands_at_a_whole_number_and_nobody_cut_at_a_plain_zero():
    counts = np.zeros((1, 16))
    counts[0, 3] = 1_000
    groups = measure_clipping(["all"], EDGES, counts, 0.0)["groups"]
    left, _ = plot_clipping("sex", [(1, groups)], groups, covered=False).axes
    low, high = left.get_xlim()
    assert [tick for tick in left.get_xticks() if low <= tick <= high] == [1, 2]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "run"]
    assert left.get_ylim()[1] >= 1


@pytest.mark.parametrize("covered", [True, False])
def test_report_says_whether_it_is_covered(predict, covered):
    settings = EvaluationSettings(bootstrap_resamples=0, permutations=0)
    measured = replace(evaluate(predict(60), settings), further={"clipping": section(covered)})
    stream = io.StringIO()
    console = Console(width=100, file=stream)
    print_report(measured, privacy=None, seconds={}, paths={}, console=console)
    text = stream.getvalue()
    words = "covered by ε" if covered else "not covered by ε"
    assert f"Whose gradients were cut while training ({words})" in text
    assert ("50.0% ± " in text) == covered
    assert "3,000" in text
