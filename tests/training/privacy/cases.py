"""Cases for the conformance test: for every rule, strategies that draw layers it must serve.

A case is a layer and the shape of what it is given. `CASES` has one strategy for each rule of
each registered layer class; `test_conformance.py` fails where one is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st

from models.frozen_batch_normalization import FrozenBatchNormalization

L = keras.layers
# Small logits: a saturated softmax has no gradient to compare, only its rounding.
SMALL = keras.initializers.VarianceScaling(0.05, "fan_in", "uniform", seed=3)


@dataclass(frozen=True)
class Case:
    """A layer under test.

    Attributes:
        layer: Makes the layer.
        shape: Shape of its input without the batch.
        ids: Rows of the table if the input is ids; 0 for real inputs.
        apply: Calls the layer.
        prepare: What is done to the built layer first (`enable_lora`).
        reads_values: Whether the output depends on the values of real inputs.
    """

    layer: Callable[[], keras.Layer]
    shape: tuple[int, ...]
    ids: int = 0
    apply: Callable[[keras.Layer, Any], Any] = lambda layer, x: layer(x)
    prepare: Callable[[keras.Layer], None] = lambda layer: None
    reads_values: bool = True

    @property
    def can_be_spoilt(self) -> bool:
        """Whether a NaN in the input reaches the gradient."""
        return self.reads_values and not self.ids

    def model(self) -> keras.Model:
        """The layer between an input and three frozen linear logits."""
        dtype = "int32" if self.ids else "float32"
        inputs = keras.Input(self.shape, dtype=dtype)
        layer = self.layer()
        outputs = L.Flatten()(self.apply(layer, inputs))
        head = L.Dense(3, kernel_initializer=SMALL, trainable=False)
        model = keras.Model(inputs, L.Activation("linear", dtype="float32")(head(outputs)))
        self.prepare(layer)
        generator = np.random.default_rng(7)
        for variable in layer.weights:
            if "seed" not in variable.name:
                low = 0.5 if "variance" in variable.name else -0.7
                variable.assign(generator.uniform(low, 1.0, variable.shape))
        return model

    def inputs(self, batch: int) -> np.ndarray:
        generator = np.random.default_rng(11)
        if self.ids:
            return generator.integers(0, self.ids, (batch, *self.shape)).astype("int32")
        return generator.normal(size=(batch, *self.shape)).astype("float32")


def _lora(layer: keras.Layer) -> None:
    layer.enable_lora(2, lora_alpha=3)


@st.composite
def dense(draw: st.DrawFn) -> Case:
    activation = draw(st.sampled_from([None, "gelu", "softmax", "lora"]))
    bias = draw(st.booleans())
    shape = draw(st.sampled_from([(5,), (4, 6), (1, 6), (2, 3, 4), (7, 2)]))
    return Case(
        lambda: L.Dense(4, activation=activation if activation != "lora" else None, use_bias=bias),
        shape,
        prepare=_lora if activation == "lora" else lambda layer: None,
    )


_EQUATIONS = [
    ("abc,cde->abde", (5, 2, 3), "de", (5, 4)),
    ("abcd,cde->abe", (5, 4), "e", (5, 2, 3)),
    ("...x,xy->...y", (5, 4), "y", (5, 3)),
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
        prepare=_lora if lora else lambda layer: None,
    )


@st.composite
def embedding(draw: st.DrawFn) -> Case:
    lora = draw(st.booleans())
    return Case(
        lambda: L.Embedding(5, 3, mask_zero=False),
        draw(st.sampled_from([(6,), (1,), (2, 3)])),
        ids=5,
        prepare=_lora if lora else lambda layer: None,
    )


def _reversible(make: Callable[..., keras.Layer]) -> st.SearchStrategy[Case]:
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


def _hub(name: str) -> Callable[..., keras.Layer]:
    def make(*args: Any, **kwargs: Any) -> keras.Layer:
        import keras_hub

        return getattr(keras_hub.layers, name)(*args, **kwargs)

    return make


def _hub_norm(path: str, *args: Any) -> Case:
    def make() -> keras.Layer:
        import importlib

        module, name = path.rsplit(".", 1)
        return getattr(importlib.import_module(f"keras_hub.src.{module}"), name)(*args)

    return Case(make, (4, 6))


@st.composite
def position_embedding(draw: st.DrawFn) -> Case:
    start = draw(st.sampled_from([0, 2]))
    positions = draw(st.sampled_from([None, [3, 0, 0, 5], [[1, 1, 2, 0]]]))
    shape = draw(st.sampled_from([(4, 3), (2, 4, 3)]))

    def apply(layer: keras.Layer, x: Any) -> Any:
        if positions is not None and len(shape) == 2:
            return layer(x, positions=keras.ops.convert_to_tensor(positions))
        return layer(x, start_index=start)

    return Case(lambda: _hub("PositionEmbedding")(7), shape, apply=apply, reads_values=False)


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


def _convolution(
    rank: int, *, groups: st.SearchStrategy[int], lora: bool = False, causal: bool = False
) -> st.SearchStrategy[Case]:
    @st.composite
    def build(draw: st.DrawFn) -> Case:
        motion = _motion(draw, rank)
        if causal and draw(st.booleans()):
            motion["padding"] = "causal"
        grouped = draw(groups)
        with_lora = lora and grouped == 1 and draw(st.booleans())
        cls = getattr(L, f"Conv{rank}D")
        bias = draw(st.booleans())
        activation = draw(st.sampled_from([None, "relu"]))
        return Case(
            lambda: cls(4, groups=grouped, use_bias=bias, activation=activation, **motion),
            (*_SIZES[rank], 4),
            prepare=_lora if with_lora else lambda layer: None,
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
        prepare=_lora if kind == "lora" else lambda layer: None,
    )


def _depthwise(rank: int) -> st.SearchStrategy[Case]:
    @st.composite
    def build(draw: st.DrawFn) -> Case:
        motion, multiplier = _motion(draw, rank), draw(st.sampled_from([1, 2]))
        cls = getattr(L, f"DepthwiseConv{rank}D")
        form = draw(st.sampled_from(["channels_last", "channels_first"])) if rank == 1 else None
        return Case(
            lambda: cls(
                depth_multiplier=multiplier,
                data_format=form,
                use_bias=form != "channels_first",
                **motion,
            ),
            (*_SIZES[rank], 3) if form != "channels_first" else (3, *_SIZES[rank]),
        )

    return build()


def _separable(rank: int) -> st.SearchStrategy[Case]:
    @st.composite
    def build(draw: st.DrawFn) -> Case:
        motion, multiplier = _motion(draw, rank), draw(st.sampled_from([1, 2]))
        cls = getattr(L, f"SeparableConv{rank}D")
        form = draw(st.sampled_from(["channels_last", "channels_first"])) if rank == 1 else None
        return Case(
            lambda: cls(
                4,
                depth_multiplier=multiplier,
                data_format=form,
                use_bias=form != "channels_first",
                **motion,
            ),
            (*_SIZES[rank], 3) if form != "channels_first" else (3, *_SIZES[rank]),
        )

    return build()


def _transposed(rank: int) -> st.SearchStrategy[Case]:
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


@st.composite
def prelu(draw: st.DrawFn) -> Case:
    shared, shape = draw(st.sampled_from([(None, (4, 3)), ([1, 2], (3, 4, 5)), ([1], (4, 3))]))
    return Case(lambda: L.PReLU(shared_axes=shared), shape)


def _recurrent(name: str) -> st.SearchStrategy[Case]:
    @st.composite
    def build(draw: st.DrawFn) -> Case:
        sequences = draw(st.booleans())
        return Case(lambda: getattr(L, name)(3, return_sequences=sequences), (3, 2))

    return build()


ONE, ANY_GROUPS = st.just(1), st.sampled_from([1, 2, 4])

CASES: dict[tuple[str, str], dict[str, st.SearchStrategy[Case]]] = {
    ("keras", "Dense"): {"DenseRule": dense()},
    ("keras", "EinsumDense"): {"EinsumDenseRule": einsum_dense()},
    ("keras", "Embedding"): {"EmbeddingRule": embedding()},
    ("keras", "ReversibleEmbedding"): {
        "ReversibleEmbeddingRule": _reversible(
            lambda *args, **kwargs: L.ReversibleEmbedding(*args, **kwargs)
        )
    },
    ("keras_hub", "ReversibleEmbedding"): {
        "ReversibleEmbeddingRule": _reversible(_hub("ReversibleEmbedding"))
    },
    ("keras_hub", "PositionEmbedding"): {"PositionEmbeddingRule": position_embedding()},
    ("keras", "LayerNormalization"): {"LayerNormalizationRule": layer_normalization()},
    ("keras", "GroupNormalization"): {"GroupNormalizationRule": group_normalization()},
    ("keras", "BatchNormalization"): {"BatchNormalizationRule": batch_normalization()},
    ("models", "FrozenBatchNormalization"): {
        "BatchNormalizationRule": frozen_batch_normalization()
    },
    ("keras", "RMSNormalization"): {"RMSNormalizationRule": rms_normalization()},
    ("keras_hub", "RMSNormalization"): {
        "RMSNormalizationRule": st.sampled_from(
            [
                _hub_norm("layers.modeling.rms_normalization.RMSNormalization", 6),
                _hub_norm("models.gemma.rms_normalization.RMSNormalization"),
            ]
        )
    },
    ("keras_hub", "LlamaLayerNorm"): {
        "RMSNormalizationRule": st.just(_hub_norm("models.llama.llama_layernorm.LlamaLayerNorm"))
    },
    ("keras_hub", "MistralLayerNormalization"): {
        "RMSNormalizationRule": st.just(
            _hub_norm("models.mistral.mistral_layer_norm.MistralLayerNormalization")
        )
    },
    ("keras_hub", "T5LayerNorm"): {
        "RMSNormalizationRule": st.just(_hub_norm("models.t5.t5_layer_norm.T5LayerNorm"))
    },
    ("keras", "Conv1D"): {
        "ConvolutionRule": _convolution(1, groups=ANY_GROUPS, lora=True, causal=True)
    },
    ("keras", "Conv2D"): {
        "ConvolutionRule": st.one_of(_convolution(2, groups=ONE), conv2d_otherwise()),
    },
    ("keras", "Conv3D"): {
        "ConvolutionRule": st.one_of(
            _convolution(3, groups=ONE, lora=True), conv3d_channels_first()
        )
    },
    ("keras", "DepthwiseConv1D"): {"DepthwiseConvolutionRule": _depthwise(1)},
    ("keras", "DepthwiseConv2D"): {"DepthwiseConvolutionRule": _depthwise(2)},
    ("keras", "SeparableConv1D"): {"SeparableConvolutionRule": _separable(1)},
    ("keras", "SeparableConv2D"): {"SeparableConvolutionRule": _separable(2)},
    ("keras", "Conv1DTranspose"): {"TransposedConvolutionRule": _transposed(1)},
    ("keras", "Conv2DTranspose"): {"TransposedConvolutionRule": _transposed(2)},
    ("keras", "Conv3DTranspose"): {"TransposedConvolutionRule": _transposed(3)},
    ("keras", "PReLU"): {"PReLURule": prelu()},
    ("keras", "RNN"): {
        "WholeLayerRule": st.just(Case(lambda: L.RNN([L.GRUCell(3), L.SimpleRNNCell(2)]), (3, 2)))
    },
    ("keras", "LSTM"): {"WholeLayerRule": _recurrent("LSTM")},
    ("keras", "GRU"): {"WholeLayerRule": _recurrent("GRU")},
    ("keras", "SimpleRNN"): {"WholeLayerRule": _recurrent("SimpleRNN")},
    ("keras", "ConvLSTM1D"): {
        "WholeLayerRule": st.just(Case(lambda: L.ConvLSTM1D(2, 2), (2, 4, 2)))
    },
    ("keras", "ConvLSTM2D"): {
        "WholeLayerRule": st.just(Case(lambda: L.ConvLSTM2D(2, 2), (2, 3, 3, 1)))
    },
    ("keras", "ConvLSTM3D"): {
        "WholeLayerRule": st.just(Case(lambda: L.ConvLSTM3D(1, 2), (2, 3, 2, 2, 1)))
    },
    ("keras", "TimeDistributed"): {
        "WholeLayerRule": st.just(
            Case(lambda: L.TimeDistributed(L.Conv1D(2, 2, activation="relu")), (3, 4, 2))
        )
    },
}
