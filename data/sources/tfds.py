"""Any TensorFlow Datasets dataset: by name, or from a prepared directory.

Promises: a mapping from the dataset's features (dots descend) to input, label and groups, checked
before examples are read (`data.sources.tfds_rows`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.schema.data import DataSettings, TfdsSettings
from configs.schema.errors import SettingError, UserError
from data.assembly import SPLITS, Source, assemble
from data.contracts import Dataset, Provenance
from data.faults import Faults
from data.fingerprints import sha256_of_files
from data.sources.tfds_features import (
    group_reading,
    image_input,
    label_reading,
    text_input,
    user_reading,
)
from data.sources.tfds_rows import FeatureMapping, is_array_record, rows_of_stream, rows_on_disk
from data.sources.tfds_store import require_store


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
    mapping = FeatureMapping(
        text_input(features, chosen.text)
        if chosen.text
        else image_input(features, chosen.image or ""),
        label_reading(features, chosen.label, chosen.label_threshold, settings.label_names),
        {name: group_reading(features, name) for name in chosen.groups},
        None if settings.user is None else user_reading(features, settings.user),
    )
    faults = Faults(skip=settings.on_error == "skip")
    on_disk = is_array_record(builder)
    if settings.cache == "none" and not on_disk:
        require_store(settings, builder)
    read = rows_on_disk if on_disk else rows_of_stream
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
