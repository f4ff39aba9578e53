"""Counts by group, and the rates and gaps that follow from them.

Selection, true and false positive rates of a group depend on four counts only, so the same
functions turn both the observed counts and any number of bootstrap resamples of them into gaps:
every array here may carry a leading resample axis. Undefined values (0/0) are NaN in this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from scipy import sparse

RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")


@dataclass(frozen=True)
class GroupCounts:
    """How often each group has, and is given, each of some labels (each against the rest).

    Attributes:
        examples: (..., groups), examples of the group.
        selected: (..., groups, labels), of these, given the label.
        positives: (..., groups, labels), of these, truly of the label.
        hits: (..., groups, labels), both.
        right: (groups,), given their true label, whichever it is; None for resamples.
    """

    examples: np.ndarray
    selected: np.ndarray
    positives: np.ndarray
    hits: np.ndarray
    right: np.ndarray | None = None

    def of_groups(self, keep: np.ndarray) -> GroupCounts:
        """Returns the counts of the groups at indices `keep`."""
        return GroupCounts(
            self.examples[..., keep],
            self.selected[..., keep, :],
            self.positives[..., keep, :],
            self.hits[..., keep, :],
            None if self.right is None else self.right[keep],
        )

    def rates(self) -> dict[str, np.ndarray]:
        """Returns `RATES` -> float64 (..., groups, labels); NaN where nobody is counted."""
        examples = self.examples[..., None]
        return {
            "selection_rate": _divide(self.selected, examples),
            "true_positive_rate": _divide(self.hits, self.positives),
            "false_positive_rate": _divide(self.selected - self.hits, examples - self.positives),
        }

    def accuracy(self) -> np.ndarray:
        """Returns the share of each group given its true label, float64 (groups,)."""
        assert self.right is not None, "resamples do not count right answers"
        return _divide(self.right, self.examples)

    def gaps(self) -> dict[str, np.ndarray]:
        """Returns each gap's float64 (..., labels), as fairlearn defines it.

        Groups whose rate is undefined take no part in it; with fewer than two left, or a ratio
        of zeros, the gap is NaN.
        """
        differences, ratios = {}, {}
        for name, rate in self.rates().items():
            undefined = np.isnan(rate)
            highest = np.where(undefined, -np.inf, rate).max(axis=-2, initial=-np.inf)
            lowest = np.where(undefined, np.inf, rate).min(axis=-2, initial=np.inf)
            comparable = (~undefined).sum(axis=-2) >= 2
            highest, lowest = (np.where(comparable, x, np.nan) for x in (highest, lowest))
            differences[name] = highest - lowest
            ratios[name] = _divide(lowest, highest)
        return {
            "demographic_parity_difference": differences["selection_rate"],
            "demographic_parity_ratio": ratios["selection_rate"],
            "equalized_odds_difference": np.maximum(
                differences["true_positive_rate"], differences["false_positive_rate"]
            ),
            "equalized_odds_ratio": np.minimum(
                ratios["true_positive_rate"], ratios["false_positive_rate"]
            ),
        }


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)


def count_groups(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    group_count: int,
    counted_labels: np.ndarray,
) -> GroupCounts:
    """Counts the observed examples, disaggregated by fairlearn's MetricFrame.

    Args:
        labels: int (examples,), the truth.
        predicted: int (examples,), the answers.
        groups: int (examples,), in [0, group_count).
        group_count: Groups, those without an example included.
        counted_labels: int (labels,), the labels to set against the rest.

    Returns:
        int64 counts without a resample axis.
    """
    width = int(max(labels.max(), predicted.max(), counted_labels.max())) + 1

    def tally(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        truth, answer = np.asarray(y_true), np.asarray(y_pred)
        hits = truth[truth == answer]
        return np.stack([np.bincount(x, minlength=width) for x in (answer, truth, hits)])

    frame = MetricFrame(
        metrics=tally,
        y_true=labels,
        y_pred=predicted,
        sensitive_features=pd.Series(groups, name="group"),  # an array of one would be squeezed
    ).by_group
    tallies = np.zeros((group_count, 3, width), np.int64)
    for group, counts in frame.items():
        tallies[int(group)] = counts
    selected, positives, hits = np.moveaxis(tallies[:, :, counted_labels], 1, 0)
    return GroupCounts(
        examples=tallies[:, 1].sum(axis=-1),
        selected=selected,
        positives=positives,
        hits=hits,
        right=tallies[:, 2].sum(axis=-1),
    )


def resample_groups(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    group_count: int,
    counted_labels: np.ndarray,
    resamples: int,
    seed: int,
) -> GroupCounts:
    """Counts of bootstrap resamples of the split (Efron 1979).

    Drawing n examples with replacement and counting them in cells (group, truth, answer) is one
    multinomial draw of n over the cells' observed shares, so no resample is ever materialised.

    Args:
        labels: As in `count_groups`, like the next four.
        predicted: Same.
        groups: Same.
        group_count: Same.
        counted_labels: Same.
        resamples: Resamples drawn.
        seed: Same seed, same resamples.

    Returns:
        int64 counts with a leading axis of length `resamples`.
    """
    width = len(counted_labels)
    column = np.full(int(max(labels.max(), predicted.max(), counted_labels.max())) + 1, width)
    column[counted_labels] = np.arange(width)
    cells, sizes = np.unique(
        np.stack([groups, column[labels], column[predicted]]), axis=1, return_counts=True
    )
    drawn = np.random.default_rng(seed).multinomial(
        len(labels), sizes / len(labels), size=resamples
    )  # (resamples, cells)

    group, truth, answer = cells

    def total(chosen: np.ndarray, labels_of_cells: np.ndarray) -> np.ndarray:
        place = group[chosen] * width + labels_of_cells[chosen]
        indicator = sparse.csr_matrix(
            (np.ones(len(place), np.int64), (place, np.flatnonzero(chosen))),
            shape=(group_count * width, len(sizes)),
        )
        return (indicator @ drawn.T).T.reshape(resamples, group_count, width)

    everyone = sparse.csr_matrix(
        (np.ones(len(sizes), np.int64), (group, np.arange(len(sizes)))),
        shape=(group_count, len(sizes)),
    )
    return GroupCounts(
        examples=(everyone @ drawn.T).T,
        selected=total(answer < width, answer),
        positives=total(truth < width, truth),
        hits=total((truth == answer) & (truth < width), truth),
    )
