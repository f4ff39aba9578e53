"""CSV and JSONL files with named columns: a text column or numeric columns, a label, groups.

Promises: a column that is not there is a `SettingError` listing those that are; a row that cannot
be used is named by file and line; group columns never become features. With `data.cache: none`
every row is read once at the start, to check it and to find where it lies, and then let go.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.assets import sha256_of
from configs.schema.data import DataSettings, TableSettings
from configs.schema.errors import SettingError, require
from data.assembly import SPLITS, Rows, Source, assemble
from data.cells import as_group, as_label, as_number, as_text, read_cell
from data.columns import Column, MemoryColumn, bytes_column
from data.contracts import Dataset, Provenance
from data.faults import Faults
from data.records import (
    RecordFile,
    Row,
    Unreadable,
    existing_file,
    read_csv,
    read_jsonl,
    user_column,
)
from data.row_column import RowColumn

READERS = {"csv": read_csv, "jsonl": read_jsonl}


@dataclass
class _Columns:
    """The usable rows of a file, column by column: of the inputs the values, or where they lie."""

    holds_inputs: bool
    inputs: list[Any] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: dict[str, list[str | None]] = field(default_factory=dict)
    lines: array[int] = field(default_factory=lambda: array("q"))
    records: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    stops: array[int] = field(default_factory=lambda: array("q"))
    users: list[str] = field(default_factory=list)


def load(settings: DataSettings) -> Dataset:
    """Returns the dataset held by the files of `data.table`.

    Raises:
        SettingError: A file or column is not there, or the columns cannot be used together.
        UserError: A row cannot be used and `data.on_error` is `raise`.
    """
    table = settings.table
    _check(table, settings.user)
    read = READERS[settings.source]
    paths = {
        split: existing_file(f"data.table.{split}", getattr(table, split))
        for split in SPLITS
        if split == "train" or getattr(table, split) is not None
    }
    faults = Faults(skip=settings.on_error == "skip")
    rows = {
        split: _rows(
            split, read(path), table, settings.user, faults, holds_inputs=settings.cache == "memory"
        )
        for split, path in paths.items()
    }
    source = Source(
        name=paths["train"].stem,
        modality="text" if table.text else "features",
        provenance=_provenance(paths),
        input_shape=None if table.text else (len(table.features),),
    )
    return assemble(source, rows, settings, faults)


def _check(table: TableSettings, user: str | None) -> None:
    if bool(table.text) == bool(table.features):
        raise SettingError(
            "data.table.text", table.text, "exactly one of data.table.text and data.table.features"
        )
    inputs = {table.text, *table.features}
    require(
        table.label not in inputs, "data.table.label", table.label, "a column that is not an input"
    )
    for name in table.groups:
        require(name not in inputs, "data.table.groups", name, "a column that is not an input")
    require(
        user is None or user not in {*inputs, table.label},
        "data.user",
        user,
        "a column that is neither an input nor the label",
    )


def _rows(
    split: str,
    file: RecordFile,
    table: TableSettings,
    user: str | None,
    faults: Faults,
    *,
    holds_inputs: bool,
) -> Rows:
    user = user_column(split, file, user)
    file.require_columns(
        [
            *([("data.table.text", table.text)] if table.text else []),
            *(("data.table.features", name) for name in table.features),
            ("data.table.label", table.label),
            *(("data.table.groups", name) for name in table.groups),
        ]
    )
    columns = _Columns(holds_inputs, groups={name: [] for name in table.groups})
    input_of = _input_of(table)
    count = 0
    for row in file.stream():
        try:
            _append(columns, row, table, user, input_of)
            columns.records.append(count)
        except ValueError as problem:
            faults.add(split, f"{file.path}, row {row.line}", str(problem))
        count += 1
    return Rows(
        raw=_in_memory(table, columns.inputs)
        if holds_inputs
        else RowColumn(
            file,
            np.frombuffer(columns.starts, np.int64),
            np.frombuffer(columns.stops, np.int64),
            input_of,
            lambda inputs: _in_memory(table, inputs),
        ),
        labels=columns.labels,
        groups=columns.groups,
        place=lambda position: f"{file.path}, row {columns.lines[position]}",
        source=str(file.path),
        records=columns.records,
        record_count=count,
        users=columns.users if user else None,
    )


def _input_of(table: TableSettings) -> Callable[[Mapping[str, Any]], Any]:
    if table.text:
        text = table.text
        return lambda record: read_cell(as_text, record, text)
    return lambda record: [read_cell(as_number, record, name) for name in table.features]


def _append(
    columns: _Columns,
    row: Row,
    table: TableSettings,
    user: str | None,
    input_of: Callable[[Mapping[str, Any]], Any],
) -> None:
    """Adds a row, or raises `ValueError` having added nothing."""
    if isinstance(row.record, Unreadable):
        raise ValueError(row.record.problem)
    inputs = input_of(row.record)
    label = read_cell(as_label, row.record, table.label)
    groups = {name: read_cell(as_group, row.record, name) for name in table.groups}
    if columns.holds_inputs:
        columns.inputs.append(inputs)
    else:
        columns.starts.append(row.start)
        columns.stops.append(row.stop)
    if user:
        columns.users.append(sys.intern(read_cell(as_label, row.record, user)))
    # Interned: a name that thousands of rows share is held once.
    columns.labels.append(sys.intern(label))
    columns.lines.append(row.line)
    for name, value in groups.items():
        columns.groups[name].append(None if value is None else sys.intern(value))


def _in_memory(table: TableSettings, inputs: Sequence[Any]) -> Column:
    if table.text:
        return bytes_column(inputs)
    shape = (len(inputs), len(table.features))
    return MemoryColumn(np.array(inputs, np.float32).reshape(shape))


def _provenance(paths: Mapping[str, Path]) -> Provenance:
    content = {split: sha256_of(path) for split, path in paths.items()}
    return Provenance(
        source=", ".join(str(path) for path in paths.values()),
        sha256={str(path): content[split] for split, path in paths.items()},
        content=content,
    )
