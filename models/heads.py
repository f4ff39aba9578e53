"""The last layer of every model: one vector per example to float32 logits."""

from __future__ import annotations

from typing import Any

import keras

LOGITS = "logits"


def logits(
    x: Any, num_classes: int, *, name: str = LOGITS, initializer: Any = "glorot_uniform"
) -> Any:
    """Applies a linear layer computed in float32 whatever the precision of the rest.

    Args:
        x: (batch, width).
        num_classes: Width of the result.
        name: Name of the layer.
        initializer: Keras initializer of its kernel.

    Returns:
        float32 (batch, num_classes).
    """
    return keras.layers.Dense(
        num_classes, kernel_initializer=initializer, dtype="float32", name=name
    )(x)
