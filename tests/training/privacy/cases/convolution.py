"""Convolutions of every rank: plain, grouped, depthwise, separable and transposed."""

from __future__ import annotations

from typing import Any

import keras
from hypothesis import strategies as st

from tests.training.privacy.cases.case import Case, with_lora

L = keras.layers
_SIZES = {1: (9,), 2: (7, 6), 3: (4, 5, 3)}


def _motion(draw: st.DrawFn, rank: int) -> dict[str, Any]:
    """Strides or dilations, not both; kernels even and odd, strides beyond the kernel too."""
    kernel, strides, dilation = draw(
        st.sampled_from([(3, 1, 1), (2, 2, 1), (1, 2, 1), (2, 3, 1), (3, 1, 2), (1, 1, 1)])
    )
    if rank == 3:
        kernel = min(kernel, 2)
    return {
        "kernel_size": kernel,
        "strides": strides,
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(["valid", "same"])),
    }


def convolution(
    rank: int, *, groups: st.SearchStrategy[int], lora: bool = False, causal: bool = False
) -> st.SearchStrategy[Case]:
    @st.composite
    def build(draw: st.DrawFn) -> Case:
        motion = _motion(draw, rank)
        if causal and draw(st.booleans()):
            motion["padding"] = "causal"
        grouped = draw(groups)
        is_adapted = lora and grouped == 1 and draw(st.booleans())
        cls = getattr(L, f"Conv{rank}D")
        bias = draw(st.booleans())
        activation = draw(st.sampled_from([None, "relu"]))
        return Case(
            lambda: cls(4, groups=grouped, use_bias=bias, activation=activation, **motion),
            (*_SIZES[rank], 4),
            prepare=with_lora if is_adapted else lambda layer: None,
        )

    return build()


@st.composite
def conv3d_channels_first(draw: st.DrawFn) -> Case:
    """The only rank whose forward pass TensorFlow has on every CPU with the channels first.

    Keras adds a bias along the last axis where that has the channels' size: hence none.
    """
    motion = _motion(draw, 3)
    return Case(
        lambda: L.Conv3D(4, data_format="channels_first", use_bias=False, **motion),
        (2, *_SIZES[3]),
    )


@st.composite
def conv2d_otherwise(draw: st.DrawFn) -> Case:
    """Grouped kernels and LoRA."""
    kind = draw(st.sampled_from(["grouped", "lora", "depthwise"]))
    motion = _motion(draw, 2)
    groups = {"grouped": 2, "lora": 1, "depthwise": 4}[kind]
    return Case(
        lambda: L.Conv2D(4, groups=groups, **motion),
        (7, 6, 4),
        prepare=with_lora if kind == "lora" else lambda layer: None,
    )


def depthwise(rank: int, name: str, *filters: int) -> st.SearchStrategy[Case]:
    """Layers of class `name` that begin with a convolution of each channel by itself."""

    @st.composite
    def build(draw: st.DrawFn) -> Case:
        motion, multiplier = _motion(draw, rank), draw(st.sampled_from([1, 2]))
        form = draw(st.sampled_from(["channels_last", "channels_first"])) if rank == 1 else None
        return Case(
            lambda: getattr(L, name)(
                *filters,
                depth_multiplier=multiplier,
                data_format=form,
                use_bias=form != "channels_first",
                **motion,
            ),
            (*_SIZES[rank], 3) if form != "channels_first" else (3, *_SIZES[rank]),
        )

    return build()


def transposed(rank: int) -> st.SearchStrategy[Case]:
    @st.composite
    def build(draw: st.DrawFn) -> Case:
        kernel, strides, output_padding = draw(
            st.sampled_from([(3, 1, None), (2, 2, None), (3, 2, 1), (3, 2, 0), (2, 3, None)])
        )
        padding = draw(st.sampled_from(["valid", "same"]))
        cls = getattr(L, f"Conv{rank}DTranspose")
        sizes = {1: (5,), 2: (4, 3), 3: (3, 2, 2)}[rank]
        return Case(
            lambda: cls(2, kernel, strides=strides, padding=padding, output_padding=output_padding),
            (*sizes, 3),
        )

    return build()
