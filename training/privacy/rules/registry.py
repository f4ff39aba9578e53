"""The registry of rules: layer class -> rules. The one place to add to."""

from __future__ import annotations

import keras

from training.privacy.rules.base import Rule
from training.privacy.rules.convolution import ConvolutionRule
from training.privacy.rules.dense import DenseRule
from training.privacy.rules.depthwise_convolution import DepthwiseConvolutionRule
from training.privacy.rules.einsum_dense import EinsumDenseRule
from training.privacy.rules.embedding import EmbeddingRule, ReversibleEmbeddingRule
from training.privacy.rules.fallback import FALLBACK, WholeLayerRule
from training.privacy.rules.normalization import (
    BatchNormalizationRule,
    GroupNormalizationRule,
    LayerNormalizationRule,
    RMSNormalizationRule,
)
from training.privacy.rules.position_embedding import PositionEmbeddingRule
from training.privacy.rules.prelu import PReLURule
from training.privacy.rules.recurrent_cells import GRURule, LSTMRule, SimpleRNNRule
from training.privacy.rules.separable_convolution import SeparableConvolutionRule
from training.privacy.rules.transposed_convolution import TransposedConvolutionRule

# Keyed by (top-level package, class name), so that KerasHub, which takes seconds to import, is
# not imported for the sake of an isinstance. The first rule that applies is taken.
RULES: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("keras", "Dense"): (DenseRule(),),
    ("keras", "EinsumDense"): (EinsumDenseRule(),),
    ("keras", "Embedding"): (EmbeddingRule(),),
    ("keras", "ReversibleEmbedding"): (ReversibleEmbeddingRule(),),
    ("keras_hub", "ReversibleEmbedding"): (ReversibleEmbeddingRule(),),
    ("keras_hub", "PositionEmbedding"): (PositionEmbeddingRule(),),
    ("keras", "LayerNormalization"): (LayerNormalizationRule(),),
    ("keras", "GroupNormalization"): (GroupNormalizationRule(),),
    ("keras", "BatchNormalization"): (BatchNormalizationRule(),),
    ("models", "FrozenBatchNormalization"): (BatchNormalizationRule(),),
    ("keras", "RMSNormalization"): (RMSNormalizationRule(),),
    ("keras_hub", "RMSNormalization"): (RMSNormalizationRule(),),
    ("keras_hub", "LlamaLayerNorm"): (RMSNormalizationRule(),),
    ("keras_hub", "MistralLayerNormalization"): (RMSNormalizationRule(),),
    ("keras_hub", "T5LayerNorm"): (RMSNormalizationRule(),),
    ("keras", "Conv1D"): (ConvolutionRule(),),
    ("keras", "Conv2D"): (ConvolutionRule(),),
    ("keras", "Conv3D"): (ConvolutionRule(),),
    ("keras", "DepthwiseConv1D"): (DepthwiseConvolutionRule(),),
    ("keras", "DepthwiseConv2D"): (DepthwiseConvolutionRule(),),
    ("keras", "SeparableConv1D"): (SeparableConvolutionRule(),),
    ("keras", "SeparableConv2D"): (SeparableConvolutionRule(),),
    ("keras", "Conv1DTranspose"): (TransposedConvolutionRule(),),
    ("keras", "Conv2DTranspose"): (TransposedConvolutionRule(),),
    ("keras", "Conv3DTranspose"): (TransposedConvolutionRule(),),
    ("keras", "PReLU"): (PReLURule(),),
    ("keras", "RNN"): (SimpleRNNRule(), LSTMRule(), GRURule(), WholeLayerRule()),
    ("keras", "LSTM"): (LSTMRule(), WholeLayerRule()),
    ("keras", "GRU"): (GRURule(), WholeLayerRule()),
    ("keras", "SimpleRNN"): (SimpleRNNRule(), WholeLayerRule()),
    ("keras", "ConvLSTM1D"): (WholeLayerRule(),),
    ("keras", "ConvLSTM2D"): (WholeLayerRule(),),
    ("keras", "ConvLSTM3D"): (WholeLayerRule(),),
    ("keras", "TimeDistributed"): (WholeLayerRule(),),
}


def rule_for(layer: keras.Layer) -> Rule:
    """The rule of the layer's exact class; the exact fallback for every other layer."""
    package = type(layer).__module__.partition(".")[0]
    rules = RULES.get((package, type(layer).__name__), ())
    return next((rule for rule in rules if rule.applies_to(layer)), FALLBACK)
