"""One worker of a private game, or the only one; run as a process of its own.

    TF_CONFIG=... python -m tests.training.fairness.joined_games FOLDER GAME [--silent]

Prints one JSON line: the weights and what a checkpoint keeps of the player, as numbers.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from configs.schema import OptimizerSettings, PrivacySettings, Recipe
from tests.training.fairness.people import DRO, NOISY_COUNTS, ODDS, PRIVATE, privately, recipe_over
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session

GAMES = {"odds": privately(ODDS), "dro": privately(DRO), "counts": NOISY_COUNTS}
# No multiplier of zero is a plan; so little noise moves no weight by 1e-6, and no table at all.
SILENCE, SILENCE_OF_TABLES = 1e-5, 1e-9


def recipe_of(folder: Path, game: str, *, silent: bool) -> Recipe:
    """Twelve steps in epochs of four; the people are written to `folder`."""
    recipe, fairness = recipe_over(folder / "people.csv"), GAMES[game]
    privacy = PRIVATE
    if silent:
        privacy = PrivacySettings(enabled=True, noise_multiplier=SILENCE, clipping_norm=1.0)
        silent_tables = replace(fairness.releases, noise_multiplier=SILENCE_OF_TABLES)
        fairness = replace(fairness, releases=silent_tables)
    training = replace(
        recipe.training,
        steps=12,
        strategy="multi_worker" if "TF_CONFIG" in os.environ else "one_device",
        # Adam would blow rounding of vanishing gradients up to the size of its rate.
        optimizer=OptimizerSettings(name="SGD", learning_rate=0.1),
    )
    # Tables of several batches, the last of them not full.
    evaluation = replace(recipe.evaluation, batch_size=100)
    return replace(
        recipe, fairness=fairness, privacy=privacy, training=training, evaluation=evaluation
    )


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("game", choices=tuple(GAMES))
    parser.add_argument("--silent", action="store_true")
    arguments = parser.parse_args()
    own = arguments.folder / f"people{os.getpid()}"  # the same people, written by each itself
    own.mkdir(parents=True)
    os.chdir(own)
    session = open_session(recipe_of(Path(), arguments.game, silent=arguments.silent))
    run = RunDirectory(arguments.folder / "run")
    if session.workers.is_chief:
        run.root.mkdir()
    ledger = Ledger(run.ledger, session.plan, writes=session.workers.is_chief)
    loop = session.loop(run, [], ledger, verbose=0)
    loop.run()
    print(
        json.dumps(
            {
                "weights": [v.numpy().tolist() for v in loop.model.trainable_variables],
                "state": [tf.convert_to_tensor(v).numpy().tolist() for v in loop.step.state],
            }
        )
    )
    session.workers.from_chief(None)


if __name__ == "__main__":
    main()
