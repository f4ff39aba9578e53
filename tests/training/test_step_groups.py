"""Several steps in one call are the steps one by one, paid for before the first."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import keras
import pytest

from configs.schema import (
    ClippingSettings,
    MechanismSettings,
    OptimizerSettings,
    PrivacySettings,
    SamplingSettings,
    UserError,
)
from tests.training.conftest import PRIVATE, assert_identical, weights_of
from tests.training.test_resume import Crash, crash, run_once
from training.interruption import Stopped
from training.loop import Loop
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session

PLAIN = PrivacySettings()
BANDED = replace(
    PRIVATE,
    sampling=SamplingSettings("cyclic", bands=3),
    mechanism=MechanismSettings("banded_matrix_factorization"),
)
ADAPTIVE = replace(PRIVATE, clipping=ClippingSettings("adaptive", count_share=0.1))
KINDS = {
    "plain": (PLAIN, {}),
    "plain, accumulated": (PLAIN, {"physical_batch_size": 16}),
    "private": (PRIVATE, {"physical_batch_size": 80}),
    "private, accumulated": (PRIVATE, {"physical_batch_size": 16}),
    "private, sometimes accumulated": (PRIVATE, {"physical_batch_size": 40}),
    "private, adaptive": (ADAPTIVE, {"physical_batch_size": 40}),
    "private, remembered noise": (BANDED, {"physical_batch_size": 80}),
    "private, XLA": (PRIVATE, {"physical_batch_size": 40, "jit_compile": True}),
}

# The others repeat in another kind of step what these show.
QUICK = ("plain", "private, sometimes accumulated")


class Calls(keras.callbacks.Callback):
    """Writes down between which batches of which epoch the callbacks are called."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[int, int, int]] = []

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self._first = batch

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append((self._epoch, self._first, batch))


def calls_of(loop: Loop) -> list[tuple[int, int, int]]:
    (found,) = [c.calls for c in loop.callbacks if isinstance(c, Calls)]
    return found


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
def test_group_leaves_the_weights_of_its_steps_and_reports_their_totals(recipe, tmp_path, kind):
    privacy, settings = KINDS[kind]
    one, _, _ = run_once(recipe(privacy, **settings), tmp_path / "1", [Calls])
    grouped = recipe(privacy, **settings, steps_per_execution=4)
    four, steps, _ = run_once(grouped, tmp_path / "4", [Calls])
    assert steps == 10
    assert_identical(weights_of(four.model), weights_of(one.model))
    assert_identical(*([v.numpy() for v in loop.model.optimizer.variables] for loop in (four, one)))
    assert_identical(*([v.numpy() for v in loop.step.state] for loop in (four, one)))
    assert four._totals.sums == one._totals.sums
    assert calls_of(four) == [(0, 0, 3), (0, 4, 7), (1, 0, 1)]
    assert len(calls_of(one)) == 10


@pytest.mark.parametrize("physical", [80, pytest.param(16, marks=pytest.mark.slow)])
def test_run_resumed_between_groups_ends_with_the_weights_of_single_steps(
    recipe, tmp_path, physical
):
    settings = recipe(PRIVATE, physical_batch_size=physical, checkpoint_every=5)
    whole, _, _ = run_once(settings, tmp_path / "whole")
    grouped = replace(settings, training=replace(settings.training, steps_per_execution=4))
    # Calls of the steps 0-3, 4, 5-7, 8-9: a checkpoint that is due ends a call, as an epoch does.
    crash(grouped, tmp_path / "cut", 3)
    names = [folder.name for folder in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert names == ["step-00000005"]
    resumed, steps, ledger = run_once(grouped, tmp_path / "cut", [Calls])
    assert calls_of(resumed) == [(0, 5, 7), (1, 0, 1)]
    assert (steps, ledger.releases) == (10, 10)
    assert_identical(weights_of(resumed.model), weights_of(whole.model))


def test_all_of_a_group_is_in_the_ledger_before_any_of_it_is_used(recipe, tmp_path):
    settings = recipe(PRIVATE, seed=None, steps_per_execution=4, checkpoint_every=20)
    session, run = open_session(settings), RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    before, take_group, paid = weights_of(loop.model), loop.step.take_group, []

    def spy(batches, draws, counts):
        paid.append((Ledger.existing(run.ledger).releases, len(draws)))
        if len(paid) == 1:
            assert_identical(weights_of(loop.model), before)
        if len(paid) == 2:
            raise Crash
        return take_group(batches, draws, counts)

    loop.step.take_group = spy
    with pytest.raises(Crash):
        loop.run()
    assert paid == [(4, 4), (8, 4)]
    # What was paid for and never used stays spent: of ten releases two are left, drawn anew.
    resumed, steps, ledger = run_once(settings, tmp_path, [Calls])
    assert calls_of(resumed) == [(0, 0, 1)]
    assert (steps, ledger.releases) == (2, 10)


def test_last_group_is_cut_where_epsilon_would_be_exceeded(recipe, tmp_path):
    settings = recipe(PRIVATE, seed=None, steps_per_execution=4)
    run = RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, open_session(settings).plan)
    for step in range(4):
        ledger.record(step, "of another root")
    resumed, steps, ledger = run_once(settings, tmp_path, [Calls])
    assert calls_of(resumed) == [(0, 0, 3), (0, 4, 5)]
    assert (steps, ledger.releases) == (6, 10)
    assert ledger.epsilon == ledger.plan.epsilon(10)


def test_signal_is_obeyed_when_the_group_has_ended(recipe, tmp_path):
    class Signal(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            os.kill(os.getpid(), signal.SIGTERM)

    settings = recipe(steps_per_execution=4)
    with pytest.raises(Stopped) as stopped:
        run_once(settings, tmp_path, [Signal])
    assert stopped.value.step == 4


def test_loss_that_is_no_number_ends_the_run_after_its_group(recipe, tmp_path):
    rate = OptimizerSettings(name="SGD", learning_rate=1e30)
    with pytest.raises(UserError, match="no longer finite"):
        run_once(recipe(steps_per_execution=4, optimizer=rate), tmp_path)


def test_waits_within_a_group_are_not_taken_for_none(recipe, tmp_path):
    loop, _, _ = run_once(recipe(steps=40, steps_per_execution=3), tmp_path)
    assert loop.clock.first_step_ended is not None
    assert loop.clock.input_wait_share is None
