"""A seeded private run goes by the bytes of its data, wherever they lie; by all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from configs.schema import (
    DataSettings,
    FairnessSettings,
    ImageFolderSettings,
    OptimizerSettings,
    Recipe,
    SwapSettings,
    TableSettings,
    TfdsSettings,
)
from tests.training.conftest import BASE, PRIVATE, assert_identical, weights_of
from training.privacy.ledger import Ledger
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.session import open_session
from training.stream_names import randomness_context

TEXTS = {"train": 40, "validation": 12, "test": 12}
WORDS = "feline,other\ncat,dog\n"


def write_tables(folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng(5)
    for split, count in TEXTS.items():
        rows = [f"{generator.normal():.3f},{'ab'[i % 2]},{'xy'[i % 3 > 0]}" for i in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(["score,label,sex", *rows]) + "\n")


def of_tables(folder: Path, **changes: str | None) -> DataSettings:
    files = {split: str(folder / f"{split}.csv") for split in TEXTS} | changes
    return DataSettings(
        source="csv", table=TableSettings(**files, features=["score"], groups=["sex"])
    )


def write_images(folder: Path) -> None:
    generator = np.random.default_rng(6)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(256, size=(4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    names = [f"{label}/{n}.png,{label}" for label in ("cat", "dog") for n in range(6)]
    (folder / "images.csv").write_text("\n".join(["path,label", *names]) + "\n")


def of_images(folder: Path, train: str = "") -> DataSettings:
    return DataSettings(
        source="image_folder", image_folder=ImageFolderSettings(train=str(folder / train))
    )


SOURCES: dict[str, tuple[Callable[[Path], None], Callable[[Path], DataSettings]]] = {
    "tables": (write_tables, of_tables),
    "images": (write_images, of_images),
    "images named by a CSV": (write_images, lambda folder: of_images(folder, "images.csv")),
}


def recipe_of(settings: DataSettings, **changes) -> Recipe:
    return replace(BASE, data=settings, privacy=PRIVATE, **changes)


def root_of(recipe: Recipe) -> int:
    context = randomness_context(recipe, data.load(recipe.data), "")
    return Randomness.from_seed(recipe.training.seed, context).root


def flip_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(("write", "settings"), SOURCES.values(), ids=SOURCES)
def test_data_that_moved_to_another_folder_are_drawn_alike(tmp_path, monkeypatch, write, settings):
    write(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere" / "there")
    root = root_of(recipe_of(settings(tmp_path / "here")))
    assert root_of(recipe_of(settings(tmp_path / "elsewhere" / "there"))) == root
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert root_of(recipe_of(settings(Path("there")))) == root


EDITS: dict[str, tuple[str, str, int]] = {
    # A digit of a number, what an image shows or is called, a label.
    **{f"{split}.csv": ("tables", f"{split}.csv", -len("3,a,x.")) for split in TEXTS},
    "pixel": ("images", "dog/3.png", -20),
    "label": ("images named by a CSV", "images.csv", -2),
    "pixel of a CSV's image": ("images named by a CSV", "dog/3.png", -20),
}


@pytest.mark.parametrize(("source", "file", "place"), EDITS.values(), ids=EDITS)
def test_one_bit_of_any_file_changes_every_draw(tmp_path, source, file, place):
    write, settings = SOURCES[source]
    write(tmp_path / "data")
    # Whatever cannot be read any more is passed over: what is left would be trained on.
    recipe = recipe_of(replace(settings(tmp_path / "data"), on_error="skip"))
    root = root_of(recipe)
    flip_a_bit(tmp_path / "data" / file, place)
    assert root_of(recipe) != root


def test_image_of_another_name_in_a_folder_changes_every_draw(tmp_path):
    write_images(tmp_path / "data")
    root = root_of(recipe_of(of_images(tmp_path / "data")))
    (tmp_path / "data" / "dog" / "3.png").rename(tmp_path / "data" / "dog" / "9.png")
    assert root_of(recipe_of(of_images(tmp_path / "data"))) != root


def test_files_that_change_places_or_are_not_given_change_every_draw(tmp_path):
    write_tables(tmp_path / "data")
    folder = tmp_path / "data"
    train, validation, test = (str(folder / f"{split}.csv") for split in TEXTS)
    roots = {
        root_of(recipe_of(of_tables(folder, **changes)))
        for changes in (
            {},
            {"validation": test, "test": validation},
            {"validation": None},
            {"test": None},
            {"test": validation},
            {"train": validation, "validation": train},
        )
    }
    assert len(roots) == 6


def test_path_counts_where_the_bytes_are_not_known_wholly(tmp_path):
    """Of TFDS: record files are hashed, and not what says how they are to be read."""
    dataset = data.load(BASE.data)
    assert dataset.info.provenance.content == {}

    def context(**tfds: str) -> str:
        return randomness_context(
            recipe_of(replace(BASE.data, tfds=TfdsSettings(**tfds))), dataset, ""
        )

    assert context(directory="here") != context(directory="there")
    assert context(name="mnist", data_dir="here") != context(name="mnist", data_dir="there")


def test_folder_of_assets_counts_only_where_their_bytes_are_not_known():
    dataset = data.load(BASE.data)
    provenance = replace(dataset.info.provenance, content={"train": "0" * 64})
    known = replace(dataset, info=replace(dataset.info, provenance=provenance))
    recipes = [recipe_of(replace(BASE.data, asset_dir=folder)) for folder in ("here", "there")]
    assert len({randomness_context(recipe, known, "") for recipe in recipes}) == 1
    assert len({randomness_context(recipe, dataset, "") for recipe in recipes}) == 2


def test_word_lists_count_by_what_they_say_and_in_their_order(tmp_path):
    from data import naming_versions
    from training.fairness import Preparation

    write_texts = ["text,label", *(f"the cat {i},{'ab'[i % 2]}" for i in range(20))]
    (tmp_path / "texts.csv").write_text("\n".join(write_texts) + "\n")
    table = TableSettings(train=str(tmp_path / "texts.csv"), text="text")
    for name in ("here", "there"):
        (tmp_path / name).write_text(WORDS)
    (tmp_path / "others").write_text(WORDS.replace("dog", "fox"))

    def root(**lists: str) -> int:
        paths = {name: str(tmp_path / file) for name, file in lists.items()}
        recipe = recipe_of(
            DataSettings(source="csv", table=table),
            fairness=FairnessSettings(swaps=SwapSettings(word_lists=paths)),
        )
        dataset = data.load(recipe.data)
        swaps = Preparation.of(recipe.fairness, dataset).swaps
        assert swaps is not None
        context = randomness_context(recipe, naming_versions(dataset, swaps), "")
        return Randomness.from_seed(7, context).root

    assert root(a="here") == root(a="there") != root(a="others")
    assert root(a="here", b="others") != root(b="others", a="here")


def test_moved_run_ends_with_the_same_weights(tmp_path):
    write_tables(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    found = []
    for folder in ("here", "there"):
        training = replace(
            BASE.training, steps=2, batch_size=8, optimizer=OptimizerSettings(name="SGD")
        )
        session = open_session(recipe_of(of_tables(tmp_path / folder), training=training))
        run = RunDirectory(tmp_path / f"run-{folder}")
        run.root.mkdir()
        loop = session.loop(run, [], Ledger(run.ledger, session.plan), verbose=0)
        loop.run()
        found.append(weights_of(loop.model))
    assert_identical(*found)
