"""`tf.data` pipelines: read through once into examples that can be drawn, or refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from configs.schema import UserError
from tests.training.privacy.keras_cases import (
    EXAMPLES,
    PLAN,
    compiled,
    moved,
    of_tensors,
    weights,
)
from tests.training.privacy.keras_cases import X as FEATURES
from tests.training.privacy.keras_cases import Y as LABELS
from training.privacy import private_dataset, stored_examples
from training.privacy.keras_api import streams

X, Y = FEATURES.astype(np.float32), LABELS
Dataset = tf.data.Dataset


def pipeline() -> tf.data.Dataset:
    return Dataset.from_tensor_slices((X, Y))


def drawn(dataset: tf.data.Dataset) -> list:
    return list(dataset.as_numpy_iterator())


def assert_same(found: list, expected: list) -> None:
    for one, other in zip(found, expected, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def of_arrays() -> list:
    return drawn(private_dataset(PLAN, X, Y, seed=3))


SAME = {
    "as it is": lambda: pipeline(),
    "unbatched": lambda: pipeline().batch(7).unbatch(),
    "mapped, cached, prefetched": lambda: (
        pipeline()
        .map(lambda x, y: (tf.identity(x), y), num_parallel_calls=2)
        .cache()
        .prefetch(2)
        .repeat(1)
    ),
    "in two parts": lambda: (
        pipeline().take(20).concatenate(Dataset.from_tensor_slices((X[20:], Y[20:])))
    ),
    "of unknown size": lambda: Dataset.from_generator(
        lambda: zip(X, Y, strict=True),
        output_signature=(tf.TensorSpec((5,), tf.float32), tf.TensorSpec((), tf.int64)),
    ),
}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_a_pipeline_is_drawn_from_as_its_arrays_would_be(of_arrays, tmp_path, make, stored) -> None:
    directory = tmp_path / "store" if stored else None
    assert_same(drawn(private_dataset(PLAN, make(), directory=directory, seed=3)), of_arrays)
    if stored:
        again = private_dataset(PLAN, stored_examples(directory), seed=3)
        assert_same(drawn(again), of_arrays)
    else:
        assert list(tmp_path.iterdir()) == []


def test_fit_trains_on_a_pipeline_as_on_its_arrays() -> None:
    found = []
    for x in ((X, Y), (pipeline(),)):
        private = compiled(seed=4)
        private.fit(*x, epochs=1, steps_per_epoch=2, verbose=0)
        assert private.releases == 2
        found.append(weights(private))
    assert not moved(*found)


def test_weights_and_transforms_go_with_each_example(tmp_path) -> None:
    of_weights = np.linspace(0, 2, EXAMPLES).astype(np.float32)
    weighted = Dataset.from_tensor_slices((X, Y, of_weights))
    expected = drawn(private_dataset(PLAN, X, Y, sample_weight=of_weights, seed=1))
    assert_same(drawn(private_dataset(PLAN, weighted, seed=1)), expected)
    stored = private_dataset(PLAN, weighted, directory=tmp_path / "weighted", seed=1)
    assert_same(drawn(stored), expected)
    named = Dataset.from_tensor_slices({"x": X, "y": Y, "name": [str(y) for y in Y]})
    doubled = drawn(private_dataset(PLAN, X * 2, Y, seed=1))
    for directory in (None, tmp_path / "named"):
        dataset = private_dataset(
            PLAN, named, transform=lambda r: (r["x"] * 2, r["y"]), directory=directory, seed=1
        )
        assert_same(drawn(dataset), doubled)


def test_bytes_keep_the_zeros_at_their_end(tmp_path) -> None:
    images = [bytes([number]) * 3 + b"\x00" for number in range(EXAMPLES)]
    dataset = Dataset.from_tensor_slices((images, Y))
    for directory in (None, tmp_path / "store"):
        for batch in drawn(private_dataset(PLAN, dataset, directory=directory))[:3]:
            assert {len(image) for image in batch["inputs"]} == {4}


def test_a_pipeline_of_tfds_is_taken(tmp_path) -> None:
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="streamed",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"x": tfds.features.Tensor(shape=(5,), dtype=np.float32), "y": np.int64}
        ),
        split_datasets={"train": [(n, {"x": X[n], "y": Y[n]}) for n in range(EXAMPLES)]},
        config="plain",
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    dataset = builder.as_dataset(split="train", shuffle_files=False)
    found = private_dataset(PLAN, dataset, transform=lambda r: (r["x"], r["y"]), seed=3)
    assert_same(drawn(found), drawn(private_dataset(PLAN, X, Y, seed=3)))
    with pytest.raises(UserError, match="leave batch"):
        private_dataset(PLAN, builder.as_dataset(split="train", batch_size=20))


REFUSED = {
    "batched": (lambda: pipeline().batch(20).prefetch(1), r"by itself \(BatchDataset\).*unbatch"),
    "batched in parallel": (lambda: pipeline().batch(20, num_parallel_calls=2), "ParallelBatch"),
    "padded": (lambda: pipeline().padded_batch(20), "PaddedBatchDataset"),
    "as many batches as planned": (
        lambda: pipeline().batch(1).map(lambda x, y: (x, y)),
        "by itself",
    ),
    "batched again": (lambda: pipeline().batch(5).unbatch().batch(5), "by itself"),
    "batched on one side": (
        lambda: Dataset.zip(pipeline(), Dataset.from_tensor_slices(X).batch(1)),
        "by itself",
    ),
    "drawn and changed": (
        lambda: private_dataset(PLAN, X, Y).map(lambda e: (e["inputs"], e["labels"])),
        "not as the plan draws its batches",
    ),
    "repeated": (lambda: pipeline().take(30).repeat(2), "more than once.*RepeatDataset"),
    "repeated without end": (lambda: pipeline().repeat(), "more than once"),
    "shuffled and repeated in one": (
        lambda: pipeline().take(30).apply(tf.data.experimental.shuffle_and_repeat(9, count=2)),
        "more than once.*ShuffleAndRepeatDataset",
    ),
    "joined to itself": (
        lambda: pipeline().take(30).apply(lambda d: d.concatenate(d)),
        "more than once.*Concatenate",
    ),
    "windows": (lambda: pipeline().window(1).flat_map(lambda x, y: x), "elements of several"),
    "mixup": (
        lambda: Dataset.zip(pipeline().shuffle(60), pipeline().shuffle(60)).map(
            lambda a, b: ((a[0] + b[0]) / 2, a[1])
        ),
        "elements of several examples .ZipDataset",
    ),
    "mixup of one shuffling": (
        lambda: pipeline().shuffle(60).apply(lambda d: Dataset.zip(d, d)),
        "elements of several examples .ZipDataset",
    ),
    "zipped to the next": (
        lambda: pipeline().apply(lambda d: Dataset.zip(d, d.skip(1))),
        "elements of several examples .ZipDataset",
    ),
    "running sums": (
        lambda: pipeline().scan(tf.zeros(5), lambda s, x: (s + x[0], (s + x[0], x[1]))),
        "elements of several examples .ScanDataset",
    ),
    "without end": (lambda: Dataset.random(1).map(lambda i: (X[0], i)), "never ends"),
    "too few": (
        lambda: pipeline().take(59),
        "60 training examples, and the tf.data.Dataset has 59",
    ),
    "too few, unknown": (lambda: pipeline().filter(lambda x, y: y > 0), r"has \d+: the sampling"),
    "too many, unknown": (
        lambda: pipeline().flat_map(lambda x, y: Dataset.from_tensors((x, y)).repeat()),
        "has more than 60",
    ),
    "ragged": (
        lambda: Dataset.from_tensor_slices((tf.ragged.constant([[1], [2, 3]] * 30), Y)),
        "must be dense tensors",
    ),
    "of many shapes": (
        lambda: Dataset.range(60).map(lambda i: (tf.zeros([i]), i)),
        "example 1.*[Pp]ad",
    ),
}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("make", "line"), REFUSED.values(), ids=REFUSED)
def test_a_pipeline_that_would_void_epsilon_is_refused_and_nothing_is_stored(
    tmp_path, make, line, stored
) -> None:
    directory = tmp_path / "store" if stored else None
    with pytest.raises(UserError, match=line) as error:
        private_dataset(PLAN, make(), directory=directory)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.*"))


def test_zipped_pipelines_of_the_same_examples_are_taken() -> None:
    def zipped(d: Dataset) -> Dataset:
        return Dataset.zip(d.map(lambda x, _: 2 * x), d.map(lambda _, y: y))

    expected = drawn(private_dataset(PLAN, X * 2, Y, seed=3))
    assert_same(drawn(private_dataset(PLAN, pipeline().apply(zipped), seed=3)), expected)
    apart = Dataset.zip(Dataset.from_tensor_slices(X), Dataset.from_tensor_slices(Y).cache())
    assert_same(
        drawn(private_dataset(PLAN, apart, seed=3)), drawn(private_dataset(PLAN, X, Y, seed=3))
    )


def test_what_does_not_fit_in_memory_needs_a_directory(tmp_path, monkeypatch) -> None:
    names = Dataset.from_tensor_slices((np.array(["name"] * EXAMPLES), Y))
    for dataset, needed_bytes in (
        (pipeline(), EXAMPLES * (5 * 4 + 8)),
        (names, EXAMPLES * (4 + 8)),
    ):
        monkeypatch.setattr(streams, "IN_MEMORY_BYTES", needed_bytes)
        private_dataset(PLAN, dataset)
        monkeypatch.setattr(streams, "IN_MEMORY_BYTES", needed_bytes - 1)
        with pytest.raises(UserError, match=r"private_dataset\(plan, x, directory=...\)"):
            private_dataset(PLAN, dataset)
    assert len(drawn(private_dataset(PLAN, pipeline(), directory=tmp_path / "store"))) > 0
    with pytest.raises(UserError, match="holds 60 stored examples already"):
        private_dataset(PLAN, pipeline(), directory=tmp_path / "store")


def test_labels_beside_a_pipeline_are_refused(tmp_path) -> None:
    for further in ({"y": Y}, {"sample_weight": np.ones(EXAMPLES)}, {"class_weight": {0: 1.0}}):
        with pytest.raises(UserError, match="holds labels and weights already"):
            private_dataset(PLAN, pipeline(), **further)
    with pytest.raises(UserError, match=r"no tf\.data\.Dataset that would have to be stored"):
        private_dataset(PLAN, X, Y, directory=tmp_path)


def test_batches_that_pose_as_examples_are_refused_by_the_models_shape() -> None:
    hidden = Dataset.from_generator(
        lambda: ((X[:4], Y[:4]) for _ in range(EXAMPLES)),
        output_signature=(tf.TensorSpec((4, 5), tf.float32), tf.TensorSpec((4,), tf.int64)),
    )

    class Items:
        def __len__(self) -> int:
            return EXAMPLES

        def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
            return X[:4], Y[:4]

    for x in (hidden, Items()):
        private = compiled()
        with pytest.raises(UserError, match=r"shape \(4, 5\), and the model takes \(5,\)"):
            private.fit(x, epochs=1, verbose=0)
        assert private.releases == 0


def test_an_example_that_cannot_be_read_any_more_ends_fit_with_its_line(
    tmp_path, monkeypatch
) -> None:
    private_dataset(PLAN, pipeline(), directory=tmp_path)
    store, reads = stored_examples(tmp_path), []

    def failing(positions: list[int]) -> list[bytes]:
        reads.append(positions)
        if len(reads) > 4:
            raise OSError("disk gone")
        return [record for record in read(positions)]

    read = store._records.__getitems__
    monkeypatch.setattr(store._records, "__getitems__", failing)
    private = compiled(physical_batch_size=4)
    with pytest.raises(UserError, match=r"cannot be read \(disk gone\)"):
        private.fit(store, epochs=1, verbose=0)
    assert private._step is None
    assert private.releases < 3


def test_inputs_by_name_are_held_against_the_input_of_that_name() -> None:
    long, short = keras.Input((2, 5), name="long"), keras.Input((5,), name="short")
    both = keras.layers.Concatenate()([keras.layers.Flatten()(long), short])
    model = keras.Model([short, long], keras.layers.Dense(2)(both))
    private = compiled(model)
    private.fit({"long": np.stack([X, X], 1), "short": X}, Y, epochs=1, verbose=0)
    assert private.releases == 3


def test_an_epoch_goes_on_over_the_same_stored_examples_alone(tmp_path) -> None:
    of_tensors_twice = [private_dataset(PLAN, of_tensors(), directory=tmp_path / n) for n in "ab"]
    digests = [dataset._sterling_source.digest() for dataset in of_tensors_twice]
    shuffled = private_dataset(PLAN, of_tensors().shuffle(60, seed=1), directory=tmp_path / "c")
    assert digests[0] == digests[1] == stored_examples(tmp_path / "a").digest
    assert digests[0] != shuffled._sterling_source.digest()


def test_examples_in_memory_are_told_apart_behind_a_transform_too() -> None:
    def as_it_is(example):
        return example

    others = X + 1.0
    digests = [
        private_dataset(PLAN, *x, transform=as_it_is)._sterling_source.digest()
        for x in (
            (X, Y),
            (X, Y),
            (others, Y),
            (pipeline(),),
            (Dataset.from_tensor_slices((others, Y)),),
        )
    ]
    assert digests[0] == digests[1] != digests[2]
    assert "" != digests[3] != digests[4]
