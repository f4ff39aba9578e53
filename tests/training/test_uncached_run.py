"""Runs whose examples are not held: the same weights, and the frozen layers within their limit."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import data
from configs.schema import BertSettings, DataSettings, MlpSettings, ModelSettings, TableSettings
from tests.training.conftest import PRIVATE, assert_identical, weights_of
from tests.training.test_session import loop_of
from training.frozen_features import fits_in_memory, through_prefix
from training.session import open_session


@pytest.fixture
def people(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the table's path names the random streams
    random = np.random.RandomState(1)
    vectors = random.normal(size=(120, 4))
    rows = [",".join(map(str, [*row, "ab"[int(row[0] > 0)]])) for row in vectors]
    path = Path("people.csv")
    path.write_text("\n".join(["p,q,r,s,label", *rows]))
    table = TableSettings(train=str(path), features=["p", "q", "r", "s"])
    return DataSettings(source="csv", table=table)


MODEL = ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[8]))


@pytest.mark.parametrize("private", [False, True])
def test_weights_are_the_same_to_the_last_bit_also_when_resumed(recipe, people, tmp_path, private):
    settings = recipe(
        **({"privacy": PRIVATE} if private else {}),
        model=MODEL,
        data=people,
        batch_size=20,
        steps=6,
        checkpoint_every=3,
    )
    uncached = replace(settings, data=replace(people, cache="none", store="elsewhere"))
    found = []
    for place, one in (("memory", settings), ("none", uncached)):
        (tmp_path / place).mkdir()
        session = open_session(one)
        loop_of(session, tmp_path / place).run()
        found.append(weights_of(session.model.built.model))
    assert_identical(*found)
    (latest,) = (tmp_path / "none" / "checkpoints").glob("step-*6")
    for part in sorted(latest.rglob("*"), reverse=True):
        part.rmdir() if part.is_dir() else part.unlink()
    latest.rmdir()
    again = open_session(uncached)
    assert loop_of(again, tmp_path / "none").run() == 6
    assert_identical(weights_of(again.model.built.model), found[0])


def _text(recipe, tmp_path, **training):
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + "\n".join(f"one {n},{'ab'[n % 2]}" for n in range(30)))
    texts = DataSettings(
        source="csv", table=TableSettings(train=str(path), text="text"), cache="none"
    )
    model = ModelSettings(name="bert", bert=BertSettings(sequence_length=8, trainable="head"))
    return recipe(model=model, data=texts, batch_size=10, steps=1, **training)


@pytest.mark.slow
def test_session_keeps_frozen_layers_within_their_limit(recipe, tmp_path):
    kept = open_session(_text(recipe, tmp_path))
    assert kept.model.prefix is not None
    held_bytes = sum(
        array.nbytes for split in (kept.train, kept.validation) for array in split.inputs.values()
    )
    not_kept = open_session(_text(recipe, tmp_path, cache_frozen_gb=(held_bytes - 1) / 1e9))
    assert not_kept.model.prefix is None
    assert not_kept.train.inputs is None
    assert open_session(_text(recipe, tmp_path, cache_frozen_gb=held_bytes / 1e9)).model.prefix


def test_frozen_layers_of_uncached_examples_are_kept_up_to_a_limit_that_the_log_names(
    people, caplog
):
    caplog.set_level(logging.INFO)
    inputs = keras.Input((4,), name="features")
    prefix = keras.Model({"features": inputs}, {"hidden": keras.layers.Dense(3)(inputs)})
    assert fits_in_memory(prefix, 10, 10 * 3 * 4)
    assert (
        "once for each of 10 examples, when it is first drawn; their activations take 1.2e-07 GB"
        in caplog.text
    )
    assert not fits_in_memory(prefix, 10, 10 * 3 * 4 - 1)
    assert "frozen layers run at every step: kept for 10 examples" in caplog.text
    found = []
    for cache in ("memory", "none"):
        split = data.load(replace(people, cache=cache)).train
        prepared = data.prepare(split, lambda raw: {"features": raw}, cache)
        found.append(through_prefix(prepared, prefix).inputs["hidden"])
    assert found[0].shape == (len(split), 3)
    np.testing.assert_array_equal(*found)
