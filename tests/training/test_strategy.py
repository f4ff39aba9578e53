"""Several replicas take the step that one device takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import SettingError
from tests.training.test_steps import draws, make_batch, make_model
from training.losses import cross_entropy
from training.steps import PlainStep
from training.strategy import resolve_strategy

# Its fixtures take long: one process makes them.
pytestmark = pytest.mark.xdist_group("strategy")


@pytest.fixture(scope="module")
def differences() -> dict[str, Any]:
    return {**run_replicas("kinds", "--brief"), **run_replicas("clipping")}


def run_replicas(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.replicas", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "plain, global_clipnorm",
        "private",
        "private, adaptive",
        "private, XLA",
    ],
)
def test_two_replicas_end_with_the_weights_of_one_device(differences, kind):
    found = differences[kind]
    assert found["strategies"] < 1e-5
    assert found["moved"] > 0.01


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "private",
        "private, adaptive",
        "private, XLA",
        "private, dropout",
    ],
)
def test_replicas_stay_identical(differences, kind):
    assert differences[kind]["replicas"] == 0.0


def test_strategy_for_replicas_takes_the_step_with_one_replica():
    strategies = (tf.distribute.MirroredStrategy(["CPU:0"]), tf.distribute.get_strategy())
    models = []
    for strategy in strategies:
        with strategy.scope():
            model, optimizer = make_model(), keras.optimizers.Adam(0.1)
            step = PlainStep(
                model, cross_entropy(["0", "1", "2"]), optimizer, strategy, accumulates=False
            )
        step.finish(make_batch(10), draws(), accumulated=False)
        models.append(model)
    for mine, its in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-6)


# With noise: in one step it moves a weight by about 0.1 x 0.5 / 40 = 1e-3, so that other noise on
# any replica, or the same noise once per replica, would be a hundred times the tolerance.
@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_end_with_the_weights_of_one_device_in_every_kind_of_step(replicas):
    arguments = ("--replicas", str(replicas), "--steps", "20")
    found = run_replicas("kinds", *arguments)
    # Dropout differs by replica, so only the replicas can be compared.
    assert found.pop("private, dropout")["replicas"] == 0.0
    found |= run_replicas("noiseless", *arguments)
    assert len(found) == 9
    for differences in found.values():
        assert_same_weights(differences)


@pytest.mark.slow
def test_replicas_that_share_users_out_end_with_the_weights_of_one_device():
    assert_same_weights(run_replicas("users")["users"])


@pytest.mark.slow
def test_replicas_taking_steps_in_groups_end_with_the_weights_of_single_steps():
    found = run_replicas("groups", "--steps", "10")
    assert len(found) == 2
    for differences in found.values():
        assert differences == {"single steps": 0.0, "replicas": 0.0}


@pytest.mark.slow
def test_replicas_in_float16_share_one_loss_scale_and_follow_one_device():
    found = run_replicas("float16")
    plain, overflow = found["plain"], found["overflow"]
    assert plain["replicas"] == overflow["replicas"] == 0.0
    assert plain["strategies"] < 0.01 * plain["moved"]
    skipped = int(overflow["steps"][-1]["skipped_steps"])
    assert 0 < skipped < 20
    for number, step in enumerate(overflow["steps"], start=1):
        assert step["loss_scale"] == 2.0 ** (25 - min(number, skipped))
        assert (step["moved"] == 0) == (number <= skipped)


def assert_same_weights(found: dict[str, float]) -> None:
    assert found["strategies"] < 1e-5
    assert found["replicas"] == 0.0
    assert found["moved"] > 0.01


@pytest.mark.parametrize("method", ["flat", "per_layer", "adaptive", "global_adapt"])
def test_one_example_moves_the_sum_over_replicas_by_no_more_than_the_bound(differences, method):
    moved = differences["sensitivity"][method]
    # Weights of size 1 hold the sum in float32: 6e-8 x 12 examples / 0.2 and some.
    assert all(distance <= 1 + 1e-4 for distance in moved.values())
    assert max(moved.values()) > 0.99  # and one of them takes it up


def test_replicas_count_who_is_clipped_once(differences):
    assert differences["watched"] < 1e-4  # noise of 5 is on the counts of one of the two


def test_one_cpu_is_one_device():
    assert resolve_strategy("auto") is tf.distribute.get_strategy()
    assert resolve_strategy("one_device").num_replicas_in_sync == 1


def test_several_workers_need_to_be_told_of_each_other(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(SettingError, match=r"training\.strategy: expected .*TF_CONFIG"):
        resolve_strategy("multi_worker")
