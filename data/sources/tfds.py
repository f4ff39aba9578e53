"""Any TensorFlow Datasets dataset: by name, or from a prepared directory.

Promises: a mapping from the dataset's features (dots descend) to input, label and groups, checked
before examples are read; examples in the order in which they are stored. Labels, groups and text
are read once and kept. Images stay on disk where the dataset is stored as array_record (random
access); otherwise they are kept in memory as encoded bytes, up to `MEMORY_LIMIT_BYTES`. Images are
not decoded up front: TFDS encoded them itself. With `data.cache: none` text stays on disk as images
do, and what is not stored as array_record is copied to `data.store` (`data.sources.tfds_store`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.data import DataSettings, TfdsSettings
from configs.schema.errors import SettingError, UserError
from data.assembly import SPLITS, Rows, Source, assemble
from data.columns import Column, SelectedColumn
from data.contracts import Dataset, Provenance
from data.faults import Faults
from data.fingerprints import sha256_of_files
from data.sources.tfds_features import (
    Input,
    Reading,
    group_reading,
    image_input,
    label_reading,
    leaves,
    nested,
    text_input,
    user_reading,
    value_at,
)
from data.sources.tfds_store import RecordColumn, adding_to, require_store, store_of

MEMORY_LIMIT_BYTES = 8 << 30
_RECORDS_PER_READ = 128
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Mapping:
    """What of an example is used, and as what."""

    input: Input
    label: Reading
    groups: Mapping[str, Reading]
    user: Reading | None

    @property
    def paths(self) -> list[tuple[str, ...]]:
        readings = [self.label, *self.groups.values(), *([self.user] if self.user else [])]
        return [self.input.path, *(reading.path for reading in readings)]


def load(settings: DataSettings) -> Dataset:
    """Returns the dataset of `data.tfds`.

    Raises:
        SettingError: A dataset, split or feature is not there, or a feature cannot be used so.
        UserError: The dataset cannot be prepared or does not fit in memory, or an example has no
            label and `data.on_error` is `raise`.
    """
    chosen = settings.tfds
    if bool(chosen.text) == bool(chosen.image):
        raise SettingError(
            "data.tfds.text", chosen.text, "exactly one of data.tfds.text and data.tfds.image"
        )
    builder = _builder(chosen)
    splits = {name: getattr(chosen, name) for name in SPLITS if getattr(chosen, name) is not None}
    _check_splits(builder, splits)
    features = builder.info.features
    mapping = _Mapping(
        text_input(features, chosen.text)
        if chosen.text
        else image_input(features, chosen.image or ""),
        label_reading(features, chosen.label, chosen.label_threshold, settings.label_names),
        {name: group_reading(features, name) for name in chosen.groups},
        None if settings.user is None else user_reading(features, settings.user),
    )
    faults = Faults(skip=settings.on_error == "skip")
    on_disk = _is_array_record(builder)
    if settings.cache == "none" and not on_disk:
        require_store(settings, builder)
    read = _rows_on_disk if on_disk else _rows_of_stream
    rows = {
        name: read(name, builder, expression, mapping, settings, faults)
        for name, expression in splits.items()
    }
    source = Source(
        name=builder.info.full_name,
        modality="text" if chosen.text else "image",
        provenance=Provenance(
            source=f"TFDS {builder.info.full_name}",
            version=str(builder.info.version),
            licence=builder.info.redistribution_info.license or "unknown",
            sha256={builder.info.full_name: _digest(builder, splits.values())},
        ),
        label_names=mapping.label.names,
        group_names={name: group.names or () for name, group in mapping.groups.items()},
    )
    return assemble(source, rows, settings, faults)


def _builder(chosen: TfdsSettings) -> Any:
    if bool(chosen.name) == bool(chosen.directory):
        raise SettingError(
            "data.tfds.name", chosen.name, "exactly one of data.tfds.name and data.tfds.directory"
        )
    import tensorflow_datasets as tfds

    if chosen.directory:
        folder = Path(chosen.directory).expanduser()
        if not (folder / "dataset_info.json").is_file():
            raise SettingError(
                "data.tfds.directory",
                chosen.directory,
                "a prepared TFDS directory (the one that holds dataset_info.json)",
            )
        return tfds.builder_from_directory(folder)
    try:
        builder = tfds.builder(chosen.name, data_dir=chosen.data_dir)
        if not builder.is_prepared():
            # array_record can be read at random, so images need not be held in memory.
            builder = tfds.builder(
                chosen.name, data_dir=chosen.data_dir, file_format="array_record"
            )
            builder.download_and_prepare()
    except tfds.core.registered.DatasetNotFoundError as error:
        raise SettingError("data.tfds.name", chosen.name, "a dataset that TFDS knows") from error
    except Exception as error:
        # Preparing runs each dataset's own code and its downloads: they may raise anything.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"TFDS could not prepare {chosen.name}: {reason}") from error
    return builder


def _digest(builder: Any, expressions: Iterable[str]) -> str:
    """What the dataset is known again by: the record files of the splits that are used."""
    files = {
        path.name: path
        for expression in expressions
        for path in builder.info.splits[expression].filepaths
    }
    return sha256_of_files(files.items())


def _check_splits(builder: Any, splits: Mapping[str, str]) -> None:
    for name, expression in splits.items():
        try:
            builder.info.splits[expression]
        except (KeyError, ValueError) as error:
            raise SettingError(
                f"data.tfds.{name}",
                expression,
                f"a split of {builder.info.full_name}, which has {list(builder.info.splits)}"
                + ("" if name == "train" else ", or null to cut one from train"),
            ) from error


def _is_array_record(builder: Any) -> bool:
    import tensorflow_datasets as tfds

    return builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD


def _rows_on_disk(
    split: str,
    builder: Any,
    expression: str,
    mapping: _Mapping,
    settings: DataSettings,
    faults: Faults,
) -> Rows:
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


def _rows_of_stream(
    split: str,
    builder: Any,
    expression: str,
    mapping: _Mapping,
    settings: DataSettings,
    faults: Faults,
) -> Rows:
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
    examples: Iterable[Any], mapping: _Mapping, builder: Any, expression: str
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
    mapping: _Mapping,
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
