"""Lists of interchangeable terms, as recipes hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.schema.errors import SettingError


def require_word_lists(key: str, word_lists: Mapping[str, Any]) -> None:
    """Makes sure that every list is a path, or rows of as many terms as the first.

    Raises:
        SettingError: Naming the list that is neither.
    """
    for name, rows in word_lists.items():
        fits = isinstance(rows, str) or (
            isinstance(rows, list)
            and len(rows) >= 2
            and all(isinstance(row, list) and len(row) == len(rows[0]) >= 2 for row in rows)
        )
        if not fits:
            raise SettingError(
                f"{key}.{name}",
                rows,
                "the path of a CSV file, or rows of as many terms as the first, the header",
            )
