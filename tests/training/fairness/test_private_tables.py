"""Runs that learn from noisy tables: what they pay, record and use again."""

from __future__ import annotations

import json
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest

from configs.schema import (
    SettingError,
)
from scripts.ledger import account_of
from tests.training.conftest import assert_identical
from tests.training.fairness.people import (
    CALIBRATED,
    PARITY,
    PRIVATE,
    changed,
    privately,
)
from tests.training.test_resume import crash, run_once
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


def test_epsilon_of_the_plan_is_that_of_steps_and_tables_together(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), PRIVATE)
    _, _, ledger = run_once(settings, tmp_path)
    plan = ledger.plan
    # In epochs of four steps: no table before the first, one before each of the others.
    assert -(-plan.num_examples // 120) == 4
    assert ledger.tables == 4
    assert [step for step in range(20) if ledger.table(step)] == [4, 8, 12, 16]
    accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-4)
    step = dp_accounting.PoissonSampledDpEvent(
        120 / plan.num_examples, dp_accounting.GaussianDpEvent(plan.noise_multiplier)
    )
    accountant.compose(step, 20)
    of_steps = accountant.get_epsilon(plan.delta)
    accountant.compose(dp_accounting.GaussianDpEvent(4.0), 4)
    expected = accountant.get_epsilon(plan.delta)
    assert ledger.epsilon == pytest.approx(expected, rel=2e-3)
    assert 0.99 * 4.0 < plan.epsilon(20) <= 4.0
    assert of_steps < 0.99 * expected
    text = plan.statement(20, reproducible=False)
    assert "4 noisy tables of all training examples by group and label (selection)" in text
    account = account_of(Ledger.existing(tmp_path / "ledger.jsonl"))
    assert (account["epsilon"], account["group_tables"]) == (ledger.epsilon, 4)


def test_table_is_in_the_ledger_before_it_is_used_and_is_noisy(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), CALIBRATED)
    session, run = open_session(settings), RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    player, exact, learned = loop.step.player, [], []
    tables, learn = loop.before_step.__self__, player.learn

    def spy(table) -> None:
        exact.append(tables.exact())
        written = [json.loads(line) for line in run.ledger.read_text().splitlines()]
        last = written[-1]["groups"]
        assert np.array_equal(np.float32(last["table"]), table.numpy())
        learned.append(table.numpy())
        learn(table)

    player.learn = spy
    loop.run()
    noise = np.concatenate([(a - b).ravel() for a, b in zip(learned, exact, strict=True)])
    assert len(noise) == 4 * 8
    # 32 draws of deviation 4: half or double it, with a chance of one in a hundred thousand.
    assert 2.0 < noise.std() < 8.0
    assert exact[0].sum() == len(session.train)


def test_unseeded_run_uses_a_recorded_table_again_and_pays_for_it_once(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), CALIBRATED, seed=None, checkpoint_every=4)
    crash(settings, tmp_path, 7)  # after the table of step 4, which the checkpoint of 4 lacks
    before = Ledger.existing(tmp_path / "ledger.jsonl")
    kept = before.table(4)
    assert (before.releases, before.tables) == (7, 1)
    _, steps, ledger = run_once(settings, tmp_path)
    assert ledger.table(4) == kept
    assert ledger.tables == 4
    # Steps drew anew and counted again; tables did not.
    assert (steps, ledger.releases) == (17, 20)
    assert ledger.epsilon == ledger.plan.epsilon(20)


def test_table_is_learned_from_once_however_often_its_step_is_begun(recipe, tmp_path):
    settings = changed(recipe, privately(PARITY), CALIBRATED)
    session, run = open_session(settings), RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    loop.before_step(3)
    assert ledger.tables == 0
    loop.before_step(4)
    once = [v.numpy() for v in loop.step.state]
    loop.before_step(4)
    assert_identical([v.numpy() for v in loop.step.state], once)
    assert ledger.tables == 1
    assert np.abs(once[1]).sum() > 0


def test_steps_are_calibrated_with_the_tables_that_go_with_them(recipe):
    privacy = replace(PRIVATE, calibrate="steps", noise_multiplier=1.5)
    settings = changed(recipe, privately(PARITY), privacy, steps=None, epochs=None)
    plan = open_session(settings).plan
    assert plan.tables(plan.steps) == (plan.steps - 1) // 4 > 0
    assert plan.epsilon(plan.steps) <= 4.0 < plan.epsilon(plan.steps + 4)


def test_run_too_short_for_a_table_is_refused(recipe):
    with pytest.raises(SettingError, match=r"training.steps: expected more than 4"):
        open_session(changed(recipe, privately(PARITY), CALIBRATED, steps=4))
