"""Counterfactual versions of texts: identity terms exchanged, one version for each way to do it.

Promises: a version is a function of its own text and of the lists alone, so that whatever is done
with versions is done example by example. Only texts that change are kept beside the originals; a
version that says the same as the original is the original. Versions of images: `data.counterparts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from data.contracts import Dataset, DatasetInfo, Examples, Modality, Origin, Split
from data.word_lists import WordList, read_word_list

_CHUNK_EXAMPLES = 4096


class Versions(Protocol):
    """What may stand in an example's place in training, each version that example's alone.

    Attributes:
        modality: Of the data that it changes.
    """

    modality: ClassVar[Modality]

    @property
    def count(self) -> int:
        """Versions of an example, the original among them."""
        ...

    @property
    def sha256(self) -> dict[str, str]:
        """What versions are known again by, as `data.contracts.Provenance.sha256`."""
        ...

    def applied_to(self, split: Split) -> tuple[Split, np.ndarray]:
        """A split followed by the changed versions of its examples, and where they are.

        Returns:
            The split, and int64 (examples, count): the position of each version of each example;
            of version 0, and of any that changes nothing, the example's own.
        """
        ...


@dataclass(frozen=True)
class Swaps:
    """The ways in which a text is changed.

    Attributes:
        lists: Name -> interchangeable terms.
    """

    modality: ClassVar[Modality] = "text"
    lists: Mapping[str, WordList]

    @classmethod
    def read(cls, key: str, sources: Mapping[str, Any]) -> Swaps:
        """Reads lists from files or from the recipe.

        Args:
            key: Name of the setting, for errors.
            sources: Name -> path, or rows of which the first is the header.

        Raises:
            SettingError: If a list cannot be read.
        """
        return cls({name: read_word_list(f"{key}.{name}", sources[name]) for name in sources})

    @property
    def count(self) -> int:
        """Versions of a text, the original among them."""
        return 1 + sum(len(words.groups) - 1 for words in self.lists.values())

    def versions(self, text: str) -> list[str]:
        """All `count` versions of a text, the original first."""
        changed = [
            words.turned(text, by)
            for words in self.lists.values()
            for by in range(1, len(words.groups))
        ]
        return [text, *changed]

    @property
    def sha256(self) -> dict[str, str]:
        """Tells lists apart by what they say, wherever they were read."""
        return {
            f"word list {name}": hashlib.sha256(repr(words).encode("utf-8")).hexdigest()
            for name, words in self.lists.items()
        }

    def applied_to(self, split: Split) -> tuple[VersionedSplit, np.ndarray]:
        """As `Versions.applied_to`; every text is read."""
        return with_versions(split, self)


@dataclass(frozen=True)
class VersionedSplit:
    """A split followed by the changed versions of its examples, each an example like any other.

    Attributes:
        originals: The split.
        of: int64 (changed,), the example that each changed text is a version of.
        texts: Object array (changed,) of UTF-8 `bytes`.
    """

    originals: Split
    of: np.ndarray
    texts: np.ndarray

    @property
    def name(self) -> str:
        return self.originals.name

    @property
    def info(self) -> DatasetInfo:
        return self.originals.info

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([self.originals.labels, self.originals.labels[self.of]])

    @property
    def groups(self) -> Mapping[str, np.ndarray]:
        return {
            attribute: np.concatenate([ids, ids[self.of]])
            for attribute, ids in self.originals.groups.items()
        }

    @property
    def users(self) -> np.ndarray | None:
        of_originals = self.originals.users
        if of_originals is None:
            return None
        return np.concatenate([of_originals, of_originals[self.of]])

    @property
    def origin(self) -> Origin | None:
        of_originals = self.originals.origin
        if of_originals is None:
            return None
        return of_originals.take(np.concatenate([np.arange(len(self.originals)), self.of]))

    def __len__(self) -> int:
        return len(self.originals) + len(self.of)

    def read(self, indices: np.ndarray) -> Examples:
        """Returns the examples at `indices`, int64 (k,), in that order."""
        first = len(self.originals)
        is_changed = indices >= first
        places = indices.copy()
        places[is_changed] = self.of[indices[is_changed] - first]
        found = self.originals.read(places)
        raw = found.raw.copy()
        raw[is_changed] = self.texts[indices[is_changed] - first]
        return replace(found, raw=raw)


def with_versions(split: Split, swaps: Swaps) -> tuple[VersionedSplit, np.ndarray]:
    """A split with its versions, and where they are.

    Args:
        split: Texts.
        swaps: How they are changed.

    Returns:
        The split, and int64 (examples, versions): the position of each version of each example;
        of version 0, and of any that changes nothing, the example's own.
    """
    examples = len(split)
    table = np.repeat(np.arange(examples, dtype=np.int64)[:, None], swaps.count, axis=1)
    of: list[int] = []
    texts: list[bytes] = []
    for start in range(0, examples, _CHUNK_EXAMPLES):
        ids = np.arange(start, min(start + _CHUNK_EXAMPLES, examples), dtype=np.int64)
        for example, raw in zip(ids.tolist(), split.read(ids).raw, strict=True):
            original, *changed = swaps.versions(bytes(raw).decode("utf-8", "replace"))
            for number, text in enumerate(changed, start=1):
                if text != original:
                    table[example, number] = examples + len(of)
                    of.append(example)
                    texts.append(text.encode("utf-8"))
    held = np.empty(len(texts), object)
    held[:] = texts
    return VersionedSplit(split, np.asarray(of, np.int64), held), table


def naming_versions(dataset: Dataset, versions: Versions) -> Dataset:
    """The dataset with its versions among its sources: with others it would be other data."""
    provenance = dataset.info.provenance
    content = {**provenance.content, **versions.sha256} if provenance.content else {}
    known = replace(provenance, sha256={**provenance.sha256, **versions.sha256}, content=content)
    return replace(dataset, info=replace(dataset.info, provenance=known))
