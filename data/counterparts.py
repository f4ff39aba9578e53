"""Counterparts of training images: the user's pairs, each image's own, to be shown in its place.

Promises: an example's counterparts are files that belong to it alone. That is what makes (image,
counterparts, label) one record, whose removal takes its counterparts along, and on it rests that
versions cost no epsilon (`training.fairness.versions`). So an image of the data, of whatever split
or under another name, is nobody's counterpart, and a file is the counterpart of one image at most.
And every image that has any has as many, a number taken as public, so that nobody's versions depend
on anybody else's.
What no program can see is whether a counterpart was *made* from its original alone: one that a
generator made which was trained on these people, or that borrows another person's face, carries
others along, and epsilon does not cover them.

A pair of a validation or test image, or of one that `data.limit` left out, is evaluation's affair:
it is not shown in training, and counted in the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from configs.assets import sha256_of
from configs.schema.errors import SettingError
from data.assembly import SPLITS, EncodedSplit
from data.columns import unselected
from data.contracts import Dataset, Modality, Split
from data.image_pairs import ImagePair, missing_image, read_image_pairs
from data.images import ImageFileColumn, size_of

_log = logging.getLogger(__name__)
_WORKERS = os.cpu_count() or 1
_WINDOW = 1024 * _WORKERS
# A file, whatever it is called: links to it are the same.
_Identity = tuple[int, int]


@dataclass(frozen=True)
class Counterparts:
    """The images that may stand in a training image's place, of the same height and width.

    Attributes:
        of: int64 (changed,), ascending: the training example that each is a counterpart of.
        paths: Their files, in the same order.
        digest: SHA-256 over whose they are and all of their bytes.
    """

    modality: ClassVar[Modality] = "image"
    of: np.ndarray
    paths: tuple[str, ...]
    digest: str

    @classmethod
    def read(cls, key: str, path: str, dataset: Dataset) -> Counterparts:
        """Reads the pairs and decodes those of training images.

        Args:
            key: Name of the setting, for errors.
            path: CSV file, as `data.image_pairs.read_image_pairs` takes it.
            dataset: Image files.

        Raises:
            SettingError: If an image is missing or damaged, an original is in no split or none is
                in training, a counterpart is an image of the data, or another image's counterpart
                too, or of another size than its original, or some images have more than others.
        """
        if not isinstance(_files_of(dataset.train)[0], ImageFileColumn):
            raise SettingError(
                key,
                path,
                f"null, or data.source: image_folder: images of {dataset.info.name} are no files "
                "that a pair could name",
            )
        pairs = read_image_pairs(key, path)
        places, suspects = _matched(key, path, pairs, dataset)
        column, selection = _files_of(dataset.train)
        train = {(id(column), int(place)): position for position, place in enumerate(selection)}
        used = sorted(
            (train[place], pair.row, pair)
            for pair, places_of_pair in zip(pairs, places, strict=True)
            for place in places_of_pair
            if place in train
        )
        if not used:
            raise SettingError(key, path, "pairs of training images; it has none")
        _require_as_many(key, path, [(position, pair) for position, _, pair in used])
        digests = _looked_at(key, path, [pair for _, _, pair in used])
        copies = {digest: pair for digest, (_, _, pair) in zip(digests, used, strict=True)}
        for suspect in suspects:
            pair_of_copy = copies.get(sha256_of(Path(suspect)))
            if pair_of_copy is not None:
                raise _an_example_itself(key, path, pair_of_copy, suspect)
        left_out = len(pairs) - len({row for _, row, _ in used})
        _log.info(
            "%s: %d training images have counterparts; %d pairs of other images are left out.",
            key,
            len({position for position, _, _ in used}),
            left_out,
        )
        whose = [(position, digest) for (position, _, _), digest in zip(used, digests, strict=True)]
        return cls(
            np.array([position for position, _, _ in used], np.int64),
            tuple(str(pair.counterfactual) for _, _, pair in used),
            hashlib.sha256(json.dumps(whose).encode()).hexdigest(),
        )

    @property
    def count(self) -> int:
        """Versions of an example: the original, and its counterparts; public."""
        return 1 + int(np.bincount(self.of).max())

    @property
    def sha256(self) -> dict[str, str]:
        """Tells pairs apart by what they show, wherever they lie."""
        return {"image pairs": self.digest}

    def applied_to(self, split: Split) -> tuple[Split, np.ndarray]:
        """As `data.versions.Versions.applied_to`; no image is read.

        An example without counterparts is itself in every version.

        Args:
            split: The training split that the pairs were read for.
        """
        files, selection = _files_of(split)
        own = [files.paths[place] for place in selection]
        versions = EncodedSplit(
            split.name,
            split.info,
            # Of the same class: where images are not decoded beforehand, these are not either.
            type(files)((*own, *self.paths)),
            np.concatenate([split.labels, split.labels[self.of]]),
            {name: np.concatenate([ids, ids[self.of]]) for name, ids in split.groups.items()},
            None if split.users is None else np.concatenate([split.users, split.users[self.of]]),
            None
            if split.origin is None
            else split.origin.take(np.concatenate([np.arange(len(split)), self.of])),
        )
        table = np.repeat(np.arange(len(split), dtype=np.int64)[:, None], self.count, axis=1)
        examples, first, counts = np.unique(self.of, return_index=True, return_counts=True)
        for example, start, count in zip(examples, len(split) + first, counts, strict=True):
            table[example, 1:] = start + np.arange(count)
        return versions, table


def _require_as_many(key: str, path: str, used: Sequence[tuple[int, ImagePair]]) -> None:
    """All images that have counterparts have as many: how many then tells of no single person.

    A larger number for one person would change how everybody else's versions are drawn, which no
    clipping bounds.
    """
    counts = Counter(position for position, _ in used)
    common = Counter(counts.values()).most_common(1)[0][0]
    for position, pair in used:
        if counts[position] != common:
            raise SettingError(
                key,
                str(pair.original),
                f"as many counterparts in {path} as other images have that have any ({common}), "
                f"a number that is public; it has {counts[position]}",
            )


def _files_of(split: Split) -> tuple[Any, np.ndarray]:
    """All files that were read with a split's, if files they are, and which are the split's."""
    assert isinstance(split, EncodedSplit), split.name  # every source ends there
    return unselected(split.raw)


def _matched(
    key: str, path: str, pairs: Sequence[ImagePair], dataset: Dataset
) -> tuple[list[list[tuple[int, int]]], list[str]]:
    """Finds the originals among all images that were read, and keeps counterparts out of them.

    Returns:
        Of each pair where its original is, (id of column, position in it), more than once where
        the data name it more than once; and the images of the data that are as long as some
        counterpart, and may be copies of it.
    """
    originals: dict[_Identity, list[int]] = {}
    counterparts: dict[_Identity, ImagePair] = {}
    lengths = set()
    for number, pair in enumerate(pairs):
        found, _ = _identity(key, path, pair, pair.original)
        originals.setdefault(found, []).append(number)
        found, length = _identity(key, path, pair, pair.counterfactual)
        other = counterparts.setdefault(found, pair)
        if other is not pair:
            raise SettingError(
                key,
                str(pair.counterfactual),
                f"in row {pair.row} of {path} a counterpart of its own for every image; "
                f"row {other.row} has this one too",
            )
        lengths.add(length)
    columns = {}
    for name in SPLITS:
        column, _ = _files_of(dataset.split(name))
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
            if found in counterparts:
                raise _an_example_itself(key, path, counterparts[found], file)
            for number in originals.get(found, ()):
                places[number].append((number_of_column, position))
            if status.st_size in lengths:
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


def _an_example_itself(key: str, path: str, pair: ImagePair, example: str) -> SettingError:
    return SettingError(
        key,
        str(pair.counterfactual),
        f"in row {pair.row} of {path} an image that was made from its original alone; this one is "
        f"an example of its own ({example}), and a record is one example",
    )


def _looked_at(key: str, path: str, pairs: Sequence[ImagePair]) -> list[str]:
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
