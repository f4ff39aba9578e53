"""Recurrent layers: options of the loop, of the cell, and of the call."""

from __future__ import annotations

from typing import Any

import keras
from hypothesis import strategies as st
from keras import ops

from tests.training.privacy.cases.case import Case

L = keras.layers
UNITS, TIME = 3, 4
LOOP = {
    "return_sequences": st.booleans(),
    "go_backwards": st.booleans(),
    "unroll": st.booleans(),
}
CELL = {
    "use_bias": st.booleans(),
    "activation": st.sampled_from(["tanh", "silu", "softmax", None]),
    "dropout": st.sampled_from([0.0, 0.3]),
    "recurrent_dropout": st.sampled_from([0.0, 0.3]),
}
GATED = {
    "recurrent_activation": st.sampled_from(["sigmoid", "hard_sigmoid"]),
    "implementation": st.sampled_from([1, 2]),
}
OPTIONS = {
    "SimpleRNN": CELL,
    "LSTM": CELL | GATED,
    "GRU": CELL | GATED | {"reset_after": st.booleans()},
}


@st.composite
def recurrent(draw: st.DrawFn, name: str, in_rnn: bool = False) -> Case:
    """A layer that its own rule serves, or `RNN` around the cell of that layer."""
    options = draw(st.fixed_dictionaries(OPTIONS[name])) | {"seed": 1}
    loop = draw(st.fixed_dictionaries(LOOP))
    draws = bool(options["dropout"] or options["recurrent_dropout"])
    masked, from_state = draw(st.booleans()), draw(st.booleans())
    if (masked or draws) and name != "SimpleRNN" and not in_rnn:
        # Which takes no mask but padding at the end; Keras' way to it no dropout of every gate.
        loop["use_cudnn"] = False

    def apply(layer: keras.Layer, x: Any) -> Any:
        state = ops.tile(x[:, 0, :1], (1, UNITS))
        states = [state, 0.5 * state] if name == "LSTM" else [state]
        return layer(
            x,
            mask=x[..., 0] > -0.3 if masked else None,
            initial_state=states if from_state else None,
        )

    def layer() -> keras.Layer:
        if in_rnn:
            return L.RNN(getattr(L, f"{name}Cell")(UNITS, **options), **loop)
        return getattr(L, name)(UNITS, **options, **loop)

    # Wide enough that dropout never takes a whole example.
    return Case(layer, (TIME, 6 if draws else 2), apply=apply, draws=draws)


def with_layer_inside(name: str) -> st.SearchStrategy[Case]:
    """A layer that runs another one at every step, which its own rule leaves to the fallback."""
    return st.just(Case(lambda: getattr(L, name)(UNITS, activation=L.LeakyReLU(0.3)), (TIME, 2)))
