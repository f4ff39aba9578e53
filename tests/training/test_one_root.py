"""Noise that steps share, through the loop: crashed, resumed, finished; with any optimizer."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.schema import (
    MechanismSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    SamplingSettings,
    UserError,
)
from tests.training.conftest import assert_identical, weights_of
from tests.training.test_resume import Crash, CrashAt
from training.one_root import kept_root
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


def private(method: str, sampling: SamplingSettings, **mechanism) -> PrivacySettings:
    return PrivacySettings(
        enabled=True,
        noise_multiplier=0.8,
        accountant="rdp",
        sampling=sampling,
        mechanism=MechanismSettings(method, **mechanism),
    )


BANDED = "banded_matrix_factorization"
SCHEDULE = private("gaussian", SamplingSettings(), schedule="linear", final_factor=0.5)
TREE = private("tree", SamplingSettings("shuffled"))
CYCLIC = private(BANDED, SamplingSettings("cyclic", bands=3))
EPOCHS = private(BANDED, SamplingSettings("shuffled"), bands=4)
ALL = {"schedule": SCHEDULE, "tree": TREE, "cyclic": CYCLIC, "epochs": EPOCHS}


def train(recipe: Recipe, root: Path, crash_after: int | None = None):
    """Trains until the end or the crash, as `sterling train` does; loop, steps, ledger."""
    run = RunDirectory(root)
    session = open_session(recipe, run)
    ledger = Ledger(run.ledger, session.plan)
    callbacks = [] if crash_after is None else [CrashAt(crash_after)]
    loop = session.loop(run, callbacks, ledger, verbose=0)
    root.mkdir(exist_ok=True)
    if crash_after is None:
        return loop, loop.run(), ledger
    with pytest.raises(Crash):
        loop.run()
    return loop, None, ledger


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tree", "cyclic"])
def test_unseeded_run_goes_on_as_if_it_had_never_stopped(name, recipe, tmp_path):
    settings = recipe(ALL[name], seed=None, checkpoint_every=4)
    root = tmp_path / "cut" / "noise_root"
    begun, _, _ = train(settings, tmp_path / "cut", crash_after=1)
    assert stat.S_IMODE(root.stat().st_mode) == 0o600
    assert int(root.read_text(), 16) == begun.randomness.root
    shutil.copytree(tmp_path / "cut", tmp_path / "whole")  # the same root and first weights
    train(settings, tmp_path / "cut", crash_after=7)
    resumed, steps, ledger = train(settings, tmp_path / "cut")
    whole, _, _ = train(settings, tmp_path / "whole")
    assert (steps, ledger.releases) == (10, 10)
    assert ledger.epsilon == ledger.plan.epsilon(10)
    assert_identical(weights_of(resumed.model), weights_of(whole.model))
    assert not root.exists()  # nothing is drawn from it again


def test_run_that_lost_its_root_is_refused(recipe, tmp_path):
    settings, root = recipe(TREE, seed=None, checkpoint_every=2), tmp_path / "noise_root"
    train(settings, tmp_path, crash_after=3)
    root.unlink()
    with pytest.raises(UserError, match=r"3 releases of this run were made from another root"):
        train(settings, tmp_path)
    assert not root.exists()
    assert Ledger.existing(tmp_path / "ledger.jsonl").releases == 3


def test_root_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "noise_root").write_text("no number")
    with pytest.raises(UserError, match=r"noise_root: cannot be read"):
        kept_root(tmp_path / "noise_root")


def test_seeded_run_keeps_neither_root_nor_noise(recipe, tmp_path):
    train(recipe(CYCLIC, checkpoint_every=2), tmp_path, crash_after=3)
    assert not (tmp_path / "noise_root").exists()
    (newest,) = tmp_path.glob("checkpoints/step-00000002")
    shapes = tf.train.load_checkpoint(str(newest / "variables")).get_variable_to_shape_map()
    # Remembered noises have the shape of a weight with an axis of bands - 1 = 2 before it.
    assert [8, 10] in shapes.values()
    assert [2, 8, 10] not in shapes.values()


OPTIMIZERS = [
    ("SGD", {"momentum": 0.9}, "tree", False),
    ("Adam", {}, "cyclic", True),
    ("AdamW", {}, "schedule", False),
    ("RMSprop", {}, "epochs", False),
]


@pytest.mark.parametrize(("optimizer", "options", "name", "jit_compile"), OPTIMIZERS)
def test_any_optimizer_trains_with_each_mechanism(
    optimizer, options, name, jit_compile, recipe, tmp_path
):
    settings = recipe(
        ALL[name],
        steps=14,
        jit_compile=jit_compile,
        optimizer=OptimizerSettings(name=optimizer, learning_rate=0.02, options=options),
    )
    loop, steps, ledger = train(settings, tmp_path)
    assert (steps, ledger.releases) == (14, 14)
    assert all(np.isfinite(w).all() for w in weights_of(loop.model))
    assert 0 < ledger.epsilon == ledger.plan.epsilon(14) < np.inf


def test_run_that_lost_its_checkpoints_does_not_begin_again_under_the_same_noise(recipe, tmp_path):
    settings = recipe(TREE, seed=None, checkpoint_every=2)
    train(settings, tmp_path, crash_after=3)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"3 releases .* checkpoints that belong to them are gone"):
        train(settings, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_seeded_run_that_lost_its_checkpoints_releases_the_same_again(recipe, tmp_path):
    train(recipe(TREE, checkpoint_every=2), tmp_path, crash_after=3)
    shutil.rmtree(tmp_path / "checkpoints")
    _, steps, ledger = train(recipe(TREE, checkpoint_every=2), tmp_path)
    assert (steps, ledger.releases) == (10, 10)
