"""CSV and JSONL sources."""

import json
import logging

import numpy as np
import pytest

import data
from configs.schema.data import DataSettings, TableSettings
from configs.schema.errors import SettingError, UserError

ROWS = [
    {"text": "first, with a comma", "age": 31, "income": 1.5, "label": "no", "town": "north"},
    {"text": "zweite Zeile: äöü", "age": 42, "income": -2, "label": "yes", "town": None},
    {"text": "third", "age": 53, "income": 0, "label": "no", "town": "south"},
    {"text": "fourth", "age": 64, "income": 7, "label": "yes", "town": "north"},
]
KEEP_ALL = {"validation_fraction": 0.0, "test_fraction": 0.0}


def _write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    lines = [",".join(ROWS[0])]
    for row in rows:
        cells = ["" if value is None else str(value) for value in row.values()]
        lines.append(",".join(f'"{cell}"' for cell in cells))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _load(path, on_error="raise", label_names=None, fractions=KEEP_ALL, **table):
    return data.load(
        DataSettings(
            source=path.suffix[1:],
            table=TableSettings(train=str(path), **table),
            on_error=on_error,
            label_names=label_names,
            **fractions,
        )
    )


@pytest.fixture(params=["csv", "jsonl"])
def path(request, tmp_path):
    return _write(tmp_path / f"people.{request.param}", ROWS)


def test_text_label_and_groups_are_read(path):
    dataset = _load(path, text="text", groups=["town"])
    examples = dataset.train.read(np.arange(4))
    assert [text.decode() for text in examples.raw] == [row["text"] for row in ROWS]
    assert dataset.info.label_names == ("no", "yes")
    assert list(examples.labels) == [0, 1, 0, 1]
    assert dataset.info.groups == {"town": ("north", "south", "unknown")}
    assert list(examples.groups["town"]) == [0, 2, 1, 0]
    assert dataset.info.modality == "text"
    assert list(dataset.info.provenance.sha256) == [str(path)]


def test_numeric_columns_become_float32_vectors(path):
    dataset = _load(path, features=["age", "income"])
    raw = dataset.train.read(np.arange(4)).raw
    assert raw.dtype == np.float32
    np.testing.assert_array_equal(raw, [[31, 1.5], [42, -2], [53, 0], [64, 7]])
    assert dataset.info.input_shape == (2,)
    assert dataset.info.modality == "features"


def test_files_of_their_own_become_the_other_splits(tmp_path):
    files = {name: str(_write(tmp_path / f"{name}.csv", ROWS)) for name in ("train", "test")}
    dataset = data.load(
        DataSettings(source="csv", table=TableSettings(**files, text="text"), limit=2)
    )
    assert (len(dataset.train), len(dataset.test)) == (2, 2)


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("data.table.text", {"text": "words"}),
        ("data.table.features", {"features": ["age", "words"]}),
        ("data.table.label", {"text": "text", "label": "words"}),
        ("data.table.groups", {"text": "text", "groups": ["words"]}),
    ],
)
def test_a_column_that_is_not_there_names_the_setting(path, key, table):
    with pytest.raises(SettingError) as error:
        _load(path, **table)
    assert str(error.value).startswith(f"{key}: expected a column of {path}")
    assert "'town'" in str(error.value)
    assert str(error.value).endswith("Received: 'words'")


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("data.table.text", {}),
        ("data.table.text", {"text": "text", "features": ["age"]}),
        ("data.table.label", {"features": ["age", "label"]}),
        ("data.table.groups", {"features": ["age"], "groups": ["age"]}),
    ],
)
def test_columns_that_contradict_each_other_are_refused(path, key, table):
    with pytest.raises(SettingError, match=key):
        _load(path, **table)


def test_a_missing_file_names_the_setting(tmp_path):
    with pytest.raises(SettingError, match=r"data\.table\.train: expected an existing"):
        _load(tmp_path / "gone.csv", text="text")


BAD_ROWS = {
    "text": ({**ROWS[0], "text": None}, {"text": "text"}, "column 'text' is empty"),
    "label": ({**ROWS[0], "label": None}, {"text": "text"}, "column 'label' is empty"),
    "number": ({**ROWS[0], "age": "old"}, {"features": ["age"]}, "'age' is not a number: 'old'"),
    "infinite": ({**ROWS[0], "age": 1e39}, {"features": ["age"]}, "'age' is not a finite float32"),
}


@pytest.mark.parametrize(("bad", "table", "problem"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_row_that_cannot_be_used_is_named_by_file_and_row(tmp_path, form, bad, table, problem):
    path = _write(tmp_path / f"people.{form}", [ROWS[0], bad, *ROWS[1:]])
    row = {"csv": 3, "jsonl": 2}[form]
    with pytest.raises(UserError) as error:
        _load(path, **table)
    assert str(error.value).startswith(f"{path}, row {row}: ")
    assert problem in str(error.value)

    dataset = _load(path, on_error="skip", **table)
    assert len(dataset.train) == 4
    (line,) = dataset.info.skipped["train"]
    assert line.startswith(f"{path}, row {row}: ")


def test_an_unknown_label_is_named_by_file_and_row(path):
    row = {".csv": 3, ".jsonl": 2}[path.suffix]
    with pytest.raises(UserError, match=rf"row {row}: unknown label 'yes'; known labels: "):
        _load(path, text="text", label_names=["no", "maybe"])


def test_skipping_counts_reports_and_logs_once(tmp_path, caplog):
    path = _write(tmp_path / "people.jsonl", ROWS)
    path.write_text(path.read_text() + "{broken\n" + '{"text": "x"}\n')
    with caplog.at_level(logging.WARNING):
        dataset = _load(
            path, on_error="skip", text="text", groups=["town"], label_names=["no", "maybe"]
        )
    # The rows that remain are the two labelled "no", with their own texts and groups.
    examples = dataset.train.read(np.arange(2))
    assert [text.decode() for text in examples.raw] == [ROWS[0]["text"], ROWS[2]["text"]]
    assert [dataset.info.groups["town"][index] for index in examples.groups["town"]] == [
        "north",
        "south",
    ]
    assert len(dataset.info.skipped["train"]) == 4
    assert len(caplog.records) == 1
    assert "Left out 4 examples of train" in caplog.records[0].getMessage()


def test_data_without_a_usable_row_is_refused(tmp_path):
    path = _write(tmp_path / "people.csv", ROWS)
    with pytest.raises(UserError, match="no usable example \\(4 were left out\\)"):
        _load(path, on_error="skip", text="text", label_names=["a", "b"])


def test_json_labels_may_be_numbers_or_booleans(tmp_path):
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(f'{{"text": "x", "label": {v}}}\n' for v in ("10", "9", "true")))
    dataset = _load(path, text="text")
    assert dataset.info.label_names == ("10", "9", "true")
