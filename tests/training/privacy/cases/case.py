"""A case of the conformance test: a layer, and the shape of what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

L = keras.layers
# Small logits: a saturated softmax has no gradient to compare, only its rounding.
SMALL = keras.initializers.VarianceScaling(0.05, "fan_in", "uniform", seed=3)


@dataclass(frozen=True)
class Case:
    """A layer under test.

    Attributes:
        layer: Makes the layer.
        shape: Shape of its input without the batch.
        ids: Rows of the table if the input is ids; 0 for real inputs.
        apply: Calls the layer.
        prepare: What is done to the built layer first (`enable_lora`).
        reads_values: Whether the output depends on the values of real inputs.
        draws: Whether the layer drops at random, each row of a batch by itself.
    """

    layer: Callable[[], keras.Layer]
    shape: tuple[int, ...]
    ids: int = 0
    apply: Callable[[keras.Layer, Any], Any] = lambda layer, x: layer(x)
    prepare: Callable[[keras.Layer], None] = lambda layer: None
    reads_values: bool = True
    draws: bool = False

    @property
    def can_be_spoilt(self) -> bool:
        """Whether a NaN in the input reaches the gradient."""
        return self.reads_values and not self.ids

    def model(self) -> keras.Model:
        """The layer between an input and three frozen linear logits."""
        dtype = "int32" if self.ids else "float32"
        inputs = keras.Input(self.shape, dtype=dtype)
        layer = self.layer()
        outputs = L.Flatten()(self.apply(layer, inputs))
        head = L.Dense(3, kernel_initializer=SMALL, trainable=False)
        model = keras.Model(inputs, L.Activation("linear", dtype="float32")(head(outputs)))
        self.prepare(layer)
        generator = np.random.default_rng(7)
        for variable in layer.weights:
            if "seed" not in variable.name:
                low = 0.5 if "variance" in variable.name else -0.7
                variable.assign(generator.uniform(low, 1.0, variable.shape))
        return model

    def inputs(self, batch: int) -> np.ndarray:
        generator = np.random.default_rng(11)
        if self.ids:
            return generator.integers(0, self.ids, (batch, *self.shape)).astype("int32")
        return generator.normal(size=(batch, *self.shape)).astype("float32")


def with_lora(layer: keras.Layer) -> None:
    """Trains low-rank factors beside the frozen kernel."""
    layer.enable_lora(2, lora_alpha=3)
