"""One value of a record to text, number, label or group.

Every function takes what a CSV field or a JSON value can be (None where missing) and raises
`ValueError` with a few words that complete the sentence "column 'age' ...".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
_MISSING = "is empty"


def as_text(cell: Any) -> bytes:
    """Returns text as UTF-8."""
    if cell is None:
        raise ValueError(_MISSING)
    if not isinstance(cell, str):
        raise ValueError(f"is not text: {cell!r}")
    try:
        return cell.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid Unicode") from error


def as_number(cell: Any) -> float:
    """Returns a number that float32 holds."""
    if cell is None:
        raise ValueError(_MISSING)
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"is not a number: {cell!r}") from error
    if not abs(number) <= np.finfo(np.float32).max:
        raise ValueError(f"is not a finite float32 number: {cell!r}")
    return number


def as_label(cell: Any) -> str:
    """Returns a label's name; JSON's true reads `true`, its 3 reads `3`."""
    name = as_group(cell)
    if name is None:
        raise ValueError(_MISSING)
    return name


def as_group(cell: Any) -> str | None:
    """Returns a group value's name, None where missing."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, (int, float)):
        return str(cell)
    raise ValueError(f"is neither text nor a number: {cell!r}")


def read_cell(convert: Callable[[Any], T], record: Mapping[str, Any], column: str) -> T:
    """Converts one value of a record; the `ValueError` of a bad one names the column."""
    try:
        return convert(record.get(column))
    except ValueError as problem:
        raise ValueError(f"column {column!r} {problem}") from problem
