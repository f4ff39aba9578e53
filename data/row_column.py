"""Inputs that lie in a file of rows, read row by row when asked for.

Promises: two whole numbers a row are all that is held, however long rows are; what is read is what
reading the whole file would have given; a file that has changed meanwhile is an error naming it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.columns import Column
from data.records import RecordFile


@dataclass(frozen=True)
class RowColumn:
    """Some rows of a file as a column.

    Args:
        file: The file.
        starts: int64 (n,), first byte of each row.
        stops: int64 (n,), the byte after its last.
        input_of: A record to its raw input.
        column_of: Raw inputs to a column in memory.
    """

    file: RecordFile
    starts: np.ndarray
    stops: np.ndarray
    input_of: Callable[[Mapping[str, Any]], Any]
    column_of: Callable[[Sequence[Any]], Column]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Returns the inputs at `indices`, int64 (k,), in that order.

        Raises:
            UserError: The file has changed since it was opened, or is gone.
        """
        spans = zip(self.starts[indices].tolist(), self.stops[indices].tolist(), strict=True)
        inputs = [self.input_of(record) for record in self.file.read_again(spans)]
        return self.column_of(inputs).take(np.arange(len(inputs)))
