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


def choose(rows: int, count: int, seed: int) -> np.ndarray:
    """Returns `count` of `rows` rows, chosen at random, as ascending int64 row numbers."""
    return np.sort(_shuffled(rows, seed)[:count])


def _shuffled(rows: int, seed: int) -> np.ndarray:
    # RandomState and not default_rng: only the former's streams are frozen for all time (NEP 19).
    return np.random.RandomState(seed).permutation(rows).astype(np.int64)
