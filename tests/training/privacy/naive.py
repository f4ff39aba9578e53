"""The naive per-example loop: what every clipping rule is tested against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def per_example_gradients(
    model: keras.Model,
    batch: dict[str, Any],
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = cross_entropy,
) -> list[list[np.ndarray]]:
    """One ordinary backward pass per example, in a batch of its own, in float64 afterwards."""
    return naive_loop(model, loss)(batch)


def naive_loop(
    model: keras.Model, loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> Callable[[dict[str, Any]], list[list[np.ndarray]]]:
    """`per_example_gradients` of one model for several batches, traced once for all of them."""

    @tf.function(reduce_retracing=True)
    def one(inputs: Any, labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = loss(labels, tf.cast(model(inputs, training=True), tf.float32))
            total = tf.reduce_sum(losses)
        variables = [v.value for v in model.trainable_variables]
        found = tape.gradient(total, variables)
        return [
            tf.zeros(v.shape) if g is None else tf.cast(tf.convert_to_tensor(g), tf.float32)
            for g, v in zip(found, variables, strict=True)
        ]

    def each(batch: dict[str, Any]) -> list[list[np.ndarray]]:
        result = []
        for i in range(len(batch["labels"])):
            inputs = tf.nest.map_structure(lambda x, i=i: x[i : i + 1], batch["inputs"])
            result.append(
                [g.numpy().astype(np.float64) for g in one(inputs, batch["labels"][i : i + 1])]
            )
        return result

    return each


def clipped_sum(
    gradients: list[list[np.ndarray]], mask: np.ndarray, clipping_norm: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """Clips and adds; returns the sums and the norms before clipping."""
    norms = np.array([np.sqrt(sum((g**2).sum() for g in example)) for example in gradients])
    sums = [np.zeros_like(g) for g in gradients[0]]
    for example, norm, real in zip(gradients, norms, mask, strict=True):
        if not real or not np.isfinite(norm):
            continue
        factor = min(1.0, clipping_norm / norm) if norm > 0 else 1.0
        for total, gradient in zip(sums, example, strict=True):
            total += factor * gradient
    return sums, norms


def relative_error(found: list[Any], expected: list[np.ndarray]) -> float:
    """|found - expected| / |expected| over all variables together."""
    difference = np.sqrt(
        sum(
            ((np.asarray(f, np.float64) - e) ** 2).sum()
            for f, e in zip(found, expected, strict=True)
        )
    )
    size = np.sqrt(sum((e**2).sum() for e in expected))
    return float(difference / size) if size > 0 else float(difference)


class DrawingAlike:
    """A model whose generators start every call from where they are now."""

    def __init__(self, model: keras.Model):
        self.model = model
        self.trainable_variables = model.trainable_variables
        states = [v for v in model.variables if not tf.as_dtype(v.dtype).is_floating]
        self._start = [(state, state.numpy()) for state in states]

    def rewind(self) -> None:
        for state, value in self._start:
            state.assign(value)

    def __call__(self, *arguments: Any, **further: Any) -> Any:
        self.rewind()
        return self.model(*arguments, **further)


def per_example_gradients_in_batch(
    model: keras.Model | DrawingAlike,
    batch: dict[str, Any],
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = cross_entropy,
) -> list[list[np.ndarray]]:
    """The naive loop with every example in the company of its batch.

    For deep ReLU networks. A batch of one takes other float32 kernels, whose rounding flips
    rectifiers near zero: measured on ResNet50 at 32 pixels, the gradient of batches of one is
    1.9e-3 from the float64 gradient, that of the whole batch 0.7e-3, and the two are 1.8e-3
    apart, while the engine is within 3e-7 of the latter. With the same forward pass for all, what
    remains is what is to be tested. And for layers that draw a mask for every row of a batch.
    """

    @tf.function(autograph=False)
    def one(inputs: Any, labels: tf.Tensor, chosen: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = loss(labels, model(inputs, training=True))
            total = losses[chosen]
        values = [v.value for v in model.trainable_variables]
        found = tape.gradient(total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in found]

    return [
        [
            g.numpy().astype(np.float64)
            for g in one(batch["inputs"], batch["labels"], tf.constant(i))
        ]
        for i in range(len(batch["labels"]))
    ]
