"""Cases for the conformance test: for every rule, strategies that draw layers it must serve.

`CASES` has one strategy for each rule of each registered layer class; `test_conformance.py` fails
where one is missing.
"""

from __future__ import annotations

import keras
from hypothesis import strategies as st

from tests.training.privacy.cases.case import Case
from tests.training.privacy.cases.convolution import (
    conv2d_otherwise,
    conv3d_channels_first,
    convolution,
    depthwise,
    transposed,
)
from tests.training.privacy.cases.dense import dense, einsum_dense
from tests.training.privacy.cases.embedding import (
    embedding,
    hub_layer,
    position_embedding,
    reversible_embedding,
)
from tests.training.privacy.cases.normalization import (
    batch_normalization,
    frozen_batch_normalization,
    group_normalization,
    hub_norm,
    layer_normalization,
    rms_normalization,
)
from tests.training.privacy.cases.recurrent import recurrent, with_layer_inside

L = keras.layers


@st.composite
def prelu(draw: st.DrawFn) -> Case:
    shared, shape = draw(st.sampled_from([(None, (4, 3)), ([1, 2], (3, 4, 5)), ([1], (4, 3))]))
    return Case(lambda: L.PReLU(shared_axes=shared), shape)


ONE, ANY_GROUPS = st.just(1), st.sampled_from([1, 2, 4])


CASES: dict[tuple[str, str], dict[str, st.SearchStrategy[Case]]] = {
    ("keras", "Dense"): {"DenseRule": dense()},
    ("keras", "EinsumDense"): {"EinsumDenseRule": einsum_dense()},
    ("keras", "Embedding"): {"EmbeddingRule": embedding()},
    ("keras", "ReversibleEmbedding"): {
        "ReversibleEmbeddingRule": reversible_embedding(
            lambda *args, **kwargs: L.ReversibleEmbedding(*args, **kwargs)
        )
    },
    ("keras_hub", "ReversibleEmbedding"): {
        "ReversibleEmbeddingRule": reversible_embedding(hub_layer("ReversibleEmbedding"))
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
                hub_norm("layers.modeling.rms_normalization.RMSNormalization", 6),
                hub_norm("models.gemma.rms_normalization.RMSNormalization"),
                hub_norm(
                    "models.gemma3.gemma3_layers.RMSNormalization",
                    formerly="models.gemma3.rms_normalization.RMSNormalization",
                ),
            ]
        )
    },
    ("keras_hub", "LlamaLayerNorm"): {
        "RMSNormalizationRule": st.just(hub_norm("models.llama.llama_layernorm.LlamaLayerNorm"))
    },
    ("keras_hub", "MistralLayerNormalization"): {
        "RMSNormalizationRule": st.just(
            hub_norm("models.mistral.mistral_layer_norm.MistralLayerNormalization")
        )
    },
    ("keras_hub", "T5LayerNorm"): {
        "RMSNormalizationRule": st.just(hub_norm("models.t5.t5_layer_norm.T5LayerNorm"))
    },
    ("keras", "Conv1D"): {
        "ConvolutionRule": convolution(1, groups=ANY_GROUPS, lora=True, causal=True)
    },
    ("keras", "Conv2D"): {
        "ConvolutionRule": st.one_of(convolution(2, groups=ONE), conv2d_otherwise()),
    },
    ("keras", "Conv3D"): {
        "ConvolutionRule": st.one_of(convolution(3, groups=ONE, lora=True), conv3d_channels_first())
    },
    ("keras", "DepthwiseConv1D"): {"DepthwiseConvolutionRule": depthwise(1, "DepthwiseConv1D")},
    ("keras", "DepthwiseConv2D"): {"DepthwiseConvolutionRule": depthwise(2, "DepthwiseConv2D")},
    ("keras", "SeparableConv1D"): {"SeparableConvolutionRule": depthwise(1, "SeparableConv1D", 4)},
    ("keras", "SeparableConv2D"): {"SeparableConvolutionRule": depthwise(2, "SeparableConv2D", 4)},
    ("keras", "Conv1DTranspose"): {"TransposedConvolutionRule": transposed(1)},
    ("keras", "Conv2DTranspose"): {"TransposedConvolutionRule": transposed(2)},
    ("keras", "Conv3DTranspose"): {"TransposedConvolutionRule": transposed(3)},
    ("keras", "PReLU"): {"PReLURule": prelu()},
    ("keras", "RNN"): {
        **{f"{name}Rule": recurrent(name, in_rnn=True) for name in ("SimpleRNN", "LSTM", "GRU")},
        "WholeLayerRule": st.just(Case(lambda: L.RNN([L.GRUCell(3), L.SimpleRNNCell(2)]), (3, 2))),
    },
    ("keras", "LSTM"): {
        "LSTMRule": recurrent("LSTM"),
        "WholeLayerRule": with_layer_inside("LSTM"),
    },
    ("keras", "GRU"): {
        "GRURule": recurrent("GRU"),
        "WholeLayerRule": with_layer_inside("GRU"),
    },
    ("keras", "SimpleRNN"): {
        "SimpleRNNRule": recurrent("SimpleRNN"),
        "WholeLayerRule": with_layer_inside("SimpleRNN"),
    },
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
