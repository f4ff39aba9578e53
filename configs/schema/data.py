"""Settings of the `data` section: which examples, and how their columns are to be read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, Optional

from configs.schema.errors import require, require_once_each


@dataclass(frozen=True)
class TableSettings:
    """Files of rows with named columns (CSV or JSONL).

    Attributes:
        train: File of training rows.
        validation: File of validation rows; none cuts `validation_fraction` from train.
        test: File of test rows; none cuts `test_fraction` from train.
        text: Column holding the input text.
        features: Numeric columns forming the input vector (instead of `text`).
        label: Column holding the label.
        groups: Columns holding group attributes; they never reach the model.
    """

    train: Optional[str] = None
    validation: Optional[str] = None
    test: Optional[str] = None
    text: Optional[str] = None
    features: list[str] = field(default_factory=list)
    label: str = "label"
    groups: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_once_each("data.table.features", self.features)
        require_once_each("data.table.groups", self.groups)


@dataclass(frozen=True)
class ImageFolderSettings:
    """Images on disk: a class per sub-folder, or a CSV of path, label and groups.

    Attributes:
        train: Folder of training images (a sub-folder per class), or a CSV file. PNG, JPEG,
            GIF (first frame) and BMP.
        validation: As `train`; none cuts `validation_fraction` from train.
        test: As `train`; none cuts `test_fraction` from train.
        path: With a CSV, the column of image paths (relative to the CSV).
        label: With a CSV, the column of labels.
        groups: With a CSV, the columns of group attributes.
    """

    train: Optional[str] = None
    validation: Optional[str] = None
    test: Optional[str] = None
    path: str = "path"
    label: str = "label"
    groups: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_once_each("data.image_folder.groups", self.groups)


@dataclass(frozen=True)
class TfdsSettings:
    """A TensorFlow Datasets dataset, from the hub or a prepared directory.

    Attributes:
        name: Dataset name, for example `civil_comments` or `glue/sst2`.
        directory: Prepared dataset directory (`tfds.builder_from_directory`), instead of `name`.
        data_dir: Where named datasets are prepared; none is TFDS's own default.
        train: Split expression of the training examples.
        validation: Split expression; none cuts `validation_fraction` from train.
        test: Split expression; none cuts `test_fraction` from train.
        text: Feature holding the input text.
        image: Feature holding the input image (instead of `text`).
        label: Feature holding the label; dots descend into nested features. A float feature
            needs `label_threshold`.
        label_threshold: Turns a numeric label into two: `0` below the threshold, `1` from it on
            (or, in this order, the two `data.label_names`).
        groups: Features holding group attributes, dotted like `label`; a float feature is split
            at 0.5.
    """

    name: Optional[str] = None
    directory: Optional[str] = None
    data_dir: Optional[str] = None
    train: str = "train"
    validation: Optional[str] = None
    test: Optional[str] = "test"
    text: Optional[str] = None
    image: Optional[str] = None
    label: str = "label"
    label_threshold: Optional[float] = None
    groups: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_once_each("data.tfds.groups", self.groups)


@dataclass(frozen=True)
class DataSettings:
    """Which examples to use.

    Attributes:
        source: Where examples come from; `census` and `digits` are embedded. Of `census`,
            validation is cut from the 32,561 training rows; `validation_fraction: 0` trains on
            all of them.
        table: Settings of the `csv` and `jsonl` sources.
        image_folder: Settings of the `image_folder` source.
        tfds: Settings of the `tfds` source.
        user: What names the user (person, device, household) whom an example belongs to: a column
            of `csv`, `jsonl`, `census` or the CSV of an `image_folder`, a (dotted) feature of
            `tfds`, or `folder` for the sub-folder within a class's of an `image_folder`. It never
            reaches the model. Splits are then cut user by user, and `privacy.unit: user` protects
            each of them.
        label_names: Label values in index order; none takes them, sorted, from the training rows.
        validation_fraction: Share of train cut off as validation where a source has none; of its
            users, where `user` is set.
        test_fraction: Share of train cut off as test where a source has none; likewise.
        split_seed: Seed of those cuts.
        on_error: `raise` stops at a corrupt image, unreadable row or unknown label, naming file
            and row; `skip` leaves it out, counts it and reports it.
        cache: What is held in memory. `memory` prepares texts and vectors once and keeps them;
            `none` holds labels and groups alone, and reads and prepares an example when a batch
            needs it. The batches are the same to the last bit.
        store: With `cache: none`, a directory to which examples that cannot be read at random
            (TFDS data stored as tfrecord) are copied at the start.
        service: `grpc://HOST:PORT` of a tf.data service (`sterling data-service`) that reads and
            decodes the training images; none does it in the trainer. For `image_folder`: what
            other sources hold is read by Python or kept in memory. The batches are the same.
        limit: Use at most this many training examples (and a proportionate share of the other
            splits, rounded up), chosen by `split_seed`; for trying things out. Where `user` is set,
            whole users, as many as fit.
        asset_dir: Where `make assets` unpacked the embedded data and weights; none looks at
            STERLING_ASSETS, then `assets/` beside this program.
    """

    source: Literal["census", "digits", "csv", "jsonl", "image_folder", "tfds"] = "census"
    table: TableSettings = field(default_factory=TableSettings)
    image_folder: ImageFolderSettings = field(default_factory=ImageFolderSettings)
    tfds: TfdsSettings = field(default_factory=TfdsSettings)
    user: Optional[str] = None
    label_names: Optional[list[str]] = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    on_error: Literal["raise", "skip"] = "raise"
    cache: Literal["memory", "none"] = "memory"
    store: Optional[str] = None
    service: Optional[str] = None
    limit: Optional[int] = None
    asset_dir: Optional[str] = None

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"data.{name}", value, "a share in [0, 1)")
        names = self.label_names
        require(
            names is None or len(set(names)) == len(names) >= 2,
            "data.label_names",
            names,
            "two or more different names",
        )
        require(
            self.service is None
            or re.fullmatch(r"grpc://[^/:]+:\d{1,5}", self.service) is not None,
            "data.service",
            self.service,
            "grpc://HOST:PORT, or null",
        )
        require(
            self.service is None or self.source == "image_folder",
            "data.service",
            self.service,
            "data.source: image_folder, or null: what other sources hold is read by Python or kept "
            "in memory, and a service has nothing to do",
        )
        require(
            self.limit is None or self.limit > 0, "data.limit", self.limit, "a whole number > 0"
        )
