"""The examples of a TFDS split as rows, each read once, in the order in which they are stored.

Labels, groups and text are kept. Images stay on disk where the dataset is stored as array_record
(random access); otherwise they are kept in memory as encoded bytes, up to `MEMORY_LIMIT_BYTES`.
Images are not decoded up front: TFDS encoded them itself. With `data.cache: none` text stays on
disk as images do, and what is not stored as array_record is copied to `data.store`
(`data.sources.tfds_store`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema.data import DataSettings
from configs.schema.errors import UserError
from data.assembly import Rows
from data.columns import Column, SelectedColumn
from data.faults import Faults
from data.sources.tfds_features import Input, Reading, leaves, nested, value_at
from data.sources.tfds_store import RecordColumn, adding_to, store_of

MEMORY_LIMIT_BYTES = 8 << 30
_RECORDS_PER_READ = 128
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureMapping:
    """What of an example is used, and as what."""

    input: Input
    label: Reading
    groups: Mapping[str, Reading]
    user: Reading | None

    @property
    def paths(self) -> list[tuple[str, ...]]:
        readings = [self.label, *self.groups.values(), *([self.user] if self.user else [])]
        return [self.input.path, *(reading.path for reading in readings)]


def is_array_record(builder: Any) -> bool:
    """Whether a prepared dataset can be read at random."""
    import tensorflow_datasets as tfds

    return builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD


def rows_on_disk(
    split: str,
    builder: Any,
    expression: str,
    mapping: FeatureMapping,
    settings: DataSettings,
    faults: Faults,
) -> Rows:
    """Rows of a dataset that can be read at random: images stay where they are."""
    import tensorflow_datasets as tfds

    decoders: dict[str, Any] = {}
    for path, feature in leaves(builder.info.features).items():
        if isinstance(feature, tfds.features.Image):
            _merge(decoders, nested(path, tfds.decode.SkipDecoding()))
    records = builder.as_data_source(expression, decoders=decoders)
    examples = (
        example
        for first in range(0, len(records), _RECORDS_PER_READ)
        for example in records.__getitems__(
            list(range(first, min(first + _RECORDS_PER_READ, len(records))))
        )
    )
    if settings.tfds.image or settings.cache == "none":
        lazy = RecordColumn(records, mapping.input)
        return _rows(split, builder, expression, examples, mapping, lambda: lazy, faults)
    return _rows(split, builder, expression, examples, mapping, None, faults)


def rows_of_stream(
    split: str,
    builder: Any,
    expression: str,
    mapping: FeatureMapping,
    settings: DataSettings,
    faults: Faults,
) -> Rows:
    """Rows of a dataset that is read from its beginning to its end."""
    import tensorflow_datasets as tfds

    is_image = settings.tfds.image is not None
    if is_image and settings.cache == "memory":
        _log.info(
            "Holding the images of %s %s in memory; prepared with file_format=array_record they "
            "would stay on disk",
            builder.info.full_name,
            expression,
        )
    wanted: dict[str, Any] = {}
    for path in mapping.paths:
        _merge(wanted, nested(path, True))
    skipping = mapping.input.is_encoded and is_image
    decoders = nested(mapping.input.path, tfds.decode.SkipDecoding()) if skipping else None
    dataset = builder.as_dataset(
        split=expression,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(wanted, decoders=decoders),
        # Reading files one after the other is what keeps the stored order.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    examples = tfds.as_numpy(dataset)
    if settings.cache == "memory":
        return _rows(split, builder, expression, examples, mapping, None, faults)
    with store_of(settings, builder, expression, mapping.input) as writer:
        stored = adding_to(writer, examples, mapping.input)
        return _rows(
            split,
            builder,
            expression,
            stored,
            mapping,
            lambda: RecordColumn(writer.store(), mapping.input),
            faults,
        )


def _within_memory(
    examples: Iterable[Any], mapping: FeatureMapping, builder: Any, expression: str
) -> Iterable[Any]:
    held_bytes = 0
    for example in examples:
        value = value_at(example, mapping.input.path)
        held_bytes += len(value) if mapping.input.is_encoded else value.nbytes
        if held_bytes > MEMORY_LIMIT_BYTES:
            raise UserError(
                f"{builder.info.full_name} {expression} is stored as "
                f"{builder.info.file_format.value} and needs more than "
                f"{MEMORY_LIMIT_BYTES / 2**30:g} GiB of memory. Prepare it again with "
                "file_format='array_record', or name a part of it (train[:10%])"
            )
        yield example


def _rows(
    split: str,
    builder: Any,
    expression: str,
    examples: Iterable[Any],
    mapping: FeatureMapping,
    lazy: Callable[[], Column] | None,
    faults: Faults,
) -> Rows:
    place = _place(builder, expression)
    if lazy is None:
        examples = _within_memory(examples, mapping, builder, expression)
    kept: list[int] = []
    inputs: list[Any] = []
    labels: list[str] = []
    users: list[str] = []
    groups: dict[str, list[str | None]] = {name: [] for name in mapping.groups}
    count = 0
    for position, example in enumerate(examples):
        count += 1
        label = mapping.label.read(example)
        if label is None:
            faults.add(split, place(position), "has no label")
            continue
        if mapping.user:
            user = mapping.user.read(example)
            if user is None:
                faults.add(split, place(position), "names no user")
                continue
            users.append(user)
        kept.append(position)
        labels.append(label)
        if lazy is None:
            inputs.append(value_at(example, mapping.input.path))
        for name, group in mapping.groups.items():
            groups[name].append(group.read(example))
    return Rows(
        raw=mapping.input.column(inputs)
        if lazy is None
        else SelectedColumn(lazy(), np.array(kept, np.int64)),
        labels=labels,
        groups=groups,
        place=lambda position: place(kept[position]),
        source=f"{builder.info.full_name} {expression}",
        records=kept,
        record_count=count,
        users=users if mapping.user else None,
    )


def _place(builder: Any, expression: str) -> Callable[[int], str]:
    return lambda position: f"{builder.info.full_name} {expression}, example {position}"


def _merge(target: dict[str, Any], addition: Mapping[str, Any]) -> None:
    for key, value in addition.items():
        if isinstance(value, Mapping) and key in target:
            _merge(target[key], value)
        else:
            target[key] = value
