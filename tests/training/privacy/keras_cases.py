"""A small model, a plan and its examples, for the tests of `make_private`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.privacy import PrivacyPlan, make_private

L = keras.layers
ROOT = Path(__file__).parents[3]
EXAMPLES, STEPS = 60, 12
PLAN = PrivacyPlan.dp_sgd(
    num_examples=EXAMPLES,
    batch_size=20,
    steps=STEPS,
    clipping_norm=0.5,
    noise_multiplier=1.0,
    delta=1e-3,
)
GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(EXAMPLES, 5))
Y = (X[:, 0] > 0).astype("int64")
# Other people with the same labels.
HELD_OUT = X * 1.01
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(x))


def compiled(
    model: keras.Model | None = None, plan: PrivacyPlan = PLAN, loss: Any = None, **further: Any
) -> Any:
    private = make_private(small_model() if model is None else model, plan, **further)
    private.compile(keras.optimizers.SGD(0.5), CROSS_ENTROPY if loss is None else loss)
    return private


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.array(w) for w in model.get_weights()]


def moved(before: list[np.ndarray], after: list[np.ndarray]) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def distance(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(some, others, strict=True))))


def of_tensors() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y))
