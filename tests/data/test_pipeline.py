"""The stream of batches, over a split held in memory and one read from disk batch by batch."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from data.assembly import EncodedSplit
from data.columns import MemoryColumn, bytes_column
from data.contracts import DatasetInfo, Provenance

EXAMPLES = 23
few = settings(max_examples=25, deadline=None)


def _split(modality, column):
    info = DatasetInfo("trial", modality, ("a", "b", "c"), {"town": ("x", "y")}, Provenance("test"))
    ids = np.arange(len(column), dtype=np.int32)
    return EncodedSplit("train", info, column, ids % 3, {"town": ids % 2})


def _texts(count):
    # Many more characters than one, so that a mix-up of rows cannot go unseen.
    return _split("text", bytes_column([f"{number} ".encode() * 3 for number in range(count)]))


def _tokenise(texts):
    words = tf.strings.to_number(tf.strings.split(texts), tf.int32)
    return {"tokens": words.to_tensor(shape=[None, 4]), "length": words.row_lengths()}


def _png(number):
    return tf.io.encode_png(np.full((5, 4, 3), number, np.uint8)).numpy()


def _decode(images):
    def decode(encoded):
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        return tf.image.resize(tf.cast(image, tf.float32), [2, 2])

    return {"image": tf.map_fn(decode, images, fn_output_signature=tf.TensorSpec([2, 2, 3]))}


def _text_case(count=EXAMPLES):
    return data.prepare(_texts(count), _tokenise), lambda batch: batch["inputs"]["tokens"][:, 2]


def _image_case(count=EXAMPLES):
    split = _split("image", bytes_column([_png(number) for number in range(count)]))
    return data.prepare(split, _decode), lambda batch: batch["inputs"]["image"][:, 0, 0, 0]


def _features_case(count=EXAMPLES):
    vectors = np.arange(count, dtype=np.float32)[:, None] * [1, 10]
    split = _split("features", MemoryColumn(vectors.astype(np.float32)))
    return (
        data.prepare(split, lambda raw: {"features": raw + 1}),
        lambda batch: batch["inputs"]["features"][:, 0] - 1,
    )


CASES = {"text": _text_case, "image": _image_case, "features": _features_case}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A prepared split, and a function that reads each row's number from a batch's inputs."""
    return CASES[request.param]()


def _check_rows(batch, number_of, ids):
    real = ids >= 0
    np.testing.assert_array_equal(batch["ids"], ids)
    np.testing.assert_array_equal(batch["mask"], real)
    np.testing.assert_array_equal(number_of(batch)[real], ids[real])
    np.testing.assert_array_equal(batch["labels"][real], ids[real] % 3)
    np.testing.assert_array_equal(batch["groups"]["town"][real], ids[real] % 2)
    for value in batch["inputs"].values():
        assert np.isfinite(value).all()


@few
@given(batch_size=st.integers(1, 40))
def test_batches_in_order_hold_every_example_once(case, batch_size):
    prepared, number_of = case
    dataset = data.batches_in_order(prepared, batch_size)
    batches = list(dataset.as_numpy_iterator())
    assert len(batches) == dataset.cardinality() == -(-EXAMPLES // batch_size)
    rows = np.full(len(batches) * batch_size, -1)
    rows[:EXAMPLES] = np.arange(EXAMPLES)
    for batch, ids in zip(batches, rows.reshape(-1, batch_size), strict=True):
        _check_rows(batch, number_of, ids)


@few
@given(st.data())
def test_batches_hold_the_examples_asked_for_in_that_order(case, draw):
    prepared, number_of = case
    batch_size = draw.draw(st.integers(1, 16))
    ids = st.integers(-1, EXAMPLES - 1)
    asked = draw.draw(st.lists(st.lists(ids, min_size=batch_size, max_size=batch_size)))
    arrays = [np.array(batch, np.int64) for batch in asked]
    batches = list(data.batches_of(prepared, lambda: iter(arrays), batch_size).as_numpy_iterator())
    assert len(batches) == len(arrays)
    for batch, wanted in zip(batches, arrays, strict=True):
        _check_rows(batch, number_of, wanted)


def test_an_empty_batch_is_all_padding(case):
    prepared, number_of = case
    empty = np.full(5, -1)
    (batch,) = data.batches_of(prepared, lambda: iter([empty]), 5).as_numpy_iterator()
    _check_rows(batch, number_of, empty)


def test_every_shape_is_static(case):
    prepared, _ = case
    for dataset in (
        data.batches_in_order(prepared, 4),
        data.batches_of(prepared, lambda: iter(()), 4),
    ):
        for spec in tf.nest.flatten(dataset.element_spec):
            assert spec.shape.is_fully_defined()
            assert spec.shape[0] == 4
    assert set(dataset.element_spec) == {"inputs", "labels", "groups", "mask", "ids"}
    dtypes = {name: dataset.element_spec[name].dtype for name in ("labels", "mask", "ids")}
    assert dtypes == {"labels": tf.int32, "mask": tf.bool, "ids": tf.int64}
    assert dataset.element_spec["groups"]["town"].dtype == tf.int32


def test_a_pass_can_be_repeated(case):
    prepared, _ = case
    random = np.random.RandomState(0)
    arrays = [random.randint(-1, EXAMPLES, 6) for _ in range(50)]
    dataset = data.batches_of(prepared, lambda: iter(arrays), 6)
    first, again = ([batch["ids"] for batch in dataset.as_numpy_iterator()] for _ in range(2))
    np.testing.assert_array_equal(first, arrays)
    np.testing.assert_array_equal(again, arrays)


@pytest.mark.parametrize("wrong", [EXAMPLES, -2])
def test_an_example_that_does_not_exist_is_refused(case, wrong):
    prepared, _ = case
    dataset = data.batches_of(prepared, lambda: iter([np.array([0, wrong])]), 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[-1, 23\)"):
        list(dataset)


def test_an_index_batch_of_another_size_is_refused(case):
    prepared, _ = case
    dataset = data.batches_of(prepared, lambda: iter([np.array([0, 1, 2])]), 2)
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(dataset)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_an_empty_split_gives_no_batches(make):
    prepared, _ = make(0)
    assert len(prepared) == 0
    assert list(data.batches_in_order(prepared, 4)) == []
    with pytest.raises(ValueError, match="train split is empty"):
        data.batches_of(prepared, lambda: iter(()), 4)


def test_text_is_tokenised_once_and_in_order():
    calls = tf.Variable(0)

    def counting(texts):
        with tf.control_dependencies([calls.assign_add(tf.size(texts))]):
            return _tokenise(texts)

    prepared = data.prepare(_texts(2_000), counting)
    np.testing.assert_array_equal(prepared.inputs["tokens"][:, 1], np.arange(2_000))
    assert prepared.inputs["tokens"].shape == (2_000, 4)
    for _ in range(2):
        list(data.batches_in_order(prepared, 500))
    assert calls.numpy() == 2_000


def test_images_are_decoded_when_a_batch_needs_them():
    images = [_png(number) for number in range(3)]
    split = _split("image", bytes_column([*images, b"no image"]))
    prepared = data.prepare(split, _decode)
    good = data.batches_of(prepared, lambda: iter([np.array([2, -1])]), 2)
    assert len(list(good)) == 1
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(data.batches_in_order(prepared, 2))


def test_labels_and_groups_of_a_prepared_split_are_those_of_the_split():
    prepared, _ = _image_case()
    np.testing.assert_array_equal(prepared.labels, np.arange(EXAMPLES) % 3)
    np.testing.assert_array_equal(prepared.groups["town"], np.arange(EXAMPLES) % 2)
    assert len(prepared) == EXAMPLES


def test_uint8_images_reach_the_preprocessor_as_they_are():
    images = np.random.RandomState(0).randint(0, 256, (7, 8, 8, 1)).astype(np.uint8)
    prepared = data.prepare(_split("image", MemoryColumn(images)), lambda raw: {"image": raw})
    batches = list(data.batches_in_order(prepared, 4).as_numpy_iterator())
    joined = np.concatenate([batch["inputs"]["image"] for batch in batches])
    np.testing.assert_array_equal(joined[:7], images)


class _Counted:
    """An array that notes of how many rows at once it is indexed."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.sizes = []

    def __getitem__(self, positions):
        self.sizes.append(len(positions))
        return self.array[positions]


def test_a_batch_from_memory_is_one_indexing_of_every_array():
    # A training step takes a thousand times as long, as long as nothing is done row by row.
    prepared = data.prepare(_texts(2_000), _tokenise)
    held = {name: _Counted(array) for name, array in prepared.inputs.items()}
    random = np.random.RandomState(0)
    arrays = [random.randint(-1, 2_000, 512) for _ in range(20)]

    def unasked(texts):
        raise AssertionError("what is prepared is prepared again")

    prepared = replace(prepared, inputs=held, preprocess=unasked)
    dataset = data.batches_of(prepared, lambda: iter(arrays), 512)
    for batch, ids in zip(dataset.as_numpy_iterator(), arrays, strict=True):
        np.testing.assert_array_equal(batch["inputs"]["tokens"][ids >= 0, 1], ids[ids >= 0])
    assert {name: array.sizes for name, array in held.items()} == {
        name: [512] * 20 for name in ("tokens", "length")
    }
