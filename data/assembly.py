"""From what a source read to a dataset: labels and groups encoded, splits cut, limit applied.

Every source ends here, so that the same rules hold for all: label names come from the settings,
the source, or all rows of the training file; group names from every split; a split that the source
lacks is cut from train; examples that cannot be used are left out before anything is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from configs.schema.data import DataSettings
from configs.schema.errors import UserError, require
from data.columns import Column, SelectedColumn
from data.contracts import Dataset, DatasetInfo, Examples, Modality, Origin, Provenance
from data.cutting import choose, choose_users, cut, cut_by_user
from data.faults import Faults
from data.vocabulary import (
    ids_of_groups,
    ids_of_labels,
    ids_of_users,
    names_of_groups,
    names_of_labels,
)

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """What a source read of one split.

    Attributes:
        raw: Raw inputs.
        labels: Label of each row, as text.
        groups: Attribute -> value of each row, None where missing.
        place: Row position -> where a person finds the row ("people.csv, row 7").
        source: What holds them, for people ("people.csv").
        records: Number of each row's record in the source, from 0: rows that could not be used
            have one too.
        record_count: How many records the source has.
        users: User of each row; None where `data.user` is not set, or the split does not say.
    """

    raw: Column
    labels: Sequence[str]
    groups: Mapping[str, Sequence[str | None]]
    place: Callable[[int], str]
    source: str
    records: Sequence[int]
    record_count: int
    users: Sequence[str] | None = None


@dataclass(frozen=True)
class Source:
    """What a source knows of a dataset beyond its rows.

    Attributes:
        name: Short name.
        modality: Kind of raw input.
        provenance: Where it came from.
        label_names: Label values in index order, where the source fixes them.
        group_names: Attribute -> value names in index order, where the source fixes them.
        input_shape: Shape of one `features` vector.
        problems: Looks at the raw inputs of some examples and yields (position, problem) for each
            that cannot be decoded; called once per split on what the split will really hold.
    """

    name: str
    modality: Modality
    provenance: Provenance
    label_names: tuple[str, ...] | None = None
    group_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    problems: Callable[[Column], Iterable[tuple[int, str]]] | None = None


@dataclass(frozen=True)
class EncodedSplit:
    """A `data.contracts.Split` over a column of raw inputs and encoded labels and groups."""

    name: str
    info: DatasetInfo
    raw: Column
    labels: np.ndarray
    groups: Mapping[str, np.ndarray]
    users: np.ndarray | None = None
    origin: Origin | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> Examples:
        """Returns the examples at `indices`, int64 (k,), in that order."""
        return Examples(
            raw=self.raw.take(indices),
            labels=self.labels[indices],
            groups={name: ids[indices] for name, ids in self.groups.items()},
        )


@dataclass(frozen=True)
class _Encoded:
    """Usable examples of one split, while their number still changes."""

    raw: Column
    labels: np.ndarray
    groups: Mapping[str, np.ndarray]
    places: np.ndarray  # int64 (n,), positions among the rows that were read
    users: np.ndarray | None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, positions: np.ndarray) -> _Encoded:
        return _Encoded(
            SelectedColumn(self.raw, positions),
            self.labels[positions],
            {name: ids[positions] for name, ids in self.groups.items()},
            self.places[positions],
            None if self.users is None else self.users[positions],
        )


def assemble(
    source: Source, rows: Mapping[str, Rows], settings: DataSettings, faults: Faults
) -> Dataset:
    """Returns the dataset made of a source's rows.

    Args:
        source: What is known beyond the rows.
        rows: Split name -> its rows; `train` must be there, the others are cut from it where
            they are not.
        settings: The data settings: label names, fractions, seed, limit.
        faults: Where unusable examples are reported; may hold faults found while reading.

    Raises:
        SettingError: The settings leave no training example, or fewer than two labels.
        UserError: An example cannot be used and faults are not to be skipped.
    """
    label_names = _label_names(source, rows["train"], settings)
    group_names = _group_names(source, rows)
    users = ids_of_users({name: part.users for name, part in rows.items()})
    encoded = {
        name: _encode(name, part, label_names, group_names, users[name], faults)
        for name, part in rows.items()
    }
    origin = {name: name if name in rows else "train" for name in SPLITS}
    parts = _limited(_with_missing_splits(encoded, settings), settings)
    if source.problems is not None:
        for name, part in parts.items():
            place = rows[origin[name]].place
            parts[name] = _without_problems(name, part, source.problems, place, faults)
    if not len(parts["train"]):
        left_out = len(faults.lines.get("train", ()))
        raise UserError(
            f"The training split of {source.name} has no usable example ({left_out} were left out)"
        )
    faults.log()
    info = DatasetInfo(
        name=source.name,
        modality=source.modality,
        label_names=label_names,
        groups=group_names,
        provenance=source.provenance,
        input_shape=source.input_shape,
        skipped=faults.frozen(),
    )
    train, validation, test = (
        EncodedSplit(
            name,
            info,
            part.raw,
            part.labels,
            part.groups,
            part.users,
            _origin(origin[name], rows[origin[name]], part.places),
        )
        for name, part in ((name, parts[name]) for name in SPLITS)
    )
    return Dataset(info, train, validation, test)


def _origin(split: str, rows: Rows, places: np.ndarray) -> Origin:
    records = np.asarray(rows.records, np.int64)
    return Origin(split, rows.source, records[places], rows.record_count)


def _label_names(source: Source, train: Rows, settings: DataSettings) -> tuple[str, ...]:
    if settings.label_names is not None:
        return tuple(settings.label_names)
    names = source.label_names or names_of_labels(train.labels)
    if len(names) < 2:
        raise UserError(
            f"{train.source}: expected training rows of two labels or more, and they hold "
            f"{len(names)}: {list(names)}"
        )
    return names


def _group_names(source: Source, rows: Mapping[str, Rows]) -> dict[str, tuple[str, ...]]:
    return {
        attribute: names_of_groups(
            (value for part in rows.values() for value in part.groups[attribute]),
            first=source.group_names.get(attribute, ()),
        )
        for attribute in rows["train"].groups
    }


def _encode(
    name: str,
    rows: Rows,
    label_names: tuple[str, ...],
    group_names: Mapping[str, tuple[str, ...]],
    users: np.ndarray | None,
    faults: Faults,
) -> _Encoded:
    labels = ids_of_labels(rows.labels, label_names)
    for position in np.flatnonzero(labels < 0):
        problem = f"unknown label {rows.labels[position]!r}; known labels: {list(label_names)}"
        faults.add(name, rows.place(int(position)), problem)
    everything = _Encoded(
        rows.raw,
        labels,
        {
            attribute: ids_of_groups(values, group_names[attribute])
            for attribute, values in rows.groups.items()
        },
        np.arange(len(labels), dtype=np.int64),
        users,
    )
    return everything.select(np.flatnonzero(labels >= 0))


def _with_missing_splits(
    encoded: Mapping[str, _Encoded], settings: DataSettings
) -> dict[str, _Encoded]:
    fractions = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    shares = {name: share for name, share in fractions.items() if name not in encoded}
    require(
        sum(shares.values()) < 1.0,
        "data.validation_fraction",
        settings.validation_fraction,
        "together with data.test_fraction less than 1, so that training examples remain",
    )
    train = encoded["train"]
    cuts = (
        cut(len(train), shares, settings.split_seed)
        if train.users is None
        else cut_by_user(train.users, shares, settings.split_seed)
    )
    return {name: train.select(cuts[name]) if name in cuts else encoded[name] for name in SPLITS}


def _limited(parts: Mapping[str, _Encoded], settings: DataSettings) -> dict[str, _Encoded]:
    limit, train = settings.limit, len(parts["train"])
    if limit is None or limit >= train:
        return dict(parts)
    # In whole numbers, rounded up: exactly `limit` for train, and no split becomes empty.
    counts = {name: -(-limit * len(part) // train) for name, part in parts.items()}
    return {
        name: part.select(
            choose(len(part), counts[name], settings.split_seed)
            if part.users is None or not len(part)
            else choose_users(part.users, counts[name], settings.split_seed)
        )
        for name, part in parts.items()
    }


def _without_problems(
    name: str,
    part: _Encoded,
    problems: Callable[[Column], Iterable[tuple[int, str]]],
    place: Callable[[int], str],
    faults: Faults,
) -> _Encoded:
    usable = np.ones(len(part), dtype=bool)
    for position, problem in problems(part.raw):
        faults.add(name, place(int(part.places[position])), problem)
        usable[position] = False
    return part if usable.all() else part.select(np.flatnonzero(usable))
