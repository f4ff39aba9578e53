"""Tables of events by group and cell: the observed one, its bootstrap, its permutations.

Everything that fairness measures is arithmetic on such tables, so uncertainty is computed by
drawing tables, never by drawing examples one by one. What is drawn is always the *example*: the
tokens of a sentence come and go together (a cluster bootstrap), because they are not independent.

Where each example is one event of one group, a table says all there is: a bootstrap resample is
one multinomial draw over its entries, a permutation is a random table of the same margins. Both
cost the same for a thousand examples and for a billion. Otherwise the table is drawn through the
examples' own contributions.

Sources: Efron 1979 (bootstrap); Patefield 1981 (random tables of given margins, through scipy);
Kallus, Mao, Zhou 2022, "Assessing Algorithmic Fairness with Unobserved Protected Class Using Data
Combination", and Chen, Kallus, Mao, Svacha, Udell 2019, "Fairness Under Unawareness" (weighted
estimator for inferred groups).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

_NUMBERS_PER_CHUNK = 4_000_000  # of 8 bytes: what one chunk of drawn tables may hold


@dataclass(frozen=True)
class Contributions:
    """What each example adds to a table, where it is more than one entry.

    Attributes:
        cells: sparse (examples, cells), events of each example.
        groups: float (examples, groups), its share in each group.
        single: Whether each example is exactly one event.
    """

    cells: sparse.csr_matrix
    groups: np.ndarray
    single: bool


@dataclass(frozen=True)
class GroupTable:
    """Events by group and cell.

    Attributes:
        table: float64 (groups, cells).
        contributions: None where each example is one event of one group.
    """

    table: np.ndarray
    contributions: Contributions | None = None

    def of_groups(self, keep: np.ndarray) -> GroupTable:
        """Returns the table of the groups at indices `keep`."""
        if self.contributions is None:
            return GroupTable(self.table[keep])
        groups = self.contributions.groups[:, keep]
        members = np.flatnonzero(groups.sum(axis=1) > 0)
        return GroupTable(
            self.table[keep],
            Contributions(
                self.contributions.cells[members], groups[members], self.contributions.single
            ),
        )

    def resamples(self, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yields bootstrap resamples, float64 (some, groups, cells), `count` in all."""
        for size in self._chunks(count):
            if self.contributions is None:
                yield _multinomial(self.table, size, rng)
            else:
                examples = len(self.contributions.groups)
                drawn = rng.integers(0, examples, (size, examples))
                times = np.stack([np.bincount(row, minlength=examples) for row in drawn])
                yield self._add_up(
                    self.contributions.groups[:, None, :] * times.T[:, :, None],
                    self.contributions.cells,
                )

    def permutations(
        self, count: int, stratum: np.ndarray, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """Yields tables as they would be if groups were exchangeable within each stratum.

        Where an example is several events, its events lie in several strata; groups are then
        exchanged between whole examples, whatever their strata, which tests the stronger
        hypothesis that the group has no part in the example's labels and answers at all.

        Args:
            count: How many in all.
            stratum: int (cells,).
            rng: The source of randomness.

        Yields:
            float64 (some, groups, cells).
        """
        for size in self._chunks(count):
            if self.contributions is None:
                yield _random_tables(self.table, stratum, size, rng)
            else:
                yield self._permuted(stratum, size, rng)

    def _permuted(self, stratum: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        assert self.contributions is not None
        cells, groups = self.contributions.cells, self.contributions.groups
        examples = len(groups)
        of_example = np.zeros(examples, np.int64)
        if self.contributions.single:
            of_example = stratum[cells.indices]
        order = np.argsort(of_example, kind="stable")
        shuffled = np.empty((examples, size), np.int64)
        for column in range(size):
            # A stable sort by stratum of a random order shuffles within each stratum.
            random_order = rng.permutation(examples)
            within = random_order[np.argsort(of_example[random_order], kind="stable")]
            shuffled[order, column] = within
        return self._add_up(groups[shuffled], cells)

    def _add_up(self, weights: np.ndarray, cells: sparse.csr_matrix) -> np.ndarray:
        """Sums (examples, tables, groups) weights into (tables, groups, cells)."""
        examples, tables, groups = weights.shape
        total = cells.T @ weights.reshape(examples, tables * groups)
        return np.asarray(total).T.reshape(tables, groups, cells.shape[1])

    def _chunks(self, count: int) -> Iterator[int]:
        largest = self.table.size
        if self.contributions is not None:
            largest += self.contributions.groups.size
        at_once = max(1, _NUMBERS_PER_CHUNK // max(1, largest))
        for start in range(0, count, at_once):
            yield min(at_once, count - start)


def count_events(
    cells: np.ndarray,
    cell_count: int,
    groups: np.ndarray,
    group_count: int,
    example_of: np.ndarray | None,
) -> GroupTable:
    """Counts events.

    Args:
        cells: int (events,).
        cell_count: Number of cells.
        groups: int (events,), or the shares float (events, groups) of uncertain membership.
        group_count: Number of groups, those without an event included.
        example_of: int (events,), which example an event belongs to; None where each is its own.
    """
    if groups.ndim == 1 and example_of is None:
        entries = np.bincount(groups * cell_count + cells, minlength=group_count * cell_count)
        return GroupTable(entries.reshape(group_count, cell_count).astype(np.float64))
    single = example_of is None
    example = np.arange(len(cells)) if example_of is None else example_of
    occurring, example = np.unique(example, return_inverse=True)
    first = np.zeros(len(occurring), np.int64)
    first[example[::-1]] = np.arange(len(example))[::-1]
    shares = groups[first] if groups.ndim == 2 else np.eye(group_count)[groups[first]]
    by_example = sparse.csr_matrix(
        (np.ones(len(cells)), (example, cells)), shape=(len(occurring), cell_count)
    )
    return GroupTable(
        np.asarray((by_example.T @ shares).T), Contributions(by_example, shares, single)
    )


def _multinomial(table: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    occupied = np.flatnonzero(table)
    shares = table.ravel()[occupied]
    total = round(float(shares.sum()))
    drawn = np.zeros((size, table.size))
    drawn[:, occupied] = rng.multinomial(total, shares / shares.sum(), size=size)
    return drawn.reshape(size, *table.shape)


def _random_tables(
    table: np.ndarray, stratum: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    drawn = np.zeros((size, *table.shape))
    for value in np.unique(stratum):
        columns = np.flatnonzero((stratum == value) & (table.sum(axis=0) > 0))
        rows = table[:, columns].sum(axis=1).round().astype(np.int64)
        present = np.flatnonzero(rows)
        if len(columns) == 0:
            continue
        if len(columns) == 1 or len(present) == 1:
            drawn[:, :, columns] = table[:, columns]
            continue
        margins = stats.random_table(
            rows[present], table[:, columns].sum(axis=0).round().astype(np.int64), seed=rng
        )
        drawn[np.ix_(np.arange(size), present, columns)] = margins.rvs(size, method="patefield")
    return drawn
