"""Values to ids: labels and group attributes as indices into a fixed, readable list of names.

Promises: the order of names depends on the set of values only, never on the order of rows; a
missing group value is a value of its own, named `unknown` and listed last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

UNKNOWN = "unknown"


def names_of_labels(values: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct values, whole numbers by size and everything else alphabetically."""
    return tuple(_in_order(set(values)))


def names_of_groups(values: Iterable[str | None], first: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the distinct values in order, with `unknown` last where a value is missing.

    Args:
        values: One value per example, None where missing.
        first: Names that a source fixes; they come first, in their own order, used or not.
    """
    distinct = {UNKNOWN if value is None else value for value in values} - set(first)
    last = [UNKNOWN] if UNKNOWN in distinct else []
    return (*first, *_in_order(distinct - {UNKNOWN}), *last)


def ids_of_labels(values: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Returns int32 (n,), positions in `names`; -1 where a value is not among them."""
    index = {name: position for position, name in enumerate(names)}
    return np.array([index.get(value, -1) for value in values], dtype=np.int32)


def ids_of_groups(values: Sequence[str | None], names: Sequence[str]) -> np.ndarray:
    """Returns int32 (n,), positions in `names`, a missing value being `unknown`.

    Raises:
        KeyError: A value is not among the names.
    """
    index = {name: position for position, name in enumerate(names)}
    return np.array([index[UNKNOWN if value is None else value] for value in values], np.int32)


def ids_of_users(parts: Mapping[str, Sequence[str] | None]) -> dict[str, np.ndarray | None]:
    """Numbers users over all splits, in alphabetical order, so that their names can be forgotten.

    Args:
        parts: Split name -> the user of each row; None where the split names none.

    Returns:
        Split name -> int64 (n,), None likewise.
    """
    names = sorted({user for users in parts.values() for user in users or ()})
    index = {name: position for position, name in enumerate(names)}
    return {
        split: None if users is None else np.array([index[user] for user in users], np.int64)
        for split, users in parts.items()
    }


def _in_order(values: set[str]) -> list[str]:
    try:
        return sorted(values, key=lambda value: (int(value), value))
    except ValueError:
        return sorted(values)
