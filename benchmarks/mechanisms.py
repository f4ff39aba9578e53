"""Accuracy at equal epsilon by noise mechanism, and what its noise costs a step.

    python -m benchmarks.mechanisms [--epsilon 4] [--epochs 20] [--runs 3] [--only NAME ...]

Trains a small network on scikit-learn's digits (1,437 train, 360 test) through the same session as
`sterling train`, without evaluation or export; and, in one process, times the noise of one million
weights beside that of independent noise. One JSON line a mechanism.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from configs.schema import (
    DataSettings,
    MechanismSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)

_BANDED = "banded_matrix_factorization"
MECHANISMS = {
    "gaussian, poisson": (MechanismSettings(), SamplingSettings()),
    "gaussian falling to 0.5, poisson": (
        MechanismSettings(schedule="exponential", final_factor=0.5),
        SamplingSettings(),
    ),
    "gaussian, shuffled": (MechanismSettings(), SamplingSettings("shuffled")),
    "tree, shuffled": (MechanismSettings("tree"), SamplingSettings("shuffled")),
    "8 bands, shuffled": (MechanismSettings(_BANDED, bands=8), SamplingSettings("shuffled")),
    "4 bands, cyclic": (MechanismSettings(_BANDED), SamplingSettings("cyclic", bands=4)),
    "8 bands, cyclic": (MechanismSettings(_BANDED), SamplingSettings("cyclic", bands=8)),
}


def accuracy(name: str, epsilon: float, epochs: float, seed: int) -> tuple[float, float]:
    """Test accuracy of one run, and its noise multiplier."""
    import data
    from training.privacy.ledger import Ledger
    from training.run_directory import RunDirectory
    from training.session import open_session

    mechanism, sampling = MECHANISMS[name]
    recipe = Recipe(
        data=DataSettings(source="digits", validation_fraction=0.0),
        model=ModelSettings(
            name="mlp", mlp=MlpSettings(hidden_units=[64], image_size=8, dropout=0.0)
        ),
        training=TrainingSettings(
            epochs=epochs,
            batch_size=64,
            seed=seed,
            optimizer=OptimizerSettings(name="SGD", learning_rate=0.5, options={"momentum": 0.9}),
        ),
        privacy=PrivacySettings(
            enabled=True,
            epsilon=epsilon,
            accountant="rdp",
            mechanism=mechanism,
            sampling=sampling,
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        session = open_session(recipe, run)
        assert session.plan is not None
        session.loop(run, [], Ledger(run.ledger, session.plan), verbose=0).run()
    model = session.model.built
    test = data.batches_in_order(data.prepare(session.dataset.test, model.preprocess), 360)
    right = [
        (np.argmax(model.model(batch["inputs"]), axis=-1) == batch["labels"])[batch["mask"]]
        for batch in test
    ]
    return float(np.concatenate(right).mean()), session.plan.noise_multiplier


def noise_seconds(name: str, weights: int = 1_000_000, steps: int = 32) -> float:
    """Processor seconds that a step's noise takes for this many weights."""
    import tensorflow as tf

    from training.privacy.mechanisms import Draws, build_mechanism
    from training.privacy.noise import with_noise
    from training.privacy.noise_memory import NoiseMemory
    from training.privacy.sampling import build_sampling
    from training.randomness import Randomness

    settings, sampling = MECHANISMS[name]
    mechanism = build_mechanism(settings, 1.0, build_sampling(sampling, 6_400, 64), 400)
    root = Randomness(1, reproducible=True)
    if mechanism.slots:
        advance: Callable[[Draws], object] = NoiseMemory(
            [(weights,)], mechanism.slots, 1.0, tf.distribute.get_strategy()
        ).advance
    else:
        drawn = tf.function(
            lambda seeds, coefficients: with_noise(tf.zeros([weights]), coefficients, seeds[:, 0]),
            autograph=False,
        )

        def advance(draws: Draws) -> object:
            return drawn(tf.constant(draws.seeds), tf.constant(draws.coefficients))

    draws = [mechanism.draws(step, root, 1) for step in range(steps)]
    advance(draws[0])
    started = time.process_time()
    for step in draws:
        advance(step)
    return (time.process_time() - started) / steps


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epsilon", type=float, default=4.0)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(MECHANISMS), choices=list(MECHANISMS))
    arguments = parser.parse_args()
    for name in arguments.only:
        seconds = noise_seconds(name)
        runs = [
            accuracy(name, arguments.epsilon, arguments.epochs, seed)
            for seed in range(arguments.runs)
        ]
        result = {
            "mechanism": name,
            "epsilon": arguments.epsilon,
            "noise_multiplier": runs[0][1],
            "accuracy": [found for found, _ in runs],
            "noise_seconds_per_million_weights": seconds,
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
