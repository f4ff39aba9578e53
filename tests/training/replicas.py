"""A few steps on one device and on several logical CPUs; run as a process of its own.

Logical devices must be made before TensorFlow starts. Prints one JSON line: for each kind of step
the largest difference between the weights of both strategies, and between the replicas.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import (
    ClippingSettings,
    DataSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    TableSettings,
)
from tests.training.conftest import BASE
from tests.training.test_users import write_people
from training.losses import cross_entropy
from training.privacy.clip_methods import (
    AdaptiveClipping,
    ClipMethod,
    FlatClipping,
    GlobalAdaptClipping,
    PerLayerClipping,
)
from training.privacy.clip_watch import ClipWatch
from training.privacy.ledger import Ledger
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.session import open_session
from training.steps import PlainStep, PrivateStep
from training.steps.loss_scaling import with_loss_scale

# A multiplier of zero is no privacy, and refused; 20 steps with this one move no weight by 1e-6.
NO_NOISE = 1e-5


def trained(recipe: Recipe, root: Path) -> keras.Model:
    session, run = open_session(recipe), RunDirectory(root)
    root.mkdir(parents=True)
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
        replace(recipe, training=replace(recipe.training, strategy="mirrored")), root / "spread"
    )
    first, *others = [
        [variable.value.values[i].numpy() for variable in model.trainable_variables]
        for i in range(len(tf.config.list_logical_devices("CPU")))
    ]
    return {
        "strategies": largest_difference(
            [v.numpy() for v in model.trainable_variables],
            [v.numpy() for v in single.trainable_variables],
        ),
        "replicas": max(largest_difference(first, other) for other in others),
        "moved": largest_difference(
            [v.numpy() for v in single.trainable_variables],
            [v.numpy() for v in open_session(recipe).model.built.model.trainable_variables],
        ),
    }


def sensitivity(method: ClipMethod) -> dict[str, float]:
    """How far one example moves the sum over two replicas, in bounds, small to large gradients."""
    plan = PrivacyPlan(
        PoissonSampling(100, 12), method, GaussianMechanism(0.01), steps=9, delta=1e-3
    )
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)]
        )
    loss = cross_entropy(["a", "b", "c"])
    step = PrivateStep(
        model, loss, keras.optimizers.SGD(1.0), strategy, accumulates=True, plan=plan
    )
    start = model.get_weights()
    draws = plan.draws(0, Randomness.from_seed(0), len(start) + int(method.adapts))

    def shares(inputs: np.ndarray, mask: np.ndarray, chosen: range) -> Any:
        def share(context: Any) -> dict[str, tf.Tensor]:
            rows = list(chosen)[context.replica_id_in_sync_group :: 2]
            labels = np.asarray(rows) % 3
            batch = {"inputs": inputs[rows], "labels": labels, "mask": mask[rows]}
            return {key: tf.constant(value) for key, value in batch.items()}

        return strategy.experimental_distribute_values_from_function(share)

    def applied(inputs: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Sum and noise of one step: two physical batches on two replicas."""
        model.set_weights(start)
        for variable in step.state:
            variable.assign(method.clipping_norm)
        step.add(shares(inputs, mask, range(6)))
        step.finish(shares(inputs, mask, range(6, 12)), draws, accumulated=True)
        moved = [old - new for old, new in zip(start, model.get_weights(), strict=True)]
        return np.concatenate([m.ravel().astype(np.float64) for m in moved]) * plan.batch_size

    found = {}
    inputs = np.random.default_rng(1).normal(size=(12, 5)).astype("float32")
    everyone = np.ones(12, bool)
    for scale in (0.0, 1.0, 1e4):
        inputs[7] = scale * np.arange(5)
        # The same noise is in both.
        moved = applied(inputs, everyone) - applied(inputs, np.arange(12) != 7)
        found[f"{scale:g}"] = float(np.linalg.norm(moved)) / method.clipping_norm
    return found


def watched(watch: ClipWatch) -> float:
    """The largest difference between the counts of two replicas and of one device."""
    released = None if watch.share is None else watch
    plan = PrivacyPlan(
        PoissonSampling(100, 12),
        FlatClipping(0.2),
        GaussianMechanism(0.5),
        steps=9,
        delta=1e-3,
        watch=released,
    )
    mirrored = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    inputs = np.random.default_rng(1).normal(size=(12, 5)).astype("float32")

    def batch(rows: Any) -> dict[str, Any]:
        numbers = np.asarray(list(rows))
        return {
            "inputs": tf.constant(inputs[numbers]),
            "labels": tf.constant(numbers % 3),
            "groups": {"ward": tf.constant(numbers % 2)},
            "mask": tf.constant(numbers != 5),
        }

    def counted(strategy: tf.distribute.Strategy, shares: Any) -> np.ndarray:
        with strategy.scope():
            keras.utils.set_random_seed(2)
            model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        step = PrivateStep(
            model,
            cross_entropy(["a", "b", "c"]),
            keras.optimizers.SGD(0.0),
            strategy,
            accumulates=True,
            plan=plan,
            watch=watch,
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

    def dealt(rows: range) -> Any:
        return mirrored.experimental_distribute_values_from_function(
            lambda context: batch(rows[context.replica_id_in_sync_group :: 2])
        )

    one = counted(tf.distribute.get_strategy(), batch)
    return float(np.abs(counted(mirrored, dealt) - one).max())


def clipping() -> dict[str, Any]:
    """Replicas that share a moving bound, with XLA and without, and one example's part in a sum."""
    sgd = OptimizerSettings(name="SGD", learning_rate=0.1)
    training = replace(BASE.training, steps=5, physical_batch_size=16, optimizer=sgd)
    adaptive = PrivacySettings(
        enabled=True,
        noise_multiplier=0.5,
        clipping=ClippingSettings("adaptive", count_share=0.1),
    )
    mlp = replace(BASE.model.mlp, dropout=0.0)
    recipe = replace(BASE, privacy=adaptive, model=replace(BASE.model, mlp=mlp), training=training)
    compiled = replace(recipe, training=replace(training, jit_compile=True))
    methods = (
        FlatClipping(0.2),
        PerLayerClipping(0.2),
        AdaptiveClipping(0.2),
        GlobalAdaptClipping(0.2, 0.2),
    )
    with tempfile.TemporaryDirectory() as folder:
        return {
            "private, adaptive": compare(recipe, Path(folder) / "adaptive"),
            "private, XLA": compare(compiled, Path(folder) / "XLA"),
            "watched": max(watched(ClipWatch("ward", 2, share)) for share in (None, 0.1)),
            "sensitivity": {method.method: sensitivity(method) for method in methods},
        }


def users(physical: int | None) -> dict[str, Any]:
    """Users of several examples each, whole on one replica or the other, bounded and noised."""
    sgd = OptimizerSettings(name="SGD", learning_rate=0.1, options={"momentum": 0.9})
    training = replace(
        BASE.training, steps=6, batch_size=8, physical_batch_size=physical, optimizer=sgd
    )
    privacy = PrivacySettings(
        enabled=True, noise_multiplier=0.5, clipping_norm=0.2, unit="user", examples_per_user=3
    )
    with tempfile.TemporaryDirectory() as folder:
        table = TableSettings(
            train=str(write_people(Path(folder) / "people.csv")), features=["a", "b"]
        )
        recipe = replace(
            BASE,
            data=DataSettings(source="csv", table=table, user="who"),
            model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[6])),
            privacy=privacy,
            training=training,
        )
        return {"users": compare(recipe, Path(folder))}


def kinds(
    steps: int,
    privacies: dict[str, PrivacySettings],
    physicals: tuple[int | None, ...] = (None, 16),
) -> dict[str, Any]:
    """Every kind of step, each logical batch as one physical batch and as several."""
    mlp = replace(BASE.model.mlp, dropout=0.0)
    # Adam would blow rounding of vanishing gradients up to the size of its rate.
    sgd = OptimizerSettings(name="SGD", learning_rate=0.1, options={"momentum": 0.9})
    results: dict[str, Any] = {}
    for name, privacy in privacies.items():
        for physical in physicals:
            training = replace(
                BASE.training, steps=steps, physical_batch_size=physical, optimizer=sgd
            )
            recipe = replace(
                BASE, privacy=privacy, training=training, model=replace(BASE.model, mlp=mlp)
            )
            kind = name if physical is None else f"{name}, accumulated"
            with tempfile.TemporaryDirectory() as folder:
                results[kind] = compare(recipe, Path(folder))
    return results


def bounded_updates(steps: int, options: tuple[str, ...]) -> dict[str, Any]:
    """Optimizers that bound the gradient themselves, by less than its norm."""
    mlp = replace(BASE.model.mlp, dropout=0.0)
    results: dict[str, Any] = {}
    for option in options:
        bound = 0.005 if option == "clipvalue" else 0.05
        sgd = OptimizerSettings(name="SGD", learning_rate=1.0, options={option: bound})
        training = replace(BASE.training, steps=steps, optimizer=sgd)
        recipe = replace(BASE, training=training, model=replace(BASE.model, mlp=mlp))
        with tempfile.TemporaryDirectory() as folder:
            results[f"plain, {option}"] = compare(recipe, Path(folder))
    return results


def float16(steps: int) -> dict[str, Any]:
    """Plain steps with a loss scale: rounding differs by replica's share, the replicas must not."""
    mlp = replace(BASE.model.mlp, dropout=0.0)
    sgd = OptimizerSettings(name="SGD", learning_rate=0.1, options={"clipnorm": 0.5})
    training = replace(BASE.training, steps=steps, precision="mixed_float16", optimizer=sgd)
    recipe = replace(BASE, training=training, model=replace(BASE.model, mlp=mlp))
    with tempfile.TemporaryDirectory() as folder:
        return {"plain": compare(recipe, Path(folder)), "overflow": overflow()}


def overflow() -> dict[str, Any]:
    """Twenty steps on two replicas whose scale begins too high, on one of them by far."""
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        keras.utils.set_random_seed(2)
        layer = keras.layers.Dense(3, dtype="mixed_float16")
        model = keras.Sequential([keras.Input((5,)), layer])
        optimizer = with_loss_scale(keras.optimizers.Adam(0.01, clipvalue=0.1), model)
    loss = cross_entropy(["a", "b", "c"])
    step = PlainStep(model, loss, optimizer, strategy, accumulates=False)
    inputs = np.random.default_rng(1).normal(size=(12, 5)).astype("float32")
    inputs[::2] *= 1e-3  # what does not overflow on the first does on the second

    def share(context: Any) -> dict[str, tf.Tensor]:
        rows = np.arange(12)[context.replica_id_in_sync_group :: 2]
        batch = {"inputs": inputs[rows], "labels": rows % 3, "mask": np.ones(6, bool)}
        return {key: tf.constant(value) for key, value in batch.items()}

    batch = strategy.experimental_distribute_values_from_function(share)
    start = model.get_weights()
    optimizer.dynamic_scale.assign(2.0**25)
    found = []
    for _ in range(20):
        step.finish(batch, step.draws(0, Randomness.from_seed(0)), accumulated=False)
        moved = largest_difference(model.get_weights(), start)
        found.append({**step.released(), "moved": moved})
    first, other = [
        [v.value.values[i].numpy() for v in (*model.trainable_variables, *optimizer.variables)]
        for i in range(2)
    ]
    return {"steps": found, "replicas": largest_difference(first, other)}


def groups(steps: int, per_execution: int) -> dict[str, Any]:
    """Steps taken several in a call against steps taken one by one, on the replicas alike."""
    found = {}
    for name, privacy, physical in (
        ("plain", PrivacySettings(), None),
        ("private, accumulated", PrivacySettings(enabled=True, noise_multiplier=0.5), 40),
    ):
        single = replace(
            BASE,
            privacy=privacy,
            training=replace(
                BASE.training, steps=steps, physical_batch_size=physical, strategy="mirrored"
            ),
        )
        several = replace(single.training, steps_per_execution=per_execution)
        with tempfile.TemporaryDirectory() as folder:
            ones = trained(single, Path(folder) / "1").trainable_variables
            groups = trained(replace(single, training=several), Path(folder) / "n")
        of_replicas = [
            [variable.value.values[i].numpy() for variable in groups.trainable_variables]
            for i in range(len(tf.config.list_logical_devices("CPU")))
        ]
        found[name] = {
            "single steps": largest_difference(of_replicas[0], [v.numpy() for v in ones]),
            "replicas": max(largest_difference(of_replicas[0], other) for other in of_replicas),
        }
    return found


def main() -> None:
    """Prints the differences that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "what", choices=("kinds", "clipping", "noiseless", "users", "groups", "float16")
    )
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--brief", action="store_true", help="fewer kinds")
    arguments = parser.parse_args()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * arguments.replicas
    )
    private = PrivacySettings(enabled=True, noise_multiplier=0.5)
    if arguments.what == "clipping":
        # By itself: collectives of other shapes may not follow in one process.
        print(json.dumps(clipping()))
        return
    if arguments.what == "users":
        print(json.dumps(users(physical=2 * 3 * arguments.replicas)))
        return
    if arguments.what == "groups":
        print(json.dumps(groups(arguments.steps, 3)))
        return
    if arguments.what == "float16":
        print(json.dumps(float16(arguments.steps)))
        return
    if arguments.what == "noiseless":
        silent = replace(private, noise_multiplier=NO_NOISE)
        print(json.dumps(kinds(arguments.steps, {"private, noiseless": silent})))
        return
    privacies = {"plain": PrivacySettings(), "private": private}
    results = kinds(arguments.steps, privacies, (None,) if arguments.brief else (None, 16))
    # Dropout differs by replica, so only the replicas can be compared.
    with tempfile.TemporaryDirectory() as folder:
        results["private, dropout"] = compare(replace(BASE, privacy=private), Path(folder))
    options = ("clipnorm", "global_clipnorm", "clipvalue")
    results |= bounded_updates(arguments.steps, options[1:2] if arguments.brief else options)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
