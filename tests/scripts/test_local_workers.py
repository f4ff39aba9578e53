"""Two workers on loopback: the run of one device, however often a worker is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from scripts.cli import main
from scripts.local_workers import OPTION, _without_option
from training.privacy.ledger import Ledger

# Its fixtures take long: one process makes them.
pytestmark = pytest.mark.xdist_group("local workers")

ROOT = Path(__file__).parents[2]
# How long a process may take: a busy machine fails no test.
PATIENCE_S = 1800
# A worker is killed after ten steps: the others leave even a busy machine the time to do it.
RECIPE = """
data: {source: digits, limit: 300}
model: {name: mlp, mlp: {hidden_units: [8], image_size: 8, dropout: 0.0}}
training:
  steps: 60
  batch_size: 40
  physical_batch_size: 24
  checkpoint_every: 4
  seed: 3
  optimizer: {name: SGD, learning_rate: 0.1, options: {momentum: 0.9}}
privacy: {enabled: true, noise_multiplier: 0.8}
evaluation: {bootstrap_resamples: 0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def start(recipe: Path, run: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", "train", str(recipe), "--run", str(run), *options],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(recipe: Path, run: Path, *options: str) -> Path:
    process = start(recipe, run, *options)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors[-3000:]
    return run


def weights(run: Path) -> list[np.ndarray]:
    """What the exported Keras file holds, in one order."""
    from zipfile import ZipFile

    with ZipFile(run / "export" / "model.keras") as archive:
        archive.extract("model.weights.h5", run)
    found: dict[str, np.ndarray] = {}
    with h5py.File(run / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: (
                found.__setitem__(name, np.asarray(item))
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return [found[name] for name in sorted(found)]


def workers_of(launcher: int) -> list[int]:
    """Processes that the launcher started."""
    return [
        int(pid)
        for task in Path(f"/proc/{launcher}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> Path:
    return finished(recipe, tmp_path_factory.mktemp("two") / "run", f"{OPTION}=2")


@pytest.mark.slow
def test_two_workers_end_with_the_weights_and_the_ledger_of_one_device(
    recipe, undisturbed, tmp_path
):
    alone = finished(recipe, tmp_path / "run", "--training.strategy=one_device")
    for one, two in zip(weights(alone), weights(undisturbed), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    ledgers = [Ledger.existing(run / "ledger.jsonl") for run in (alone, undisturbed)]
    assert [ledger.releases for ledger in ledgers] == [60, 60]
    assert ledgers[0].epsilon == ledgers[1].epsilon
    measured = [json.loads((run / "evaluation.json").read_text()) for run in (alone, undisturbed)]
    assert measured[0]["performance"]["accuracy"] == measured[1]["performance"]["accuracy"]


@pytest.mark.slow
def test_two_workers_taking_steps_in_groups_end_with_the_same_weights(
    recipe, undisturbed, tmp_path
):
    # A checkpoint is due every 4 steps, so that the calls take 3, 1, 3, 1 ... steps.
    options = (f"{OPTION}=2", "--training.steps_per_execution=3")
    grouped = finished(recipe, tmp_path / "run", *options)
    for one, two in zip(weights(grouped), weights(undisturbed), strict=True):
        np.testing.assert_array_equal(two, one)
    assert Ledger.existing(grouped / "ledger.jsonl").releases == 60


@pytest.mark.slow
def test_killed_worker_ends_the_run_and_the_same_command_finishes_it_bit_for_bit(
    recipe, undisturbed, tmp_path
):
    run = tmp_path / "run"
    launcher = start(recipe, run, f"{OPTION}=2")
    ledger, deadline = run / "ledger.jsonl", time.monotonic() + PATIENCE_S
    while not (ledger.exists() and len(ledger.read_text().splitlines()) > 9):
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(workers_of(launcher.pid)[1], signal.SIGKILL)
    _, errors = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith("sterling: worker ")
    assert "same command" in last
    assert not (run / "evaluation.json").exists()
    finished(recipe, run, f"{OPTION}=2")
    for one, two in zip(weights(undisturbed), weights(run), strict=True):
        np.testing.assert_array_equal(one, two)
    assert Ledger.existing(ledger).releases == 60


@pytest.mark.slow
def test_interrupt_at_the_launcher_saves_the_run(recipe, tmp_path):
    run = tmp_path / "run"
    launcher = start(recipe, run, f"{OPTION}=2", "--training.steps=4000")
    ledger, deadline = run / "ledger.jsonl", time.monotonic() + PATIENCE_S
    while not (ledger.exists() and len(ledger.read_text().splitlines()) > 9):
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 128 + signal.SIGTERM
    saved = re.search(r"The run is saved after step (\d+)", errors)
    assert saved
    assert (run / "checkpoints" / f"step-{int(saved[1]):08d}").is_dir()
    assert Ledger.existing(ledger).releases == int(saved[1])


@pytest.mark.parametrize(
    "argv", [["a", "--local-workers", "2", "--b"], ["a", "--local-workers=2", "--b"]]
)
def test_workers_do_not_launch_workers(argv):
    assert _without_option(argv) == ["a", "--b"]


def test_impossible_numbers_of_workers_are_refused(recipe, monkeypatch, capfd):
    assert main(["train", str(recipe), f"{OPTION}=0"]) == 2
    assert "--local-workers: expected a whole number >= 1" in capfd.readouterr().err
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert main(["train", str(recipe), f"{OPTION}=2"]) == 2
    assert "--local-workers: expected TF_CONFIG to be unset" in capfd.readouterr().err
