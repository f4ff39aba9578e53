"""A picture of what a decision rule changed: for whom, and at which price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.plots import FAINT, INK, blank, shorten, tidy

_DECIDED = "#1f6feb"
_NUMBERS = {
    "accuracy": "accuracy",
    "worst_group_accuracy": "worst group",
    "demographic_parity_difference": "demographic\nparity gap",
    "equalized_odds_difference": "equalized\nodds gap",
}
_MOST_GROUPS = 8


def plot_decisions(section: Mapping[str, Any]) -> Figure:
    """Who is selected, and the headline numbers, by the largest score beside the rule's answers.

    Args:
        section: From `measure_decisions`, of a rule with an attribute that answers somebody. Of
            many groups, the largest are drawn.
    """
    before, after = section["before"], section["after"]
    figure = blank()
    groups, numbers = figure.subplots(1, 2, width_ratios=[1, 1.25])
    sizes = {name: group["count"] for name, group in after["groups"].items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_MOST_GROUPS]
    shown = [name for name in sizes if name in largest]
    _pairs(
        groups,
        [shorten(name, 14) for name in shown],
        [before["groups"].get(name, {}).get("selection_rate", 0.0) for name in shown],
        [after["groups"][name]["selection_rate"] for name in shown],
        "selected",
    )
    told = [name for name in _NUMBERS if None not in (before[name], after[name])]
    _pairs(
        numbers,
        [_NUMBERS[name] for name in told],
        [before[name] for name in told],
        [after[name] for name in told],
        "accuracy and gaps",
    )
    numbers.legend(frameon=False, fontsize=8, loc="upper right")
    attribute = section["rule"]["attribute"]
    title = f"Thresholds by {attribute}: largest score, and decided"
    figure.suptitle(title, fontsize=10.5, fontweight="bold", color=INK)
    return figure


def _pairs(
    axes: Axes, names: Sequence[str], before: Sequence[float], after: Sequence[float], title: str
) -> None:
    places = range(len(names))
    for values, shift, color, label in (
        (before, -0.2, FAINT, "largest score"),
        (after, 0.2, _DECIDED, "decided"),
    ):
        bars = axes.bar([p + shift for p in places], values, 0.36, color=color, label=label)
        axes.bar_label(bars, [f"{v:.3f}" for v in values], fontsize=7.5, color=INK, padding=1)
    axes.set_xticks(list(places), names)
    axes.set_yticks([])
    # Room for the numbers over the bars, and for the legend.
    axes.set_ylim(0, 1.3 * max(1e-6, *before, *after))
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    tidy(axes)
    axes.tick_params(labelsize=8, length=0)
    axes.spines["left"].set_visible(False)
