"""A picture of the threshold sweep: what another threshold would cost, and whom it would serve.

As in `group_plots`: a pure function of an evaluation's data that returns a `Figure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evaluation.group_plots import COLOURS, name_axes, title
from evaluation.plots import FAINT, INK, blank, shorten, tidy

_GAPS = {
    "demographic_parity_difference": "demographic parity",
    "equalized_odds_difference": "equalized odds",
}


def plot_thresholds(attribute: str, comparison: Mapping[str, Any], label: str) -> Figure:
    """Accuracy, and both main gaps with their 95 % bands, against the threshold.

    Where no two groups are large enough to compare, gaps are left out and the panel says so.

    Args:
        attribute: Name for the title.
        comparison: `fairness["attributes"][attribute]`, with scores of `label`.
        label: The label that is given from the threshold on.
    """
    sweep = comparison["scores"][label]["thresholds"]
    thresholds, accuracy = sweep["thresholds"], _numbers(sweep["accuracy"])
    figure = blank()
    left, right = figure.subplots(1, 2)
    left.plot(thresholds, accuracy, "o-", color=INK, markersize=3, linewidth=1.8)
    told = False
    for colour, (name, words) in zip(COLOURS, _GAPS.items(), strict=False):
        gap = sweep["gaps"][name]
        values = _numbers(gap["value"])
        if np.isnan(values).all():
            continue
        told = True
        if "low" in gap:
            low, high = _numbers(gap["low"]), _numbers(gap["high"])
            right.fill_between(thresholds, low, high, color=colour, alpha=0.22, linewidth=0)
        right.plot(thresholds, values, "o-", color=colour, markersize=3, linewidth=1.8, label=words)
    if told:
        right.set_ylim(0, 1.3 * max(right.get_ylim()[1], 0.01))  # room for the names
        right.legend(
            frameon=False,
            fontsize=8,
            loc="upper center",
            ncols=2,
            handlelength=1.2,
            columnspacing=1.0,
        )
    else:
        right.text(0.5, 0.5, "no two groups to compare", ha="center", color=FAINT, fontsize=9)
        right.set_yticks([])
    for axes in (left, right):
        axes.set_xlim(0, 1)
        tidy(axes)
    name_axes(left, "threshold", "accuracy")
    name_axes(right, "threshold", "gap, 0 is parity, bands 95 %")
    title(figure, f"“{shorten(label, 18)}” from a threshold on, by {shorten(attribute, 24)}")
    return figure


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    """What is undefined becomes not a number, at which a curve has a hole."""
    return np.array([np.nan if value is None else value for value in values], float)
