"""Lists of interchangeable terms, and texts with one group's terms put for another's.

A list is a table: a column per group, a row per term (`he,she` under `male,female`). Turning a
text towards a group replaces every term of another group by the same row's term of that group, all
in one pass, whole words only, keeping capitals. A term that stands in several rows goes by the
first: with `him,her` above `his,her`, her becomes him. A term that belongs to the group already
stays, so some sentences come out unidiomatic; a list is a probe, no translator. Turning a text by
so many columns replaces all terms at once, each by another.

Evaluation asks with it whether answers change; training shows models the texts so changed.

Source: Garg, Perot, Limtiaco, Taly, Chi, Beutel 2019, "Counterfactual Fairness in Text
Classification through Robustness" (token substitution); Lu, Mardziel, Wu, Amancharla, Datta 2018,
"Gender Bias in Neural Natural Language Processing" (swapping by bidirectional lists).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.schema.errors import SettingError, require_once_each


@dataclass(frozen=True)
class WordList:
    """Interchangeable terms.

    Attributes:
        groups: Name of each column.
        rows: Terms, one a column.
    """

    groups: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def towards(self, text: str, group: int) -> str:
        """Returns `text` with every other group's terms replaced by those of column `group`."""
        own = {row[group].lower() for row in self.rows}
        replacements: dict[str, str] = {}
        for row in self.rows:
            for column, term in enumerate(row):
                if column != group and term.lower() not in own:
                    replacements.setdefault(term.lower(), row[group])
        return _replaced(text, replacements)

    def turned(self, text: str, by: int) -> str:
        """Returns `text` with every term replaced by that of `by` columns on, round and round.

        With two columns it is the swap: he becomes she and she becomes he.
        """
        replacements: dict[str, str] = {}
        for row in self.rows:
            for column, term in enumerate(row):
                replacements.setdefault(term.lower(), row[(column + by) % len(row)])
        return _replaced(text, replacements)


def _replaced(text: str, replacements: Mapping[str, str]) -> str:
    if not replacements:
        return text
    return _pattern(tuple(replacements)).sub(
        lambda found: _in_case_of(found[0], replacements[found[0].lower()]), text
    )


@lru_cache(maxsize=64)
def _pattern(terms: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(terms, key=lambda term: (-len(term), term))
    return re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", flags=re.IGNORECASE
    )


def read_word_list(key: str, source: Any) -> WordList:
    """Reads a list from a CSV file, or from the recipe itself.

    Args:
        key: Name of the setting, for errors.
        source: A path, or rows of which the first is the header.

    Raises:
        SettingError: If the file cannot be read, the header names a group twice, a row is of
            another length than the header, or a term is empty.
    """
    rows = _rows_of_file(key, source) if isinstance(source, str) else source
    rows = [[str(term).strip() for term in row] for row in rows]
    if len(rows) < 2 or len(rows[0]) < 2:
        raise SettingError(key, source, "a header of two groups or more, and a row of terms")
    require_once_each(key, rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]) or not all(row):
            raise SettingError(
                key, row, f"{len(rows[0])} terms in row {number}, as many as the header has"
            )
    return WordList(tuple(rows[0]), tuple(tuple(row) for row in rows[1:]))


def _rows_of_file(key: str, path: str) -> Sequence[Sequence[str]]:
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(key, path, f"a CSV file of terms ({error})") from error


def _in_case_of(found: str, replacement: str) -> str:
    if len(found) > 1 and found.isupper():
        return replacement.upper()
    if found[0].isupper():
        return replacement[0].upper() + replacement[1:]
    return replacement
