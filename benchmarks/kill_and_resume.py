"""Kills a seeded private run by SIGKILL at random moments, and compares what becomes of it.

    python -m benchmarks.kill_and_resume [--kills 20] [--seed 0] [--directory DIR] [--json]
    python -m benchmarks.kill_and_resume --workers 2

A digits recipe with dropout, Adam and accumulated batches trains twice with `sterling train`: once
undisturbed, and once killed again and again: most often a random moment after a random release,
otherwise at a random moment of the whole life of the process (so that set-up, saving, measuring
and exporting are hit too). After every kill every file that bears its final name must be whole. At
the end weights, optimizer, dropout state, ledger and measurements must be identical, bit for bit.
A run that ends before all kills are done is compared, and the next one takes the rest. Exit code 1
if anything differs. Of several joined workers one is killed, at random, and then all are started
again.

The processes are forked from one that has imported TensorFlow and has not started it, which saves
each of them the import and changes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import yaml

import training.session
from scripts.cli import main as sterling
from training.checkpoints import Checkpoints
from training.privacy.ledger import Ledger

_STEPS = 120
_RECIPE = {
    "data": {"source": "digits", "limit": 600},
    "model": {"name": "mlp", "mlp": {"hidden_units": [16], "image_size": 8, "dropout": 0.1}},
    "training": {
        "steps": _STEPS,
        "batch_size": 64,
        "physical_batch_size": 32,
        "seed": 11,
        "checkpoint_every": 3,
    },
    "privacy": {"enabled": True, "noise_multiplier": 0.9},
    "evaluation": {"bootstrap_resamples": 0},
}
# Of ten kills, so many come at any time of the process's life.
_ANY_TIME_IN_TEN = 3


@dataclass(frozen=True)
class Kill:
    """What one kill found.

    Attributes:
        seconds: Life of the process.
        releases: In the ledger afterwards.
        checkpoint: Step of the newest checkpoint; 0 without one.
        leavings: Names of unfinished files and folders.
    """

    seconds: float
    releases: int
    checkpoint: int
    leavings: list[str]


def start(recipe: Path, run: Path, workers: int) -> int:
    """Forks a process that runs `sterling train`, or starts workers that do; returns its id."""
    process = os.fork()
    if process:
        return process
    with open(run.with_suffix(".log"), "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    several = ["--local-workers", str(workers)] if workers > 1 else []
    os._exit(sterling(["train", str(recipe), "--run", str(run), *several]))


def workers_of(process: int) -> list[int]:
    """The processes that it has started and that still run."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def ended(process: int) -> bool:
    """Whether it has ended by itself.

    Raises:
        RuntimeError: If it has ended badly.
    """
    pid, status = os.waitpid(process, os.WNOHANG)
    if pid and os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"the run failed with exit code {os.waitstatus_to_exitcode(status)}")
    return bool(pid)


def releases_in(run: Path) -> int:
    """Lines of the ledger but for its header."""
    try:
        return (run / "ledger.jsonl").read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return -1


def kill(
    recipe: Path, run: Path, draw: random.Random, life: float, remaining: int, workers: int
) -> Kill | None:
    """Starts the run and kills it, or one of its workers; None if it ended before."""
    started = time.monotonic()
    process = start(recipe, run, workers)
    any_time = draw.randrange(10) < _ANY_TIME_IN_TEN
    wanted_seconds = draw.uniform(0, life) if any_time else 0.0
    wanted_releases = -1 if any_time else releases_in(run) + draw.randint(1, max(1, remaining))
    while time.monotonic() - started < wanted_seconds or releases_in(run) < wanted_releases:
        if ended(process):
            return None
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.05))
    if ended(process):
        return None
    victim = process
    while workers > 1 and victim == process:
        if ended(process):
            return None
        victim = draw.choice(workers_of(process) or [process])
    os.kill(victim, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not status:
        return None  # the workers had ended
    return Kill(
        round(time.monotonic() - started, 2),
        max(0, releases_in(run)),
        newest_whole(run),
        sorted(str(path.relative_to(run)) for path in run.rglob(".*") if path.name != ".lock"),
    )


def newest_whole(run: Path) -> int:
    """Checks every file that bears its final name; returns the newest checkpoint's step."""
    for name in ("config.yaml", "dataset.json", "evaluation.json"):
        if (run / name).exists():
            assert yaml.safe_load((run / name).read_text()), name
    if (run / "ledger.jsonl").exists():
        Ledger.existing(run / "ledger.jsonl")
    step = 0
    for folder in sorted(run.glob("checkpoints/step-*")):
        step = Checkpoints.verified(folder)["step"]
    if (run / "export" / "saved_model").exists():
        assert tf.saved_model.contains_saved_model(str(run / "export" / "saved_model"))
    return step


def outcome(run: Path) -> dict[str, np.ndarray]:
    """Everything that must be the same: variables, ledger, measurements."""
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"step-{_STEPS:08d}" / "variables"))
    found = {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.endswith("VARIABLE_VALUE")
    }
    found["ledger"] = np.frombuffer((run / "ledger.jsonl").read_bytes(), np.uint8)
    report = json.loads((run / "evaluation.json").read_text())
    for section in ("performance", "fairness", "privacy"):
        found[section] = np.array(json.dumps(report[section]))
    return found


def differing(expected: dict[str, np.ndarray], run: Path) -> list[str]:
    """What of `expected` a finished run does not have, or has otherwise."""
    found = outcome(run)
    return [
        name
        for name in sorted({*expected, *found})
        if name not in found or not np.array_equal(expected.get(name), found[name])
    ]


def wait_for(process: int) -> None:
    """Waits until a process ends well."""
    while not ended(process):
        time.sleep(0.05)


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1, help="joined workers on this machine")
    parser.add_argument("--seed", type=int, default=None, help="Of the moments; none draws one.")
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    draw = random.Random(seed)
    root = options.directory or Path(tempfile.mkdtemp())
    root.mkdir(parents=True, exist_ok=True)
    recipe = root / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(_RECIPE))
    whole = root / "whole"
    started = time.monotonic()
    wait_for(start(recipe, whole, options.workers))
    life = time.monotonic() - started
    kills: list[Kill] = []
    runs: list[Path] = []
    while len(kills) < options.kills:
        runs.append(root / f"killed-{len(runs)}")
        while len(kills) < options.kills:
            left = _STEPS - max(0, releases_in(runs[-1]))
            share = left // (options.kills - len(kills))
            killed = kill(recipe, runs[-1], draw, life, 2 * share, options.workers)
            if killed is None:
                break
            kills.append(killed)
            if not options.json:
                print(f"kill {len(kills)}: {killed}", flush=True)
        else:
            wait_for(start(recipe, runs[-1], options.workers))
    expected = outcome(whole)
    result = {
        "workers": options.workers,
        "kills": len(kills),
        "runs": len(runs),
        "seed": seed,
        "compared": len(expected),
        "differing": [f"{run.name}: {name}" for run in runs for name in differing(expected, run)],
        "leavings": [str(path) for run in runs for path in run.rglob(".*")],
    }
    if options.json:
        result["each"] = [asdict(one) for one in kills]
    print(json.dumps(result))
    return 1 if result["differing"] or result["leavings"] else 0


if __name__ == "__main__":
    assert training.session  # imported so that every fork has it
    sys.exit(main())
