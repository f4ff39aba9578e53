"""How far a recipe's weights on several replicas are from each other, and from one device's."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import OptimizerSettings, Recipe
from tests.training.conftest import BASE
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


def recipe_of(optimizer: OptimizerSettings, **training: Any) -> Recipe:
    """The small run, trained otherwise, and without dropout, which differs by replica."""
    return replace(
        BASE,
        model=replace(BASE.model, mlp=replace(BASE.model.mlp, dropout=0.0)),
        training=replace(BASE.training, optimizer=optimizer, **training),
    )


def trained(recipe: Recipe, root: Path) -> keras.Model:
    """The model after a whole run of the recipe."""
    return run_of(recipe, root)[0]


def run_of(recipe: Recipe, root: Path) -> tuple[keras.Model, list[np.ndarray]]:
    """The model after a whole run of the recipe, and the weights that it began with."""
    session, run = open_session(recipe), RunDirectory(root)
    root.mkdir(parents=True)
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    initial = [v.numpy() for v in loop.model.trainable_variables]
    loop.run()
    return loop.model, initial


def under(strategy: str, recipe: Recipe) -> Recipe:
    """The recipe under another strategy."""
    return replace(recipe, training=replace(recipe.training, strategy=strategy))


def on_replica(number: int, variables: Any) -> list[np.ndarray]:
    """Values of variables as one replica holds them."""
    return [variable.value.values[number].numpy() for variable in variables]


def on_every_replica(variables: Any) -> list[list[np.ndarray]]:
    """Values of variables, replica by replica."""
    replicas = len(tf.config.list_logical_devices("CPU"))
    return [on_replica(number, variables) for number in range(replicas)]


def largest_difference(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Between weights of the same shapes."""
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


def between_replicas(variables: Any) -> float:
    """Largest difference between the first replica's values and any other's."""
    first, *others = on_every_replica(variables)
    return max(largest_difference(first, other) for other in others)


def compare(recipe: Recipe) -> dict[str, float]:
    """Runs a recipe on one device and on all replicas.

    Returns:
        Largest differences between the weights of both strategies, between replicas, and, so that
        these say something, between one device's weights and those it began with.
    """
    with tempfile.TemporaryDirectory() as folder:
        single, initial = run_of(under("one_device", recipe), Path(folder) / "1")
        spread = trained(under("mirrored", recipe), Path(folder) / "spread").trainable_variables
    alone = [v.numpy() for v in single.trainable_variables]
    return {
        "strategies": largest_difference([v.numpy() for v in spread], alone),
        "replicas": between_replicas(spread),
        "moved": largest_difference(alone, initial),
    }
