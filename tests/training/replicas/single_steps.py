"""Single steps on two replicas, whose batches are dealt by hand: what no recipe shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.training.replicas.comparison import largest_difference, on_replica
from training.losses import cross_entropy
from training.privacy.clip_methods import (
    AdaptiveClipping,
    ClipMethod,
    FlatClipping,
    GlobalAdaptClipping,
    PerLayerClipping,
)
from training.privacy.clip_watch import ClipWatch
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling
from training.randomness import Randomness
from training.steps import PlainStep, PrivateStep
from training.steps.loss_scaling import with_loss_scale

METHODS = (
    FlatClipping(0.2),
    PerLayerClipping(0.2),
    AdaptiveClipping(0.2),
    GlobalAdaptClipping(0.2, 0.2),
)
LABELS = ("a", "b", "c")


def two_replicas() -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def features() -> np.ndarray:
    """Of twelve examples, float32 (12, 5)."""
    return np.random.default_rng(1).normal(size=(12, 5)).astype("float32")


def dealt(
    strategy: tf.distribute.Strategy, batch: Callable[[np.ndarray], dict[str, Any]], rows: range
) -> Any:
    """A batch of these rows, every second one for either replica."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: batch(np.asarray(rows[context.replica_id_in_sync_group :: 2]))
    )


def sensitivity(method: ClipMethod) -> dict[str, float]:
    """How far one example moves the sum over two replicas, in bounds, small to large gradients."""
    plan = PrivacyPlan(
        PoissonSampling(100, 12), method, GaussianMechanism(0.01), steps=9, delta=1e-3
    )
    strategy = two_replicas()
    with strategy.scope():
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)]
        )
    sgd = keras.optimizers.SGD(1.0)
    step = PrivateStep(model, cross_entropy(LABELS), sgd, strategy, accumulates=True, plan=plan)
    start = model.get_weights()
    draws = plan.draws(0, Randomness.from_seed(0), len(start) + int(method.adapts))

    def applied(inputs: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Sum and noise of one step: two physical batches on two replicas."""

        def batch(rows: np.ndarray) -> dict[str, Any]:
            values = {"inputs": inputs[rows], "labels": rows % 3, "mask": mask[rows]}
            return {key: tf.constant(value) for key, value in values.items()}

        model.set_weights(start)
        for variable in step.state:
            variable.assign(method.clipping_norm)
        step.add(dealt(strategy, batch, range(6)))
        step.finish(dealt(strategy, batch, range(6, 12)), draws, accumulated=True)
        moved = [old - new for old, new in zip(start, model.get_weights(), strict=True)]
        return np.concatenate([m.ravel().astype(np.float64) for m in moved]) * plan.batch_size

    found = {}
    inputs, everyone = features(), np.ones(12, bool)
    for scale in (0.0, 1.0, 1e4):
        inputs[7] = scale * np.arange(5)
        # The same noise is in both.
        moved = applied(inputs, everyone) - applied(inputs, np.arange(12) != 7)
        found[f"{scale:g}"] = float(np.linalg.norm(moved)) / method.clipping_norm
    return found


def watched(watch: ClipWatch) -> float:
    """The largest difference between the counts of two replicas and of one device."""
    plan = PrivacyPlan(
        PoissonSampling(100, 12),
        FlatClipping(0.2),
        GaussianMechanism(0.5),
        steps=9,
        delta=1e-3,
        watch=None if watch.share is None else watch,
    )
    inputs = features()

    def batch(rows: np.ndarray) -> dict[str, Any]:
        return {
            "inputs": tf.constant(inputs[rows]),
            "labels": tf.constant(rows % 3),
            "groups": {"ward": tf.constant(rows % 2)},
            "mask": tf.constant(rows != 5),
        }

    def counted(strategy: tf.distribute.Strategy, shares: Callable[[range], Any]) -> np.ndarray:
        with strategy.scope():
            keras.utils.set_random_seed(2)
            model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        sgd = keras.optimizers.SGD(0.0)
        step = PrivateStep(
            model, cross_entropy(LABELS), sgd, strategy, accumulates=True, plan=plan, watch=watch
        )
        for number in range(2):
            step.begin_epoch()
            draws = step.draws(number, Randomness.from_seed(0))
            step.add(shares(range(6)))
            step.finish(shares(range(6, 12)), draws, accumulated=True)
        found = step.watched()
        assert found is not None
        assert found.run.sum() > 0
        return np.concatenate([found.epoch, found.run])

    mirrored = two_replicas()
    one = counted(tf.distribute.get_strategy(), lambda rows: batch(np.asarray(rows)))
    return float(np.abs(counted(mirrored, lambda rows: dealt(mirrored, batch, rows)) - one).max())


def overflow() -> dict[str, Any]:
    """Twenty steps on two replicas whose scale begins too high, on one of them by far."""
    strategy = two_replicas()
    with strategy.scope():
        keras.utils.set_random_seed(2)
        layer = keras.layers.Dense(3, dtype="mixed_float16")
        model = keras.Sequential([keras.Input((5,)), layer])
        optimizer = with_loss_scale(keras.optimizers.Adam(0.01, clipvalue=0.1), model)
    step = PlainStep(model, cross_entropy(LABELS), optimizer, strategy, accumulates=False)
    inputs = features()
    inputs[::2] *= 1e-3  # what does not overflow on the first does on the second

    def batch(rows: np.ndarray) -> dict[str, Any]:
        values = {"inputs": inputs[rows], "labels": rows % 3, "mask": np.ones(len(rows), bool)}
        return {key: tf.constant(value) for key, value in values.items()}

    everyone = dealt(strategy, batch, range(12))
    start = model.get_weights()
    optimizer.dynamic_scale.assign(2.0**25)
    found = []
    for _ in range(20):
        step.finish(everyone, step.draws(0, Randomness.from_seed(0)), accumulated=False)
        moved = largest_difference(model.get_weights(), start)
        found.append({**step.released(), "moved": moved})
    variables = [*model.trainable_variables, *optimizer.variables]
    first, other = on_replica(0, variables), on_replica(1, variables)
    return {"steps": found, "replicas": largest_difference(first, other)}
