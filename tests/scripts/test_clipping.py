"""Runs that watch who is clipped: marked for the operator, or released and paid for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.arguments import parse_recipe, recipe_parser
from scripts.cli import main
from tests.training.test_resume import Crash, CrashAt
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session

# Its fixtures take long: one process makes them.
pytestmark = pytest.mark.xdist_group("clipping")

RECIPE = """
data: {source: csv, table: {train: people.csv, label: outcome, features: [x, z], groups: [ward]}}
model: {name: mlp, mlp: {hidden_units: [32]}}
training: {steps: 12, batch_size: 60, seed: 3, optimizer: {learning_rate: 1e-2}}
privacy:
  enabled: true
  noise_multiplier: 0.5
  clipping_norm: 2.5
  clipping: {watch: {mode: MODE, attribute: ward, share: 0.3}}
evaluation: {bootstrap_resamples: 10}
"""


@pytest.fixture(scope="module")
def recipes(folder) -> Callable[[str], Path]:
    """Makes the recipe of a mode, over a table that lies in the folder."""
    rng = np.random.default_rng(0)
    rows = ["x,z,outcome,ward"]
    for _ in range(400):
        ward, outcome = rng.random() < 0.3, rng.random() < 0.4
        # The west's examples are larger, so that its gradients are; and they tell nothing, or a
        # model that starts by being right of them would leave them none.
        x, z = 8 * rng.normal(0, 1, 2) if ward else 0.4 * rng.normal(outcome, 1, 2)
        rows.append(f"{x:.4f},{z:.4f},{('no', 'yes')[outcome]},{('east', 'west')[ward]}")
    (folder / "people.csv").write_text("\n".join(rows))

    def recipe_of(mode: str) -> Path:
        path = folder / f"{mode}.yaml"
        path.write_text(RECIPE.replace("MODE", mode))
        return path

    return recipe_of


@pytest.fixture(scope="module", params=["marked", "released"])
def run(request, folder, recipes) -> tuple[str, Path]:
    root = folder / f"run {request.param}"
    assert main(["train", str(recipes(request.param)), "--run", str(root)]) == 0
    return request.param, root


def test_evaluation_says_who_was_cut_and_whether_epsilon_covers_it(run):
    mode, root = run
    section = json.loads((root / "evaluation.json").read_text())["further"]["clipping"]
    assert section["attribute"] == "ward"
    assert section["covered_by_privacy_guarantee"] is (mode == "released")
    groups = section["run"]["groups"]
    assert groups["west"]["clipped_share"] > groups["east"]["clipped_share"] + 0.2
    assert groups["west"]["clipped_share"] > 0.3
    drawn = groups["west"]["examples"] + groups["east"]["examples"]
    assert drawn == pytest.approx(12 * 60, abs=130)
    assert (section["run"]["noise_stddev"] > 0) is (mode == "released")
    assert (groups["west"]["standard_error"] > 0) is (mode == "released")


def test_export_holds_only_what_the_budget_paid_for(run):
    mode, root = run
    (inside,) = (root / "export" / "saved_model").rglob("evaluation.json")
    assert ("clipping" in json.loads(inside.read_text())["further"]) is (mode == "released")
    said = (root / "privacy.txt").read_text()
    assert ("at 0.3 of the budget, the number of its examples by ward" in said) is (
        mode == "released"
    )


def test_tensorboard_shows_it_epoch_by_epoch(run):
    mode, root = run
    events = EventAccumulator(str(root / "logs")).Reload()
    mark = "released, covered by ε" if mode == "released" else "train, not covered by ε"
    shares = events.Tensors(f"3 fairness/6 {mark.split(', ')[1]}: west clipped")
    assert [event.step for event in shares] == [1, 2]
    assert f"1 overview/5 who is clipped, by ward ({mark})" in events.Tags()["tensors"]


@pytest.mark.slow
def test_resumed_run_releases_the_counts_of_one_that_never_stopped(tmp_path, recipes):
    argv = [str(recipes("released")), "--training.checkpoint_every=2"]
    recipe = parse_recipe(recipe_parser("train", "RECIPE.yaml", ""), argv).recipe

    def counts(root: Path, callbacks: list[keras.callbacks.Callback]) -> np.ndarray:
        session, run = open_session(recipe), RunDirectory(root)
        ledger = Ledger(run.ledger, session.plan)
        loop = session.loop(run, callbacks, ledger, verbose=0)
        root.mkdir(exist_ok=True)
        loop.run()
        found = loop.step.watched()
        return np.concatenate([found.epoch, found.run, [[found.run_stddev] * 16]])

    whole = counts(tmp_path / "whole", [])
    with pytest.raises(Crash):
        counts(tmp_path / "cut", [CrashAt(9)])
    np.testing.assert_array_equal(counts(tmp_path / "cut", []), whole)


def test_attribute_that_the_data_lack_is_refused(tmp_path, recipes, capfd):
    run = ["--run", str(tmp_path / "run"), "--privacy.clipping.watch.attribute=sex"]
    assert main(["train", str(recipes("marked")), *run]) == 2
    assert "privacy.clipping.watch.attribute: expected one of" in capfd.readouterr().err
