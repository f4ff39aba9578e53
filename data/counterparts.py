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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from configs.assets import sha256_of
from configs.schema.errors import SettingError
from data.assembly import EncodedSplit
from data.contracts import Dataset, Modality, Split
from data.image_pairs import ImagePair, read_image_pairs
from data.images import ImageFileColumn
from data.pair_files import an_example_itself, files_of, looked_at, matched

_log = logging.getLogger(__name__)


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
        if not isinstance(files_of(dataset.train)[0], ImageFileColumn):
            raise SettingError(
                key,
                path,
                f"null, or data.source: image_folder: images of {dataset.info.name} are no files "
                "that a pair could name",
            )
        pairs = read_image_pairs(key, path)
        places, suspects = matched(key, path, pairs, dataset)
        column, selection = files_of(dataset.train)
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
        digests = looked_at(key, path, [pair for _, _, pair in used])
        copies = {digest: pair for digest, (_, _, pair) in zip(digests, used, strict=True)}
        for suspect in suspects:
            pair_of_copy = copies.get(sha256_of(Path(suspect)))
            if pair_of_copy is not None:
                raise an_example_itself(key, path, pair_of_copy, suspect)
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
        files, selection = files_of(split)
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
