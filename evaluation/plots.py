"""Pictures of an evaluation, legible at the size of a TensorBoard card.

Promises: matplotlib's object interface on the Agg canvas only, so no global pyplot state is
touched and no display is needed; every function returns a `Figure`, `to_image` its pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#1f2933"
FAINT = "#9aa5b1"
_BLUE, _GREEN, _ORANGE, _PURPLE = "#1f6feb", "#2da44e", "#e36209", "#8250df"

# A card shows a picture about 470 x 220 pixels large: everything is drawn in those proportions.
_WIDTH_INCHES, _HEIGHT_INCHES = 6.2, 2.95
_ROWS_BEFORE_GROWING = 8
_INCHES_PER_ROW = 0.27
# Cards shrink pictures without smoothing: strokes must stay three pixels wide to survive it.
_DOTS_PER_INCH = 228
_MOST_LABELS_WITH_NUMBERS = 10
_LONGEST_NAME = 28
_GAPS_IN_TITLE = 3


@dataclass(frozen=True)
class _Row:
    """A group's line in a chart of groups: its name, its values by panel, or why there is none."""

    name: str
    values: Mapping[str, float | None]
    intervals: Mapping[str, list[float | None]]
    reasons: Mapping[str, str]
    pale: bool
    first_of_attribute: bool


def plot_overview(fairness: Mapping[str, Any]) -> Figure:
    """Who is given the positive label, and for whom the answers are right: every single attribute.

    Groups below the minimum size are pale. With several positive labels, each attribute shows
    the one with its largest gap.

    Args:
        fairness: `fairness` of an `Evaluation`.
    """
    alone = {a: c for a, c in fairness["attributes"].items() if len(c["of"]) == 1}
    labels = {a: worst_label(fairness, a) for a in alone}
    rows = [
        row
        for attribute, comparison in alone.items()
        for row in _rows(comparison, labels[attribute])
    ]
    shown = "” / “".join(shorten(label) for label in dict.fromkeys(labels.values()))
    panels = {
        "selection_rate": (shorten(f"given “{shown}”"), _BLUE),
        "accuracy": ("right answers (accuracy)", _PURPLE),
    }
    return _plot_rows(_gaps_in_words(fairness), rows, panels)


def _gaps_in_words(fairness: Mapping[str, Any]) -> str:
    """The largest selection gaps, largest first, as many as a title holds."""
    values = {
        attribute: comparison["gaps"]["demographic_parity_difference"]["value"]
        for attribute, comparison in fairness["attributes"].items()
    }
    defined = {attribute: value for attribute, value in values.items() if value is not None}
    if not defined:
        return "No two groups large enough to compare"
    largest = sorted(defined, key=lambda attribute: -defined[attribute])[:_GAPS_IN_TITLE]
    words = ", ".join(f"{defined[attribute]:.3f} by {attribute}" for attribute in largest)
    return f"Selection gap {words}"


def plot_group_rates(attribute: str, comparison: Mapping[str, Any], label: str) -> Figure:
    """Bars of selection, true and false positive rate by group of one attribute.

    Groups below the minimum size are pale; rates that are undefined say why.

    Args:
        attribute: Name for the title.
        comparison: `fairness["attributes"][attribute]` of an `Evaluation`.
        label: The label that the rates are of.
    """
    panels = {
        "selection_rate": ("selected", _BLUE),
        "true_positive_rate": ("true positive rate", _GREEN),
        "false_positive_rate": ("false positive rate", _ORANGE),
    }
    return _plot_rows(f"“{shorten(label)}” by {attribute}", _rows(comparison, label), panels)


def _rows(comparison: Mapping[str, Any], label: str) -> list[_Row]:
    present = {name: group for name, group in comparison["groups"].items() if group["count"]}
    return [
        _Row(
            name=f"{shorten(name)}  ({group['count']:,}{', few' if group['too_small'] else ''})",
            values={**group["rates"][label], "accuracy": group["accuracy"]},
            intervals={
                **group["rates"][label]["intervals"],
                "accuracy": group["accuracy_interval"],
            },
            reasons={
                **group["rates"][label]["reasons"],
                **({"accuracy": "no examples"} if group["accuracy"] is None else {}),
            },
            pale=group["too_small"],
            first_of_attribute=index == 0,
        )
        for index, (name, group) in enumerate(present.items())
    ]


def _plot_rows(title: str, rows: list[_Row], panels: Mapping[str, tuple[str, str]]) -> Figure:
    extra = max(0, len(rows) - _ROWS_BEFORE_GROWING) * _INCHES_PER_ROW
    figure = blank(_HEIGHT_INCHES + extra)
    heights = np.arange(len(rows)) + 0.45 * np.cumsum([row.first_of_attribute for row in rows])
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (rate, (heading, colour)) in zip(grid, panels.items(), strict=True):
        highest = max(
            [max(row.values[rate] or 0.0, row.intervals[rate][1] or 0.0) for row in rows],
            default=0.0,
        )
        limit = max(highest, 0.05) * 1.28  # room for the number beside the longest bar
        for height, row in zip(heights, rows, strict=True):
            value = row.values[rate]
            axes.barh(height, value or 0.0, 0.72, color=colour, alpha=0.3 if row.pale else 1.0)
            low, high = row.intervals[rate]
            reach = value or 0.0
            if value is not None and low is not None and high is not None:
                axes.plot([low, high], [height, height], color=INK, linewidth=1.6, alpha=0.7)
                reach = max(value, high)
            axes.text(
                reach + 0.02 * limit,
                height,
                f"undefined: {row.reasons[rate]}" if value is None else f"{value:.1%}",
                va="center",
                fontsize=9,
                color=FAINT if value is None else INK,
            )
        axes.set_xlim(0, limit)
        axes.set_xticks([])
        # Of three beside long names, each has half the width.
        axes.set_title(heading, fontsize=10 if len(panels) < 3 else 8.5, color=INK, loc="left")
        tidy(axes)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
    grid[0].set_yticks(heights, [row.name for row in rows])
    if rows:
        grid[0].set_ylim(heights[-1] + 0.6, heights[0] - 0.6)
    figure.suptitle(title, fontsize=10.5, fontweight="bold", color=INK)
    return figure


def plot_confusion(performance: Mapping[str, Any]) -> Figure:
    """Confusion matrix: shade and percentage are shares of the row (the truth), beside counts."""
    names = list(performance["labels"])
    counts = np.asarray(performance["confusion_matrix"])
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    figure = blank()
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if len(names) <= _MOST_LABELS_WITH_NUMBERS:
        few = len(names) <= 4
        for (row, column), share in np.ndenumerate(shares):
            axes.text(
                column,
                row,
                f"{share:.1%}\n{counts[row, column]:,}" if few else f"{share:.0%}",
                ha="center",
                va="center",
                fontsize=12 if few else 8,
                color="white" if share > 0.55 else INK,
            )
        ticks = [shorten(name, 12) for name in names]
        axes.set_xticks(range(len(names)), ticks)
        axes.set_yticks(range(len(names)), ticks)
    tidy(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("answer", color=INK)
    axes.set_ylabel("truth", color=INK)
    title = f"Confusion (accuracy {performance['accuracy']:.1%})"
    figure.suptitle(title, fontsize=10.5, fontweight="bold", color=INK)
    return figure


def plot_reliability(performance: Mapping[str, Any]) -> Figure:
    """Reliability diagram: accuracy against confidence, over how many examples have it."""
    figure = blank()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    least = 1 / len(performance["labels"])  # no largest probability is below it
    title = "Reliability"
    if performance["calibration"] is None:
        reason = performance["reasons"]["calibration"]
        upper.text(0.5, 0.3, reason, ha="center", wrap=True, transform=upper.transAxes)
    else:
        title += f" (calibration error {performance['calibration']['ece']:.3f})"
        filled = [b for b in performance["calibration"]["bins"] if b["count"]]
        edges = [b["low"] for b in filled]
        widths = [0.96 * (b["high"] - b["low"]) for b in filled]
        heights = [b["accuracy"] for b in filled]
        upper.bar(edges, heights, width=widths, align="edge", color=_BLUE, label="accuracy")
        confidences = [b["confidence"] for b in filled]
        upper.plot(confidences, heights, "o", color=INK, markersize=3, label="mean confidence")
        sizes = [b["count"] for b in filled]
        bars = lower.bar(edges, sizes, width=widths, align="edge", color=FAINT)
        lower.bar_label(bars, [f"{size:,}" for size in sizes], fontsize=7.5, color=INK, padding=1)
        lower.set_ylim(0, 1.5 * max(sizes))
    upper.plot([0, 1], [0, 1], "--", color=_ORANGE, linewidth=1.2, label="perfect")
    upper.set_ylim(0, 1.04)
    upper.set_ylabel("accuracy", fontsize=9, color=INK)
    upper.legend(frameon=False, fontsize=8.5, loc="upper left", ncols=3)
    lower.set_ylabel("examples", fontsize=9, color=INK)
    lower.set_yticks([])
    lower.set_xlabel("confidence (largest probability)", fontsize=9, color=INK)
    lower.set_xlim(max(0.0, least - 0.04), 1.0)
    for axes in (upper, lower):
        tidy(axes)
    figure.suptitle(title, fontsize=10.5, fontweight="bold", color=INK)
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


def worst_label(fairness: Mapping[str, Any], attribute: str) -> str:
    """Returns the label with the attribute's largest selection gap; the last one if undefined."""
    gap = fairness["attributes"][attribute]["gaps"]["demographic_parity_difference"]
    return fairness["positive_labels"][-1] if gap["value"] is None else gap["label"]


def blank(height: float = _HEIGHT_INCHES) -> Figure:
    """An empty figure in a card's proportions, unless higher."""
    return Figure(
        figsize=(_WIDTH_INCHES, height), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white"
    )


def tidy(axes: Axes) -> None:
    """Takes away what carries nothing."""
    axes.tick_params(labelsize=9.5, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    """Cuts a long name."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
