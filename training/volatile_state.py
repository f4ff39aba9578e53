"""What forward passes change in a model: dropout's seeds, running statistics. Kept and put back.

So that a logical batch that was begun and given up leaves no trace in what is saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf


@dataclass(frozen=True)
class VolatileState:
    """Variables with the values they had.

    Attributes:
        values: The variables, and a copy of each.
    """

    values: tuple[tuple[keras.Variable, tf.Tensor], ...]

    @classmethod
    def of(cls, model: keras.Model) -> VolatileState:
        """Copies what a forward pass in training mode can change; not the frozen weights."""
        weights = {id(weight) for weight in model.weights}
        found = [v for v in model.non_trainable_variables if id(v) not in weights]  # seeds
        for layer in model._flatten_layers(include_self=False, recursive=True):
            if layer.trainable:
                found += layer._non_trainable_variables  # running statistics
        return cls(tuple((v, tf.identity(v.value)) for v in {id(v): v for v in found}.values()))

    def restore(self) -> None:
        """Puts the values back."""
        for variable, value in self.values:
            variable.assign(value)
