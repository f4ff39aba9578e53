"""`data.cache: none`: only labels and groups are held, and batches are the same to the last bit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

import data
from configs.schema.data import DataSettings, ImageFolderSettings, TableSettings, TfdsSettings
from configs.schema.errors import SettingError, UserError
from data.columns import MemoryColumn, unselected
from data.faults import fault_in
from models.image_preprocessing import ImagePreprocessor
from models.text_preprocessing import TextPreprocessor
from scripts.command import run_command
from training.batching import Batching, ShuffledSampler
from training.feeding import ReplicaFeed
from training.privacy.sampling.poisson import PoissonSampler
from training.randomness import Randomness

EXAMPLES, BATCH, STEPS = 60, 8, 12
RANDOM = np.random.RandomState(0)
WORDS = ("red", "green", "blue", "naïve", 'a "quoted" word', "two\nlines", "Ω")
PIXELS = [
    RANDOM.randint(0, 256, (9 + number % 5, 7, 3)).astype(np.uint8) for number in range(EXAMPLES)
]
SETTINGS = DataSettings(validation_fraction=0.2, test_fraction=0.1)


def _text(number: int) -> str:
    return " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 3 + number % 4))


def csv_text(folder: Path) -> DataSettings:
    rows = [f'"{_text(n)}",{"ab"[n % 2]},{"xy"[n % 3 > 0]}' for n in range(EXAMPLES)]
    rows = [row.replace('a "quoted" word', 'a ""quoted"" word') for row in rows]
    # With a byte-order mark, an empty line and both kinds of line ends.
    content = "\ufefftext,label,town\r\n" + "\n".join(rows[:30]) + "\n\r\n"
    (folder / "people.csv").write_bytes((content + "\r\n".join(rows[30:])).encode())
    table = TableSettings(str(folder / "people.csv"), text="text", groups=["town"])
    return replace(SETTINGS, source="csv", table=table)


def jsonl_text(folder: Path) -> DataSettings:
    rows = [{"text": _text(n), "label": "ab"[n % 2], "town": "xy"[n % 2]} for n in range(EXAMPLES)]
    path = folder / "people.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    table = TableSettings(str(path), text="text", groups=["town"])
    return replace(SETTINGS, source="jsonl", table=table)


def image_folder(folder: Path) -> DataSettings:
    for number, pixels in enumerate(PIXELS):
        place = folder / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.{('png', 'jpg')[number % 2]}")
    images = ImageFolderSettings(str(folder / "images"))
    return replace(SETTINGS, source="image_folder", image_folder=images)


def _tfds(folder: Path, file_format: str, **chosen: str) -> DataSettings:
    examples = [
        (n, {"text": _text(n), "image": PIXELS[n], "label": n % 2, "town": "xy"[n % 2]})
        for n in range(EXAMPLES)
    ]
    directory = tfds.dataset_builders.store_as_tfds_dataset(
        name="uncached",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "text": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
                "town": tfds.features.Text(),
            }
        ),
        split_datasets={"train": examples},
        config="plain",
        data_dir=folder / file_format,
        file_format=file_format,
        disable_shuffling=True,
    ).data_path
    settings = TfdsSettings(directory=str(directory), test=None, groups=["town"], **chosen)
    return replace(SETTINGS, source="tfds", tfds=settings, store=str(folder / "store"))


SOURCES = {
    "csv text": csv_text,
    "jsonl text": jsonl_text,
    "image folder": image_folder,
    "tfds text": lambda folder: _tfds(folder, "array_record", text="text"),
    "tfds images": lambda folder: _tfds(folder, "array_record", image="image"),
    "tfds images from a stream": lambda folder: _tfds(folder, "tfrecord", image="image"),
    "digits": lambda folder: replace(SETTINGS, source="digits", limit=EXAMPLES),
}
PREPROCESSORS = {
    "text": TextPreprocessor(
        (
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "red",
            "green",
            "blue",
            "word",
            "a",
            "two",
            "lines",
        ),
        lowercase=True,
        strip_accents=True,
        sequence_length=6,
    ),
    "image": ImagePreprocessor(8, "imagenet"),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request, tmp_path_factory):
    """Settings, and both datasets prepared: cached and not."""
    settings = SOURCES[request.param](tmp_path_factory.mktemp("data"))
    prepared = {}
    for cache in ("memory", "none"):
        dataset = data.load(replace(settings, cache=cache))
        preprocess = PREPROCESSORS[dataset.info.modality]
        prepared[cache] = {
            name: data.prepare(dataset.split(name), preprocess, cache)
            for name in ("train", "validation", "test")
        }
    return settings, prepared["memory"], prepared["none"]


def _same(expected, found):
    for one, other in zip(expected, found, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("kind", ["poisson", "shuffled"])
def test_drawn_batches_are_the_same_to_the_last_bit_from_any_step_on(source, kind):
    _, cached, uncached = source
    count = len(cached["train"])
    randomness = Randomness.from_seed(3)
    sampler = (
        PoissonSampler(count, BATCH / count, randomness)
        if kind == "poisson"
        else ShuffledSampler(count, BATCH, randomness)
    )
    batching = Batching(sampler, BATCH)
    cached, uncached = (
        ReplicaFeed(split["train"], batching, tf.distribute.get_strategy())
        for split in (cached, uncached)
    )
    expected = list(cached._dataset(0, STEPS).as_numpy_iterator())
    for first in (0, 7):
        found = uncached._dataset(first, STEPS)
        assert found.element_spec == cached.element_spec
        _same(expected[sum(map(batching.count, range(first))) :], found.as_numpy_iterator())


@pytest.mark.parametrize("name", ["validation", "test"])
def test_batches_in_order_are_the_same_to_the_last_bit(source, name):
    _, cached, uncached = source
    assert len(cached[name]) == len(uncached[name]) > 0
    one, other = (data.batches_in_order(split[name], 5) for split in (cached, uncached))
    assert one.element_spec == other.element_spec
    assert one.cardinality() == other.cardinality() == -(-len(cached[name]) // 5)
    _same(one.as_numpy_iterator(), other.as_numpy_iterator())


def test_only_small_arrays_are_held(source):
    settings, _, uncached = source
    for split in uncached.values():
        assert split.inputs is None
        column, _ = unselected(split.split.raw)
        # The embedded sets are small, and held whole.
        assert isinstance(column, MemoryColumn) == (settings.source == "digits")


def test_a_store_is_written_once_and_compared_afterwards(tmp_path):
    settings = replace(_tfds(tmp_path, "tfrecord", text="text"), cache="none")
    data.load(settings)
    (records,) = (tmp_path / "store").rglob("*.array_record")
    written = records.stat().st_mtime_ns
    data.load(settings)
    assert records.stat().st_mtime_ns == written


def test_a_stream_without_a_store_is_refused_with_both_ways_out(tmp_path):
    settings = replace(_tfds(tmp_path, "tfrecord", text="text"), cache="none", store=None)
    with pytest.raises(SettingError, match=r"data\.store: .*file_format='array_record'"):
        data.load(settings)


def test_a_table_that_changes_during_training_ends_it_with_a_line(tmp_path):
    settings = replace(csv_text(tmp_path), cache="none")
    path = Path(settings.table.train)
    # Long ago, and not in the same tick of the file system's clock as the change.
    os.utime(path, (1e9, 1e9))
    split = data.load(settings).train
    split.read(np.arange(3))
    path.write_bytes(path.read_bytes().replace(b"green", b"greyt"))
    with pytest.raises(UserError, match=r"people\.csv: changed while it was in use"):
        split.read(np.arange(3))
    path.unlink()
    with pytest.raises(UserError, match=r"people\.csv: cannot be read"):
        split.read(np.arange(3))


def _damaged(settings: DataSettings) -> Path:
    path = sorted((Path(settings.image_folder.train) / "a").iterdir())[3]
    path.write_bytes(path.read_bytes()[:60])
    return path


def test_a_damaged_image_ends_the_run_with_a_line_when_it_is_met(tmp_path):
    settings = replace(image_folder(tmp_path), cache="none", on_error="skip")
    path = _damaged(settings)
    dataset = data.load(settings)  # nothing is found up front, so nothing is left out
    assert dataset.info.skipped == {}
    splits = [getattr(dataset, name) for name in ("train", "validation", "test")]
    assert sum(map(len, splits)) == EXAMPLES
    met = []
    for split in splits:
        prepared = data.prepare(split, PREPROCESSORS["image"], "none")
        try:
            list(data.batches_in_order(prepared, 5))
        except tf.errors.OpError as error:
            met.append(fault_in(error))
    assert len(met) == 1
    assert str(met[0]).startswith(f"{path}: not a readable PNG, JPEG, GIF or BMP image")
    assert "\n" not in str(met[0])


def test_a_command_that_meets_a_damaged_image_ends_with_one_line(tmp_path, capsys):
    settings = replace(image_folder(tmp_path), cache="none", validation_fraction=0, test_fraction=0)
    path = _damaged(settings)
    prepared = data.prepare(data.load(settings).train, PREPROCESSORS["image"], "none")
    assert run_command(lambda argv: list(data.batches_in_order(prepared, 5)), []) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "sterling:" in one]
    assert line.startswith(f"sterling: {path}: not a readable PNG, JPEG, GIF or BMP image")


def test_what_is_no_image_is_found_up_front_by_its_first_bytes(tmp_path):
    settings = replace(image_folder(tmp_path), cache="none")
    place = Path(settings.image_folder.train) / "a"
    (place / "notes.txt").write_text("notes")
    with pytest.raises(UserError, match=r"notes\.txt: not a readable PNG"):
        data.load(settings)
    (place / "notes.txt").write_bytes(b"")
    skipped = data.load(replace(settings, on_error="skip")).info.skipped
    assert sum(map(len, skipped.values())) == 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_first_bytes_refuse_nothing_that_decodes(tmp_path, form):
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.fromarray(PIXELS[0]).save(tmp_path / label / "image", form)
    settings = DataSettings(
        source="image_folder",
        image_folder=ImageFolderSettings(str(tmp_path)),
        validation_fraction=0,
        test_fraction=0,
        cache="none",
    )
    split = data.load(settings).train
    assert len(split) == len(split.read(np.arange(2)).raw) == 2


def test_an_image_is_decoded_for_a_test_only_once(tmp_path, monkeypatch):
    split = data.load(replace(image_folder(tmp_path), cache="none")).train
    split.read(np.arange(5))
    monkeypatch.setattr("data.images._decoding_problem", lambda image: "decoded again")
    split.read(np.arange(5))
    with pytest.raises(UserError, match="decoded again"):
        split.read(np.arange(6))


def test_other_errors_are_no_faults():
    assert fault_in(ValueError("UserError")) is None
    assert fault_in(RuntimeError("boom")) is None
