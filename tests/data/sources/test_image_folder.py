"""Folders of images and CSV files that list images."""

import numpy as np
import pytest
from PIL import Image

import data
from configs.schema.data import DataSettings, ImageFolderSettings
from configs.schema.errors import SettingError, UserError

COLOURS = {"cat": (255, 0, 0), "dog": (0, 0, 255)}
KEEP_ALL = {"validation_fraction": 0.0, "test_fraction": 0.0}


def _save(path, colour, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes, five images each, in the formats promised."""
    for label, colour in COLOURS.items():
        for number, form in enumerate(("png", "jpg", "gif", "bmp", "png")):
            _save(tmp_path / "images" / label / f"{number}.{form}", colour, (9 + number, 7))
    return tmp_path / "images"


@pytest.fixture
def table(folder):
    """A CSV beside the folder that lists four of its images."""
    lines = ["path,label,town"]
    for number in (0, 1):
        lines += [
            f"images/{label}/{number}.{['png', 'jpg'][number]},{label},north" for label in COLOURS
        ]
    lines[-1] = lines[-1].replace("north", "")
    path = folder.parent / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def _load(train, on_error="raise", groups=(), fractions=KEEP_ALL, **splits):
    return data.load(
        DataSettings(
            source="image_folder",
            image_folder=ImageFolderSettings(train=str(train), groups=list(groups), **splits),
            on_error=on_error,
            **fractions,
        )
    )


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def test_sub_folders_are_the_classes(folder):
    dataset = _load(folder)
    assert dataset.info.label_names == ("cat", "dog")
    assert dataset.info.groups == {}
    assert list(dataset.train.labels) == [0] * 5 + [1] * 5
    examples = dataset.train.read(np.array([9, 0]))
    assert list(examples.raw) == [
        (folder / "dog/4.png").read_bytes(),
        (folder / "cat/0.png").read_bytes(),
    ]


def test_hidden_files_are_passed_over(folder):
    (folder / "cat/.DS_Store").write_bytes(b"x")
    (folder / "cat/.cache").mkdir()
    (folder / "cat/.cache/x.png").write_bytes(b"x")
    assert len(_load(folder).train) == 10


def test_images_in_deeper_folders_belong_to_the_class(folder):
    _save(folder / "cat/more/9.png", COLOURS["cat"])
    assert list(np.bincount(_load(folder).train.labels)) == [6, 5]


def test_a_csv_lists_images_labels_and_groups(table):
    dataset = _load(table, groups=["town"])
    assert dataset.info.groups == {"town": ("north", "unknown")}
    assert list(dataset.train.labels) == [0, 1, 0, 1]
    assert list(dataset.train.groups["town"]) == [0, 0, 0, 1]
    raw = dataset.train.read(np.array([2])).raw[0]
    assert raw == (table.parent / "images/cat/1.jpg").read_bytes()
    assert list(dataset.info.provenance.sha256) == [str(table), f"{table} (images)"]


def test_changed_images_are_other_data(folder):
    def digest():
        (value,) = _load(folder, on_error="skip").info.provenance.sha256.values()
        return value

    image, twin = folder / "cat/0.png", folder / "cat/9.png"
    first = digest()
    assert digest() == first
    image.rename(twin)
    renamed = digest()
    twin.rename(image)
    assert digest() == first != renamed
    image.write_bytes((folder / "dog/0.png").read_bytes())
    changed = digest()
    image.unlink()
    assert len({first, renamed, changed, digest()}) == 4


def test_moved_folder_is_the_same_data(folder, tmp_path):
    digest = list(_load(folder).info.provenance.sha256.values())
    moved = folder.rename(tmp_path / "elsewhere")
    assert list(_load(moved).info.provenance.sha256.values()) == digest


@pytest.mark.parametrize("name", ["0.png", "1.jpg", "2.gif", "3.bmp"])
def test_a_corrupt_image_is_named_before_training(folder, name):
    path = _truncate(folder / "dog" / name)
    with pytest.raises(UserError) as error:
        _load(folder)
    assert str(error.value).startswith(f"{path}: not a readable PNG, JPEG, GIF or BMP image")
    assert "\n" not in str(error.value)

    dataset = _load(folder, on_error="skip")
    assert list(np.bincount(dataset.train.labels)) == [5, 4]
    assert path.read_bytes() not in list(dataset.train.read(np.arange(9)).raw)
    (line,) = dataset.info.skipped["train"]
    assert line.startswith(str(path))


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "dog/notes.txt").write_text("notes")
    with pytest.raises(UserError, match=r"notes\.txt: not a readable"):
        _load(folder)


def test_a_missing_image_is_named_by_row_and_file(table):
    (table.parent / "images/cat/1.jpg").unlink()
    with pytest.raises(UserError, match=r"list\.csv, row 4: .*cat/1\.jpg: cannot be read"):
        _load(table)
    assert len(_load(table, on_error="skip").train) == 3


def test_an_unreadable_row_is_named(table):
    table.write_text(table.read_text() + "images/cat/0.png\n,cat,north\n")
    with pytest.raises(UserError, match=r"list\.csv, row 6: 1 fields"):
        _load(table)
    assert len(_load(table, on_error="skip").info.skipped["train"]) == 2


def test_a_class_that_training_lacks_is_an_unknown_label(folder, tmp_path):
    bird = _save(tmp_path / "more/bird/0.png", (0, 255, 0))
    with pytest.raises(UserError, match=rf"{bird}: unknown label 'bird'"):
        _load(folder, test=str(tmp_path / "more"))


def test_a_column_that_is_not_there_names_the_setting(table):
    with pytest.raises(SettingError, match=r"data\.image_folder\.groups: expected a column of"):
        _load(table, groups=["country"])


@pytest.mark.parametrize("make", ["gone", "empty"])
def test_a_folder_without_classes_is_refused(tmp_path, make):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"data\.image_folder\.train: expected"):
        _load(tmp_path / make)


def test_groups_that_a_folder_cannot_name_are_refused_and_not_forgotten(folder):
    with pytest.raises(SettingError, match=r"data\.image_folder\.groups: expected none, because"):
        _load(folder, groups=["town"])


def test_a_folder_beside_a_csv_with_groups_is_refused(table, folder):
    with pytest.raises(SettingError, match=r"data\.image_folder\.test: .*the same groups"):
        _load(table, groups=["town"], test=str(folder))


def test_only_images_that_will_be_used_are_decoded(folder):
    settings = DataSettings(
        source="image_folder",
        image_folder=ImageFolderSettings(train=str(folder)),
        limit=2,
        **KEEP_ALL,
    )
    used = set(data.load(settings).train.read(np.arange(2)).raw)
    unused = next(path for path in folder.rglob("*.*") if path.read_bytes() not in used)
    _truncate(unused)
    assert set(data.load(settings).train.read(np.arange(2)).raw) == used
