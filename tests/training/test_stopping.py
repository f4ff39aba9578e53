"""Whatever ends a run (a signal, a full disk, a number that is none) leaves one that goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from configs.schema import OptimizerSettings, PrivacySettings, Recipe, UserError
from tests.training.conftest import BASE, PRIVATE, assert_identical, weights_of
from training.checkpoints import Checkpoints, Position
from training.interruption import Stopped
from training.loop import Loop
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


class At(keras.callbacks.Callback):
    """Does something when the batch of a step begins."""

    def __init__(self, step: int, action):
        super().__init__()
        self._left, self._action = step, action

    def on_train_batch_begin(self, batch, logs=None):
        if self._left == 0:
            self._action()
        self._left -= 1


def new_loop(recipe: Recipe, root: str | Path, *callbacks) -> tuple[Loop, RunDirectory]:
    session, run = open_session(recipe), RunDirectory.at(root)
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    run.root.mkdir(parents=True, exist_ok=True)
    return session.loop(run, callbacks, ledger, verbose=0), run


@pytest.fixture(scope="module")
def settings() -> Recipe:
    """Three epochs, private, with dropout; most steps take several physical batches."""
    training = replace(BASE.training, physical_batch_size=16, steps=9, batch_size=80)
    return replace(BASE, privacy=PRIVATE, training=training)


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory) -> list[np.ndarray]:
    loop, _ = new_loop(settings, tmp_path_factory.mktemp("whole"))
    loop.run()
    return weights_of(loop.model)


def whole_names(checkpoints: Path) -> list[str]:
    """Names of the checkpoints; each must be whole, and nothing else may lie there."""
    folders = sorted(checkpoints.iterdir())
    for folder in folders:
        Checkpoints.verified(folder)
    return [folder.name for folder in folders]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_within_a_logical_batch_saves_what_was_before_it(
    settings, undisturbed, tmp_path, number
):
    def send() -> None:
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    loop, run = new_loop(settings, tmp_path / "cut", At(5, send))
    with pytest.raises(Stopped) as stopped:
        loop.run()
    assert stopped.value.step == 5
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert whole_names(run.checkpoints)[-1] == "step-00000005"
    # The step that was given up released nothing.
    assert Ledger.existing(run.ledger).releases == 5
    loop, _ = new_loop(settings, tmp_path / "cut")
    assert loop.run() == 9
    assert_identical(weights_of(loop.model), undisturbed)


def test_signal_during_measurements_ends_after_they_are_done(recipe, tmp_path):
    class Measure(keras.callbacks.Callback):
        ended = 0

        def on_epoch_end(self, epoch, logs=None):
            os.kill(os.getpid(), signal.SIGTERM)
            Measure.ended += 1

    loop, run = new_loop(recipe(steps=9, batch_size=80), tmp_path, Measure())
    with pytest.raises(Stopped, match="SIGTERM"):
        loop.run()
    assert Measure.ended == 1
    assert whole_names(run.checkpoints) == [f"step-{loop.length.steps_per_epoch:08d}"]


def test_second_interrupt_does_not_wait(recipe, tmp_path):
    def send_twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers do; it changes nothing
        os.kill(os.getpid(), signal.SIGINT)

    loop, run = new_loop(recipe(steps=9), tmp_path, At(2, send_twice))
    with pytest.raises(Stopped, match="SIGINT") as stopped:
        loop.run()
    assert stopped.value.step is None
    assert not run.checkpoints.exists()


def test_full_disk_ends_with_one_line_and_the_run_goes_on(settings, undisturbed, tmp_path):
    """A limit on the size of files: the kernel refuses to write as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, limits[1]))

    loop, run = new_loop(settings, tmp_path / "cut", At(4, fill))
    try:
        with pytest.raises(UserError, match=r"cannot be written .*the same command continues"):
            loop.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert all(name.startswith("step-") for name in whole_names(run.checkpoints))
    loop, _ = new_loop(settings, tmp_path / "cut")
    assert loop.run() == 9
    assert_identical(weights_of(loop.model), undisturbed)


def test_run_in_an_object_store_goes_on_to_the_same_end(settings, undisturbed, tmp_path):
    def crash() -> None:
        raise ZeroDivisionError

    store = f"memory://{tmp_path}/run"
    loop, run = new_loop(settings, store, At(6, crash))
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000004"]
    loop, _ = new_loop(settings, store)
    assert loop.run() == 9
    assert_identical(weights_of(loop.model), undisturbed)


# So large a bound that the noise alone, times the rate, is beyond float32 at the first step.
LOUD = replace(PRIVATE, clipping_norm=1e3)


@pytest.mark.parametrize("privacy", [PrivacySettings(), LOUD], ids=["plain", "private"])
def test_weights_that_are_no_numbers_are_never_saved(recipe, tmp_path, privacy):
    exploding = OptimizerSettings(name="SGD", learning_rate=3e38, options={"momentum": 0.9})
    loop, run = new_loop(recipe(privacy, optimizer=exploding, checkpoint_every=1), tmp_path)
    with pytest.raises(UserError, match=r"no longer finite.*learning_rate in a new run directory"):
        loop.run()
    for name in whole_names(run.checkpoints) if run.checkpoints.exists() else []:
        with np.load(run.checkpoints / name / "callbacks.npz") as arrays:
            assert all(np.isfinite(arrays[key]).all() for key in arrays)


def test_profile_is_a_trace_of_steady_steps(recipe, tmp_path):
    loop, run = new_loop(recipe(steps=14), tmp_path)
    loop.clock.trace_into = run.logs
    loop.run()
    (trace,) = run.logs.glob("plugins/profile/*/*.xplane.pb")
    assert b"train" in trace.read_bytes()
    # Of fourteen steps five warm up and five are traced.
    assert 0 < loop.clock.input_wait_share < 1


def tiny(seed: float) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.set_weights([np.full(w.shape, seed) for w in model.get_weights()])
    return model


@pytest.mark.parametrize(
    "name", ["position.json", "callbacks.npz", "variables.index", "variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("how", ["cut", "flipped", "absent"])
def test_newest_readable_checkpoint_is_found(tmp_path, caplog, name, how):
    for step in (1, 2):
        Checkpoints(tmp_path, tiny(step)).save(Position(step))
    file = tmp_path / "step-00000002" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "absent":
        file.unlink()
    else:
        file.write_bytes(bytes(content) if how == "flipped" else bytes(content[:-3]))
    model = tiny(0)
    checkpoints = Checkpoints(tmp_path, model)
    assert checkpoints.restore().step == 1
    assert "step-00000002 is damaged" in caplog.text
    assert model.get_weights()[0].max() == 1
    # Written again, it takes neither the damaged one's name nor its place among those kept.
    checkpoints.save(Position(2))
    assert whole_names(tmp_path) == [
        "step-00000001",
        "step-00000002.001",
    ]
    assert json.loads((tmp_path / "step-00000002.001" / "position.json").read_text())["step"] == 2
