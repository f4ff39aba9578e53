"""Pictures of an evaluation, legible at the size of a TensorBoard card.

Promises: matplotlib's object interface on the Agg canvas only, so no global pyplot state is
touched and no display is needed; every function returns a `Figure`, `to_image` its pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_INK = "#1f2933"
_FAINT = "#9aa5b1"
_RATE_COLOURS = {
    "selection_rate": ("selected", "#1f6feb"),
    "true_positive_rate": ("true positive rate", "#2da44e"),
    "false_positive_rate": ("false positive rate", "#e36209"),
}
_WIDTH_INCHES = 5.2
_DOTS_PER_INCH = 150
_MOST_LABELS_WITH_NUMBERS = 12
_LONGEST_NAME = 22


def plot_group_rates(attribute: str, comparison: Mapping[str, Any], label: str) -> Figure:
    """Bars of selection, true and false positive rate by group of one attribute.

    Groups below the minimum size are drawn pale and marked `few`; rates that are undefined have
    no bar and say so.

    Args:
        attribute: Name for the title.
        comparison: `fairness["attributes"][attribute]` of an `Evaluation`.
        label: The label that the rates are of.
    """
    groups = {name: group for name, group in comparison["groups"].items() if group["count"]}
    figure, axes = _new_figure(height=1.05 + 0.62 * max(len(groups), 1))
    thickness = 0.26
    ticks = []
    for row, (name, group) in enumerate(groups.items()):
        rates = group["rates"][label]
        for offset, (rate, (_, colour)) in enumerate(_RATE_COLOURS.items()):
            y = row + (offset - 1) * thickness
            value = rates[rate]
            axes.barh(
                y,
                value or 0.0,
                height=thickness * 0.92,
                color=colour,
                alpha=0.35 if group["too_small"] else 1.0,
            )
            axes.text(
                (value or 0.0) + 0.012,
                y,
                rates["reasons"][rate] if value is None else f"{value:.0%}",
                va="center",
                fontsize=8.5,
                color=_FAINT if value is None else _INK,
            )
        few = ", few" if group["too_small"] else ""
        ticks.append(f"{_shorten(name)}\n(n = {group['count']:,}{few})")
    axes.set_yticks(range(len(groups)), ticks)
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.linspace(0, 1, 5), [f"{x:.0%}" for x in np.linspace(0, 1, 5)])
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.suptitle(f"“{_shorten(label)}” by {attribute}", fontsize=12, fontweight="bold")
    figure.legend(
        handles=[_patch(colour) for _, colour in _RATE_COLOURS.values()],
        labels=[text for text, _ in _RATE_COLOURS.values()],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.0,
        columnspacing=1.2,
    )
    return figure


def plot_confusion(performance: Mapping[str, Any]) -> Figure:
    """Confusion matrix: shade and percentage are shares of the row (the truth), below counts."""
    names = list(performance["labels"])
    counts = np.asarray(performance["confusion_matrix"])
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    figure, axes = _new_figure(height=4.3)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _MOST_LABELS_WITH_NUMBERS:
        size = max(5.0, 13 - 1.1 * len(names))
        for (row, column), share in np.ndenumerate(shares):
            axes.text(
                column,
                row,
                f"{share:.0%}\n{counts[row, column]:,}",
                ha="center",
                va="center",
                fontsize=size,
                color="white" if share > 0.55 else _INK,
            )
        ticks = [_shorten(name, 14) for name in names]
        axes.set_xticks(range(len(names)), ticks, rotation=30 if len(names) > 4 else 0)
        axes.set_yticks(range(len(names)), ticks)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    title = f"Confusion (accuracy {performance['accuracy']:.1%})"
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def plot_reliability(performance: Mapping[str, Any]) -> Figure:
    """Reliability diagram (accuracy against confidence) over a histogram of the confidences."""
    figure = _blank(height=4.3)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    calibration = performance["calibration"]
    if calibration is None:
        reason = performance["reasons"]["calibration"]
        upper.text(0.5, 0.5, reason, ha="center", wrap=True, transform=upper.transAxes)
    else:
        filled = [b for b in calibration["bins"] if b["count"]]
        centres = [(b["low"] + b["high"]) / 2 for b in filled]
        width = 0.92 * (calibration["bins"][0]["high"] - calibration["bins"][0]["low"])
        upper.bar(centres, [b["accuracy"] for b in filled], width=width, color="#1f6feb")
        upper.plot(
            [b["confidence"] for b in filled],
            [b["accuracy"] for b in filled],
            "o",
            color=_INK,
            markersize=3.5,
            zorder=3,
        )
        lower.bar(centres, [b["count"] for b in filled], width=width, color=_FAINT)
        title = f"Reliability (calibration error {calibration['ece']:.3f})"
        figure.suptitle(title, fontsize=12, fontweight="bold")
    upper.plot([0, 1], [0, 1], "--", color=_INK, linewidth=1)
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("accuracy")
    lower.set_ylabel("examples")
    lower.set_xlabel("confidence (largest probability)")
    lower.set_xlim(0, 1)
    for axes in (upper, lower):
        _tidy(axes)
    return figure


def to_image(figure: Figure) -> np.ndarray:
    """Draws a figure, uint8 (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def to_png(figure: Figure) -> bytes:
    """Draws a figure as an encoded PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path) -> None:
    """Draws a figure into a PNG file."""
    Path(path).write_bytes(to_png(figure))


def _blank(height: float) -> Figure:
    return Figure(
        figsize=(_WIDTH_INCHES, height), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white"
    )


def _new_figure(height: float) -> tuple[Figure, Axes]:
    figure = _blank(height)
    axes = figure.subplots()
    _tidy(axes)
    return figure, axes


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=9, colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)


def _shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def evaluation_figures(
    fairness: Mapping[str, Any], performance: Mapping[str, Any], attributes: Sequence[str]
) -> dict[str, Figure]:
    """Returns every figure of an evaluation by its name.

    With many labels, the rates shown are those of the label with the largest gap.
    """
    figures = {}
    for attribute in attributes:
        comparison = fairness["attributes"][attribute]
        worst = comparison["gaps"]["demographic_parity_difference"]
        label = worst.get("label") or fairness["positive_labels"][-1]
        figures[f"rates by {attribute}"] = plot_group_rates(attribute, comparison, label)
    figures["confusion matrix"] = plot_confusion(performance)
    figures["reliability diagram"] = plot_reliability(performance)
    return figures
