"""Runs of a game: what it does to a gap, what a checkpoint keeps, on one device or two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from configs.schema import (
    FairnessSettings,
    Recipe,
)
from tests.training.conftest import assert_identical, weights_of
from tests.training.fairness.people import (
    ADVERSARY,
    CALIBRATED,
    DRO,
    NOISY_COUNTS,
    ODDS,
    PARITY,
    PRIVATE,
    changed,
    privately,
)
from tests.training.test_resume import crash, run_once
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


def gap_after(recipe: Recipe, root: Path) -> tuple[float, dict[str, float]]:
    """Difference of the wards' shares of positive answers in training, and the last logs."""
    logs: dict[str, float] = {}
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, last: logs.update(last))
    session, run = open_session(recipe), RunDirectory.at(str(root))
    root.mkdir()
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    session.loop(run, [keep], ledger, verbose=0).run()
    answers = session.model.trained(dict(session.train.inputs)).numpy().argmax(-1)
    ward = session.train.groups["ward"]
    return abs(answers[ward == 1].mean() - answers[ward == 0].mean()), logs


def test_constraint_closes_the_gap_and_logs_every_multiplier_and_violation(recipe, tmp_path):
    without, plain_logs = gap_after(changed(recipe, FairnessSettings(), steps=150), tmp_path / "a")
    within, logs = gap_after(changed(recipe, PARITY, steps=150), tmp_path / "b")
    assert without > 0.25
    # Rates of batches are not those of all, and the last model is not the mean of all models.
    assert within < 0.15
    named = {name for name in logs if ":" in name}
    assert named == {
        f"{kind}: {group} {side} everybody, among all"
        for kind in ("multiplier", "violation")
        for group in ("w0", "w1")
        for side in ("above", "below")
    }
    assert not any(":" in name for name in plain_logs)
    pull = [logs[f"multiplier: w1 {side} everybody, among all"] for side in ("above", "below")]
    assert pull[0] > pull[1] + 0.05


@pytest.mark.slow
def test_private_constraint_closes_the_gap_from_noisy_tables_alone(recipe, tmp_path):
    private = replace(PRIVATE, epsilon=20.0)
    fairness = replace(privately(PARITY), constraint=replace(PARITY.constraint, step_size=1.0))
    without, _ = gap_after(changed(recipe, FairnessSettings(), private, steps=150), tmp_path / "a")
    within, logs = gap_after(changed(recipe, fairness, private, steps=150), tmp_path / "b")
    assert without > 0.25
    assert within < 0.6 * without
    assert all(name.startswith("released ") for name in logs if ":" in name)
    assert logs["released multiplier: w1 above everybody, among all"] > 0.1


@pytest.mark.parametrize(
    ("fairness", "privacy"),
    [
        pytest.param(ODDS, None, marks=pytest.mark.slow),
        pytest.param(DRO, None, marks=pytest.mark.slow),
        pytest.param(ADVERSARY, None, marks=pytest.mark.slow),
        (privately(ODDS), CALIBRATED),
        pytest.param(NOISY_COUNTS, CALIBRATED, marks=pytest.mark.slow),
    ],
    ids=["odds", "dro", "adversary", "private odds", "noisy counts"],
)
def test_resumed_run_ends_with_identical_weights_and_multipliers(
    recipe, tmp_path, fairness, privacy
):
    settings = changed(recipe, fairness, privacy)
    whole, _, ledger = run_once(settings, tmp_path / "whole")
    crash(settings, tmp_path / "cut", 7)
    crash(settings, tmp_path / "cut", 6)
    resumed, _, again = run_once(settings, tmp_path / "cut")
    assert_identical(weights_of(resumed.model), weights_of(whole.model))
    assert_identical(*([np.array(v) for v in loop.step.state] for loop in (resumed, whole)))
    assert any(np.abs(np.array(v)).max() > 0 for v in whole.step.state)
    if ledger is not None:
        assert (again.releases, again.tables, again.epsilon) == (
            ledger.releases,
            ledger.tables,
            ledger.epsilon,
        )


@pytest.mark.slow
@pytest.mark.parametrize("game", ["odds", "adversary", "private odds"])
def test_two_replicas_hold_the_multipliers_of_one_device(game):
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.fairness.replicated_games", game],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["weights"] < 1e-4
    assert found["state"] < 1e-4 * max(1.0, found["largest"])
    assert found["largest"] > 0.1
