"""Fairness of more predictions than fit in memory: the same measures, batch by batch.

Tables of counts are sums, so they are added up as predictions go by, and everything that
`measure_fairness` measures follows from them; memory is that of the tables, however many
predictions there are. All
rates, gaps of rates, thresholds, intervals and p-values are exactly those of `measure_fairness` up
to the order of random draws. Scores are kept as histograms with about 1,200 bins, so ROC-AUC and
its kin are those of scores rounded to a bin: they differ by at most half the share of pairs that
fall into one bin.

Examples only, each of one known group: inferred groups and tokens need each example's own
contribution for honest intervals, which no bounded memory holds.

Example:
    ```python
    stream = StreamingFairness(("no", "yes"), {"sex": ("F", "M")})
    for batch in batches:
        stream.update(logits, labels, {"sex": sex_ids})
    stream.measure()["attributes"]["sex"]["gaps"]["demographic_parity_difference"]
    ```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.schema.errors import UserError
from configs.schema.evaluation import EvaluationSettings
from evaluation.fairness import histograms
from evaluation.fairness.definitions import INTERSECTION
from evaluation.fairness.evidence import Evidence, ScoreEvidence, Z
from evaluation.fairness.measure import MOST_SCORED_LABELS, describe, tracked_labels
from evaluation.fairness.membership import crossings
from evaluation.fairness.rates import CellLayout, divide
from evaluation.fairness.tables import GroupTable
from evaluation.predictions import Predictions


class StreamingFairness:
    """Measures fairness of predictions that come in batches.

    Args:
        label_names: Label values in index order.
        group_names: Attribute -> its value names in index order.
        settings: What is measured, and of whom.

    Raises:
        SettingError: For an attribute or a positive label that is not named.
    """

    def __init__(
        self,
        label_names: Sequence[str],
        group_names: Mapping[str, Sequence[str]],
        settings: EvaluationSettings | None = None,
    ):
        self._settings = settings or EvaluationSettings()
        self._label_names = tuple(label_names)
        self._group_names = {name: tuple(values) for name, values in group_names.items()}
        self._tracked = tracked_labels(self._label_names, self._settings)
        self._layout = CellLayout(self._tracked, len(self._label_names))
        scored: Sequence[int] | np.ndarray = self._tracked
        if len(self._tracked) > MOST_SCORED_LABELS:
            scored = ()
        self._tallies = [
            _Tally(crossed, self._group_names, self._layout, scored)
            for crossed in crossings(tuple(self._group_names), self._settings)
        ]

    def update(
        self, logits: np.ndarray, labels: np.ndarray, groups: Mapping[str, np.ndarray]
    ) -> None:
        """Adds a batch.

        Args:
            logits: (examples, classes).
            labels: int (examples,).
            groups: Attribute -> int (examples,).

        Raises:
            UserError: If the parts do not fit one another, or logits are not finite numbers.
        """
        missing = sorted(set(self._group_names) - set(groups))
        if missing:
            raise UserError(f"expected groups of {', '.join(missing)} with every batch")
        batch = Predictions(
            logits=np.asarray(logits),
            labels=np.asarray(labels),
            label_names=self._label_names,
            groups={name: np.asarray(groups[name]) for name in self._group_names},
            group_names=self._group_names,
            ids=np.arange(len(labels)),
            split="stream",
        )
        if not batch.has_finite_logits():
            raise UserError("expected logits that are finite numbers")
        cells = self._layout.cells(batch.labels, batch.predicted())
        logs = batch.log_probabilities()
        loss = -logs[np.arange(len(logs)), batch.labels]
        for tally in self._tallies:
            tally.add(batch, cells, loss, logs)

    def merge(self, other: StreamingFairness) -> None:
        """Adds what another stream of the same names and settings has counted.

        Raises:
            UserError: If the two do not count the same.
        """
        if (self._label_names, self._group_names, self._settings) != (
            other._label_names,
            other._group_names,
            other._settings,
        ):
            raise UserError("expected a stream of the same labels, groups and settings to merge")
        for mine, theirs in zip(self._tallies, other._tallies, strict=True):
            mine.merge(theirs)

    def measure(self) -> dict[str, Any]:
        """Returns what `measure_fairness` returns, of everything added so far.

        Raises:
            UserError: If nothing was added.
        """
        if not any(tally.answers.any() for tally in self._tallies):
            raise UserError("no predictions were added: nothing can be measured")
        return describe(
            (tally.evidence() for tally in self._tallies),
            self._label_names,
            self._tracked,
            self._settings,
        )


class _Tally:
    """Running sums of one attribute or intersection."""

    def __init__(
        self,
        crossed: tuple[str, ...],
        group_names: Mapping[str, tuple[str, ...]],
        layout: CellLayout,
        scored: Sequence[int] | np.ndarray,
    ):
        self._of, self._layout = crossed, layout
        self._sizes = [len(group_names[attribute]) for attribute in crossed]
        self._values = [group_names[attribute] for attribute in crossed]
        groups = int(np.prod(self._sizes))
        self._edges = histograms.edges_for_streams()
        self._bins = len(self._edges) - 1
        self.answers = np.zeros((groups, layout.size), np.int64)
        self._loss = np.zeros((2, groups))  # sums of losses and of their squares
        self._histograms = {
            int(label): np.zeros((groups, 2 * self._bins), np.int64) for label in scored
        }
        self._sums = {int(label): np.zeros((groups, histograms.COARSE_BINS)) for label in scored}

    def add(
        self, batch: Predictions, cells: np.ndarray, loss: np.ndarray, logs: np.ndarray
    ) -> None:
        group = np.ravel_multi_index([batch.groups[name] for name in self._of], self._sizes)
        _add_at(self.answers, group, cells)
        _add_at(self._loss.T, group, np.zeros(len(group), int), loss)
        _add_at(self._loss.T, group, np.ones(len(group), int), loss**2)
        coarse = histograms.coarse_of(self._edges)
        for label, histogram in self._histograms.items():
            scores = np.exp(logs[:, label])
            place = histograms.bins_of(scores, self._edges)
            _add_at(histogram, group, (batch.labels == label) * self._bins + place)
            _add_at(self._sums[label], group, coarse[place], scores)

    def merge(self, other: _Tally) -> None:
        self.answers += other.answers
        self._loss += other._loss
        for label in self._histograms:
            self._histograms[label] += other._histograms[label]
            self._sums[label] += other._sums[label]

    def evidence(self) -> Evidence:
        # Like `memberships`: an attribute lists its values, an intersection what occurs.
        shown = np.arange(len(self.answers))
        if len(self._of) > 1:
            shown = np.flatnonzero(self.answers.sum(axis=1))
        examples = self.answers.sum(axis=1)[shown].astype(float)
        mean = divide(self._loss[0, shown], examples)
        variance = np.maximum(divide(self._loss[1, shown], examples) - mean**2, 0.0)
        occupied = np.flatnonzero(self.answers.any(axis=0))
        return Evidence(
            of=self._of,
            names=tuple(self._name(group) for group in shown),
            soft=False,
            examples=examples,
            layout=self._layout,
            cells=occupied,
            answers=GroupTable(self.answers[np.ix_(shown, occupied)].astype(float)),
            loss=mean,
            loss_error=Z * np.sqrt(divide(variance, examples)),
            scores={label: self._of_scores(label, shown) for label in self._histograms},
        )

    def _of_scores(self, label: int, shown: np.ndarray) -> ScoreEvidence:
        table = self._histograms[label][shown].astype(float)
        histogram = table.reshape(len(shown), 2, self._bins)
        edges, sums = self._edges, self._sums[label][shown]
        return ScoreEvidence(edges, GroupTable(table), sums, histograms.areas(histogram))

    def _name(self, group: int) -> str:
        values = np.unravel_index(group, self._sizes)
        return INTERSECTION.join(
            names[value] for names, value in zip(self._values, values, strict=True)
        )


def _add_at(
    table: np.ndarray, row: np.ndarray, column: np.ndarray, weights: np.ndarray | None = None
) -> None:
    """Adds ones, or weights, into a table; many times faster than np.add.at."""
    rows, columns = table.shape
    added = np.bincount(row * columns + column, weights, rows * columns)
    table += added.reshape(rows, columns).astype(table.dtype)
