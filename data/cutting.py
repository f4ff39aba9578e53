"""Which rows belong to which split, from a seed alone.

Promises: the parts are disjoint and cover every row; each keeps its rows in their original order;
the same seed and number of rows give the same parts on every machine and every NumPy.
"""

from __future__ import annotations

import numpy as np


def cut(rows: int, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Cuts parts off `rows` rows at random.

    Args:
        rows: Number of rows to divide.
        shares: Part name -> share of the rows, rounded to whole rows.
        seed: Seed of the division.

    Returns:
        Part name -> ascending int64 row numbers, and what is left under `train`.
    """
    order = _shuffled(rows, seed)
    parts, start = {}, 0
    for name, share in shares.items():
        stop = min(rows, start + round(share * rows))
        parts[name] = np.sort(order[start:stop])
        start = stop
    parts["train"] = np.sort(order[start:])
    return parts


def cut_by_user(users: np.ndarray, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """The same, with all rows of a user in one part.

    Args:
        users: int64 (n,), whose row each is.
        shares: Part name -> share of the users, rounded to whole users.
        seed: Seed of the division.
    """
    present, of_row = np.unique(users, return_inverse=True)
    return {
        name: np.flatnonzero(np.isin(of_row, chosen)).astype(np.int64)
        for name, chosen in cut(len(present), shares, seed).items()
    }


def choose(rows: int, count: int, seed: int) -> np.ndarray:
    """Returns `count` of `rows` rows, chosen at random, as ascending int64 row numbers."""
    return np.sort(_shuffled(rows, seed)[:count])


def choose_users(users: np.ndarray, count: int, seed: int) -> np.ndarray:
    """All rows of users chosen at random, at most `count` rows unless one user alone has more.

    Args:
        users: int64 (n,), whose row each is.
        count: Rows wanted.
        seed: Seed of the choice.

    Returns:
        Ascending int64 row numbers, of at least one user.
    """
    present, of_row, rows = np.unique(users, return_inverse=True, return_counts=True)
    order = _shuffled(len(present), seed)
    fitting = int((np.cumsum(rows[order]) <= count).sum())
    return np.flatnonzero(np.isin(of_row, order[: max(1, fitting)])).astype(np.int64)


def _shuffled(rows: int, seed: int) -> np.ndarray:
    # RandomState and not default_rng: only the former's streams are frozen for all time (NEP 19).
    return np.random.RandomState(seed).permutation(rows).astype(np.int64)
