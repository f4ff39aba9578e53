"""Which variables of a model train, chosen one by one.

Keras freezes layers; BitFit and low-rank adaptation freeze some variables of a layer and train
others. A layer of which nothing trains is frozen as a layer, too, because some layers look at
that: batch normalization then uses its moving statistics.
"""

from __future__ import annotations

from collections.abc import Iterable

import keras


def train_only(model: keras.Model, variables: Iterable[keras.Variable]) -> None:
    """Trains these variables of a built model and freezes all others.

    Args:
        model: A built model; it stays trainable itself.
        variables: Some of its variables. Those that never train (moving statistics) stay so.
    """
    chosen = {id(variable) for variable in variables}
    layers = list(model._flatten_layers(include_self=False))
    for layer in layers:
        # Twice, because TensorFlow ignores an attribute that is set to the value it has, and
        # Keras then does not pass it on to the layers inside.
        layer.trainable = True
        if layer.weights and not any(id(variable) in chosen for variable in layer.weights):
            layer.trainable = False
    for layer in layers:
        for variable in layer._trainable_variables:
            variable.trainable = id(variable) in chosen
