"""Counterparts of images: whose they are, what is refused, and what they are known again by."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import data
from configs.schema import DataSettings, ImageFolderSettings, SettingError
from data import Counterparts, naming_versions
from data.columns import unselected
from tests.data.paired_images import SIZE, settings_of, write_images

KEY = "fairness.swaps.image_pairs"
EXAMPLES = 40
DIGITS = DataSettings(source="digits", limit=50)


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path / "images", EXAMPLES)


def read(root, **settings):
    return Counterparts.read(KEY, str(root / "pairs.csv"), data.load(settings_of(root, **settings)))


def rewrite(root, change):
    header, *rows = (root / "pairs.csv").read_text().splitlines()
    (root / "pairs.csv").write_text("\n".join([header, *change(rows)]) + "\n")


def number_of(path):
    return int(path.rsplit("/", 1)[1].removesuffix(".png"))


def test_a_version_is_the_persons_own_counterpart_with_their_label_group_and_user(root):
    dataset = data.load(settings_of(root, cache="none"))
    found = Counterparts.read(KEY, str(root / "pairs.csv"), dataset)
    split, table = found.applied_to(dataset.train)
    people = len(dataset.train)
    assert people == EXAMPLES * 0.8
    assert found.count == 2
    assert table.shape == (people, 2)
    assert sorted(table.ravel().tolist()) == list(range(2 * people))  # nobody's row is another's
    rows = np.random.default_rng(0).permutation(people)
    for version, folder in ((0, "own"), (1, "other")):
        got = split.read(table[rows, version])
        original = dataset.train.read(rows)
        assert got.labels.tolist() == original.labels.tolist()
        assert got.groups["tone"].tolist() == original.groups["tone"].tolist()
        for image, of in zip(got.raw, original.raw, strict=True):
            (number,) = [n for n in range(EXAMPLES) if (root / f"own/{n}.png").read_bytes() == of]
            assert image == (root / f"{folder}/{number}.png").read_bytes()
    assert split.users is None
    named = replace(dataset.train, users=np.arange(people) % 5)
    assert found.applied_to(named)[0].users[table[:, 1]].tolist() == named.users.tolist()


def two_of(root, dataset, *examples):
    """Gives some training images a second counterpart; their numbers."""
    files, selection = unselected(dataset.train.raw)
    numbers = [number_of(files.paths[selection[example]]) for example in examples]
    for number in numbers:
        Image.new("L", (SIZE, SIZE), number).save(root / f"extra{number}.png")
    return numbers, [f"own/{number}.png,extra{number}.png" for number in numbers]


def test_images_without_counterpart_stay_themselves(root):
    dataset = data.load(settings_of(root))
    (first, second), extra = two_of(root, dataset, 3, 7)
    rewrite(root, lambda rows: [rows[first], rows[second], *extra])
    found = Counterparts.read(KEY, str(root / "pairs.csv"), dataset)
    split, table = found.applied_to(dataset.train)
    assert found.count == 3
    assert len(split) == len(dataset.train) + 4
    assert np.flatnonzero(table[:, 1] != np.arange(len(table))).tolist() == [3, 7]
    for example in range(len(table)):
        if example not in (3, 7):
            assert table[example].tolist() == [example] * 3
    for example, number in ((3, first), (7, second)):
        shown = {bytes(image) for image in split.read(table[example, 1:]).raw}
        assert shown == {
            (root / name).read_bytes() for name in (f"other/{number}.png", f"extra{number}.png")
        }


def test_nobody_has_more_counterparts_than_others_or_all_draws_would_follow_them(root):
    dataset = data.load(settings_of(root))
    _, extra = two_of(root, dataset, 3)
    rewrite(root, lambda rows: [*rows, *extra])
    with pytest.raises(SettingError, match=r"as many counterparts.*\(1\).*has 2"):
        Counterparts.read(KEY, str(root / "pairs.csv"), dataset)


def test_pairs_of_images_that_do_not_train_are_left_to_evaluation(root):
    dataset = data.load(settings_of(root, limit=20))
    found = Counterparts.read(KEY, str(root / "pairs.csv"), dataset)
    assert len(found.paths) == len(dataset.train) == 20
    validation = {bytes(image) for image in dataset.validation.read(np.arange(1)).raw}
    rewrite(
        root,
        lambda rows: [row for row in rows if (root / row.split(",")[0]).read_bytes() in validation],
    )
    with pytest.raises(SettingError, match="pairs of training images; it has none"):
        Counterparts.read(KEY, str(root / "pairs.csv"), dataset)


def broken_by(root, case):
    """Spoils the pairs in one way."""
    other = root / "other" / "5.png"
    if case == "missing file":
        other.unlink()
    elif case == "a folder":
        rewrite(root, lambda rows: [rows[0], "own/5.png,other", *rows[2:]])
    elif case == "unknown original":
        Image.new("L", (SIZE, SIZE)).save(root / "stranger.png")
        rewrite(root, lambda rows: [*rows, "stranger.png,other/5.png"][6:])
        rewrite(root, lambda rows: [rows[-1], *rows[:-1]])
    elif case == "another example":
        rewrite(root, lambda rows: [rows[0], "own/1.png,own/2.png", *rows[2:]])
    elif case == "link to another example":
        other.unlink()
        other.symlink_to(root / "own" / "7.png")
    elif case == "copy of another example":
        shutil.copy(root / "own" / "7.png", other)
    elif case == "its own image":
        shutil.copy(root / "own" / "5.png", other)
    elif case == "two people's":
        rewrite(root, lambda rows: [rows[0], "own/1.png,other/0.png", *rows[2:]])
    elif case == "size":
        Image.new("L", (SIZE + 1, SIZE), 9).save(other)
    elif case == "no image":
        other.write_bytes(b"\x89PNG\r\n\x1a\n and no more")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing file", r"an image file in row 7 of .*No such file"),
        ("a folder", r"an image file in row 3 of .*it is a folder"),
        ("unknown original", r"in row 2 of .* an original that is an image of the data"),
        ("another example", r"in row 3 of .* made from its original alone; .*own/2\.png"),
        ("link to another example", r"in row 7 of .* made from its original alone; .*own/7\.png"),
        ("copy of another example", r"in row 7 of .* made from its original alone; .*own/7\.png"),
        ("its own image", r"in row 7 of .* made from its original alone; .*own/5\.png"),
        ("two people's", r"in row 3 of .* a counterpart of its own for every image; row 2 has"),
        ("size", r"in row 7 of .* 8 x 8 pixels \(height x width\); it has 8 x 9"),
        ("no image", r"in row 7 of .* can be decoded; it is not a readable PNG"),
    ],
)
def test_pairs_that_would_spoil_a_record_are_refused_in_one_line(root, case, message):
    broken_by(root, case)
    with pytest.raises(
        SettingError, match=rf"fairness\.swaps\.image_pairs: expected {message}"
    ) as e:
        read(root, validation_fraction=0.0, test_fraction=0.0)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_counterpart_that_is_an_image_of_another_split_is_refused(root, split):
    listed = (root / "images.csv").read_text().splitlines()
    (root / "images.csv").write_text("\n".join(listed[:31]) + "\n")
    (root / "held.csv").write_text("\n".join([listed[0], *listed[31:]]) + "\n")
    rewrite(root, lambda rows: [rows[0], "own/1.png,own/35.png", *rows[2:30]])
    settings = settings_of(root, validation_fraction=0.0, test_fraction=0.0)
    folder = replace(settings.image_folder, **{split: str(root / "held.csv")})
    dataset = data.load(replace(settings, image_folder=folder))
    with pytest.raises(SettingError, match=r"row 3 .* an example of its own \(.*own/35\.png\)"):
        Counterparts.read(KEY, str(root / "pairs.csv"), dataset)


def test_images_that_are_no_files_have_no_counterparts(root):
    with pytest.raises(SettingError, match=r"data\.source: image_folder: images of digits"):
        Counterparts.read(KEY, str(root / "pairs.csv"), data.load(DIGITS))


def test_changed_counterparts_are_other_data_and_moved_ones_are_not(root, tmp_path):
    dataset = data.load(settings_of(root))
    found = Counterparts.read(KEY, str(root / "pairs.csv"), dataset)
    known = naming_versions(dataset, found).info.provenance.sha256
    assert set(known) == {*dataset.info.provenance.sha256, "image pairs"}
    rewrite(root, lambda rows: rows[::-1])
    assert read(root).sha256 == found.sha256
    shutil.move(root / "other", root / "elsewhere")
    rewrite(root, lambda rows: [row.replace("other", "elsewhere") for row in rows])
    assert read(root).sha256 == found.sha256
    rewrite(root, lambda rows: rows[:20])
    assert read(root).sha256 != found.sha256
    rewrite(root, lambda rows: [f"own/{n}.png,elsewhere/{n}.png" for n in range(EXAMPLES)])
    path = found.paths[0].replace("other", "elsewhere")
    pixels = np.array(Image.open(path))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert read(root).sha256 != found.sha256


def test_a_folder_of_classes_has_counterparts_like_a_list(root):
    for line in (root / "images.csv").read_text().splitlines()[1:]:
        path, label, _ = line.split(",")
        (root / "classes" / label).mkdir(parents=True, exist_ok=True)
        shutil.move(root / path, root / "classes" / label / path.split("/")[1])
        rewrite(
            root,
            lambda rows, path=path, label=label: [
                row.replace(f"{path},", f"classes/{label}/{path.split('/')[1]},") for row in rows
            ],
        )
    settings = replace(
        settings_of(root), image_folder=ImageFolderSettings(train=str(root / "classes"))
    )
    dataset = data.load(settings)
    found = Counterparts.read(KEY, str(root / "pairs.csv"), dataset)
    assert found.of.tolist() == list(range(len(dataset.train)))
