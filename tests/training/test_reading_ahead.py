"""Batches are there before a step asks for them, and are those that it would have asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from data import PreparedSplit
from data.assembly import EncodedSplit
from data.columns import MemoryColumn
from data.contracts import DatasetInfo, Provenance
from tests.training.conftest import assert_identical, weights_of
from tests.training.test_frozen_features import RECIPE, new_loop, session, undisturbed
from training import feeding
from training.batching import Batching
from training.feeding import ReplicaFeed
from training.privacy.sampling.poisson import PoissonSampler
from training.randomness import Randomness
from training.reading_ahead import read_ahead

__all__ = ["session", "undisturbed"]  # fixtures
_SECONDS = 300.0  # only what never comes is waited for so long


class Recorded:
    """Gives 0, 1, 2 ...; tells which of them were made, and by whom."""

    def __init__(self, end: int):
        self.made = [threading.Event() for _ in range(end)]
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        for number, event in enumerate(self.made):
            self.threads.add(threading.get_ident())
            event.set()
            yield number


def test_next_are_made_before_they_are_asked_for_and_no_more():
    recorded = Recorded(9)
    items = read_ahead(iter(recorded), 2)
    assert not recorded.made[0].is_set()
    assert next(items) == 0
    assert all(event.wait(_SECONDS) for event in recorded.made[:3])
    assert not recorded.made[3].is_set()
    assert list(items) == list(range(1, 9))
    assert threading.get_ident() not in recorded.threads


@pytest.mark.parametrize("waiting", [1, 2, 5, 8])
def test_something_always_waits_until_the_end(waiting):
    recorded = Recorded(20)
    items = read_ahead(iter(recorded), waiting)
    for number in range(19):
        assert next(items) == number
        assert recorded.made[number + 1].wait(_SECONDS)
    assert list(items) == [19]


def test_an_error_is_raised_in_its_turn():
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    items = read_ahead(broken(), 4)
    assert next(items) == 1
    with pytest.raises(ValueError, match="the second"):
        next(items)


def test_who_leaves_early_ends_the_reading():
    recorded = Recorded(100)
    items = read_ahead(iter(recorded), 3)
    assert [next(items), next(items)] == [0, 1]
    assert recorded.made[4].wait(_SECONDS)
    items.close()
    (reader,) = recorded.threads
    threads = [t for t in threading.enumerate() if t.ident == reader]
    for thread in threads:
        thread.join(_SECONDS)
        assert not thread.is_alive()
    assert not recorded.made[5].is_set()


def vectors(examples: int = 50) -> PreparedSplit:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(examples, 3)).astype(np.float32)
    info = DatasetInfo("v", "features", ("0", "1"), {"g": ("a", "b")}, Provenance("numpy"), (3,))
    split = EncodedSplit(
        name="train",
        info=info,
        raw=MemoryColumn(values),
        labels=rng.integers(0, 2, examples).astype(np.int32),
        groups={"g": rng.integers(0, 2, examples).astype(np.int32)},
    )
    return PreparedSplit(split, lambda raw: {"features": raw}, {"features": values})


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_read_ahead_are_those_of_tf_data_from_any_step_on(in_memory):
    prepared = vectors()
    if not in_memory:
        prepared = replace(prepared, inputs=None)
    batching = Batching(PoissonSampler(50, 0.3, Randomness.from_seed(3)), 8)
    feed = ReplicaFeed(prepared, batching, tf.distribute.get_strategy())
    counts = [batching.count(step) for step in range(12)]
    assert max(counts) > 1
    expected = list(feed(0, 12))
    for first in (0, 5, 11):
        found = list(feed.ahead(first, 12))
        left = expected[sum(counts[:first]) :]
        assert len(found) == len(left)
        for one, other in zip(found, left, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, one, other)
            spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, one)
            assert spec == feed.element_spec


def test_the_next_batch_is_assembled_while_a_step_runs(session, tmp_path, monkeypatch):
    assembled = [threading.Event() for _ in range(4)]
    made = iter(assembled)

    def recording(*arguments):
        batch = real(*arguments)
        if (event := next(made, None)) is not None:
            event.set()
        return batch

    real = feeding.batch_at
    monkeypatch.setattr(feeding, "batch_at", recording)
    loop, _ = new_loop(session, tmp_path)
    finish, there = loop.step.finish, []

    def finishing(*arguments, **further):
        if not there:
            there.extend(event.wait(_SECONDS) for event in assembled)
        return finish(*arguments, **further)

    loop.step.finish = finishing
    loop.run()
    assert there == [True] * 4


def test_a_run_ends_the_same_with_and_without_reading_ahead(session, undisturbed, tmp_path):
    loop, lazy = new_loop(session, tmp_path)
    assert RECIPE.training.steps_per_execution == 1
    loop.feed = ReplicaFeed(lazy.train, loop.batching, lazy.strategy)
    loop.run()
    assert_identical(weights_of(loop.model), undisturbed)
    # One program each: what is read ahead looks to the step as what it was traced for.
    assert loop.step._finish_alone.experimental_get_tracing_count() == 1
