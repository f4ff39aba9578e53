"""Pictures of scores by group, and of groups and gaps over epochs.

As in `plots`: pure functions of an evaluation's data that return a `Figure`. At most
`MOST_GROUPS` groups are drawn, the largest; all are in `evaluation.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.plots import FAINT, INK, blank, shorten, tidy

MOST_GROUPS = 8
_FEWEST_IN_A_BIN = 10  # fewer say nothing of calibration, and their zigzag hides who does
COLOURS = (
    "#1f6feb",
    "#e36209",
    "#2da44e",
    "#8250df",
    "#bf3989",
    "#57606a",
    "#9a6700",
    "#1b7c83",
)
_GAPS = {
    "demographic_parity_difference": "demographic parity",
    "equalized_odds_difference": "equalized odds",
    "accuracy_difference": "accuracy",
}
_RATES = {
    "selection_rate": "selected",
    "true_positive_rate": "true positive rate",
    "accuracy": "accuracy",
}


def plot_roc(attribute: str, comparison: Mapping[str, Any], label: str) -> Figure:
    """ROC curves of each group, beside what each group's calibration looks like.

    Args:
        attribute: Name for the title.
        comparison: `fairness["attributes"][attribute]`, with scores of `label`.
        label: The label that scores are of.
    """
    figure = blank()
    left, right = figure.subplots(1, 2)
    scores = comparison["scores"][label]["groups"]
    for colour, name in zip(COLOURS, _shown(comparison), strict=False):
        curve, area = scores[name]["roc"], scores[name]["roc_auc"]
        if curve is None or area is None:
            reason = scores[name]["reasons"].get("roc_auc", "one class only")
            left.plot([], [], color=colour, label=f"{shorten(name, 16)} undefined: {reason}")
        else:
            left.plot(
                curve["false_positive_rate"],
                curve["true_positive_rate"],
                color=colour,
                linewidth=1.8,
                label=f"{shorten(name, 16)} {area:.3f}",
            )
        bins = zip(scores[name]["histogram"], scores[name]["calibration"], strict=True)
        points = [pair for count, pair in bins if count >= _FEWEST_IN_A_BIN]
        if points:
            right.plot(*np.array(points).T, "o-", color=colour, markersize=3, linewidth=1.4)
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1)
        tidy(axes)
    left.legend(frameon=False, fontsize=7.5, loc="lower right", title="ROC-AUC", title_fontsize=7.5)
    name_axes(left, "false positive rate", "true positive rate")
    name_axes(right, "mean score", "share that is so")
    title(figure, f"ROC and calibration of “{shorten(label)}” by {attribute}")
    return figure


def plot_scores(attribute: str, comparison: Mapping[str, Any], label: str) -> Figure:
    """Histogram of each group's scores, as shares of the group.

    Args:
        attribute: Name for the title.
        comparison: `fairness["attributes"][attribute]`, with scores of `label`.
        label: The label that scores are of.
    """
    figure = blank()
    axes = figure.subplots()
    scores = comparison["scores"][label]["groups"]
    for colour, name in zip(COLOURS, _shown(comparison), strict=False):
        counts = np.asarray(scores[name]["histogram"], float)
        axes.stairs(
            counts / max(counts.sum(), 1e-9),
            np.linspace(0, 1, len(counts) + 1),
            color=colour,
            linewidth=1.8,
            label=f"{shorten(name)} (mean {scores[name]['mean']:.3f})",
        )
    axes.legend(frameon=False, fontsize=8.5)
    tidy(axes)
    name_axes(axes, f"score of “{shorten(label)}”", "share of the group")
    divergence = comparison["scores"][label]["gaps"]["kl_divergence"]["value"]
    words = "" if divergence is None else f" (largest KL divergence {divergence:.3f})"
    title(figure, f"Scores by {attribute}{words}")
    return figure


def plot_gap_history(attribute: str, history: Sequence[tuple[int, Mapping[str, Any]]]) -> Figure:
    """Gaps over epochs, each with the band of its 95 % interval.

    Args:
        attribute: Name of the attribute.
        history: (epoch, `fairness` of its evaluation), in order.
    """
    figure = blank()
    panels = figure.subplots(1, len(_GAPS), sharex=True)
    for axes, colour, (name, words) in zip(panels, COLOURS, _GAPS.items(), strict=False):
        gaps = [(e, fairness["attributes"][attribute]["gaps"][name]) for e, fairness in history]
        gaps = [(epoch, gap) for epoch, gap in gaps if gap["value"] is not None]
        if gaps:
            epochs = [epoch for epoch, _ in gaps]
            values = np.array([gap["value"] for _, gap in gaps], float)
            low, high = (
                np.array([gap["value"] if gap[end] is None else gap[end] for _, gap in gaps], float)
                for end in ("low", "high")
            )
            axes.fill_between(epochs, low, high, color=colour, alpha=0.22, linewidth=0)
            axes.plot(epochs, values, "o-", color=colour, markersize=3, linewidth=1.8)
            axes.set_title(f"{words}\n{values[-1]:.3f} ({low[-1]:.3f}-{high[-1]:.3f})", fontsize=9)
        else:
            axes.set_title(f"{words}\nundefined", fontsize=9, color=FAINT)
        axes.set_ylim(bottom=0)
        _name_epochs(axes)
        tidy(axes)
    title(figure, f"Gaps by {attribute}, 0 is parity, bands 95 %")
    return figure


def plot_group_history(
    attribute: str, history: Sequence[tuple[int, Mapping[str, Any]]], label: str
) -> Figure:
    """Each group's rates over epochs.

    Args:
        attribute: Name of the attribute.
        history: (epoch, `fairness` of its evaluation), in order.
        label: The label that rates are of.
    """
    figure = blank()
    panels = figure.subplots(1, len(_RATES), sharex=True)
    shown = _shown(history[-1][1]["attributes"][attribute])
    for axes, (rate, words) in zip(panels, _RATES.items(), strict=True):
        for colour, name in zip(COLOURS, shown, strict=False):
            epochs, values = [], []
            for epoch, fairness in history:
                group = fairness["attributes"][attribute]["groups"].get(name)
                value = None
                if group is not None:
                    value = group[rate] if rate == "accuracy" else group["rates"][label][rate]
                epochs.append(epoch)
                values.append(np.nan if value is None else value)
            axes.plot(epochs, values, "o-", color=colour, markersize=3, label=shorten(name, 18))
        axes.set_title(words, fontsize=9.5)
        _name_epochs(axes)
        tidy(axes)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    title(figure, f"Groups of {attribute} over epochs: “{shorten(label)}”")
    return figure


def _shown(comparison: Mapping[str, Any]) -> list[str]:
    """The largest groups, in their own order."""
    counts = {name: group["count"] for name, group in comparison["groups"].items()}
    largest = sorted((n for n in counts if counts[n] > 0), key=lambda n: -counts[n])[:MOST_GROUPS]
    return [name for name in counts if name in largest]


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Says what the axes are, in the style of all pictures of groups."""
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)


def _name_epochs(axes: Axes) -> None:
    """Whole epochs on the axis, also while there is but one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    name_axes(axes, "epoch", "")


def title(figure: Figure, words: str) -> None:
    """Says above the picture what it shows."""
    figure.suptitle(words, fontsize=10.5, fontweight="bold", color=INK)
