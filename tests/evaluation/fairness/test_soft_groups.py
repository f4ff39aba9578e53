"""Files of inferred groups go by the records of the source, however splits are cut from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import data
from configs.schema import EvaluationSettings, SettingError, UserError
from configs.schema.data import DataSettings, ImageFolderSettings, TableSettings
from evaluation.fairness import check_soft_groups, with_soft_groups
from evaluation.predictions import Predictions
from tests.evaluation.conftest import make_predictions

RECORDS = 60
UNUSABLE = (3, 31, 59)


def _people(path, count=RECORDS, unusable=UNUSABLE):
    """Person k's text says k; some have no label."""
    lines = [
        f"person {k},{'' if k in unusable else 'yes' if k % 2 else 'no'},u{k // 3}"
        for k in range(count)
    ]
    path.write_text("\n".join(["text,label,who", *lines]) + "\n")
    return str(path)


def _shares(path, count=RECORDS, unusable=UNUSABLE):
    """Person k is old with a probability that says k; of unusable ones nothing is known."""
    lines = ["," if k in unusable else f"{1 - k / 1000},{k / 1000}" for k in range(count)]
    path.write_text("\n".join(["young,old", *lines]) + "\n")
    return str(path)


def _load(train, **settings):
    wanted = {"source": "csv", "validation_fraction": 0.2, "test_fraction": 0.3, **settings}
    table = TableSettings(train=train, text="text", label="label", **wanted.pop("table", {}))
    return data.load(DataSettings(table=table, on_error="skip", **wanted))


def _predictions(split) -> Predictions:
    """What a model would say of a split, last example first."""
    ids = np.arange(len(split))[::-1]
    return Predictions(
        logits=np.zeros((len(split), 2), np.float32),
        labels=split.labels[ids],
        label_names=split.info.label_names,
        groups={},
        group_names={},
        ids=ids,
        split=split.name,
    )


def _persons(split, ids):
    return [int(text.split()[1]) for text in split.read(ids).raw]


@pytest.mark.parametrize(
    "settings",
    [{}, {"limit": 20}, {"user": "who"}, {"limit": 12, "user": "who"}, {"cache": "none"}],
    ids=str,
)
def test_one_file_serves_every_split_cut_from_the_same_records(tmp_path, settings):
    dataset = _load(_people(tmp_path / "people.csv"), **settings)
    path = _shares(tmp_path / "age_train.csv")
    chosen = EvaluationSettings(soft_groups={"age": str(tmp_path / "age_{split}.csv")})
    met = []
    for split in (dataset.train, dataset.validation, dataset.test):
        check_soft_groups({"age": path}, split)
        predictions = _predictions(split)
        found = with_soft_groups(predictions, chosen, split.origin)
        persons = _persons(split, predictions.ids)
        np.testing.assert_allclose(found.soft_groups["age"][:, 1], np.array(persons) / 1000)
        assert found.group_names["age"] == ("young", "old")
        met += persons
    assert len(set(met)) == len(met) <= RECORDS - len(UNUSABLE)
    if "limit" not in settings:
        assert set(met) == set(range(RECORDS)) - set(UNUSABLE)


def test_a_split_with_a_table_of_its_own_has_a_file_of_its_own(tmp_path):
    test = _people(tmp_path / "test.csv", 10, unusable=(0,))
    dataset = _load(_people(tmp_path / "people.csv"), table={"test": test}, limit=20)
    _shares(tmp_path / "age_train.csv")
    _shares(tmp_path / "age_test.csv", 10, unusable=(0,))
    paths = {"age": str(tmp_path / "age_{split}.csv")}
    for split in (dataset.validation, dataset.test):
        check_soft_groups(paths, split)
        predictions = _predictions(split)
        found = with_soft_groups(
            predictions, EvaluationSettings(soft_groups=paths), split.origin
        ).soft_groups["age"][:, 1]
        np.testing.assert_allclose(found * 1000, _persons(split, predictions.ids), atol=1e-9)


def test_without_cuts_the_records_are_the_examples(tmp_path):
    train = _people(tmp_path / "people.csv", unusable=())
    dataset = _load(train, validation_fraction=0.0, test_fraction=0.0)
    path = _shares(tmp_path / "age.csv", unusable=())
    chosen = EvaluationSettings(soft_groups={"age": path})
    predictions = _predictions(dataset.train)
    by_record = with_soft_groups(predictions, chosen, dataset.train.origin).soft_groups["age"]
    by_position = with_soft_groups(predictions, chosen).soft_groups["age"]
    np.testing.assert_array_equal(by_record, by_position)


@pytest.mark.parametrize("rows", [12, 59, 61])
def test_a_file_of_another_length_is_refused_naming_what_it_must_be_as_long_as(tmp_path, rows):
    train = _people(tmp_path / "people.csv")
    validation = _load(train).validation
    path = _shares(tmp_path / "age.csv", rows)
    with pytest.raises(SettingError) as refused:
        check_soft_groups({"age": path}, validation)
    assert str(refused.value).startswith(
        f"evaluation.soft_groups.age: expected a row for each of the 60 records of {train}, which "
        "the validation split is read from, in their order and no others (what is cut off, limited "
        f"or unusable has one too), not {rows}"
    )


def test_what_is_no_probability_is_named_by_its_row_in_the_file(tmp_path):
    validation = _load(_people(tmp_path / "people.csv")).validation
    path = tmp_path / "age.csv"
    rows = ["1,0"] * RECORDS
    record = int(validation.origin.records[2])
    rows[record] = "1,1"
    path.write_text("\n".join(["young,old", *rows]) + "\n")
    with pytest.raises(UserError, match=rf"for example 2 \(row {record + 1} below the names"):
        check_soft_groups({"age": str(path)}, validation)


def test_an_attribute_that_the_data_have_is_refused(tmp_path):
    dataset = _load(_people(tmp_path / "people.csv"), table={"groups": ["who"]})
    path = _shares(tmp_path / "age.csv")
    with pytest.raises(SettingError, match="an attribute that the data do not hold already"):
        check_soft_groups({"who": path}, dataset.test)


@pytest.mark.parametrize("listed", [True, False], ids=["csv", "folder"])
def test_records_of_images_are_rows_of_their_csv_or_files_by_name(tmp_path, listed):
    from PIL import Image

    for k in range(8):
        folder = tmp_path / "images" / ("odd" if k % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * k).save(folder / f"{k}.png")
    (tmp_path / "images" / "even" / "4.png").write_text("no image")
    names = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "images").rglob("*.png"))
    if listed:
        names.reverse()
        lines = [f"{name},{name.split('/')[1]}" for name in names]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    train = str(tmp_path / ("list.csv" if listed else "images"))
    settings = DataSettings(
        source="image_folder",
        image_folder=ImageFolderSettings(train=train),
        validation_fraction=0.25,
        test_fraction=0.25,
        on_error="skip",
    )
    dataset = data.load(settings)
    numbers = []
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.origin.count == 8
        raw = split.read(np.arange(len(split))).raw
        for record, image in zip(split.origin.records, raw, strict=True):
            assert bytes(image) == (tmp_path / names[record]).read_bytes()
        numbers += split.origin.records.tolist()
    assert sorted(numbers) == [k for k in range(8) if not names[k].endswith("4.png")]


def test_canonical_splits_count_their_own_records():
    census = data.load(DataSettings(source="census", limit=100))
    assert [census.split(name).origin.count for name in ("train", "validation", "test")] == [
        32_561,
        32_561,
        16_281,
    ]
    assert census.validation.origin.split == "train"
    assert census.test.origin.split == "test"


def test_predictions_of_ones_own_go_by_example(tmp_path):
    path = _shares(tmp_path / "age.csv", 4, unusable=())
    chosen = EvaluationSettings(soft_groups={"age": path})
    predictions = replace(make_predictions(4), ids=np.array([2, 0, 3, 1]))
    found = with_soft_groups(predictions, chosen).soft_groups["age"][:, 1]
    np.testing.assert_allclose(found * 1000, [2, 0, 3, 1])
