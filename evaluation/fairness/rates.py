"""Rates and gaps as arithmetic on tables of counts.

A table counts events by group and *cell*: which label an event has and which it was given. All
rates of a group are quotients of a few sums over its cells, so one set of functions serves the
observed table, any number of bootstrap resamples or permutations of it (every array may carry
leading axes), tables summed up batch by batch, and tables of probabilities where membership of a
group is uncertain. Undefined values (0/0) are NaN in this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from evaluation.fairness.definitions import ACCURACY, GAPS

_NOTHING = 1e-9  # below any count, above the rounding error of summed probabilities


@dataclass(frozen=True)
class CellLayout:
    """Numbers the cells (true label, given label) of a task, for some labels against the rest.

    Labels that are not tracked share one column, so that a task of a thousand labels with one
    positive label has few cells; whether such an event is right is a cell of its own.

    Attributes:
        tracked: int (labels,), indices of the labels to be set against the rest.
        classes: Labels of the task.
    """

    tracked: np.ndarray
    classes: int

    @property
    def width(self) -> int:
        """Columns: the tracked labels, and one for the rest."""
        return len(self.tracked) + 1

    @property
    def size(self) -> int:
        """Number of cells."""
        return 2 * self.width**2

    def cells(self, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Returns the cell of each event, int64 (events,)."""
        column = np.full(self.classes, len(self.tracked))
        column[self.tracked] = np.arange(len(self.tracked))
        return 2 * (column[labels] * self.width + column[answers]) + (labels == answers)

    def truth(self, cells: np.ndarray) -> np.ndarray:
        """Returns the true label's column of each cell."""
        return cells // 2 // self.width

    def answer(self, cells: np.ndarray) -> np.ndarray:
        """Returns the given label's column of each cell."""
        return cells // 2 % self.width

    def counts(self, table: np.ndarray, cells: np.ndarray) -> GroupCounts:
        """Sums a table up.

        Args:
            table: (..., groups, cells).
            cells: int (cells,), the cell that each column of the table counts.
        """
        truth, answer, right = self.truth(cells), self.answer(cells), cells % 2 == 1
        return GroupCounts(
            examples=table.sum(axis=-1),
            selected=self._by_label(table, answer, np.ones(len(cells), bool)),
            positives=self._by_label(table, truth, np.ones(len(cells), bool)),
            hits=self._by_label(table, truth, truth == answer),
            right=table[..., right].sum(axis=-1),
        )

    def _by_label(self, table: np.ndarray, column: np.ndarray, counted: np.ndarray) -> np.ndarray:
        chosen = np.flatnonzero(counted & (column < len(self.tracked)))
        indicator = sparse.csr_matrix(
            (np.ones(len(chosen)), (chosen, column[chosen])),
            shape=(table.shape[-1], len(self.tracked)),
        )
        flat = table.reshape(-1, table.shape[-1]) @ indicator
        return np.asarray(flat).reshape(*table.shape[:-1], len(self.tracked))


@dataclass(frozen=True)
class GroupCounts:
    """How often each group has, and is given, each of some labels (each against the rest).

    Attributes:
        examples: (..., groups), events of the group.
        selected: (..., groups, labels), of these, given the label.
        positives: (..., groups, labels), of these, truly of the label.
        hits: (..., groups, labels), both.
        right: (..., groups), given their true label, whichever it is.
    """

    examples: np.ndarray
    selected: np.ndarray
    positives: np.ndarray
    hits: np.ndarray
    right: np.ndarray

    def of_groups(self, keep: np.ndarray) -> GroupCounts:
        """Returns the counts of the groups at indices `keep`."""
        return GroupCounts(
            self.examples[..., keep],
            self.selected[..., keep, :],
            self.positives[..., keep, :],
            self.hits[..., keep, :],
            self.right[..., keep],
        )

    def fractions(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns each rate's numerator and denominator, (..., groups, labels)."""
        everyone = np.broadcast_to(self.examples[..., None], self.selected.shape)
        right = np.broadcast_to(self.right[..., None], self.selected.shape)
        wrongly = self.selected - self.hits
        return {
            "selection_rate": (self.selected, everyone),
            "true_positive_rate": (self.hits, self.positives),
            "false_positive_rate": (wrongly, everyone - self.positives),
            "precision": (self.hits, self.selected),
            "false_discovery_rate": (wrongly, self.selected),
            "false_omission_rate": (self.positives - self.hits, everyone - self.selected),
            ACCURACY: (right, everyone),
        }

    def rates(self) -> dict[str, np.ndarray]:
        """Returns `RATES` and accuracy -> float64 (..., groups, labels); NaN for nobody."""
        return {name: divide(*fraction) for name, fraction in self.fractions().items()}

    def accuracy(self) -> np.ndarray:
        """Returns the share of each group given its true label, float64 (..., groups)."""
        return divide(self.right, self.examples)

    def gaps(self) -> dict[str, np.ndarray]:
        """Returns each of `GAPS`, float64 (..., labels), as fairlearn defines it.

        Groups whose rate is undefined take no part in it; with fewer than two left, or a ratio
        of zeros, the gap is NaN.
        """
        differences, ratios = {}, {}
        for name, rate in self.rates().items():
            lowest, highest = extremes(rate, axis=-2)
            differences[name] = highest - lowest
            ratios[name] = divide(lowest, highest)
        return {
            name: np.maximum.reduce([differences[rate] for rate in gap.rates])
            if gap.kind == "difference"
            else np.minimum.reduce([ratios[rate] for rate in gap.rates])
            for name, gap in GAPS.items()
        }


def extremes(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and greatest of the defined values; NaN where fewer than two are."""
    undefined = np.isnan(values)
    highest = np.where(undefined, -np.inf, values).max(axis=axis, initial=-np.inf)
    lowest = np.where(undefined, np.inf, values).min(axis=axis, initial=np.inf)
    comparable = (~undefined).sum(axis=axis) >= 2
    return np.where(comparable, lowest, np.nan), np.where(comparable, highest, np.nan)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides; NaN where the denominator counts nobody."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > _NOTHING)
