"""The embedded census, on the real files."""

import shutil

import numpy as np
import pytest

import data
from configs.assets import asset_directory
from configs.schema.data import DataSettings
from configs.schema.errors import UserError
from data.sources.census import FILES, FOLDER


@pytest.fixture(scope="module")
def census():
    return data.load(DataSettings())


def test_the_canonical_files_are_split_as_documented(census):
    sizes = [len(split) for split in (census.train, census.validation, census.test)]
    assert sizes == [29_305, 3_256, 16_281]


def test_all_32561_people_can_be_trained_on():
    dataset = data.load(DataSettings(validation_fraction=0.0))
    assert len(dataset.train) == 32_561


def test_labels_agree_with_the_published_counts(census):
    # adult.names: 75.9 % of adult.data and 76.4 % of adult.test earn at most 50K.
    train = np.concatenate([census.train.labels, census.validation.labels])
    assert list(np.bincount(train)) == [24_720, 7_841]
    assert list(np.bincount(census.test.labels)) == [12_435, 3_846]
    assert census.info.label_names == ("<=50K", ">50K")


def test_groups_have_readable_names_and_published_counts(census):
    assert census.info.groups["sex"] == ("Female", "Male")
    assert list(np.bincount(census.test.groups["sex"])) == [5_421, 10_860]
    counts = dict(
        zip(
            census.info.groups["race"],
            np.bincount(
                np.concatenate([census.train.groups["race"], census.validation.groups["race"]])
            ),
            strict=True,
        )
    )
    assert counts == {
        "American Indian or Eskimo": 311,
        "Asian or Pacific Islander": 1_039,
        "Black": 3_124,
        "Other": 271,
        "White": 27_816,
    }


def test_texts_tell_neither_group_nor_label(census):
    texts = " ".join(text.decode() for text in census.train.read(np.arange(29_305)).raw)
    for word in ("Male", "Female", "male", "White", "Black", "50K", "Eskimo", "Husband", "Wife"):
        assert word not in texts
    assert "?" not in texts


def test_the_first_person_of_the_test_file_is_the_first_of_the_test_split(census):
    person = census.test.read(np.array([0]))
    assert person.raw[0].startswith(b"mid twenties, eleventh grade")
    assert census.info.groups["race"][person.groups["race"][0]] == "Black"


def test_provenance_holds_the_hashes_of_both_files(census):
    assert census.info.provenance.sha256 == dict(FILES.values())
    assert census.info.provenance.content == {split: sha for split, (_, sha) in FILES.items()}


def test_missing_files_name_the_command_that_fetches_them(tmp_path):
    with pytest.raises(UserError, match=r"adult\.data is missing.*make assets"):
        data.load(DataSettings(asset_dir=str(tmp_path)))


def test_an_altered_file_is_refused(tmp_path):
    shutil.copytree(asset_directory() / FOLDER, tmp_path / FOLDER)
    with (tmp_path / FOLDER / "adult.test").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"adult\.test is not the file it should be"):
        data.load(DataSettings(asset_dir=str(tmp_path)))
