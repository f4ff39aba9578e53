"""BERT's parameters by their Hugging Face names: one table, read in both directions.

Names are those of `transformers.BertModel`. PyTorch keeps a dense kernel output axis first and
flat; Keras keeps it input axis first, and in attention split by head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

# Name below `encoder.layer.<i>.` -> attributes that lead to the layer in KerasHub's block.
_DENSE_OF_BLOCK = {
    "attention.self.query": ("_self_attention_layer", "query_dense"),
    "attention.self.key": ("_self_attention_layer", "key_dense"),
    "attention.self.value": ("_self_attention_layer", "value_dense"),
    "attention.output.dense": ("_self_attention_layer", "output_dense"),
    "intermediate.dense": ("_feedforward_intermediate_dense",),
    "output.dense": ("_feedforward_output_dense",),
}
_NORM_OF_BLOCK = {
    "attention.output.LayerNorm": "_self_attention_layer_norm",
    "output.LayerNorm": "_feedforward_layer_norm",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter under both conventions.

    Attributes:
        name: Its Hugging Face name.
        variable: Its Keras variable.
        shape: Its shape in PyTorch's layout. Where it has two axes and belongs to a dense layer,
            they are output and input, in this order.
        is_kernel: Whether Keras has the input axis first.
    """

    name: str
    variable: keras.Variable
    shape: tuple[int, ...]
    is_kernel: bool = False

    def to_torch(self) -> np.ndarray:
        """Returns its value, float32, in PyTorch's layout."""
        value = np.asarray(self.variable.numpy(), np.float32)
        value = value.reshape(self.shape[::-1]).T if self.is_kernel else value.reshape(self.shape)
        return np.ascontiguousarray(value)

    def assign_torch(self, value: np.ndarray) -> None:
        """Sets its value from PyTorch's layout."""
        value = value.T if self.is_kernel else value
        self.variable.assign(value.reshape(self.variable.shape))


def dense(name: str, layer: Any) -> Iterator[Parameter]:
    """Yields kernel and bias of a dense layer, split by head or not."""
    outputs = math.prod(layer.bias.shape)
    inputs = math.prod(layer.kernel.shape) // outputs
    yield Parameter(f"{name}.weight", layer.kernel, (outputs, inputs), is_kernel=True)
    yield Parameter(f"{name}.bias", layer.bias, (outputs,))


def normalization(name: str, layer: Any) -> Iterator[Parameter]:
    """Yields scale and offset of a layer normalization."""
    yield Parameter(f"{name}.weight", layer.gamma, tuple(layer.gamma.shape))
    yield Parameter(f"{name}.bias", layer.beta, tuple(layer.beta.shape))


def embedding_layers(model: keras.Model) -> list[Any]:
    """Tokens, positions, segments and their normalization: all before the first block."""
    names = ("token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm")
    return [model.get_layer(name) for name in names]


def encoder_blocks(model: keras.Model) -> list[Any]:
    """The encoder blocks, first to last."""
    return [layer for layer in model.layers if layer.name.startswith("transformer_layer_")]


def dense_layers(block: Any) -> dict[str, Any]:
    """The dense layers of an encoder block by their Hugging Face names below it."""
    found = {}
    for name, attributes in _DENSE_OF_BLOCK.items():
        layer = block
        for attribute in attributes:
            layer = getattr(layer, attribute)
        found[name] = layer
    return found


def encoder_parameters(model: keras.Model) -> Iterator[Parameter]:
    """Yields every encoder parameter of a model that `build_bert` laid out.

    The pooler's are among them where the model has one.
    """
    tokens, positions, segments, embeddings_norm = embedding_layers(model)
    for name, variable in (
        ("word", tokens.embeddings),
        ("position", positions.position_embeddings),
        ("token_type", segments.embeddings),
    ):
        shape = tuple(variable.shape)
        yield Parameter(f"embeddings.{name}_embeddings.weight", variable, shape)
    yield from normalization("embeddings.LayerNorm", embeddings_norm)
    for index, block in enumerate(encoder_blocks(model)):
        for name, layer in dense_layers(block).items():
            yield from dense(f"encoder.layer.{index}.{name}", layer)
        for name, attribute in _NORM_OF_BLOCK.items():
            yield from normalization(f"encoder.layer.{index}.{name}", getattr(block, attribute))
    for layer in model.layers:
        if layer.name == "pooled_dense":
            yield from dense("pooler.dense", layer)


def assign(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Sets every encoder parameter of a model from tensors by Hugging Face name.

    Raises:
        ValueError: A tensor is missing or has another shape; the message names it.
    """
    for parameter in encoder_parameters(model):
        tensor = tensors.get(parameter.name)
        found = None if tensor is None else tensor.shape
        if tensor is None or found != parameter.shape:
            raise ValueError(
                f"{parameter.name} of shape {parameter.shape}. Found: {found or 'nothing'}"
            )
        parameter.assign_torch(tensor)
