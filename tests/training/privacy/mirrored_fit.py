"""`make_private(...).fit` on one device and on two logical CPUs; run as a process of its own.

The replicas take two steps in a call, the one device one.

Prints one JSON line: the largest difference between the weights of both strategies, between the
two replicas, how far the weights moved, what was spent and the training accuracy of each.
"""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.privacy import PrivacyPlan, make_private

PLAN = PrivacyPlan.dp_sgd(
    num_examples=60,
    batch_size=20,
    steps=6,
    clipping_norm=0.5,
    noise_multiplier=1.0,
    delta=1e-3,
)


def trained(
    strategy: tf.distribute.Strategy, per_execution: int = 1
) -> tuple[Any, list[np.ndarray], list[float]]:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(60, 5))
    y = (x[:, 0] > 0).astype("int64")
    with strategy.scope():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((5,))
        hidden = keras.layers.Dense(4, activation="tanh")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
        private = make_private(model, PLAN, seed=7, physical_batch_size=8)
        private.compile(
            keras.optimizers.SGD(0.5, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=per_execution,
        )
    before = [np.array(w) for w in model.get_weights()]
    history = private.fit(x, y, validation_data=(x * 1.01, y), verbose=0).history
    return private, before, history["accuracy"]


def largest(some: Any, others: Any) -> float:
    return max(
        float(np.abs(np.array(a) - np.array(b)).max()) for a, b in zip(some, others, strict=True)
    )


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    single, before, accuracy = trained(tf.distribute.get_strategy())
    mirrored, _, accuracies = trained(tf.distribute.MirroredStrategy(devices), per_execution=2)
    variables = mirrored.inner.trainable_variables
    result = {
        "strategies": largest(mirrored.get_weights(), single.get_weights()),
        "replicas": largest(*([v.value.values[i].numpy() for v in variables] for i in (0, 1))),
        "moved": largest(single.get_weights(), before),
        "releases": [single.releases, mirrored.releases],
        "accuracy": [accuracy[-1], accuracies[-1]],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
