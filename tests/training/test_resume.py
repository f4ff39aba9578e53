"""Stopped anywhere and resumed, a seeded run ends as if it had never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from configs.schema import (
    ClippingSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    UserError,
)
from tests.training.conftest import PRIVATE, assert_identical, weights_of
from training.checkpoints import Checkpoints
from training.outcome import brief_privacy, describe_privacy
from training.payment import shortfall, spent_without_a_step
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


class Crash(BaseException):
    """What no part of the program catches."""


class CrashAt(keras.callbacks.Callback):
    """Stops the process's work when `steps` batches have been seen."""

    def __init__(self, steps: int):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            raise Crash


class Validation(keras.callbacks.Callback):
    """A validation loss that depends on the weights, so that stopping depends on them too."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = float(sum(np.abs(w).sum() for w in self.model.get_weights()))


def run_once(recipe: Recipe, root: Path, callbacks=(), crash_after: int | None = None):
    """Trains until the end or the crash; returns the loop, the steps taken and the ledger."""
    session, run = open_session(recipe), RunDirectory(root)
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    callbacks = [make() for make in callbacks]
    if crash_after is not None:
        callbacks.append(CrashAt(crash_after))
    loop = session.loop(run, callbacks, ledger, verbose=0)
    run.root.mkdir(exist_ok=True)
    return loop, loop.run(), ledger


def crash(recipe: Recipe, root: Path, after: int, callbacks=()) -> None:
    with pytest.raises(Crash):
        run_once(recipe, root, callbacks, crash_after=after)


def compare_with_uninterrupted(recipe: Recipe, tmp_path: Path, callbacks=()) -> None:
    whole, steps, _ = run_once(recipe, tmp_path / "whole", callbacks)
    crash(recipe, tmp_path / "cut", 5, callbacks)
    crash(recipe, tmp_path / "cut", 3, callbacks)
    resumed, resumed_steps, _ = run_once(recipe, tmp_path / "cut", callbacks)
    assert resumed_steps == steps
    assert_identical(weights_of(resumed.model), weights_of(whole.model))
    optimizers = [
        [np.array(v) for v in loop.model.optimizer.variables] for loop in (resumed, whole)
    ]
    assert_identical(*optimizers)
    assert_identical(*([np.array(v) for v in loop.step.state] for loop in (resumed, whole)))


@pytest.mark.parametrize("privacy", [PrivacySettings(), PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("physical", [None, 16], ids=["whole", "accumulated"])
def test_resumed_run_ends_with_identical_weights(recipe, tmp_path, privacy, physical):
    settings = recipe(privacy, physical_batch_size=physical, checkpoint_every=2)
    compare_with_uninterrupted(settings, tmp_path)


@pytest.mark.slow
def test_resumed_run_goes_on_with_the_clipping_norm_it_had_found(recipe, tmp_path):
    adaptive = replace(PRIVATE, clipping=ClippingSettings("adaptive", count_share=0.1))
    settings = recipe(adaptive, physical_batch_size=24, checkpoint_every=2)
    compare_with_uninterrupted(settings, tmp_path)
    loop, _, _ = run_once(settings, tmp_path / "whole")
    (bound,) = loop.step.state
    assert float(bound) != pytest.approx(settings.privacy.clipping_norm, rel=0.1)
    assert loop._logs()["clipping_norm"] == float(bound)


def test_resumed_run_remembers_early_stopping_and_averages(recipe, tmp_path):
    def early() -> keras.callbacks.Callback:
        return keras.callbacks.EarlyStopping(
            "val_loss", patience=3, min_delta=0.01, restore_best_weights=True
        )

    def plateau() -> keras.callbacks.Callback:
        return keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5)

    adam = OptimizerSettings(learning_rate=0.01, options={"use_ema": True, "ema_momentum": 0.9})
    # An epoch of two steps: patience runs out after the crash, counted from before it.
    settings = recipe(batch_size=150, steps=40, optimizer=adam)
    compare_with_uninterrupted(settings, tmp_path, [Validation, early, plateau])
    _, steps, _ = run_once(settings, tmp_path / "cut", [Validation, early, plateau])
    assert steps < 40


def test_resumed_metrics_go_on_within_the_epoch(recipe, tmp_path):
    def last_logs(root: Path, crash_after: int | None) -> dict[str, float]:
        seen: dict[str, float] = {}

        class Remember(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.update(logs)

        if crash_after is not None:
            crash(settings, root, crash_after)
        run_once(settings, root, [Remember])
        return seen

    settings = recipe(steps=7, checkpoint_every=2)
    assert last_logs(tmp_path / "cut", 5) == last_logs(tmp_path / "whole", None)


def test_complete_run_is_neither_trained_nor_finalized_again(recipe, tmp_path):
    settings = recipe(
        steps=4,
        optimizer=OptimizerSettings(name="SGD", learning_rate=0.1, options={"use_ema": True}),
    )
    first, _, _ = run_once(settings, tmp_path / "run")
    files = sorted(p for p in (tmp_path / "run").rglob("*") if p.is_file())
    before = {path: path.read_bytes() for path in files}
    again, steps, _ = run_once(settings, tmp_path / "run", crash_after=1)
    assert steps == 4
    assert_identical(weights_of(again.model), weights_of(first.model))
    assert {path: path.read_bytes() for path in files} == before


def test_unseeded_resumed_run_counts_steps_again_and_stops_within_the_plan(recipe, tmp_path):
    settings = recipe(PRIVATE, seed=None, checkpoint_every=4)
    crash(settings, tmp_path / "run", 7)
    assert Ledger.existing(tmp_path / "run" / "ledger.jsonl").releases == 7
    # Steps 5 to 7 are drawn anew: 10 planned, 7 spent, 3 left.
    _, steps, ledger = run_once(settings, tmp_path / "run")
    assert (steps, ledger.releases) == (7, 10)
    assert ledger.epsilon == ledger.plan.epsilon(10)
    _, steps, ledger = run_once(settings, tmp_path / "run")
    assert (steps, ledger.releases) == (7, 10)


def test_run_says_what_interruptions_cost_it_when_it_goes_on_and_when_it_ends(
    recipe, tmp_path, caplog
):
    settings = recipe(PRIVATE, seed=None, checkpoint_every=3)
    root = tmp_path / "run"
    crash(settings, root, 4)  # a release beyond the checkpoint of step 3
    assert "without a step" not in caplog.text
    crash(settings, root, 1)  # and another
    assert (
        "1 release was spent without a step being kept: interruptions came between a release and "
        "the checkpoint of its step. The run goes on after step 3, draws anew and counts again, so "
        "that within epsilon it has 9 steps, not the 10 asked for."
    ) in caplog.messages
    _, steps, ledger = run_once(settings, root)
    (said,) = [line for line in caplog.messages if line.startswith("2 releases were spent")]
    assert said.endswith("it has 8 steps, not the 10 asked for.")
    assert (steps, ledger.releases, spent_without_a_step(ledger, steps)) == (8, 10, 2)
    assert shortfall(ledger, steps) == (
        "2 releases were spent without a step being kept: interruptions came between a release and "
        "the checkpoint of its step. So the run has 8 steps, not the 10 asked for: one more "
        "release would exceed epsilon."
    )
    section = describe_privacy(ledger, reproducible=False, steps=steps)
    assert section["releases_without_a_step"] == brief_privacy(section)["releases_without_a_step"]
    assert section["releases_without_a_step"] == 2
    # Asked again, the run that is over has nothing more to say of going on.
    caplog.clear()
    assert run_once(settings, root)[1] == 8
    assert "without a step" not in caplog.text


def test_seeded_resumed_run_spends_what_it_planned(recipe, tmp_path, caplog):
    settings = recipe(PRIVATE, checkpoint_every=4)
    caplog.set_level("INFO")
    crash(settings, tmp_path / "run", 7)
    _, steps, ledger = run_once(settings, tmp_path / "run")
    assert (steps, ledger.releases) == (10, 10)
    assert "The ledger holds 3 releases after the checkpoint of step 4." in caplog.text
    assert "without a step" not in caplog.text
    assert shortfall(ledger, steps) is None
    assert "releases_without_a_step" not in describe_privacy(ledger, reproducible=True, steps=10)


def test_early_end_is_not_put_down_to_epsilon(recipe, tmp_path):
    settings = recipe(PRIVATE, seed=None)
    ledger = Ledger(tmp_path / "ledger.jsonl", open_session(settings).plan)
    for step, root in ((0, "one"), (1, "one"), (1, "another"), (2, "another")):
        ledger.record(step, root)
    assert shortfall(ledger, 3) == (
        "1 release was spent without a step being kept: interruptions came between a release and "
        "the checkpoint of its step."
    )
    assert shortfall(ledger, 4) is None
    assert shortfall(None, 4) is None


def test_release_is_in_the_ledger_before_the_weights_change(recipe, tmp_path):
    settings = recipe(PRIVATE)
    session, run = open_session(settings), RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    before = weights_of(loop.model)
    seen = []
    record = ledger.record_group

    def spy(steps: range, randomness: str) -> None:
        record(steps, randomness)
        (step,) = steps
        seen.append((step, run.ledger.read_text().count('release": ')))
        if step == 0:
            assert_identical(weights_of(loop.model), before)

    ledger.record_group = spy
    loop.run()
    assert seen == [(step, step + 1) for step in range(10)]


def damage(folder: Path) -> None:
    file = folder / "variables.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_damaged_checkpoint_is_passed_over_for_the_one_before(recipe, tmp_path, caplog):
    settings = recipe(PRIVATE, checkpoint_every=2)
    whole, _, _ = run_once(settings, tmp_path / "whole")
    crash(settings, tmp_path / "cut", 7)
    folders = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step-00000004", "step-00000006"]
    damage(folders[-1])
    resumed, _, _ = run_once(settings, tmp_path / "cut")
    assert "step-00000006 is damaged" in caplog.text
    assert_identical(weights_of(resumed.model), weights_of(whole.model))


def test_checkpoints_that_are_all_damaged_are_refused(recipe, tmp_path):
    settings = recipe(checkpoint_every=2)
    crash(settings, tmp_path / "run", 7)
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        damage(folder)
    with pytest.raises(UserError, match="every checkpoint there is damaged"):
        run_once(settings, tmp_path / "run")


def test_checkpoint_of_another_model_is_refused(recipe, tmp_path):
    run_once(recipe(steps=2), tmp_path)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(UserError, match=r"step-00000002: was written for another model"):
        Checkpoints(tmp_path / "checkpoints", other).restore()


RECIPE = """
data: {source: digits, limit: 600}
model: {name: mlp, mlp: {hidden_units: [16], image_size: 8, dropout: 0.1}}
training: {steps: 60, batch_size: 64, physical_batch_size: 32, seed: 11, checkpoint_every: 3}
privacy: {enabled: true, noise_multiplier: 0.9}
evaluation: {bootstrap_resamples: 0}
"""


def final_weights(root: Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    (newest,) = root.glob("checkpoints/step-00000060")
    reader = tf.train.load_checkpoint(str(newest / "variables"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.endswith("VARIABLE_VALUE")
    }


@pytest.mark.slow
def test_killed_process_goes_on_to_identical_weights(tmp_path):
    """`sterling train`, killed twice by SIGKILL at random moments, against one left alone."""
    from scripts.cli import main

    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    command = [sys.executable, "-m", "scripts.cli", "train", str(path), "--run"]
    ledger = tmp_path / "cut" / "ledger.jsonl"
    moments = np.random.default_rng().uniform([1, 20], [15, 40])
    for moment in moments:
        process = subprocess.Popen(
            [*command, str(tmp_path / "cut")],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        deadline = time.monotonic() + 600
        while not ledger.exists() or len(ledger.read_bytes().split(b"\n")) - 2 < int(moment):
            assert process.poll() is None, f"ended before release {moment}"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moment % 1 * 0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "cut" / "evaluation.json").exists(), moments
    for name in ("cut", "whole"):
        assert main(["train", str(path), "--run", str(tmp_path / name)]) == 0
    found, expected = final_weights(tmp_path / "cut"), final_weights(tmp_path / "whole")
    assert set(found) == set(expected)
    assert len(found) == 15  # weights, dropout's and the optimizer's state
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=f"{name}, killed at {moments}")
    reports = [json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("cut", "whole")]
    for section in ("performance", "privacy"):
        assert reports[0][section] == reports[1][section]
    assert reports[0]["privacy"]["releases"] == 60
