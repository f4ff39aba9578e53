"""Whose an example is: read from every kind of source, never shown to a model, never split up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import data
from configs.schema.data import DataSettings, ImageFolderSettings, TableSettings, TfdsSettings
from configs.schema.errors import SettingError, UserError

WHOLE = {"validation_fraction": 0.0, "test_fraction": 0.0}
USERS = ["ann", "bob", "ann", "cid", "bob", "ann"]
NUMBERS = [0, 1, 0, 2, 1, 0]


def write_table(path: Path, users: list[Any]) -> str:
    rows = [
        {"age": str(20 + i), "label": "yes" if i % 2 else "no", "who": user}
        for i, user in enumerate(users)
    ]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0])]
        lines += [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    return str(path)


def load(path: str, user: str | None = "who", features: Any = ("age",), **further: Any) -> Any:
    settings = {**WHOLE, **further}
    table = TableSettings(
        train=path, features=list(features), **settings.pop("table", {"label": "label"})
    )
    return data.load(DataSettings(source=Path(path).suffix[1:], table=table, user=user, **settings))


@pytest.fixture(params=["csv", "jsonl"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"people.{request.param}"


def test_column_of_a_table_names_users_that_no_model_sees(path: Path) -> None:
    dataset = load(write_table(path, USERS))
    assert dataset.train.users.dtype == np.int64
    assert dataset.train.users.tolist() == NUMBERS
    assert dataset.info.groups == {}
    assert dataset.info.input_shape == (1,)
    assert not any(user in repr(dataset.info) for user in USERS)


def test_data_that_name_no_user_have_none(path: Path) -> None:
    assert load(write_table(path, USERS), user=None).train.users is None


def test_missing_column_of_users_is_refused_with_those_there_are(path: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.user: expected a column of .*'who'.*'patient'"):
        load(write_table(path, USERS), user="patient")


@pytest.mark.parametrize("column", ["age", "label"])
def test_users_are_no_input_and_no_label(tmp_path: Path, column: str) -> None:
    with pytest.raises(SettingError, match=r"data\.user: expected a column that is neither"):
        load(write_table(tmp_path / "people.csv", USERS), user=column)


def test_row_without_a_user_is_named_or_left_out(path: Path) -> None:
    written = write_table(path, [*USERS[:4], None, *USERS[4:]])
    with pytest.raises(UserError, match=rf"{path}, row [56]: column 'who' is empty"):
        load(written)
    dataset = load(written, on_error="skip")
    assert dataset.train.users.tolist() == NUMBERS
    assert len(dataset.info.skipped["train"]) == 1


def test_splits_are_cut_user_by_user(tmp_path: Path) -> None:
    users = [f"user {i % 40}" for i in range(400)]
    fractions = {"validation_fraction": 0.2, "test_fraction": 0.1}
    dataset = load(write_table(tmp_path / "people.csv", users), **fractions)
    parts = [dataset.train, dataset.validation, dataset.test]
    owners = [set(part.users.tolist()) for part in parts]
    assert [len(of) for of in owners] == [28, 8, 4]
    assert [len(part) for part in parts] == [280, 80, 40]
    assert len(set().union(*owners)) == 40


def test_other_files_may_leave_users_out_and_share_their_numbers(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.csv", USERS)
    test = write_table(tmp_path / "test.csv", ["bob", "dan"])
    table = {"label": "label", "test": test}
    assert load(train, table=table).test.users.tolist() == [1, 3]
    lines = [line.rpartition(",")[0] for line in Path(test).read_text().splitlines()]
    Path(test).write_text("\n".join(lines) + "\n")
    dataset = load(train, table=table)
    assert dataset.test.users is None
    assert dataset.train.users.tolist() == NUMBERS


def test_limited_training_set_holds_whole_users(tmp_path: Path) -> None:
    users = [f"user {i % 12:02}" for i in range(60)]
    path = write_table(tmp_path / "people.csv", users)
    for limit, kept in ((23, 20), (3, 5), (60, 60)):  # users have five rows each
        train = load(path, limit=limit).train
        assert len(train) == kept
        assert np.unique(train.users, return_counts=True)[1].tolist() == [5] * (kept // 5)
        ages = train.read(np.arange(kept)).raw[:, 0]
        np.testing.assert_array_equal(train.users, (ages - 20) % 12)
    assert load(path, limit=23, user=None).train.labels.shape == (23,)


def save_images(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (9, 9, 9)).save(folder / name)


def load_images(train: Path, user: str | None, on_error: Any = "raise") -> Any:
    folder = ImageFolderSettings(train=str(train))
    return data.load(
        DataSettings(
            source="image_folder", image_folder=folder, user=user, on_error=on_error, **WHOLE
        )
    )


def test_sub_folder_within_a_class_names_the_user(tmp_path: Path) -> None:
    save_images(tmp_path, ["cat/ann/1.png", "cat/bob/a/1.png", "dog/ann/1.png", "dog/ann/2.png"])
    dataset = load_images(tmp_path, "folder")
    assert dataset.train.users.tolist() == [0, 1, 0, 0]
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert load_images(tmp_path, None).train.users is None
    with pytest.raises(SettingError, match=r"data\.user: expected folder \(the sub-folder"):
        load_images(tmp_path, "who")


def test_image_in_nobodys_folder_is_named_or_left_out(tmp_path: Path) -> None:
    save_images(tmp_path, ["cat/ann/1.png", "cat/2.png", "dog/bob/1.png"])
    with pytest.raises(UserError, match=r"cat/2\.png: lies in no user's sub-folder"):
        load_images(tmp_path, "folder")
    assert load_images(tmp_path, "folder", "skip").train.users.tolist() == [0, 1]


def test_column_of_an_images_csv_names_users(tmp_path: Path) -> None:
    save_images(tmp_path, ["1.png", "2.png", "3.png"])
    listed = tmp_path / "list.csv"
    listed.write_text("path,label,who\n1.png,cat,bob\n2.png,dog,ann\n3.png,dog,bob\n")
    assert load_images(listed, "who").train.users.tolist() == [1, 0, 1]
    listed.write_text("path,label,who\n1.png,cat,bob\n2.png,dog,\n")
    with pytest.raises(UserError, match="row 3: column 'who' is empty"):
        load_images(listed, "who")


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    features = tfds.features.FeaturesDict(
        {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["no", "yes"]),
            "author": {"name": tfds.features.Text(), "number": np.int64, "size": np.float32},
        }
    )
    examples = [
        {"text": f"{i}", "label": i % 2, "author": {"name": user, "number": 9 - i % 3, "size": 1.0}}
        for i, user in enumerate([*USERS, ""])
    ]
    return tfds.dataset_builders.store_as_tfds_dataset(
        name="trial",
        version="1.0.0",
        config="plain",
        features=features,
        split_datasets={"train": list(enumerate(examples))},
        data_dir=tmp_path_factory.mktemp(request.param),
        file_format=request.param,
        disable_shuffling=True,
    ).data_path


def load_tfds(prepared: Path, user: str, on_error: Any = "raise") -> Any:
    chosen = TfdsSettings(directory=str(prepared), text="text", test=None)
    settings = DataSettings(source="tfds", tfds=chosen, user=user, on_error=on_error, **WHOLE)
    return data.load(settings)


def test_feature_of_a_tfds_dataset_names_users(prepared: Path) -> None:
    assert load_tfds(prepared, "author.number").train.users.tolist() == [2, 1, 0] * 2 + [2]
    with pytest.raises(UserError, match="example 6: names no user"):
        load_tfds(prepared, "author.name")
    assert load_tfds(prepared, "author.name", "skip").train.users.tolist() == NUMBERS
    with pytest.raises(SettingError, match=r"data\.user: expected one of the features .*author"):
        load_tfds(prepared, "owner")
    with pytest.raises(SettingError, match=r"data\.user: expected a feature of one value"):
        load_tfds(prepared, "author.size")


def test_embedded_data_name_no_users() -> None:
    with pytest.raises(SettingError, match=r"data\.user: expected null: the digits do not say"):
        data.load(DataSettings(source="digits", user="writer"))
    with pytest.raises(SettingError, match=r"data\.user: expected null: the census counts each"):
        data.load(DataSettings(source="census", user="household"))


def test_column_of_the_census_may_stand_for_users() -> None:
    dataset = data.load(DataSettings(source="census", user="native-country", limit=500))
    assert 5 < len(np.unique(dataset.train.users)) < 43
