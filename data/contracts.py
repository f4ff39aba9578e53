"""What leaves the data room: batches, splits, and what is known about a dataset.

A **Batch** is a flat dict of tensors of fixed shapes, so that XLA and TPUs compile once:

=========  ==========================================  ====================================
key        value                                       meaning
=========  ==========================================  ====================================
`inputs`   dict of input name -> (batch, ...)          what the model is called with
`labels`   int32 (batch,)                              index into `DatasetInfo.label_names`
`groups`   dict of attribute -> int32 (batch,)         index into `DatasetInfo.groups[attribute]`
`mask`     bool (batch,)                               False where the row is padding
`ids`      int64 (batch,)                              position in the split; -1 where padding
=========  ==========================================  ====================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

# The position of a row that holds no example.
PADDING = -1

Modality = Literal["text", "image", "features"]


@dataclass(frozen=True)
class Provenance:
    """Where a dataset came from.

    Attributes:
        source: Human-readable origin (package, TFDS name, file path).
        version: Version of the source, "" where it has none.
        licence: Licence as the source states it, "unknown" where it does not.
        sha256: What was read (a file, a folder's images, a TFDS dataset) -> SHA-256 of its bytes.
        content: The same by what it is (the file or the images of a split) and not by where it
            lies. Filled only where every byte that an example can be made of is in it: then equal
            contents, read by equal settings, are equal examples. Empty of TFDS, where how records
            are to be read lies in files beside them, and of what comes with a package.
    """

    source: str
    version: str = ""
    licence: str = "unknown"
    sha256: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset, the same for all of its splits.

    Attributes:
        name: Short name.
        modality: `text` (UTF-8 strings), `image` (encoded bytes or uint8 arrays) or `features`
            (float32 vectors).
        label_names: Label values in index order.
        groups: Attribute -> its value names in index order. A missing value is a value of its
            own, named "unknown".
        input_shape: Shape of one `features` vector; None for text and images.
        provenance: Where it came from.
        skipped: Split name -> one line per example left out by `on_error: skip`.
    """

    name: str
    modality: Modality
    label_names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    provenance: Provenance
    input_shape: tuple[int, ...] | None = None
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """Some examples of a split, before any model-specific preprocessing.

    Attributes:
        raw: Text: object array (k,) of UTF-8 `bytes`. Image: object array (k,) of encoded
            `bytes` (PNG, JPEG, GIF, BMP) or uint8 (k, height, width, channels). Features:
            float32 (k, d).
        labels: int32 (k,).
        groups: Attribute -> int32 (k,).
    """

    raw: np.ndarray
    labels: np.ndarray
    groups: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Origin:
    """Which record of what was read each example of a split is.

    A file that says something of every record (who somebody probably is, say) fits every split that
    is cut from them, whatever was left out.

    Attributes:
        split: The source's own split that they were read from: `train` for what is cut from it.
        source: What holds it, for people: a file, a folder, a TFDS expression.
        records: int64 (n,), the number of each example's record, from 0.
        count: How many records there are, those of which no example was made included.
    """

    split: str
    source: str
    records: np.ndarray
    count: int

    def take(self, positions: np.ndarray) -> Origin:
        """Returns that of the examples at `positions`, int64 (k,)."""
        return replace(self, records=self.records[positions])


class Split(Protocol):
    """Random access to the examples of one split; the base of every kind of sampling.

    Attributes:
        name: `train`, `validation` or `test`.
        info: What is known about the dataset.
        labels: int32 (n,), always in memory, so that looking at labels reads no image.
        groups: Attribute -> int32 (n,), in memory like the labels.
        users: int64 (n,), which user each example belongs to, the same number in every split;
            None where the data name none. The users' names are kept nowhere.
        origin: Which record each example is; None where nothing else knows of any.
    """

    @property
    def name(self) -> str: ...

    @property
    def info(self) -> DatasetInfo: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def groups(self) -> Mapping[str, np.ndarray]: ...

    @property
    def users(self) -> np.ndarray | None: ...

    @property
    def origin(self) -> Origin | None: ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Examples:
        """Returns the examples at `indices`, int64 (k,), in that order."""
        ...


@dataclass(frozen=True)
class Dataset:
    """The three splits of a dataset."""

    info: DatasetInfo
    train: Split
    validation: Split
    test: Split

    def split(self, name: str) -> Split:
        return getattr(self, name)


Batch = dict[str, Any]
