"""A few steps on one device and on two logical CPUs; run as a process of its own.

Logical devices must be made before TensorFlow starts. Prints one JSON line: for each kind of step
the largest difference between the weights of both strategies, and between the two replicas.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from configs.schema import ClippingSettings, OptimizerSettings, PrivacySettings, Recipe
from tests.training.conftest import BASE
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session


def trained(recipe: Recipe, root: Path) -> keras.Model:
    session, run = open_session(recipe), RunDirectory(root)
    root.mkdir()
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    loop = session.loop(run, [], ledger, verbose=0)
    loop.run()
    return loop.model


def largest_difference(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


def compare(recipe: Recipe, root: Path) -> dict[str, float]:
    single = trained(
        replace(recipe, training=replace(recipe.training, strategy="one_device")), root / "1"
    )
    model = trained(
        replace(recipe, training=replace(recipe.training, strategy="mirrored")), root / "2"
    )
    replicas = [
        [variable.value.values[i].numpy() for variable in model.trainable_variables] for i in (0, 1)
    ]
    return {
        "strategies": largest_difference(
            [v.numpy() for v in model.trainable_variables],
            [v.numpy() for v in single.trainable_variables],
        ),
        "replicas": largest_difference(*replicas),
        "moved": largest_difference(
            [v.numpy() for v in single.trainable_variables],
            [v.numpy() for v in open_session(recipe).model.built.model.trainable_variables],
        ),
    }


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    private = PrivacySettings(enabled=True, noise_multiplier=0.5)
    without_dropout = replace(
        BASE, model=replace(BASE.model, mlp=replace(BASE.model.mlp, dropout=0.0))
    )
    results = {}
    for name, privacy in (("plain", PrivacySettings()), ("private", private)):
        for physical in (None, 16):
            # Adam would blow rounding of vanishing gradients up to the size of its rate.
            sgd = OptimizerSettings(name="SGD", learning_rate=0.1, options={"momentum": 0.9})
            training = replace(BASE.training, steps=5, physical_batch_size=physical, optimizer=sgd)
            recipe = replace(without_dropout, privacy=privacy, training=training)
            kind = name if physical is None else f"{name}, accumulated"
            with tempfile.TemporaryDirectory() as folder:
                results[kind] = compare(recipe, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        adaptive = replace(private, clipping=ClippingSettings("adaptive", count_share=0.1))
        results["private, adaptive"] = compare(replace(recipe, privacy=adaptive), Path(folder))
    # Dropout differs by replica, so only the replicas can be compared.
    with tempfile.TemporaryDirectory() as folder:
        results["private, dropout"] = compare(replace(BASE, privacy=private), Path(folder))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
