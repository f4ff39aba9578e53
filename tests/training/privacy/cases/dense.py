"""Layers that multiply by a kernel: Dense and EinsumDense, with and without LoRA."""

from __future__ import annotations

import keras
from hypothesis import strategies as st

from tests.training.privacy.cases.case import Case, with_lora

L = keras.layers


@st.composite
def dense(draw: st.DrawFn) -> Case:
    activation = draw(st.sampled_from([None, "gelu", "softmax", "lora"]))
    bias = draw(st.booleans())
    shape = draw(st.sampled_from([(5,), (4, 6), (1, 6), (2, 3, 4), (7, 2)]))
    return Case(
        lambda: L.Dense(4, activation=activation if activation != "lora" else None, use_bias=bias),
        shape,
        prepare=with_lora if activation == "lora" else lambda layer: None,
    )


_EQUATIONS = [
    ("abc,cde->abde", (5, 2, 3), "de", (5, 4)),
    ("abcd,cde->abe", (5, 4), "e", (5, 2, 3)),
    ("...x,xy->...y", 4, "y", (5, 3)),
    ("...x,xy->...y", (4,), None, (6,)),
    ("abc,bcd->abd", (5, 3), "d", (5, 4)),
    ("ab,bc->ac", 4, "c", (6,)),
    ("abc,cd->adb", (3, 5), "d", (5, 4)),
]


@st.composite
def einsum_dense(draw: st.DrawFn) -> Case:
    equation, output, bias, shape = draw(st.sampled_from(_EQUATIONS))
    lora = draw(st.booleans()) and equation not in ("abc,bcd->abd",)
    return Case(
        lambda: L.EinsumDense(
            equation, output, bias_axes=bias, activation=None if lora else "tanh"
        ),
        shape,
        prepare=with_lora if lora else lambda layer: None,
    )
