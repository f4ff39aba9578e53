"""A game on one device and on two logical CPUs; run as a process of its own, one for a game.

Logical devices must be made before TensorFlow starts, and collectives of other shapes may not
follow in one process. Prints one JSON line: the largest difference between both, of weights and of
what a checkpoint keeps of the players, and the largest number of that.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from configs.schema import OptimizerSettings, Recipe
from tests.training.fairness.people import (
    ADVERSARY,
    ODDS,
    PRIVATE,
    changed,
    privately,
    recipe_over,
)
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


def trained(recipe: Recipe, strategy: str, root: Path) -> tuple[list, list]:
    session = open_session(replace(recipe, training=replace(recipe.training, strategy=strategy)))
    run = RunDirectory(root)
    root.mkdir()
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    loop.run()
    weights = [v.numpy() for v in loop.model.trainable_variables]
    return weights, [tf.convert_to_tensor(v).numpy() for v in loop.step.state]


def largest_difference(some: list, others: list) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


def compare(recipe: Recipe, root: Path) -> dict[str, float]:
    root.mkdir()
    one, of_one = trained(recipe, "one_device", root / "one")
    two, of_two = trained(recipe, "mirrored", root / "two")
    return {
        "weights": largest_difference(one, two),
        "state": largest_difference(of_one, of_two),
        "largest": max(float(np.abs(v).max()) for v in of_one),
    }


def main() -> None:
    """Prints the differences for the game that the command line names."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # Adam would blow rounding of vanishing gradients up to the size of its rate.
    sgd = OptimizerSettings(name="SGD", learning_rate=0.1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the path of the people names the random streams
        recipe = recipe_over(Path("people.csv"))
        recipe = replace(recipe, training=replace(recipe.training, optimizer=sgd, steps=8))
        games = {
            "odds": changed(recipe, ODDS),
            "adversary": changed(recipe, ADVERSARY),
            "private odds": changed(recipe, privately(ODDS), PRIVATE),
        }
        found = compare(games[sys.argv[1]], Path("runs"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
