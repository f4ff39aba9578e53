"""Random numbers of a model, drawn again: so that one run of it can be held against another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator  # not public

from configs.schema import UserError

# TensorFlow's own, whose state is no variable.
RANDOM = {
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}


def refuse_unrepeatable(graph: tf.Graph) -> None:
    """Refuses random numbers whose state nobody can put back to draw them again."""
    drawing = [x for x in graph.get_operations() if x.type in RANDOM]
    if drawing:
        raise UserError(
            "model: draws random numbers by TensorFlow itself (tf.random, tf.nn.dropout: operation "
            f"'{drawing[0].name}'), which cannot be drawn again to check whether examples stay "
            "apart. Draw them by keras.random with a keras.random.SeedGenerator."
        )


@contextmanager
def without_randomness(model: keras.Model) -> Iterator[None]:
    """Runs dropout and noise layers of Keras at strength zero.

    Of another's class nobody knows what its `rate` is of: at zero, a mixing of examples may rest.
    """
    changed: list[tuple[keras.Layer, str, Any]] = []
    for layer in _random_layers(model):
        for name in ("rate", "stddev"):
            if name in layer.__dict__:
                changed.append((layer, name, layer.__dict__[name]))
                # Through __dict__, past Keras' attribute tracking.
                layer.__dict__[name] = 0.0
    try:
        yield
    finally:
        for layer, name, value in changed:
            layer.__dict__[name] = value


class Draws:
    """The state of a model's random generators, to be put back to where it starts from."""

    def __init__(self, model: keras.Model):
        # Keras keeps it among the variables that are not trained, in whole numbers; and one for
        # whoever names none.
        self._states = [v for v in model.variables if not tf.as_dtype(v.dtype).is_floating]
        self._states.append(global_seed_generator().state)
        self.start_from(self.state())

    def state(self) -> list[np.ndarray]:
        return [v.numpy() for v in self._states]

    def start_from(self, values: list[np.ndarray]) -> None:
        self._values = values

    def again(self) -> bool:
        """Puts the state back; whether anything was drawn."""
        moved = False
        for state, value in zip(self._states, self._values, strict=True):
            if not np.array_equal(state.numpy(), value):
                moved = True
                state.assign(value)
        return moved


@contextmanager
def same_draws(model: keras.Model) -> Iterator[Draws]:
    """Leaves the generators as they were."""
    draws = Draws(model)
    before = draws.state()
    try:
        yield draws
    finally:
        draws.start_from(before)
        draws.again()


def _random_layers(model: keras.Model) -> list[keras.Layer]:
    known = ("keras", "keras_hub")
    return [
        layer
        for layer in model._flatten_layers()
        if _draws(layer) and type(layer).__module__.partition(".")[0] in known
    ]


def _draws(layer: keras.Layer) -> bool:
    strengths = ("rate", "dropout", "recurrent_dropout", "stddev", "factor")
    seeded = getattr(layer, "seed_generator", None) is not None
    return seeded and any(bool(getattr(layer, name, None)) for name in strengths)
