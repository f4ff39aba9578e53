"""The files that a user's pairs name, among those of the data: found, kept apart, looked at.

A file is known by what it is on the disk, whatever it is called: links to it are the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.errors import SettingError
from data.assembly import SPLITS, EncodedSplit
from data.columns import unselected
from data.contracts import Dataset, Split
from data.image_pairs import ImagePair, missing_image
from data.images import size_of

_WORKERS = os.cpu_count() or 1
_WINDOW = 1024 * _WORKERS
# Device and inode.
_Identity = tuple[int, int]


def files_of(split: Split) -> tuple[Any, np.ndarray]:
    """All files that were read with a split's, if files they are, and which are the split's."""
    assert isinstance(split, EncodedSplit), split.name  # every source ends there
    return unselected(split.raw)


@dataclass(frozen=True)
class _Sought:
    """The files that pairs name, whatever the data call them.

    Attributes:
        originals: The pairs whose original a file is, by number.
        counterparts: The pair whose counterpart it is.
        lengths: Of the counterparts, bytes.
    """

    originals: dict[_Identity, list[int]]
    counterparts: dict[_Identity, ImagePair]
    lengths: set[int]


def _sought(key: str, path: str, pairs: Sequence[ImagePair]) -> _Sought:
    """Refuses a counterpart that stands for several images."""
    sought = _Sought({}, {}, set())
    for number, pair in enumerate(pairs):
        found, _ = _identity(key, path, pair, pair.original)
        sought.originals.setdefault(found, []).append(number)
        found, length = _identity(key, path, pair, pair.counterfactual)
        other = sought.counterparts.setdefault(found, pair)
        if other is not pair:
            raise SettingError(
                key,
                str(pair.counterfactual),
                f"in row {pair.row} of {path} a counterpart of its own for every image; "
                f"row {other.row} has this one too",
            )
        sought.lengths.add(length)
    return sought


def matched(
    key: str, path: str, pairs: Sequence[ImagePair], dataset: Dataset
) -> tuple[list[list[tuple[int, int]]], list[str]]:
    """Finds the originals among all images that were read, and keeps counterparts out of them.

    Returns:
        Of each pair where its original is, (id of column, position in it), more than once where
        the data name it more than once; and the images of the data that are as long as some
        counterpart, and may be copies of it.
    """
    sought = _sought(key, path, pairs)
    columns = {}
    for name in SPLITS:
        column, _ = files_of(dataset.split(name))
        columns[id(column)] = column
    places: list[list[tuple[int, int]]] = [[] for _ in pairs]
    suspects = []
    for number_of_column, column in columns.items():
        for position, file in enumerate(column.paths):
            try:
                status = os.stat(file)
            except OSError:  # left out by data.on_error: skip
                continue
            found = (status.st_dev, status.st_ino)
            if found in sought.counterparts:
                raise an_example_itself(key, path, sought.counterparts[found], file)
            for number in sought.originals.get(found, ()):
                places[number].append((number_of_column, position))
            if status.st_size in sought.lengths:
                suspects.append(file)
    for pair, places_of_pair in zip(pairs, places, strict=True):
        if not places_of_pair:
            raise SettingError(
                key,
                str(pair.original),
                f"in row {pair.row} of {path} an original that is an image of the data",
            )
    return places, suspects


def _identity(key: str, path: str, pair: ImagePair, image: Path) -> tuple[_Identity, int]:
    """Which file it is, and its length."""
    try:
        if image.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        status = image.stat()
    except OSError as error:
        raise missing_image(key, path, pair, image, error) from error
    return (status.st_dev, status.st_ino), status.st_size


def an_example_itself(key: str, path: str, pair: ImagePair, example: str) -> SettingError:
    """The refusal of a counterpart that is an image of the data."""
    return SettingError(
        key,
        str(pair.counterfactual),
        f"in row {pair.row} of {path} an image that was made from its original alone; this one is "
        f"an example of its own ({example}), and a record is one example",
    )


def looked_at(key: str, path: str, pairs: Sequence[ImagePair]) -> list[str]:
    """Decodes both images of every pair, in parallel; SHA-256 of each counterpart's bytes."""

    def look(pair: ImagePair) -> str | SettingError:
        sizes, digest = [], ""
        for image in (pair.original, pair.counterfactual):
            try:
                content = image.read_bytes()
                sizes.append(size_of(content))
            except OSError as error:
                return missing_image(key, path, pair, image, error)
            except ValueError as problem:
                expected = f"in row {pair.row} of {path} an image that can be decoded; it is"
                return SettingError(key, str(image), f"{expected} {problem}")
            digest = hashlib.sha256(content).hexdigest()
        if sizes[0] != sizes[1]:
            (height, width), (its_height, its_width) = sizes
            # Stretching one of the two would leave traces by which to tell them apart.
            return SettingError(
                key,
                str(pair.counterfactual),
                f"in row {pair.row} of {path} an image of its original's {height} x {width} "
                f"pixels (height x width); it has {its_height} x {its_width}",
            )
        return digest

    digests: list[str] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        # Window by window: whatever is wrong is told before the rest is read.
        for start in range(0, len(pairs), _WINDOW):
            for found in pool.map(look, pairs[start : start + _WINDOW]):
                if isinstance(found, SettingError):
                    raise found
                digests.append(found)
    return digests
