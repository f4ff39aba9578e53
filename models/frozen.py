"""Cuts a model where its frozen part ends, so that the frozen part runs once per example.

Whatever lies before the first trainable weight gives the same activations in every epoch. Training
may compute them once, keep them, and train only the rest: the result is the same and, on a CPU,
many times faster.
"""

from __future__ import annotations

from typing import Any

import keras

from models.borders import split_where
from models.contracts import BuiltModel


def split_frozen_prefix(built: BuiltModel) -> tuple[keras.Model | None, keras.Model]:
    """Splits a model into what is fixed and what training can change.

    A layer belongs to the suffix if it has trainable weights, if it is random in training
    (dropout), or if its input depends on such a layer. Every tensor that crosses from the rest
    into the suffix is part of the border, original inputs among them.

    Args:
        built: A functional model. Which layers train is read now; freezing or unfreezing layers
            afterwards invalidates the split.

    Returns:
        `(prefix, suffix)`. The prefix maps the original inputs to the border, a dict of
        activations; it has no trainable weights and no randomness. The suffix maps that dict to
        the logits. Both share the model's layers, so training the suffix trains the model, and
        `suffix(prefix(x))` equals `model(x)`. The prefix is None, and the suffix the model
        itself, where nothing can be computed beforehand.

    Raises:
        ValueError: The model has no trainable weights.
    """
    model = built.model
    if not model.trainable_weights:
        raise ValueError(f"Model {model.name} has no trainable weights, so it has no suffix.")
    return split_where(model, lambda node: _is_changeable(node.operation), "suffix")


def _is_changeable(operation: Any) -> bool:
    if not isinstance(operation, keras.layers.Layer):
        return False
    # `variables` is `weights` and the state of random generators.
    is_random = len(operation.variables) > len(operation.weights)
    return is_random or bool(operation.trainable_weights)
