"""What is known of one attribute's groups: everything that a comparison is computed from.

Evidence is gathered at once from `Predictions` (`gather`), or batch by batch (`streaming`). It
holds tables and sums only, so its size does not grow with the number of examples, except where
groups are inferred or examples have many tokens: there each example's contribution is kept for
the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from evaluation.fairness import histograms
from evaluation.fairness.definitions import CONFIDENCE
from evaluation.fairness.membership import Membership
from evaluation.fairness.rates import CellLayout, divide
from evaluation.fairness.tables import GroupTable, count_events
from evaluation.predictions import Predictions

Z = stats.norm.ppf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class ScoreEvidence:
    """How one label's scores are distributed.

    Attributes:
        edges: (bins + 1,), see `histograms`.
        table: (groups, 2 * bins), truth 0 then 1.
        sums: Sum of scores, (groups, coarse bins).
        areas: ROC-AUC, BPSN and BNSP AUC, each (groups,): exact where scores are at hand.
    """

    edges: np.ndarray
    table: GroupTable
    sums: np.ndarray
    areas: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """All that a comparison of one attribute's groups is computed from.

    Attributes:
        of: The attributes crossed.
        names: Names of the groups.
        soft: Whether membership is a probability.
        examples: (groups,), examples of each group (not tokens).
        layout: How cells are numbered.
        cells: int (cells,), the cells that columns of `answers` count.
        answers: Events by group and cell.
        loss: Mean cross-entropy in nats, (groups,); NaN where undefined.
        loss_error: Half the width of its interval, (groups,).
        scores: Index of a label -> its scores; empty where logits are not finite.
    """

    of: tuple[str, ...]
    names: tuple[str, ...]
    soft: bool
    examples: np.ndarray
    layout: CellLayout
    cells: np.ndarray
    answers: GroupTable
    loss: np.ndarray
    loss_error: np.ndarray
    scores: Mapping[int, ScoreEvidence]


@dataclass(frozen=True)
class Scored:
    """What every attribute's evidence needs of the events, computed once.

    Attributes:
        layout: How cells are numbered.
        cells: int (events,), the occupied cell of each event.
        occupied: int (cells,), the cells that occur.
        loss: float64 (events,); None where logits are not finite.
        scores: Index of a label -> probabilities, float64 (events,).
    """

    layout: CellLayout
    cells: np.ndarray
    occupied: np.ndarray
    loss: np.ndarray | None
    scores: Mapping[int, np.ndarray]


def score(events: Predictions, tracked: np.ndarray, scored_labels: np.ndarray) -> Scored:
    """Prepares events for `gather`.

    Args:
        events: One row each.
        tracked: int (labels,), labels set against the rest.
        scored_labels: Those of them whose scores are measured too.
    """
    layout = CellLayout(tracked, len(events.label_names))
    occupied, cells = np.unique(
        layout.cells(events.labels, events.predicted()), return_inverse=True
    )
    if not events.has_finite_logits():
        return Scored(layout, cells.reshape(-1), occupied, None, {})
    logs = events.log_probabilities()
    loss = -logs[np.arange(len(logs)), events.labels]
    scores = {int(label): np.exp(logs[:, label]) for label in scored_labels}
    return Scored(layout, cells.reshape(-1), occupied, loss, scores)


def gather(events: Predictions, scored: Scored, membership: Membership) -> Evidence:
    """Gathers the evidence of one attribute."""
    groups, count = membership.groups, len(membership.names)
    example_of = events.example_of

    def table(cells: np.ndarray, size: int) -> GroupTable:
        return count_events(cells, size, groups, count, example_of)

    loss, error = np.full(count, np.nan), np.full(count, np.nan)
    if scored.loss is not None:
        loss, error = _mean_loss(scored.loss, membership.shares(), example_of)
    return Evidence(
        of=membership.of,
        names=membership.names,
        soft=membership.soft,
        examples=_examples(membership, example_of),
        layout=scored.layout,
        cells=scored.occupied,
        answers=table(scored.cells, len(scored.occupied)),
        loss=loss,
        loss_error=error,
        scores={
            label: _of_scores(values, events.labels == label, membership, table)
            for label, values in scored.scores.items()
        },
    )


def _of_scores(
    values: np.ndarray,
    truth: np.ndarray,
    membership: Membership,
    table: Callable[[np.ndarray, int], GroupTable],
) -> ScoreEvidence:
    edges = histograms.edges_of(values)
    bins = len(edges) - 1
    place = histograms.bins_of(values, edges)
    coarse = histograms.coarse_of(edges)[place]
    summed = sparse.csr_matrix(
        (values, (coarse, np.arange(len(values)))), shape=(histograms.COARSE_BINS, len(values))
    )
    return ScoreEvidence(
        edges=edges,
        table=table(truth * bins + place, 2 * bins),
        sums=np.asarray(summed @ membership.shares()).T,
        areas=_areas(values, truth, membership),
    )


def _areas(scores: np.ndarray, truth: np.ndarray, membership: Membership) -> dict[str, np.ndarray]:
    """The exact areas, by scikit-learn; the background of a group is everyone else."""
    count = len(membership.names)
    found = {name: np.full(count, np.nan) for name in ("roc_auc", "bpsn_auc", "bnsp_auc")}
    for group in range(count):
        inside = (
            membership.groups[:, group] if membership.soft else (membership.groups == group) * 1.0
        )
        outside = 1 - inside
        for name, positive, negative in (
            ("roc_auc", inside, inside),
            ("bpsn_auc", outside, inside),
            ("bnsp_auc", inside, outside),
        ):
            weights = np.where(truth, positive, negative)
            kept = weights > 0
            if truth[kept].any() and not truth[kept].all():
                found[name][group] = roc_auc_score(
                    truth[kept], scores[kept], sample_weight=weights[kept]
                )
    return found


def _mean_loss(
    loss: np.ndarray, shares: np.ndarray, example_of: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean by group and half its interval, by linearising the ratio of sums over examples."""
    weight = shares.sum(axis=0)
    mean = divide(shares.T @ loss, weight)
    residuals = shares * (loss[:, None] - np.where(np.isnan(mean), 0.0, mean))
    if example_of is not None:
        by_example = np.zeros((int(example_of.max()) + 1, shares.shape[1]))
        np.add.at(by_example, example_of, residuals)
        residuals = by_example
    return mean, Z * divide(np.sqrt((residuals**2).sum(axis=0)), weight)


def _examples(membership: Membership, example_of: np.ndarray | None) -> np.ndarray:
    shares = membership.shares()
    if example_of is not None:
        _, first = np.unique(example_of, return_index=True)
        shares = shares[first]
    return shares.sum(axis=0)
