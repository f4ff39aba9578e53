"""Balanced sampling: batches in which every group (or group with label) is equally likely.

A small group's gradients drown in a batch that has few of its people. Drawing its people more often
is the mitigation of Kamiran & Calders 2012 ("preferential" and uniform sampling) and of Idrissi et
al. 2022 (arXiv:2110.14503, "Simple data balancing achieves competitive worst-group-accuracy").

Guarantees (what epsilon depends on):
    An example's cell is a function of its own group and label. What is done with cells differs:
    a private run draws by Poisson at public rates (`BalancedPoissonSampling`, which is part of its
    plan); a plain run deals quotas counted from the training examples (`BalancedSampler` here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.fairness.reweighing import public_table
from training.permutation import Permutation
from training.privacy.sampling.balanced_poisson import members_of
from training.randomness import Randomness


@dataclass(frozen=True)
class Balance:
    """Which cells are drawn alike.

    Attributes:
        attribute: The group attribute.
        groups: How many groups it has.
        labels: How many labels count beside the group: 1 where the group alone does.
        shares: Public share of each cell, group by group; none where no public counts are known.
    """

    attribute: str
    groups: int
    labels: int = 1
    shares: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls,
        what: str,
        attribute: str,
        counts: Mapping[str, Mapping[str, float]] | None,
        group_names: Sequence[str],
        label_names: Sequence[str],
    ) -> Balance:
        """What `fairness.balanced_sampling` asks for.

        Args:
            what: `group` or `group_and_label`.
            attribute: The group attribute.
            counts: Group -> label -> number of people, from a public source.
            group_names: The groups, in the order of their ids.
            label_names: The labels, likewise.

        Raises:
            SettingError: If a group or a label lacks its count, or a count is not positive.
        """
        labels = len(label_names) if what == "group_and_label" else 1
        if counts is None:
            return cls(attribute, len(group_names), labels)
        table = public_table(counts, group_names, label_names)
        people = (table if labels > 1 else table.sum(axis=1)).ravel()
        shares = tuple(float(share) for share in people / people.sum())
        return cls(attribute, len(group_names), labels, shares)

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self.groups * self.labels

    def cells_of(self, groups: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
        """Every example's cell, int64 (n,).

        Args:
            groups: Attribute -> int (n,).
            labels: int (n,).
        """
        cells = groups[self.attribute].astype(np.int64)
        return cells if self.labels == 1 else cells * self.labels + labels


@dataclass(frozen=True, eq=False)
class BalancedSampler:
    """For plain runs: every step as many examples of each cell, or one more.

    The places of all steps are dealt out to the cells in turn, and a cell fills its places from one
    random order of its people after another: nobody comes again before the whole cell has come. A
    cell without people is left out.

    Attributes:
        cells: The cell of every example, int (n,).
        batch_size: Examples of every step.
        randomness: Where the orders come from.
    """

    cells: np.ndarray
    batch_size: int
    randomness: Randomness
    _members: list[np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = members_of(self.cells, int(self.cells.max()) + 1)
        object.__setattr__(self, "_members", [members for members in found if len(members)])

    def draw(self, step: int) -> np.ndarray:
        """The examples of step `step`, int64 (batch_size,), in random order.

        Somebody of a cell with fewer people than places is in it more than once.
        """
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        count = len(self._members)
        drawn = [
            self._of_cell(number, places[places % count == number] // count)
            for number in range(count)
        ]
        order = self.randomness.generator("order within a balanced batch", step)
        return order.permutation(np.concatenate(drawn))

    def _of_cell(self, number: int, turns: np.ndarray) -> np.ndarray:
        """Who comes at these turns (ascending) of a cell."""
        members = self._members[number]
        rounds, places = np.divmod(turns, len(members))
        found = np.empty(len(turns), np.int64)
        for this in np.unique(rounds):
            order = Permutation(len(members), self.randomness, f"balanced cell {number}", int(this))
            found[rounds == this] = members[order.at(places[rounds == this])]
        return found
