"""Cuts a model where its frozen part ends, so that the frozen part runs once per example.

Whatever lies before the first trainable weight gives the same activations in every epoch. Training
may compute them once, keep them, and train only the rest: the result is the same and, on a CPU,
many times faster.
"""

from __future__ import annotations

from typing import Any

import keras

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
    border = _border(model)
    inputs = {id(tensor) for tensor in model.inputs}
    if all(id(tensor) in inputs for tensor in border.values()):
        return None, model
    prefix = keras.Model(model.input, border, name=f"{model.name}_prefix")
    return prefix, _suffix(model, border)


def _suffix(model: keras.Model, border: dict[str, Any]) -> keras.Model:
    """Calls the layers behind the border again, on inputs of the border's shapes."""
    inputs = {
        name: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for name, tensor in border.items()
    }
    replayed = {id(tensor): inputs[name] for name, tensor in border.items()}

    def replay(tensor: Any) -> Any:
        if id(tensor) not in replayed:
            node = _node(tensor)
            for parent in node.input_tensors:
                replay(parent)
            arguments, keywords = node.arguments.fill_in(replayed)
            outputs = keras.tree.flatten(node.operation(*arguments, **keywords))
            replayed.update(zip(map(id, node.output_tensors), outputs, strict=True))
        return replayed[id(tensor)]

    return keras.Model(inputs, replay(model.output), name=f"{model.name}_suffix")


def _border(model: keras.Model) -> dict[str, Any]:
    """Returns the tensors that cross into the changeable part, by the name of what made them."""
    changeable: dict[int, bool] = {}

    def changes(tensor: Any) -> bool:
        if id(tensor) not in changeable:
            node = _node(tensor)
            # Every input is visited even where the answer is known, to keep the recursion shallow
            # from the model's inputs upwards.
            inputs = [changes(parent) for parent in node.input_tensors]
            changeable[id(tensor)] = _is_changeable(node.operation) or any(inputs)
        return changeable[id(tensor)]

    border: dict[str, Any] = {}
    waiting, seen = [model.output], set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if changes(tensor):
            waiting.extend(_node(tensor).input_tensors)
        else:
            border[_name(tensor)] = tensor
    return border


def _node(tensor: Any) -> Any:
    """Returns the call of an operation that made a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _name(tensor: Any) -> str:
    history = tensor._keras_history
    index = history.tensor_index
    return history.operation.name + (f"_{index}" if index else "")


def _is_changeable(operation: Any) -> bool:
    if not isinstance(operation, keras.layers.Layer):
        return False
    # `variables` is `weights` and the state of random generators.
    is_random = len(operation.variables) > len(operation.weights)
    return is_random or bool(operation.trainable_weights)
