"""What a model computes beside its weights, as far as its layers say: names random streams.

Two seeded fits that differ in an activation or a dropout rate alone must not share their noise.
"""

from __future__ import annotations

import re
from typing import Any

import keras

# Keras numbers what has no name of its own, on and on within a process.
_NUMBER = re.compile(r"_\d+$")


def layers_of(model: keras.Model) -> list[list[Any]]:
    """Class and settings of every layer, in order; of a layer that does not say them, the class."""
    layers = model._flatten_layers(include_self=False, recursive=True)
    return [[type(layer).__name__, _settings(layer)] for layer in layers]


def _settings(layer: keras.Layer) -> Any:
    if isinstance(layer, keras.Model):
        return None  # its layers come by themselves
    try:
        return _unnumbered(layer.get_config())
    except NotImplementedError:  # Keras's own answer for a layer that does not say
        return None


def _unnumbered(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _NUMBER.sub("", value)
            if key == "name" and isinstance(value, str)
            else _unnumbered(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [_unnumbered(value) for value in config]
    # What is no plain setting would tell where it lies in memory, another place each time.
    return config if isinstance(config, (bool, int, float, str, type(None))) else str(type(config))
