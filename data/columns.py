"""A column of raw inputs with random access, wherever it lies.

Sources hand over a `Column`; nothing downstream asks whether it is an array in memory, files in a
folder or records on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Column(Protocol):
    """Raw inputs of examples, as `data.contracts.Examples.raw` describes them."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Returns the values at `indices`, int64 (k,), in that order."""
        ...


@dataclass(frozen=True)
class MemoryColumn:
    """Values held in memory.

    Args:
        values: Array whose first axis counts examples.
    """

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self.values[indices]


@dataclass(frozen=True)
class SelectedColumn:
    """Some values of another column, in a chosen order, without copying them.

    Args:
        base: The whole column.
        selection: int64 (n,), positions in `base`.
    """

    base: Column
    selection: np.ndarray

    def __len__(self) -> int:
        return len(self.selection)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self.base.take(self.selection[indices])


def unselected(column: Column) -> tuple[Column, np.ndarray]:
    """Returns the column that selections were made of, and the positions in it, int64 (n,)."""
    positions = np.arange(len(column), dtype=np.int64)
    while isinstance(column, SelectedColumn):
        positions = column.selection[positions]
        column = column.base
    return column, positions


def bytes_column(values: Sequence[bytes]) -> MemoryColumn:
    """Returns a column of byte strings (text or encoded images) as an object array (n,)."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return MemoryColumn(array)
