"""Inputs of a TFDS dataset that are read when a batch needs them.

Where the dataset is stored as array_record, they are read from there. A dataset stored otherwise is
a stream; under `data.cache: none` its inputs are copied once to `data.store`, and every later start
compares what the stream gives with what is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.data import DataSettings
from configs.schema.errors import require
from data.sources.tfds_features import Input, nested, value_at
from data.store import StoreWriter


@dataclass(frozen=True)
class RecordColumn:
    """Inputs read from disk when asked for.

    Args:
        records: Random access to examples: a TFDS data source or an `ExampleStore`.
        input: Which feature is the input.
    """

    records: Any
    input: Input

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: np.ndarray) -> np.ndarray:
        examples = self.records.__getitems__([int(index) for index in indices])
        values = [value_at(example, self.input.path) for example in examples]
        if self.input.is_encoded:
            values = [np.asarray(value, object)[()] for value in values]
        return self.input.column(values).take(np.arange(len(values)))


def require_store(settings: DataSettings, builder: Any) -> None:
    """Checks that a stream has somewhere to be copied to.

    Raises:
        SettingError: `data.store` is not set.
    """
    require(
        bool(settings.store),
        "data.store",
        settings.store,
        f"with data.cache: none a directory to copy {builder.info.full_name} to, because "
        f"{builder.info.file_format.value} cannot be read at random; or the dataset prepared with "
        "file_format='array_record'",
    )


def store_of(settings: DataSettings, builder: Any, expression: str, chosen: Input) -> StoreWriter:
    """Returns a writer to the place of one split's inputs below `data.store`.

    Raises:
        UserError: Other examples are there.
    """
    feature = ".".join(chosen.path)
    name = f"{builder.info.full_name} {expression} {feature}"
    folder = Path(settings.store or "").expanduser() / re.sub(r"[^A-Za-z0-9.]+", "-", name)
    return StoreWriter(folder, f"TFDS {name}", again=True)


def adding_to(writer: StoreWriter, examples: Iterable[Any], chosen: Input) -> Iterator[Any]:
    """Yields the examples, and adds the input of each to the store."""
    for example in examples:
        writer.add(nested(chosen.path, value_at(example, chosen.path)))
        yield example
