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
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from evaluation.plots import FAINT, INK, blank, shorten, tidy

MOST_GROUPS = 8
_FEWEST_IN_A_BIN = 10  # fewer say nothing of calibration, and their zigzag hides who does
_COLOURS = (
    "#1f6feb",
    "#e36209",
    "#2da44e",
    "#8250df",
    "#bf3989",
    "#57606a",
    "#9a6700",
    "#1b7c83",
)
_WARNING = "#b42318"
_SMALL: dict[str, Any] = {"fontsize": 7.5, "color": INK, "ha": "center", "va": "bottom"}
_TITLE_HOLDS, _LAST_LINE_HOLDS = 70, 90  # characters
_LEGEND_HOLDS = 2  # groups, above curves in half a card
_NOT_TO_SHOW = "Training people counted exactly: NOT covered by ε, do not publish"
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
    for colour, name in zip(_COLOURS, _shown(comparison), strict=False):
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
    _name_axes(left, "false positive rate", "true positive rate")
    _name_axes(right, "mean score", "share that is so")
    _title(figure, f"ROC and calibration of “{shorten(label)}” by {attribute}")
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
    for colour, name in zip(_COLOURS, _shown(comparison), strict=False):
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
    _name_axes(axes, f"score of “{shorten(label)}”", "share of the group")
    divergence = comparison["scores"][label]["gaps"]["kl_divergence"]["value"]
    words = "" if divergence is None else f" (largest KL divergence {divergence:.3f})"
    _title(figure, f"Scores by {attribute}{words}")
    return figure


def plot_gap_history(attribute: str, history: Sequence[tuple[int, Mapping[str, Any]]]) -> Figure:
    """Gaps over epochs, each with the band of its 95 % interval.

    Args:
        attribute: Name of the attribute.
        history: (epoch, `fairness` of its evaluation), in order.
    """
    figure = blank()
    panels = figure.subplots(1, len(_GAPS), sharex=True)
    for axes, colour, (name, words) in zip(panels, _COLOURS, _GAPS.items(), strict=False):
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
    _title(figure, f"Gaps by {attribute}, 0 is parity, bands 95 %")
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
        for colour, name in zip(_COLOURS, shown, strict=False):
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
    _title(figure, f"Groups of {attribute} over epochs: “{shorten(label)}”")
    return figure


def plot_clipping(
    attribute: str, history: Sequence[tuple[int, Mapping[str, Any]]], *, covered: bool
) -> Figure:
    """Each group's share of clipped gradients over epochs, beside how long they are now.

    The title names the groups that are cut most often, and the line below says whether the picture
    may be shown: it leaves TensorBoard without the tag that says so too.

    Args:
        attribute: Name of the attribute.
        history: (epoch, `groups` of `measure_clipping`), in order.
        covered: Whether the counts were released with noise that the privacy budget paid for.
    """
    figure = blank()
    left, right = figure.subplots(1, 2)
    latest = history[-1][1]
    # A group that the noise hides now, as in a short last epoch, keeps its curve.
    known = [name for name in latest if any(_is_known(groups, name) for _, groups in history)]
    shown = sorted(known, key=lambda name: -latest[name]["examples"])[:MOST_GROUPS]
    for place, (colour, name) in enumerate(zip(_COLOURS, shown, strict=False)):
        shares, errors = _shares_over(history, name)
        left.errorbar(
            [epoch for epoch, _ in history],
            shares,
            yerr=errors if covered else None,
            fmt="o-",
            color=colour,
            markersize=3,
            label=shorten(name, 18),
        )
        if not _is_known(latest, name):
            beside = right.get_yaxis_transform()
            right.text(0.5, place, "too few to say", transform=beside, **{**_SMALL, "va": "center"})
            continue
        low, middle, high = latest[name]["relative_norm"].values()
        right.plot([low, high], [place, place], color=colour, linewidth=5, solid_capstyle="butt")
        right.plot([middle], [place], "o", color=INK, markersize=5)
    right.axvline(1.0, linestyle="--", color=FAINT, linewidth=1)
    right.text(1.0, 1.01, "cut beyond", transform=right.get_xaxis_transform(), **_SMALL)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_locator(LogLocator(base=4, numticks=5))
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    right.set_yticks(range(len(shown)), [shorten(name, 16) for name in shown])
    right.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    left.yaxis.set_major_formatter(PercentFormatter(100, decimals=None))
    # Room for the names above; and where nobody is cut, noise of drawing is no curve.
    left.set_ylim(0, 1.3 * max(left.get_ylim()[1], 1.0))
    for axes in (left, right):
        tidy(axes)
    if 0 < len(shown) <= _LEGEND_HOLDS:
        left.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    for tick, colour in zip(right.get_yticklabels(), _COLOURS, strict=False):
        tick.set_color(colour)  # of several curves, the legend
    _name_epochs(left, "gradients that are cut")
    _name_axes(right, "norm / bound: 10, 50, 90 %", "")
    _title(figure, _most_clipped(attribute, latest, f" (epoch {history[-1][0]})"))
    unknown = [name for name in latest if not _is_known(latest, name)]
    words = "Released with noise: ε covers it" if covered else _NOT_TO_SHOW
    if unknown:
        few = f" · too few to say: {shorten(', '.join(unknown), 40)}"
        is_short = len(words + few) <= _LAST_LINE_HOLDS
        words += few if is_short else f" · too few to say: {len(unknown)} groups"
    figure.supxlabel(words, fontsize=8.5, color=INK if covered else _WARNING, fontweight="bold")
    return figure


def _is_known(groups: Mapping[str, Any], name: str) -> bool:
    return name in groups and groups[name]["clipped_share"] is not None


def _shares_over(
    history: Sequence[tuple[int, Mapping[str, Any]]], name: str
) -> tuple[list[float], list[float]]:
    """A group's shares in percent, and their standard errors; not a number where unknown."""
    found = [
        (groups[name]["clipped_share"], groups[name]["standard_error"]) for _, groups in history
    ]
    percent = [[np.nan if value is None else 100 * value for value in pair] for pair in found]
    return [share for share, _ in percent], [error for _, error in percent]


def _most_clipped(attribute: str, groups: Mapping[str, Any], when: str) -> str:
    """Who is clipped, in words, those most often first; with the noise's standard error, if any."""
    known = {name: group for name, group in groups.items() if _is_known(groups, name)}
    if not known:
        return f"Who is clipped, by {attribute}: too few of every group to say{when}"
    most = sorted(known, key=lambda name: -known[name]["clipped_share"])
    words = (
        f"Clipped by {shorten(attribute, 18)}: {shorten(most[0], 18)} {_percent(known[most[0]])}"
    )
    for place, name in enumerate(most[1:], start=1):
        longer = f"{words}, {shorten(name, 18)} {_percent(known[name])}"
        dots = "" if place == len(most) - 1 else ", …"
        if len(f"{longer}{dots}{when}") > _TITLE_HOLDS:
            return f"{words}, …{when}"
        words = longer
    return f"{words}{when}"


def _percent(group: Mapping[str, Any]) -> str:
    share, error = 100 * group["clipped_share"], 100 * group["standard_error"]
    return f"{share:.1f}{f' ± {error:.1f}' if error else ''} %"


def _shown(comparison: Mapping[str, Any]) -> list[str]:
    """The largest groups, in their own order."""
    counts = {name: group["count"] for name, group in comparison["groups"].items()}
    largest = sorted((n for n in counts if counts[n] > 0), key=lambda n: -counts[n])[:MOST_GROUPS]
    return [name for name in counts if name in largest]


def _name_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)


def _name_epochs(axes: Axes, y: str = "") -> None:
    """Whole epochs on the axis, also while there is but one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    _name_axes(axes, "epoch", y)


def _title(figure: Figure, words: str) -> None:
    figure.suptitle(words, fontsize=10.5, fontweight="bold", color=INK)
