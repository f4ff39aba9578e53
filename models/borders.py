"""Cuts a functional model in two where a border says, both halves sharing its layers.

A tensor belongs to the second half if the rule says so of the operation that made it, or if one of
its inputs belongs there. Every other tensor that crosses into the second half is the border.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def split_where(
    model: keras.Model, begins: Callable[[Any], bool], name: str
) -> tuple[keras.Model | None, keras.Model]:
    """Splits a model where the rule first holds.

    Args:
        model: A functional model.
        begins: Takes the node (call of an operation) that made a tensor; whether the second half
            begins with it.
        name: The halves are named `{model}_prefix` and `{model}_{name}`.

    Returns:
        (first, second). `first` maps the model's inputs to the border, a dict of tensors;
        `second` maps that dict to the model's outputs, and `second(first(x))` equals `model(x)`.
        The first is None, and the second the model itself, where the border is the inputs.
        There must be a second half (`has_second_half`).
    """
    border = _border(model, begins)
    inputs = {id(tensor) for tensor in model.inputs}
    if all(id(tensor) in inputs for tensor in border.values()):
        return None, model
    first = keras.Model(model.input, border, name=f"{model.name}_prefix")
    return first, _suffix(model, border, name)


def has_second_half(model: keras.Model, begins: Callable[[Any], bool]) -> bool:
    """Whether the rule holds anywhere on the way to the model's output."""
    return all(tensor is not model.output for tensor in _border(model, begins).values())


def _suffix(model: keras.Model, border: dict[str, Any], name: str) -> keras.Model:
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

    return keras.Model(inputs, replay(model.output), name=f"{model.name}_{name}")


def _border(model: keras.Model, begins: Callable[[Any], bool]) -> dict[str, Any]:
    """Returns the tensors that cross into the second half, by the name of what made them."""
    known: dict[int, bool] = {}

    def is_behind(tensor: Any) -> bool:
        if id(tensor) not in known:
            node = _node(tensor)
            # Every input is visited even where the answer is known, to keep the recursion shallow
            # from the model's inputs upwards.
            inputs = [is_behind(parent) for parent in node.input_tensors]
            known[id(tensor)] = begins(node) or any(inputs)
        return known[id(tensor)]

    border: dict[str, Any] = {}
    waiting, seen = [model.output], set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if is_behind(tensor):
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
