"""A step compiled with XLA is the step that is not: what a TPU needs, as far as a CPU can show it.

XLA refuses an operation that it has no kernel for when it compiles the step, so that these tests
also show that each kind of step has none, on the models that they train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.workloads import Workload
from training.losses import cross_entropy
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness
from training.steps import PlainStep, PrivateStep

BATCH, CLASSES = 8, 3
# A multiplier of zero is no privacy, and refused; this one moves no weight by 1e-7.
PLAN = PrivacyPlan.dp_sgd(
    num_examples=1000,
    batch_size=2 * BATCH,
    steps=4,
    clipping_norm=1.0,
    noise_multiplier=1e-6,
    delta=1e-4,
)


def labelled(inputs: dict[str, np.ndarray], classes: int) -> dict[str, Any]:
    """A batch whose last row is padding, as a Poisson draw leaves it."""
    rows = len(next(iter(inputs.values())))
    return {
        "inputs": {name: tf.constant(value) for name, value in inputs.items()},
        "labels": tf.constant(np.arange(rows) % classes, tf.int32),
        "mask": tf.range(rows) < rows - 1,
    }


def small_bert() -> tuple[keras.Model, dict[str, Any]]:
    import keras_hub

    keras.utils.set_random_seed(3)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=50,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        dropout=0.0,
        max_sequence_length=8,
    )
    rng = np.random.default_rng(1)
    mask = np.ones((BATCH, 8), "int32")
    mask[0, 5:] = 0
    inputs = {
        "token_ids": rng.integers(0, 50, (BATCH, 8)).astype("int32"),
        "padding_mask": mask,
        "segment_ids": np.zeros((BATCH, 8), "int32"),
    }
    logits = keras.layers.Dense(CLASSES)(backbone.output["pooled_output"])
    return keras.Model(backbone.input, logits), labelled(inputs, CLASSES)


def small_residual_network() -> tuple[keras.Model, dict[str, Any]]:
    """One block of ResNet50 on tiny images: strided and 1x1 convolutions, pooling, a shortcut."""
    layers = keras.layers
    keras.utils.set_random_seed(4)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.MaxPooling2D(2)(layers.Conv2D(8, 3, padding="same")(image))
    y = layers.Conv2D(4, 1, strides=2, use_bias=False)(x)
    y = layers.ReLU()(layers.GroupNormalization(2)(y))
    y = layers.GroupNormalization(4)(layers.Conv2D(16, 3, padding="same")(y))
    y = layers.ReLU()(layers.Add()([y, layers.Conv2D(16, 1, strides=2)(x)]))
    logits = layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(y))
    pixels = np.random.default_rng(2).normal(size=(BATCH, 8, 8, 3)).astype("float32")
    return keras.Model({"image": image}, logits), labelled({"image": pixels}, CLASSES)


def of_benchmarks(model: str, size: int) -> tuple[keras.Model, dict[str, Any]]:
    workload = Workload(model, BATCH, size)
    built = workload.build()
    batch = workload.examples(built)
    return built.model, {**batch, "mask": tf.range(BATCH) < BATCH - 1}


MODELS: dict[str, Callable[[], tuple[keras.Model, dict[str, Any]]]] = {
    "small BERT": small_bert,
    "small residual network": small_residual_network,
    "MiniLM-BERT": lambda: of_benchmarks("bert", 16),
    "ResNet50": lambda: of_benchmarks("resnet50", 32),
}


def weights_after(
    model: keras.Model,
    batch: dict[str, Any],
    private: bool,
    xla: bool,
    rate: float,
    accumulated: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Change of all weights, and the sums reported, over a logical batch.

    Of two physical batches if `accumulated`, else of one.
    """
    start = model.get_weights()
    parts = (
        model,
        cross_entropy([str(i) for i in range(model.output.shape[-1])]),
        keras.optimizers.SGD(rate, momentum=0.9),
        tf.distribute.get_strategy(),
    )
    common: dict[str, Any] = {"accumulates": accumulated, "jit_compile": xla}
    step = PrivateStep(*parts, plan=PLAN, **common) if private else PlainStep(*parts, **common)
    draws = step.draws(0, Randomness.from_seed(5))
    totals = [step.add(batch)] if accumulated else []
    totals.append(step.finish(batch, draws, accumulated=accumulated))
    moved = [new - old for new, old in zip(model.get_weights(), start, strict=True)]
    model.set_weights(start)
    reported = [[t.loss, t.correct, t.examples, t.non_finite] for t in totals]
    return np.concatenate([m.ravel() for m in moved]), np.array(reported)


# Rate of the update and how near the moves must be, relative in norm. At a rate of 1 the gradients
# of ResNet50 with random weights differ by 2e-3 of their largest: rounding, as between two batch
# sizes without XLA (`tests/training/privacy/test_models.py`), and gone in float64 (below).
SMOOTH, DEEP_RECTIFIERS = (1.0, 1e-3), (1e-3, 1e-2)


# Each takes XLA seconds. A private step of one physical batch has the plain one's operations;
# adding it to another, in a program of its own, and convolutions are shown by the slow ones (that
# XLA takes those, `test_tpu` shows quickly).
QUICK = [("small BERT", True, False)]


@pytest.mark.parametrize(
    ("name", "private", "accumulated"),
    [
        *QUICK,
        *(
            pytest.param(name, private, True, marks=pytest.mark.slow)
            for name in MODELS
            for private in (False, True)
        ),
    ],
)
def test_step_compiled_with_xla_moves_the_weights_as_the_uncompiled_one_does(
    name, private, accumulated
):
    model, batch = MODELS[name]()
    rate, nearness = DEEP_RECTIFIERS if name == "ResNet50" else SMOOTH
    moved, reported = weights_after(model, batch, private, False, rate, accumulated)
    compiled, compiled_reported = weights_after(model, batch, private, True, rate, accumulated)
    print(f"{name}: {np.abs(compiled - moved).max():.1e} of {np.abs(moved).max():.1e}")
    np.testing.assert_allclose(compiled, moved, rtol=0, atol=1e-4)
    # And so near that the loss of a whole term could not hide below 1e-4.
    assert np.linalg.norm(compiled - moved) < nearness * np.linalg.norm(moved)
    assert np.abs(moved).max() > 1e-2 * rate
    np.testing.assert_allclose(compiled_reported, reported, rtol=1e-4)


def gradients(trunk: keras.Model, head: np.ndarray, batch: dict[str, Any], xla: bool) -> np.ndarray:
    """Of the mean loss over the real examples, at all weights, in the model's own precision.

    `head` (features, classes) is left as it is: that of our models computes in float32 whatever
    the rest does.
    """

    def compute(batch: dict[str, Any]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            features = trunk(batch["inputs"], training=True)
            logits = tf.matmul(features, tf.cast(head, features.dtype))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
            mask = tf.cast(batch["mask"], logits.dtype)
            mean = tf.reduce_sum(losses * mask) / tf.reduce_sum(mask)
        return tape.gradient(mean, [v.value for v in trunk.trainable_variables])

    found = tf.function(compute, autograph=False, jit_compile=xla)(batch)
    return np.concatenate([np.ravel(gradient) for gradient in found])


@pytest.mark.slow
def test_resnet50_with_xla_differs_by_rounding_alone():
    """In float32 by some thousandths; in float64, where rounding is 2^29 times finer, not."""
    differences = {}
    weights = None
    for precision in ("float32", "float64"):
        keras.config.set_dtype_policy(precision)
        model, batch = of_benchmarks("resnet50", 32)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        inputs = {k: tf.cast(v, precision) for k, v in batch["inputs"].items()}
        batch = {**batch, "inputs": inputs}
        trunk = keras.Model(model.input, model.layers[-1].input)
        head = model.layers[-1].get_weights()[0]
        plain, compiled = (gradients(trunk, head, batch, xla) for xla in (False, True))
        assert plain.dtype == precision
        differences[precision] = np.abs(compiled - plain).max()
        print(f"ResNet50, {precision}: {differences[precision]:.1e} of {np.abs(plain).max():.1e}")
    keras.config.set_dtype_policy("float32")
    assert differences["float64"] < 1e-9
    assert differences["float32"] > 1e-5
