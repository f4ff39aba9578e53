"""Cuts a model behind its embeddings, where its inputs first are real numbers.

Ids have no gradient. What a text model's answer depends on, word by word, is read from the gradient
by the vectors that its ids are looked up as.
"""

from __future__ import annotations

from typing import Any

import keras

from models.borders import has_second_half, split_where


def split_at_embeddings(model: keras.Model) -> tuple[keras.Model | None, keras.Model]:
    """Splits a functional model at the first real-valued tensors on the way to its outputs.

    Returns:
        (embed, rest): `embed` maps the inputs to a dict of tensors (embeddings, and ids or masks
        that the rest reads), `rest` maps it to the outputs, both of the model's own layers. None
        and the model itself where the inputs are real-valued.

    Raises:
        ValueError: No real-valued tensor crosses, so that there is nothing to differentiate by.
    """
    if not has_second_half(model, _reads_reals):
        raise ValueError(f"Model {model.name} has no real-valued tensor to differentiate by.")
    return split_where(model, _reads_reals, "from_embeddings")


def _reads_reals(node: Any) -> bool:
    return any(map(_is_real, node.input_tensors))


def _is_real(tensor: Any) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
