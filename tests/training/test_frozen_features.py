"""Frozen features are those of a full pass, whenever and with whatever else they are asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import data
import models
from configs.schema import DataSettings
from data.pipeline import PreparedSplit
from tests.training.conftest import BASE, PRIVATE, assert_identical, weights_of
from training.frozen_features import Column, blocks_with, through_prefix
from training.interruption import Stopped
from training.loop import Loop
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import Model, Session, open_session

RECIPE = replace(
    BASE,
    # Without dropout, whose seeds would go on from one loop over the model to the next.
    model=replace(BASE.model, mlp=replace(BASE.model.mlp, dropout=0.0)),
    data=DataSettings(source="digits", limit=300),
    privacy=PRIVATE,
    training=replace(BASE.training, steps=9, physical_batch_size=48),
)


@pytest.fixture(scope="module")
def session() -> Session:
    """A session whose first layer is frozen, nothing of it computed."""
    opened = open_session(RECIPE)
    built = opened.model.built
    next(layer for layer in built.model.layers if layer.weights).trainable = False
    prefix, trained = models.split_frozen_prefix(built)
    return replace(opened, model=Model(built, prefix, trained))


def raw(session: Session) -> PreparedSplit:
    return data.prepare(session.dataset.train, session.model.built.preprocess)


def column(prepared: PreparedSplit) -> Column:
    (found,) = prepared.inputs.values()
    return found


def test_blocks_give_each_example_its_own_row_and_compute_nothing_twice():
    rng = np.random.default_rng(0)
    for examples in (1, 7, 8, 50):
        there = rng.random(examples) < 0.4
        missing = np.flatnonzero(~there & (rng.random(examples) < 0.5))
        if not len(missing):
            missing = np.flatnonzero(~there)[:1]
        blocks = np.stack(blocks_with(missing, there, size=8))
        real = blocks[blocks >= 0]
        assert set(missing) <= set(real)
        assert len(set(real)) == len(real)
        assert not there[real].any()
        assert (blocks[blocks >= 0] % 8 == np.nonzero(blocks >= 0)[1]).all()
        assert len(blocks) == np.bincount(missing % 8).max()


def test_features_do_not_depend_on_the_order_of_draws(session):
    whole = np.asarray(column(through_prefix(raw(session), session.model.prefix)))
    assert np.abs(whole).max() > 0
    rng = np.random.default_rng(1)
    lazy = column(through_prefix(raw(session), session.model.prefix))
    assert lazy.features.computed == 0
    seen: set[int] = set()
    for size in (1, 3, 40, 2, 120):
        drawn = rng.permutation(len(whole))[:size]
        np.testing.assert_array_equal(lazy[drawn], whole[drawn])
        seen |= set(drawn)
        assert len(seen) <= lazy.features.computed
    direct = session.model.prefix.predict(
        next(iter(data.batches_in_order(raw(session), 8)))["inputs"], verbose=0
    )
    np.testing.assert_allclose(whole[:8], next(iter(direct.values())), rtol=1e-6, atol=1e-6)


def test_first_draw_computes_little_more_than_itself(session):
    lazy = column(through_prefix(raw(session), session.model.prefix))
    lazy[np.arange(20)]
    assert 20 <= lazy.features.computed <= 32


def test_empty_split_has_empty_features(session):
    train = raw(session)
    empty = replace(train, split=session.dataset.train, inputs=None)

    class Nothing:
        info, name = empty.split.info, "validation"

        def __len__(self) -> int:
            return 0

    found = through_prefix(replace(empty, split=Nothing()), session.model.prefix)
    assert all(len(rows) == 0 for rows in found.inputs.values())


class Signalling:
    """A split that gets its process a SIGTERM when a number of examples have been read.

    What is read then comes only when the features are `given_up`, where it has that event: what
    hears of the signal is a thread, which all others might outrun.
    """

    def __init__(self, split, after: int):
        self._split, self._left = split, after
        self.name, self.info = split.name, split.info
        self.labels, self.groups = split.labels, split.groups
        self.given_up: threading.Event | None = None

    def __len__(self) -> int:
        return len(self._split)

    def read(self, indices):
        before = self._left
        self._left -= len(indices)
        if before >= 0 > self._left:
            os.kill(os.getpid(), signal.SIGTERM)
            if self.given_up is not None:
                self.given_up.wait(300)
        return self._split.read(indices)


def new_loop(
    session: Session, root: Path, after: int | None = None, at_once: int = 1
) -> tuple[Loop, Session]:
    """A fresh loop over weights as they were first; `after` so many examples comes a signal."""
    training = replace(session.recipe.training, steps_per_execution=at_once)
    session = replace(session, recipe=replace(session.recipe, training=training))
    fresh = open_session(RECIPE)
    session.model.built.model.set_weights(fresh.model.built.model.get_weights())
    split = session.dataset.train if after is None else Signalling(session.dataset.train, after)
    prepared = data.prepare(split, session.model.built.preprocess)
    lazy = replace(session, train=through_prefix(prepared, session.model.prefix))
    if isinstance(split, Signalling) and at_once == 1:  # steps of one call are all taken first
        split.given_up = column(lazy.train).features.given_up
    run = RunDirectory.at(root)
    run.root.mkdir(exist_ok=True)
    return lazy.loop(run, [], Ledger(run.ledger, lazy.plan), verbose=0), lazy


@pytest.fixture(scope="module")
def undisturbed(session, tmp_path_factory) -> list[np.ndarray]:
    loop, _ = new_loop(session, tmp_path_factory.mktemp("whole"))
    loop.run()
    return weights_of(loop.model)


@pytest.mark.parametrize("at_once", [1, 3])
def test_signal_while_features_are_computed_is_obeyed_and_the_run_ends_the_same(
    session, undisturbed, tmp_path, at_once
):
    loop, lazy = new_loop(session, tmp_path / "cut", after=70, at_once=at_once)
    with pytest.raises(Stopped) as stopped:
        loop.run()
    if at_once == 1:
        # Given up at once: not all of what was drawn was still computed.
        assert column(lazy.train).features.computed < len(lazy.train)
    # Steps of one call are paid for together: they are all taken first.
    assert stopped.value.step is not None
    assert stopped.value.step < 9
    assert stopped.value.step % at_once == 0
    # All that was paid for was used, and is saved.
    assert loop.ledger.releases == stopped.value.step
    loop, _ = new_loop(session, tmp_path / "cut")
    assert loop.run() == 9
    assert_identical(weights_of(loop.model), undisturbed)


def test_signal_while_a_table_of_all_examples_is_made_saves_what_was_before_it(session, tmp_path):
    loop, lazy = new_loop(session, tmp_path, after=70)
    loop.before_step = lambda step: list(data.batches_in_order(lazy.train, 64))
    with pytest.raises(Stopped) as stopped:
        loop.run()
    assert stopped.value.step == 0
    assert Ledger(tmp_path / "ledger.jsonl", lazy.plan).releases == 0


ONE_THREAD = """
import threading
import numpy as np, tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
import keras, data
from configs.schema import DataSettings
from training.frozen_features import through_prefix
split = data.load(DataSettings(source="digits", limit=500)).train
inputs = keras.Input((8, 8, 1), name="image")
hidden = keras.layers.Flatten()(inputs)
for _ in range(4):
    hidden = keras.layers.Dense(256, activation="relu")(hidden)
prefix = keras.Model({"image": inputs}, {"hidden": hidden})
def as_image(raw):
    return {"image": tf.cast(tf.ensure_shape(raw, [None, 8, 8, 1]), tf.float32) / 16.0}
def read(prepared):
    for batch in data.batches_in_order(prepared, 64):
        assert batch["inputs"]["hidden"].shape == (64, 256)
splits = [through_prefix(data.prepare(split, as_image), prefix) for _ in range(2)]
readers = [threading.Thread(target=read, args=(s,), daemon=True) for s in splits]
for reader in readers:
    reader.start()
for reader in readers:
    reader.join(400)
    assert not reader.is_alive(), "they wait for each other"
print("done")
"""


def test_readers_of_two_splits_do_not_wait_for_each_other_on_one_thread():
    done = subprocess.run(
        [sys.executable, "-c", ONE_THREAD],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "done" in done.stdout
