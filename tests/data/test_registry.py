"""The registry, and the rules that every source shares."""

import subprocess
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest

import data
from configs.schema.data import DataSettings, TableSettings
from configs.schema.errors import SettingError, UserError

SPLITS = ("train", "validation", "test")


@pytest.fixture
def people(tmp_path):
    """A CSV of 100 people; the label of every tenth is rare."""
    lines = ["text,label,town"]
    for number in range(100):
        label = "rare" if number % 10 == 3 else "common"
        lines.append(f"person {number},{label},{'north' if number % 2 else 'south'}")
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def _settings(path, **changes):
    table = TableSettings(train=str(path), text="text", groups=["town"])
    return DataSettings(source="csv", table=table, **changes)


def _texts(split):
    return list(split.read(np.arange(len(split))).raw)


def test_every_source_of_the_settings_is_registered():
    assert set(data.SOURCES) == set(get_args(get_type_hints(DataSettings)["source"]))


def test_importing_the_package_imports_no_tensorflow():
    code = "import data, sys; data.load; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_splits_are_cut_from_train_without_overlap(people):
    dataset = data.load(_settings(people, validation_fraction=0.2, test_fraction=0.1))
    parts = [_texts(dataset.split(name)) for name in SPLITS]
    assert [len(part) for part in parts] == [70, 20, 10]
    assert len({text for part in parts for text in part}) == 100


def test_the_same_seed_cuts_the_same_splits_and_another_seed_does_not(people):
    first, again, other = (
        _texts(data.load(_settings(people, split_seed=seed)).validation) for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_a_fraction_of_zero_leaves_the_split_empty(people):
    dataset = data.load(_settings(people, validation_fraction=0.0))
    assert [len(dataset.split(name)) for name in SPLITS] == [90, 0, 10]
    assert _texts(dataset.validation) == []


def test_fractions_that_leave_no_training_example_are_refused(people):
    with pytest.raises(SettingError, match=r"data\.validation_fraction"):
        data.load(_settings(people, validation_fraction=0.5, test_fraction=0.5))


def test_a_limit_keeps_a_share_of_every_split_and_always_the_same(people):
    whole = data.load(_settings(people))
    small, again = (data.load(_settings(people, limit=20)) for _ in range(2))
    assert [len(small.split(name)) for name in SPLITS] == [20, 3, 3]
    for name in SPLITS:
        assert _texts(small.split(name)) == _texts(again.split(name))
        assert set(_texts(small.split(name))) <= set(_texts(whole.split(name)))


def test_a_limit_beyond_the_data_changes_nothing(people):
    assert len(data.load(_settings(people, limit=1000)).train) == 80


def test_labels_and_groups_follow_their_examples(people):
    dataset = data.load(_settings(people))
    for name in SPLITS:
        split = dataset.split(name)
        examples = split.read(np.arange(len(split)))
        for text, label, town in zip(
            examples.raw, examples.labels, examples.groups["town"], strict=True
        ):
            number = int(text.decode().split()[1])
            assert dataset.info.label_names[label] == ("rare" if number % 10 == 3 else "common")
            assert dataset.info.groups["town"][town] == ("north" if number % 2 else "south")


def test_reading_returns_examples_in_the_order_asked_for(people):
    train = data.load(_settings(people)).train
    texts = _texts(train)
    assert list(train.read(np.array([5, 0, 5])).raw) == [texts[5], texts[0], texts[5]]


def test_label_names_of_the_settings_fix_the_order(people):
    info = data.load(_settings(people, label_names=["rare", "common"])).info
    assert info.label_names == ("rare", "common")


def test_repeated_label_names_are_refused(people):
    with pytest.raises(SettingError, match=r"data\.label_names"):
        data.load(_settings(people, label_names=["rare", "rare"]))


def test_data_with_one_label_is_refused(tmp_path):
    path = tmp_path / "same.csv"
    path.write_text("text,label,town\na,yes,x\nb,yes,y\n")
    with pytest.raises(UserError, match="two labels or more, and they hold 1"):
        data.load(_settings(path))
