"""Rows of text files: CSV and JSONL to records that know the line on which they start.

Promises: line numbers are those of a text editor, also after quoted fields that span lines; a row
that cannot be read becomes an `Unreadable` in its place and the rows after it are still read; an
empty CSV field and a JSON null both read as None. A file is streamed, never held, and each row says
which bytes it takes, so that it can be read again by itself.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from configs.schema.errors import SettingError, UserError, require


@dataclass(frozen=True)
class Unreadable:
    """Stands where a record should be.

    Attributes:
        problem: What is wrong, in words.
    """

    problem: str


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        line: Line on which it starts.
        start, stop: The bytes it takes.
        record: What it holds, or why it cannot be read.
    """

    line: int
    start: int
    stop: int
    record: Mapping[str, Any] | Unreadable


@dataclass(frozen=True)
class RecordFile:
    """The rows of one file.

    Attributes:
        path: The file.
        header: The columns, where the file names them once for all rows.
        parse: An open file, from the start of a row on, to the rows that follow.
        first: Where the first row starts, and on which line.
        identity: Size and time of change when it was opened.
    """

    path: Path
    header: tuple[str, ...] | None
    parse: Callable[[BinaryIO, int], Iterator[Row]]
    first: tuple[int, int]
    identity: tuple[int, int]

    def stream(self) -> Iterator[Row]:
        """Reads the file from its start, row by row."""
        offset, line = self.first
        with self.path.open("rb") as file:
            file.seek(offset)
            yield from self.parse(file, line)

    @property
    def rows(self) -> tuple[tuple[int, Mapping[str, Any] | Unreadable], ...]:
        """All rows at once: (line on which it starts, the record or why there is none)."""
        return tuple((row.line, row.record) for row in self.stream())

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that exist, in the order met."""
        if self.header is not None:
            return self.header
        return tuple(dict.fromkeys(self._met()))

    def _met(self) -> Iterator[str]:
        for row in self.stream():
            if not isinstance(row.record, Unreadable):
                yield from row.record

    def require_columns(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Checks that columns exist; reads no further than it must.

        Args:
            wanted: (dotted name of the setting, column it names).

        Raises:
            SettingError: A column is not there; the line lists those that are.
            UserError: No row can be read at all; the line names the first.
        """
        wanted = list(wanted)
        missing = {column for _, column in wanted}
        for column in self._met() if self.header is None else self.header:
            missing.discard(column)
            if not missing:
                return
        if not self.columns:
            self._refuse_unreadable()
        has = f"a column of {self.path}, which has {list(self.columns)}"
        if len(self.columns) == 1 and any(mark in self.columns[0] for mark in ";\t|"):
            has += " (columns are separated by commas)"
        for key, column in wanted:
            require(column not in missing, key, column, has)

    def _refuse_unreadable(self) -> None:
        for row in self.stream():
            if isinstance(row.record, Unreadable):
                raise UserError(f"{self.path}, row {row.line}: {row.record.problem}")
        raise UserError(f"{self.path}: expected rows, and it has none.")

    def read_again(self, spans: Iterable[tuple[int, int]]) -> list[Mapping[str, Any]]:
        """Returns the records that lie at (start, stop), in that order.

        Raises:
            UserError: The file is not what it was when it was opened.
        """
        records = []
        try:
            with self.path.open("rb") as file:
                unchanged = _identity(file) == self.identity
                for start, stop in spans:
                    file.seek(start)
                    row = next(self.parse(io.BytesIO(file.read(stop - start)), 1), None)
                    unchanged = unchanged and row is not None
                    if not unchanged or row is None or isinstance(row.record, Unreadable):
                        raise UserError(
                            f"{self.path}: changed while it was in use. Start again, and leave it "
                            "as it is."
                        )
                    records.append(row.record)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        return records


def _identity(file: BinaryIO) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def user_column(split: str, file: RecordFile, user: str | None) -> str | None:
    """The column of users in a split's file; None where there is none.

    Training rows must have it: steps draw users. Nothing reads others by user, so their file may
    do without; whoever protects users then has to say that it cannot tell them apart.

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
    """Opens a CSV file (RFC 4180, UTF-8, the first row names the columns).

    Raises:
        UserError: There is no header, it is no UTF-8 text, or it names a column twice.
    """
    # The default limit of 128 KiB a field is less than some documents.
    csv.field_size_limit(sys.maxsize)
    with path.open("rb") as file:
        identity = _identity(file)
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        lines = _Lines(file)
        _, _, header = next(_csv_rows(lines), (1, 0, []))
    if not isinstance(header, list) or not header:
        raise UserError(f"{path}: expected a first row naming the columns")
    if not _is_text(header):
        raise UserError(
            f"{path}: expected UTF-8 text, and its first row is none. Save it as CSV in UTF-8."
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: the first row names columns more than once: {repeated}")

    def parse(file: BinaryIO, line: int) -> Iterator[Row]:
        lines = _Lines(file, line)
        for line, start, row in _csv_rows(lines):
            yield Row(line, start, lines.offset, _csv_record(row, header))

    return RecordFile(path, tuple(header), parse, (lines.offset, lines.number), identity)


def read_jsonl(path: Path) -> RecordFile:
    """Opens a file of one JSON object a line (UTF-8); empty lines are passed over."""
    with path.open("rb") as file:
        identity = _identity(file)
    return RecordFile(path, None, _json_rows, (0, 1), identity)


class _Lines:
    """Lines of text of a binary file, which knows how far it was read.

    Bytes that are no UTF-8 survive as surrogates, so that only their own row is unreadable.

    Attributes:
        offset: Where the next line starts.
        number: The number of the next line.
    """

    def __init__(self, file: BinaryIO, number: int = 1):
        self._file, self.offset, self.number = file, file.tell(), number

    def __iter__(self) -> Iterator[str]:
        for block in self._file:
            # As Python's universal newlines do it, which end a line at a lone \r as well.
            for line in block.splitlines(keepends=True):
                self.offset += len(line)
                self.number += 1
                yield line.decode("utf-8", "surrogateescape")


def _csv_rows(lines: _Lines) -> Iterator[tuple[int, int, list[str] | Unreadable]]:
    """Yields (line on which a row starts, its first byte, the row)."""
    reader = csv.reader(lines, strict=True)
    while True:
        line, start = lines.number, lines.offset
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, start, Unreadable(f"not a CSV row ({error})")
            continue
        if row:
            yield line, start, row


def _json_rows(file: BinaryIO, line: int) -> Iterator[Row]:
    start = file.tell()
    for number, content in enumerate(file, start=line):
        stop = start + len(content)
        if content.strip():
            yield Row(number, start, stop, _json_record(content))
        start = stop


def _csv_record(row: list[str] | Unreadable, header: list[str]) -> Mapping[str, Any] | Unreadable:
    if isinstance(row, Unreadable):
        return row
    if len(row) != len(header):
        return Unreadable(f"{len(row)} fields where the header has {len(header)}")
    if not _is_utf8(row):
        return Unreadable("not UTF-8")
    return {name: value or None for name, value in zip(header, row, strict=True)}


def _is_utf8(row: list[str]) -> bool:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_text(header: list[str]) -> bool:
    # UTF-16 and spreadsheets' own files show by their NUL bytes.
    return _is_utf8(header) and not any("\0" in name for name in header)


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
