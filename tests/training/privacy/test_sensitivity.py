"""The bound on which epsilon rests: over random neighbouring datasets no sum moves further.

Several replicas: `tests/training/test_strategy.py`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import ClippingGroup
from tests.training.privacy.naive import cross_entropy
from training.privacy.adaptive_query import half_counts
from training.privacy.clip_methods import (
    AutomaticClipping,
    ClipMethod,
    FlatClipping,
    GlobalAdaptClipping,
    GroupClipping,
    PerLayerClipping,
)
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.sites import find_sites

L = keras.layers
BATCH, BOUND = 6, 0.3
# Sums are added up and norms taken in float32, from the same factors, whatever the model computes
# in: what is left is their rounding, about 1e-7 times the root of a few hundred terms.
ROUNDING = 1e-5
METHODS: dict[str, ClipMethod] = {
    "flat": FlatClipping(BOUND),
    "per_layer": PerLayerClipping(BOUND),
    "groups": GroupClipping(BOUND, (ClippingGroup("first/*", 0.1), ClippingGroup("*"))),
    "automatic": AutomaticClipping(BOUND),
    "global_adapt": GlobalAdaptClipping(BOUND, 2.0),
}
CASES = [
    *(("float32", name, 1) for name in METHODS),
    ("float32", "flat", 2),
    ("mixed_bfloat16", "flat", 1),
    ("mixed_bfloat16", "per_layer", 1),
    ("mixed_float16", "flat", 1),
    ("mixed_float16", "automatic", 3),
]


def model() -> keras.Model:
    keras.utils.set_random_seed(5)
    x = keras.Input((4, 5))
    y = L.LayerNormalization(name="norm")(L.Dense(6, activation="gelu", name="first")(x))
    y = L.Conv1D(3, 2, name="convolution")(y)
    return keras.Model(x, L.Dense(3, name="head", dtype="float32")(L.Flatten()(y)))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def engine(request: pytest.FixtureRequest) -> Any:
    policy, name, rows = request.param
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    net = model()
    keras.config.set_dtype_policy(before)
    sites = find_sites(net)

    @tf.function(autograph=False)
    def run(inputs: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> Any:
        batch = {"inputs": inputs, "labels": labels, "mask": mask}
        found = clipped_gradient_sum(
            net, cross_entropy, batch, METHODS[name], sites, rows_per_record=rows
        )
        return found.gradients, tf.reduce_sum(half_counts(found.norms, found.used, BOUND))

    def numpy(inputs: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> tuple[Any, float]:
        found, count = run(
            tf.constant(inputs, tf.float32), tf.constant(labels, tf.int32), tf.constant(mask)
        )
        return np.concatenate([g.numpy().ravel().astype(np.float64) for g in found]), float(count)

    numpy.rows = rows  # type: ignore[attr-defined]
    return numpy


scales = st.sampled_from([0.0, 1e-6, 1.0, 1e3, 1e6, np.inf, np.nan])


def test_one_record_moves_sum_and_count_by_no_more_than_their_bounds(engine: Any) -> None:
    rows = engine.rows

    @settings(max_examples=15, derandomize=True, deadline=None, database=None)
    @given(seed=st.integers(0, 10_000), scale=scales, record=st.integers(0, BATCH // rows - 1))
    def holds(seed: int, scale: float, record: int) -> None:
        generator = np.random.default_rng(seed)
        inputs = generator.normal(size=(BATCH, 4, 5)) * generator.choice([0.1, 1.0, 10.0])
        labels = generator.integers(0, 3, BATCH)
        mask = generator.random(BATCH) < 0.8
        changed = np.arange(BATCH) // rows == record
        mask[changed] = True
        with np.errstate(invalid="ignore"):
            inputs[changed] *= scale
        total, count = engine(inputs, labels, mask)
        assert np.isfinite(total).all()
        without, count_without = engine(inputs, labels, mask & ~changed)
        assert np.linalg.norm(total - without) <= BOUND * (1 + ROUNDING)
        assert abs(count - count_without) <= 0.5
        # Replacing one moves it by no more than removing it and adding another.
        other = inputs.copy()
        other[changed] = generator.normal(size=(rows, 4, 5))
        replaced, count_replaced = engine(other, labels, mask)
        assert np.linalg.norm(total - replaced) <= 2 * BOUND * (1 + ROUNDING)
        assert abs(count - count_replaced) <= 1

    holds()


def test_bound_is_reached(engine: Any) -> None:
    """So that the test above cannot hold by clipping too much."""
    inputs = 3 * np.random.default_rng(1).normal(size=(BATCH, 4, 5))
    alone = np.arange(BATCH) < engine.rows
    total, _ = engine(inputs, np.arange(BATCH) % 3, alone)
    # Automatic clipping stays a little below; groups whose gradients are small do not use theirs.
    assert 0.8 * BOUND <= np.linalg.norm(total) <= BOUND * (1 + ROUNDING)
