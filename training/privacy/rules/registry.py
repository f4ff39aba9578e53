"""The registry of rules: layer class -> rule. The one place to add to."""

from __future__ import annotations

import keras

from training.privacy.rules.base import Rule
from training.privacy.rules.convolution import Conv2DRule
from training.privacy.rules.dense import DenseRule
from training.privacy.rules.einsum_dense import EinsumDenseRule
from training.privacy.rules.embedding import EmbeddingRule, ReversibleEmbeddingRule
from training.privacy.rules.fallback import FALLBACK, WholeLayerRule
from training.privacy.rules.normalization import (
    BatchNormalizationRule,
    GroupNormalizationRule,
    LayerNormalizationRule,
)
from training.privacy.rules.position_embedding import PositionEmbeddingRule

# Keyed by (top-level package, class name), so that KerasHub, which takes seconds to import, is
# not imported for the sake of an isinstance.
RULES: dict[tuple[str, str], Rule] = {
    ("keras", "Dense"): DenseRule(),
    ("keras", "EinsumDense"): EinsumDenseRule(),
    ("keras", "Embedding"): EmbeddingRule(),
    ("keras", "ReversibleEmbedding"): ReversibleEmbeddingRule(),
    ("keras_hub", "ReversibleEmbedding"): ReversibleEmbeddingRule(),
    ("keras_hub", "PositionEmbedding"): PositionEmbeddingRule(),
    ("keras", "LayerNormalization"): LayerNormalizationRule(),
    ("keras", "GroupNormalization"): GroupNormalizationRule(),
    ("keras", "BatchNormalization"): BatchNormalizationRule(),
    ("keras", "Conv2D"): Conv2DRule(),
    ("keras", "RNN"): WholeLayerRule(),
    ("keras", "LSTM"): WholeLayerRule(),
    ("keras", "GRU"): WholeLayerRule(),
    ("keras", "SimpleRNN"): WholeLayerRule(),
    ("keras", "ConvLSTM1D"): WholeLayerRule(),
    ("keras", "ConvLSTM2D"): WholeLayerRule(),
    ("keras", "ConvLSTM3D"): WholeLayerRule(),
    ("keras", "TimeDistributed"): WholeLayerRule(),
}


def rule_for(layer: keras.Layer) -> Rule:
    """The rule of the layer's exact class; the exact fallback for every other layer."""
    package = type(layer).__module__.partition(".")[0]
    rule = RULES.get((package, type(layer).__name__), FALLBACK)
    return rule if rule.applies_to(layer) else FALLBACK
