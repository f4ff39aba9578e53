"""What TensorBoard shows of an epoch, and under which tag; written by the default event writer.

TensorBoard orders cards by tag, and the tags are numbered so that the first screen answers: how
accurate, how unfair, to whom, at which ε. Whatever is computed from training examples says in its
tag that ε does not cover it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from evaluation.coverage import NOT_COVERED, RELEASED, marked, measured_elsewhere
from evaluation.group_plots import (
    plot_gap_history,
    plot_group_history,
    plot_roc,
    plot_scores,
)
from evaluation.headlines import Headline
from evaluation.measurements import Evaluation
from evaluation.plots import (
    plot_confusion,
    plot_group_rates,
    plot_overview,
    plot_reliability,
    to_image,
    worst_label,
)
from evaluation.threshold_plot import plot_thresholds

# What a private loop releases beside the weights: name in its logs -> tag, description.
_RELEASED = {
    "clipping_norm": (
        "4 privacy/clipping norm",
        "The bound in use on the gradient of every example (of every user, where users are "
        "protected), found from noisy counts that ε pays for.",
    ),
    "clipping_threshold": (
        "4 privacy/clipping threshold",
        "Gradients up to this norm are scaled alike, longer ones cut; found from noisy counts that "
        "ε pays for.",
    ),
}


def write_headline(headline: Headline) -> None:
    """Writes one number of the first screen, where it is defined."""
    if headline.value is not None:
        tf.summary.scalar(headline.tag, headline.value, description=headline.description)


def write_figures(evaluation: Evaluation, history: Sequence[tuple[int, Any]]) -> None:
    """Draws an evaluation.

    Args:
        evaluation: The latest.
        history: Epochs so far and the `fairness` of each.
    """
    fairness, performance = evaluation.fairness, evaluation.performance
    figures = {
        "2 accuracy/confusion matrix": plot_confusion(performance),
        "2 accuracy/reliability": plot_reliability(performance),
    }
    if fairness["attributes"]:
        figures["1 overview/2 who gets what"] = plot_overview(fairness)
    for attribute, comparison in fairness["attributes"].items():
        label = worst_label(fairness, attribute)
        tag = f"3 fairness/{{}} by {attribute}".format
        figures[tag("1 rates")] = plot_group_rates(attribute, comparison, label)
        figures[tag("2 gaps over epochs")] = plot_gap_history(attribute, history)
        if len(comparison["of"]) > 1:
            continue  # of intersections, the bars and the gaps say enough
        figures[tag("3 groups over epochs")] = plot_group_history(attribute, history, label)
        if label in comparison["scores"]:
            figures[tag("9 ROC and calibration")] = plot_roc(attribute, comparison, label)
            figures[tag("9 scores")] = plot_scores(attribute, comparison, label)
            figures[tag("9 thresholds")] = plot_thresholds(attribute, comparison, label)
    mark = "" if evaluation.covered_by_privacy_guarantee else f" ({NOT_COVERED})"
    for name, figure in figures.items():
        tf.summary.image(f"{name}{mark}", to_image(figure)[None])


def write_training_scalars(logs: Mapping[str, Any]) -> None:
    """What Keras's own loop says of the epoch; all but public settings come from training data."""
    for name, value in logs.items():
        if name in ("epsilon", "delta") or measured_elsewhere(name):
            continue
        if name == "learning_rate":
            tf.summary.scalar("5 training/learning rate", float(value))
            continue
        if name in _RELEASED:
            tag, description = _RELEASED[name]
            tf.summary.scalar(tag, float(value), description=description)
            continue
        if name.startswith(RELEASED):
            tf.summary.scalar(
                f"4 privacy/{name}",
                float(value),
                description="From noisy tables of training examples by group, which ε pays for.",
            )
            continue
        tf.summary.scalar(
            f"5 training/{marked(name)}",
            float(value),
            description="Computed from training examples without noise: the privacy guarantee "
            "does not cover it. Look, but do not publish.",
        )


def write_hparams(hparams: Mapping[str, Any]) -> None:
    """Names the run's settings on the hparams page."""
    from tensorboard.plugins.hparams import api

    plain = (bool, int, float, str)
    api.hparams({k: v if isinstance(v, plain) else str(v) for k, v in hparams.items()})
