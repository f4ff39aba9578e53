"""Versions of texts: what is exchanged, what is kept, and where each version lies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tensorflow as tf

from configs.schema import SettingError
from data import Dataset, Swaps, batches_of, naming_versions, prepare, with_versions
from data.contracts import DatasetInfo, Examples, Provenance
from data.word_lists import WordList

PRONOUNS = WordList(("male", "female"), (("he", "she"), ("him", "her"), ("his", "her")))
CITIES = WordList(("a", "b", "c"), (("Rome", "Oslo", "Bath"),))
SWAPS = Swaps({"pronouns": PRONOUNS, "cities": CITIES})
TEXTS = ["He sees her in Rome", "nobody", "SHE left Oslo", "Bath"]


@dataclass(frozen=True)
class TextSplit:
    info: DatasetInfo
    labels: np.ndarray
    groups: dict[str, np.ndarray]
    name: str = "train"
    users: np.ndarray | None = None

    def __len__(self) -> int:
        return len(TEXTS)

    def read(self, indices: np.ndarray) -> Examples:
        raw = np.empty(len(indices), object)
        raw[:] = [TEXTS[i].encode() for i in indices]
        return Examples(raw, self.labels[indices], {"ward": self.groups["ward"][indices]})


INFO = DatasetInfo(
    "texts", "text", ("no", "yes"), {"ward": ("a", "b")}, Provenance("here", sha256={"f": "1"})
)
SPLIT = TextSplit(
    INFO, np.array([0, 1, 1, 0], np.int32), {"ward": np.array([1, 0, 1, 0], np.int32)}
)


def test_a_turn_swaps_both_ways_at_once():
    assert PRONOUNS.turned("He told her; SHE told him.", 1) == "She told him; HE told her."
    assert CITIES.turned("Rome, Oslo, Bath", 1) == "Oslo, Bath, Rome"
    assert CITIES.turned("Rome, Oslo, Bath", 2) == "Bath, Rome, Oslo"
    assert CITIES.turned("rome and romes", 1) == "Oslo and romes"


def test_there_is_a_version_for_each_list_and_column():
    assert SWAPS.count == 4
    assert SWAPS.versions(TEXTS[0]) == [
        "He sees her in Rome",
        "She sees him in Rome",
        "He sees her in Oslo",
        "He sees her in Bath",
    ]


def test_versions_that_change_nothing_are_the_original():
    split, table = with_versions(SPLIT, SWAPS)
    assert table.tolist() == [[0, 4, 5, 6], [1, 1, 1, 1], [2, 7, 8, 9], [3, 3, 10, 11]]
    assert len(split) == 12
    assert split.of.tolist() == [0, 0, 0, 2, 2, 2, 3, 3]


def test_every_row_of_the_table_reads_as_that_version_with_the_persons_own_label_and_group():
    split, table = with_versions(SPLIT, SWAPS)
    rows = np.random.default_rng(0).permutation(table.ravel())
    found = split.read(rows)
    expected = {
        int(table[i, v]): (text.encode(), i)
        for i, original in enumerate(TEXTS)
        for v, text in enumerate(SWAPS.versions(original))
    }
    for row, raw, label in zip(rows, found.raw, found.labels, strict=True):
        text, person = expected[int(row)]
        assert raw == text
        assert label == SPLIT.labels[person]
    people = [expected[int(row)][1] for row in rows]
    assert found.groups["ward"].tolist() == SPLIT.groups["ward"][people].tolist()
    named = replace(SPLIT, users=np.array([7, 8, 8, 9]))
    assert with_versions(named, SWAPS)[0].users[rows].tolist() == named.users[people].tolist()
    assert split.users is None
    assert split.labels[rows].tolist() == found.labels.tolist()
    assert split.groups["ward"][rows].tolist() == found.groups["ward"].tolist()


def test_versions_are_preprocessed_like_originals():
    split, table = with_versions(SPLIT, SWAPS)
    prepared = prepare(split, lambda raw: {"length": tf.strings.length(raw)})
    rows = table.ravel()
    (batch,) = batches_of(prepared, lambda: iter([rows]), len(rows))
    expected = [len(text) for original in TEXTS for text in SWAPS.versions(original)]
    assert batch["inputs"]["length"].numpy().tolist() == expected


def test_lists_count_among_the_sources_of_the_data():
    dataset = Dataset(INFO, SPLIT, SPLIT, SPLIT)
    named = naming_versions(dataset, SWAPS).info.provenance.sha256
    assert set(named) == {"f", "word list pronouns", "word list cities"}
    other = replace(CITIES, rows=(("Rome", "Oslo", "York"),))
    changed = naming_versions(dataset, Swaps({"pronouns": PRONOUNS, "cities": other}))
    again = changed.info.provenance.sha256
    assert again["word list cities"] != named["word list cities"]
    assert again["word list pronouns"] == named["word list pronouns"]


def test_lists_are_read_from_recipe_or_file(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("male,female\nhe,she\n")
    found = Swaps.read("fairness.swaps.word_lists", {"a": str(path), "b": [["x", "y"], ["u", "v"]]})
    assert found.versions("he u") == ["he u", "she u", "he v"]
    with pytest.raises(SettingError, match=r"fairness\.swaps\.word_lists\.c: .*CSV"):
        Swaps.read("fairness.swaps.word_lists", {"c": str(tmp_path / "none.csv")})
