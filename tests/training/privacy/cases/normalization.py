"""Layers that normalise by statistics of an example, or of frozen ones of a batch."""

from __future__ import annotations

from typing import Any

import keras
from hypothesis import strategies as st

from models.frozen_batch_normalization import FrozenBatchNormalization
from tests.training.privacy.cases.case import Case

L = keras.layers


@st.composite
def layer_normalization(draw: st.DrawFn) -> Case:
    axis, shape = draw(st.sampled_from([(-1, (4, 6)), (-1, (6,)), ([-2, -1], (3, 4, 5))]))
    center, scale = draw(st.sampled_from([(True, True), (False, True), (True, False)]))
    return Case(lambda: L.LayerNormalization(axis=axis, center=center, scale=scale), shape)


@st.composite
def group_normalization(draw: st.DrawFn) -> Case:
    axis, shape = draw(st.sampled_from([(-1, (3, 4, 6)), (1, (6, 3, 4)), (-1, (5, 6))]))
    groups = draw(st.sampled_from([1, 3, -1]))
    return Case(lambda: L.GroupNormalization(groups=groups, axis=axis), shape)


@st.composite
def batch_normalization(draw: st.DrawFn) -> Case:
    axis, shape = draw(st.sampled_from([(-1, (3, 4, 5)), (1, (5, 3)), (-1, (5,))]))
    # In inference mode whatever the model is called with: the only way it can be private.
    return Case(
        lambda: L.BatchNormalization(axis=axis),
        shape,
        apply=lambda layer, x: _InInference(layer)(x),
    )


class _InInference(keras.layers.Layer):
    """Calls the layer inside with training=False."""

    def __init__(self, inner: keras.Layer):
        super().__init__()
        self.inner = inner

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs, training=False)


@st.composite
def frozen_batch_normalization(draw: st.DrawFn) -> Case:
    axis, shape = draw(st.sampled_from([(-1, (3, 4, 5)), (1, (5, 3)), (-1, (5,))]))
    return Case(lambda: FrozenBatchNormalization(axis=axis), shape)


@st.composite
def rms_normalization(draw: st.DrawFn) -> Case:
    axis, shape = draw(st.sampled_from([(-1, (4, 6)), ([1, 2], (4, 5))]))
    return Case(lambda: L.RMSNormalization(axis=axis), shape)


def hub_norm(path: str, *args: Any, formerly: str | None = None) -> Case:
    """A layer of KerasHub by its path, which is imported where the layer is made.

    `formerly` is its path in earlier releases.
    """

    def make() -> keras.Layer:
        import importlib
        from importlib.util import find_spec

        module, name = f"keras_hub.src.{path}".rsplit(".", 1)
        if formerly is not None and find_spec(module) is None:
            module, name = f"keras_hub.src.{formerly}".rsplit(".", 1)
        return getattr(importlib.import_module(module), name)(*args)

    return Case(make, (4, 6))
