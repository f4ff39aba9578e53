"""Rows of text files: CSV and JSONL to records that know the line on which they start.

Promises: line numbers are those of a text editor, also after quoted fields that span lines; a row
that cannot be read becomes an `Unreadable` in its place and the rows after it are still read; an
empty CSV field and a JSON null both read as None.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema.errors import SettingError, UserError, require


@dataclass(frozen=True)
class Unreadable:
    """Stands where a record should be.

    Attributes:
        problem: What is wrong, in words.
    """

    problem: str


@dataclass(frozen=True)
class RecordFile:
    """The rows of one file.

    Attributes:
        path: The file.
        columns: Names of the columns that exist, in the order met.
        rows: (line on which the row starts, the record or why there is none).
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, Any] | Unreadable], ...]

    def require_columns(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Checks that columns exist.

        Args:
            wanted: (dotted name of the setting, column it names).

        Raises:
            SettingError: A column is not there; the line lists those that are.
        """
        for key, column in wanted:
            require(
                column in self.columns,
                key,
                column,
                f"a column of {self.path}, which has {list(self.columns)}",
            )


def user_column(split: str, file: RecordFile, user: str | None) -> str | None:
    """The column of users in a split's file: training rows must have it, others may.

    Raises:
        SettingError: The training file does not have it.
    """
    if user is None or (split != "train" and user not in file.columns):
        return None
    file.require_columns([("data.user", user)])
    return user


def existing_file(key: str, value: str | None) -> Path:
    """Returns the path that a setting names.

    Raises:
        SettingError: There is no such file, or it may not be read.
    """
    path = Path(value or "").expanduser()
    if not value or not path.is_file() or not os.access(path, os.R_OK):
        raise SettingError(key, value, "an existing, readable file")
    return path


def read_csv(path: Path) -> RecordFile:
    """Reads a CSV file (RFC 4180, UTF-8, the first row names the columns).

    Raises:
        UserError: There is no header, or it names a column twice.
    """
    # The default limit of 128 KiB a field is less than some documents.
    csv.field_size_limit(sys.maxsize)
    # Bytes that are no UTF-8 survive as surrogates, so that only their own row is unreadable.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = _csv_rows(file)
        _, header = next(rows, (1, []))
        if not isinstance(header, list) or not header:
            raise UserError(f"{path}: expected a first row naming the columns")
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise UserError(f"{path}: the first row names columns more than once: {repeated}")
        records = tuple((line, _csv_record(row, header)) for line, row in rows)
    return RecordFile(path, tuple(header), records)


def read_jsonl(path: Path) -> RecordFile:
    """Reads a file of one JSON object a line (UTF-8); empty lines are passed over."""
    columns: dict[str, None] = {}
    rows: list[tuple[int, Mapping[str, Any] | Unreadable]] = []
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            if content.strip():
                record = _json_record(content)
                rows.append((line, record))
                columns.update(dict.fromkeys(() if isinstance(record, Unreadable) else record))
    return RecordFile(path, tuple(columns), tuple(rows))


def _csv_rows(file: Iterable[str]) -> Iterator[tuple[int, list[str] | Unreadable]]:
    reader = csv.reader(file, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, Unreadable(f"not a CSV row ({error})")
            continue
        if row:
            yield line, row


def _csv_record(row: list[str] | Unreadable, header: list[str]) -> Mapping[str, Any] | Unreadable:
    if isinstance(row, Unreadable):
        return row
    if len(row) != len(header):
        return Unreadable(f"{len(row)} fields where the header has {len(header)}")
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return Unreadable("not UTF-8")
    return {name: value or None for name, value in zip(header, row, strict=True)}


def _json_record(content: bytes) -> Mapping[str, Any] | Unreadable:
    try:
        record = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Unreadable("not UTF-8")
    except json.JSONDecodeError as error:
        return Unreadable(f"not JSON ({error.msg}, character {error.pos + 1})")
    except RecursionError:
        return Unreadable("not usable JSON (nested too deeply)")
    if not isinstance(record, dict):
        return Unreadable(f"a JSON {type(record).__name__} where an object was expected")
    return record
