"""`compile(steps_per_execution=n)`: n steps in one call, in the ledger before the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from configs.schema import UserError
from tests.training.privacy.test_keras_model import CROSS_ENTROPY, PLAN, X, Y, small_model, weights
from training.privacy import Ledger, make_private


def private_model(per_execution: int, jit_compile: bool = False, **further: Any) -> Any:
    private = make_private(small_model(), PLAN, seed=9, physical_batch_size=20, **further)
    private.compile(
        keras.optimizers.Adam(0.05),
        CROSS_ENTROPY,
        metrics=["accuracy"],
        steps_per_execution=per_execution,
        jit_compile=jit_compile,
    )
    return private


class Calls(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.begun: list[int] = []
        self.ended: list[int] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append(batch)


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_calls_of_four_steps_end_with_the_weights_and_metrics_of_single_steps(xla) -> None:
    found = []
    for per_execution in (1, 4):
        private, calls = private_model(per_execution, xla), Calls()
        history = private.fit(X, Y, epochs=2, steps_per_epoch=6, callbacks=[calls], verbose=0)
        found.append((weights(private.inner), history.history, private.releases))
    for one, four in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_array_equal(four, one)
    assert found[1][1:] == found[0][1:]
    # An epoch's end ends a call.
    assert (calls.begun, calls.ended) == ([0, 4, 0, 4], [3, 5, 3, 5])


def test_all_steps_of_a_call_are_in_the_ledger_before_the_first(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    private = private_model(4, ledger=path)
    private.fit(X, Y, epochs=1, steps_per_epoch=4, verbose=0)
    before = weights(private.inner)

    def spy(batches: Any, draws: Any, counts: Any) -> Any:
        assert Ledger.existing(path).releases == 4 + len(draws) == 8
        for old, new in zip(before, weights(private.inner), strict=True):
            np.testing.assert_array_equal(new, old)
        raise KeyboardInterrupt

    private._step.take_group = spy
    with pytest.raises(KeyboardInterrupt):
        private.fit(X, Y, epochs=1, steps_per_epoch=4, verbose=0)
    # What was paid for and never used stays spent.
    assert private.releases == Ledger.existing(path).releases == 8
    with pytest.raises(UserError, match="8 are taken, and 6 were asked for"):
        private.fit(X, Y, epochs=1, steps_per_epoch=6, verbose=0)


def test_last_call_is_cut_at_the_last_planned_step() -> None:
    private, calls = private_model(5, on_exhausted="stop"), Calls()
    private.fit(X, Y, epochs=2, steps_per_epoch=8, callbacks=[calls], verbose=0)
    assert (calls.begun, calls.ended) == ([0, 5, 0], [4, 7, 3])
    assert private.releases == PLAN.steps == 12
