"""Layers that look rows of a table up, by id, in reverse or by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from hypothesis import strategies as st

from tests.training.privacy.cases.case import Case, with_lora

L = keras.layers


@st.composite
def embedding(draw: st.DrawFn) -> Case:
    lora = draw(st.booleans())
    return Case(
        lambda: L.Embedding(5, 3, mask_zero=False),
        draw(st.sampled_from([(6,), (1,), (2, 3)])),
        ids=5,
        prepare=with_lora if lora else lambda layer: None,
    )


def reversible_embedding(make: Callable[..., keras.Layer]) -> st.SearchStrategy[Case]:
    @st.composite
    def build(draw: st.DrawFn) -> Case:
        tied = draw(st.booleans())
        cap = draw(st.sampled_from([None, 2.0]))
        reverse = draw(st.sampled_from(["both", "lookup"]))

        def apply(layer: keras.Layer, x: Any) -> Any:
            hidden = keras.ops.tanh(layer(x))
            return layer(hidden, reverse=True) if reverse == "both" else hidden

        return Case(
            lambda: make(6, 4, tie_weights=tied or reverse == "lookup", logit_soft_cap=cap),
            (5,),
            ids=6,
            apply=apply,
        )

    return build()


def hub_layer(name: str) -> Callable[..., keras.Layer]:
    """Makes layers of KerasHub, which is imported where one is made."""

    def make(*args: Any, **kwargs: Any) -> keras.Layer:
        import keras_hub

        return getattr(keras_hub.layers, name)(*args, **kwargs)

    return make


@st.composite
def position_embedding(draw: st.DrawFn) -> Case:
    start = draw(st.sampled_from([0, 2]))
    positions = draw(st.sampled_from([None, [3, 0, 0, 5], [[1, 1, 2, 0]]]))
    shape = draw(st.sampled_from([(4, 3), (2, 4, 3)]))

    def apply(layer: keras.Layer, x: Any) -> Any:
        if positions is not None and len(shape) == 2:
            return layer(x, positions=keras.ops.convert_to_tensor(positions))
        return layer(x, start_index=start)

    return Case(lambda: hub_layer("PositionEmbedding")(7), shape, apply=apply, reads_values=False)
