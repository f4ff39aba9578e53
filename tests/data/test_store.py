"""A store gives back what was added, to the last bit, and takes nothing that it could not batch."""

import json

import ml_dtypes
import numpy as np
import pytest

from configs.schema.errors import UserError
from data.store import StoreWriter, open_store


def _example(number):
    return {
        "image": bytes([number]) * number + b"\x00",
        "pair": (np.float32(number), [np.arange(6, dtype=np.int16).reshape(2, 3) + number]),
        "words": np.array(["ä", b"\x00"], object),
        "half": np.array([number], ml_dtypes.bfloat16),
        "sure": number % 2 == 0,
    }


def _written(folder, numbers=range(5), **arguments):
    with StoreWriter(folder, **arguments) as writer:
        for number in numbers:
            writer.add(_example(number))
        return writer.store()


def test_every_example_comes_back_bit_by_bit_in_any_order(tmp_path):
    _written(tmp_path / "a")
    store = open_store(tmp_path / "a")
    assert len(store) == 5
    for number, example in zip((4, 0, 4), store.__getitems__([4, 0, 4]), strict=True):
        assert example["image"].item() == bytes([number]) * number + b"\x00"
        np.testing.assert_array_equal(example["pair"][1][0], _example(number)["pair"][1][0])
        assert example["pair"][0] == number
        assert example["pair"][0].dtype == np.float32
        assert list(example["words"]) == ["ä".encode(), b"\x00"]
        assert example["half"].dtype == ml_dtypes.bfloat16
        assert example["sure"].dtype == bool
        assert bool(example["sure"]) == (number % 2 == 0)
    assert type(store[1]["pair"]) is tuple
    assert [int(example["pair"][0]) for example in store] == [0, 1, 2, 3, 4]


def test_digests_tell_stores_apart_by_contents_and_order(tmp_path):
    digests = [
        _written(tmp_path / str(place), numbers).digest
        for place, numbers in enumerate([range(5), range(5), (1, 0, 2, 3, 4), range(4)])
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_store_is_not_written_twice(tmp_path):
    _written(tmp_path / "a", origin="five people")
    with pytest.raises(UserError, match=r"holds 5 stored examples already \(five people\)"):
        _written(tmp_path / "a")


def test_what_is_stored_already_is_compared_and_not_written(tmp_path):
    first = _written(tmp_path / "a", origin="people")
    written = (tmp_path / "a" / "examples.array_record").stat().st_mtime_ns
    assert _written(tmp_path / "a", origin="people", again=True).digest == first.digest
    assert (tmp_path / "a" / "examples.array_record").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="holds other examples than people has now"):
        _written(tmp_path / "a", range(1, 6), origin="people", again=True)
    with pytest.raises(UserError, match="already"):
        _written(tmp_path / "a", origin="animals", again=True)


def test_an_unfinished_store_is_none(tmp_path):
    with StoreWriter(tmp_path / "a") as writer:
        writer.add(_example(1))
    assert list((tmp_path / "a").iterdir()) == []
    with pytest.raises(UserError, match="holds no stored examples"):
        open_store(tmp_path / "a")
    assert len(_written(tmp_path / "a")) == 5


def test_a_damaged_store_is_named(tmp_path):
    _written(tmp_path / "a")
    card = tmp_path / "a" / "store.json"
    content = json.loads(card.read_text())
    card.write_text(json.dumps({**content, "count": 6}))
    with pytest.raises(UserError, match="holds 5 examples, and 6 were stored"):
        open_store(tmp_path / "a")
    card.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        open_store(tmp_path / "a")
    card.write_text(json.dumps(content))
    (tmp_path / "a" / "examples.array_record").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        open_store(tmp_path / "a")


@pytest.mark.parametrize(
    "other",
    [{"x": np.zeros(3)}, {"x": np.zeros(2, np.float32)}, {"y": np.zeros(2)}, np.zeros(2)],
)
def test_examples_that_cannot_be_batched_are_refused_by_number(tmp_path, other):
    with StoreWriter(tmp_path / "a") as writer:
        writer.add({"x": np.zeros(2)})
        with pytest.raises(UserError, match=r"example 1: is .* where the first is float64\[2\]"):
            writer.add(other)


def test_what_is_no_array_is_refused(tmp_path):
    with (
        StoreWriter(tmp_path / "a") as writer,
        pytest.raises(UserError, match="an example holds a set"),
    ):
        writer.add({"x": {1, 2}})


def test_no_example_makes_an_empty_store(tmp_path):
    assert len(_written(tmp_path / "a", ())) == 0
