"""A picture of who is clipped: over epochs and over the whole run, and how long gradients are.

As in `group_plots`: a pure function of an evaluation's data that returns a `Figure`. Of small
groups the noise of an epoch hides what the run's total tells, so both are drawn. The picture says
itself whether it may be shown: it leaves TensorBoard without the tag that says so too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from evaluation.group_plots import COLOURS, MOST_GROUPS, name_axes, title
from evaluation.plots import FAINT, INK, blank, shorten, tidy

_WARNING = "#b42318"
_PALE = 0.45
_SMALL: dict[str, Any] = {"fontsize": 7.5, "color": INK, "ha": "center", "va": "bottom"}
_TITLE_HOLDS, _LAST_LINE_HOLDS = 68, 90  # characters
_LEGEND_HOLDS = 2  # groups, above curves in half a card
_RUN_BESIDE_EPOCHS = 0.18  # of the epochs' width, how far right of them the run's total stands
_NOT_TO_SHOW = "Training people counted exactly: NOT covered by ε, do not publish"


def plot_clipping(
    attribute: str,
    history: Sequence[tuple[int, Mapping[str, Any]]],
    run: Mapping[str, Any],
    *,
    covered: bool,
) -> Figure:
    """Each group's share of clipped gradients over epochs and the run, beside how long they are.

    The title names the groups that were cut most often in the run. Lengths are those of the last
    epoch, and pale those of the run.

    Args:
        attribute: Name of the attribute.
        history: (epoch, `groups` of `measure_clipping`), in order.
        run: `groups` of `measure_clipping`, of the run up to the last of these epochs.
        covered: Whether the counts were released with noise that the privacy budget paid for.
    """
    figure = blank()
    left, right = figure.subplots(1, 2)
    # A group that the noise hides now, as in a short last epoch, keeps its curve.
    known = [
        name
        for name in run
        if _is_known(run, name) or any(_is_known(groups, name) for _, groups in history)
    ]
    shown = sorted(known, key=lambda name: -run[name]["examples"])[:MOST_GROUPS]
    epochs = [epoch for epoch, _ in history]
    after = epochs[-1] + max(1.0, _RUN_BESIDE_EPOCHS * (epochs[-1] - epochs[0]))
    for place, (colour, name) in enumerate(zip(COLOURS, shown, strict=False)):
        looks = {"color": colour, "markersize": 3}
        shares, errors = _shares_over([groups for _, groups in history], name)
        bars = errors if covered else None
        left.errorbar(epochs, shares, yerr=bars, fmt="o-", label=shorten(name, 18), **looks)
        shares, errors = _shares_over([run], name)
        bars = errors if covered else None
        left.errorbar([after], shares, yerr=bars, fmt="D", **looks)
        _draw_lengths(right, place, colour, history[-1][1].get(name), run[name])
    _tidy_shares(left, epochs, after)
    _tidy_lengths(right, [shorten(name, 16) for name in shown])
    if 0 < len(shown) <= _LEGEND_HOLDS:
        left.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    title(figure, _most_clipped(attribute, run, " (run)"))
    unknown = [name for name in run if not _is_known(run, name)]
    words = "Released with noise: ε covers it" if covered else _NOT_TO_SHOW
    if unknown:
        few = f" · too few to say: {shorten(', '.join(unknown), 40)}"
        is_short = len(words + few) <= _LAST_LINE_HOLDS
        words += few if is_short else f" · too few to say: {len(unknown)} groups"
    figure.supxlabel(words, fontsize=8.5, color=INK if covered else _WARNING, fontweight="bold")
    return figure


def _draw_lengths(
    axes: Axes, place: int, colour: str, epoch: Mapping[str, Any] | None, run: Mapping[str, Any]
) -> None:
    """A group's quantiles in the last epoch, and pale below them in the run; those that are known.

    Of a group that is known in the run alone, the pale ones stand in the middle.
    """
    in_epoch = None if epoch is None else epoch["relative_norm"]
    in_run = run["relative_norm"]
    if in_epoch is None and in_run is None:
        beside = axes.get_yaxis_transform()
        words = {**_SMALL, "va": "center"}
        axes.text(0.5, place, "too few to say", transform=beside, **words)
    if in_epoch is not None:
        low, middle, high = in_epoch.values()
        axes.plot([low, high], [place, place], color=colour, linewidth=5, solid_capstyle="butt")
        axes.plot([middle], [place], "o", color=INK, markersize=5)
    if in_run is not None:
        below = place if in_epoch is None else place + 0.3
        low, middle, high = in_run.values()
        looks: dict[str, Any] = {"color": colour, "alpha": _PALE}
        axes.plot([low, high], [below, below], linewidth=3, solid_capstyle="butt", **looks)
        axes.plot([middle], [below], "D", color=INK, markersize=3)


def _tidy_shares(axes: Axes, epochs: Sequence[int], after: float) -> None:
    """Names whole epochs, also while there is but one, and beside them the run."""
    axes.axvline((epochs[-1] + after) / 2, color=FAINT, linewidth=0.8)
    fitting = MaxNLocator(integer=True, nbins=5, min_n_ticks=1)
    ticks = [t for t in fitting.tick_values(epochs[0], epochs[-1]) if epochs[0] <= t <= epochs[-1]]
    axes.set_xticks([*ticks, after], [*(f"{tick:.0f}" for tick in ticks), "run"])
    axes.yaxis.set_major_formatter(PercentFormatter(100, decimals=None))
    # Room for the names above; and where nobody is cut, noise of drawing is no curve.
    axes.set_ylim(0, 1.3 * max(axes.get_ylim()[1], 1.0))
    tidy(axes)
    name_axes(axes, "epoch", "gradients that are cut")


def _tidy_lengths(axes: Axes, names: Sequence[str]) -> None:
    axes.axvline(1.0, linestyle="--", color=FAINT, linewidth=1)
    axes.text(1.0, 1.01, "cut beyond", transform=axes.get_xaxis_transform(), **_SMALL)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=4, numticks=5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    tidy(axes)
    for tick, colour in zip(axes.get_yticklabels(), COLOURS, strict=False):
        tick.set_color(colour)  # of several curves, the legend
    name_axes(axes, "norm / bound: 10, 50, 90 %\n(pale: of the run)", "")


def _is_known(groups: Mapping[str, Any], name: str) -> bool:
    return name in groups and groups[name]["clipped_share"] is not None


def _shares_over(
    history: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[float], list[float]]:
    """A group's shares in percent, and their standard errors; not a number where unknown."""
    found = [(groups[name]["clipped_share"], groups[name]["standard_error"]) for groups in history]
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
