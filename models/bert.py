"""BERT with a classification head, as one flat functional model.

The encoder has the layers of KerasHub's `BertBackbone`, laid out again one by one for three
reasons: only the trainable blocks get dropout, a frozen part can be cut off by following the
graph, and the private engine sees every trainable layer as an ordinary Keras layer. Weights are
read here rather than by `from_preset`, which in older KerasHub knows fewer checkpoints (not the
embedded one). Source: Devlin et al. 2018 (1810.04805).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import keras_hub

from configs.schema import BertSettings, ModelSettings, SettingError, require
from models import bert_parameters, heads
from models.adapters import AdaptedTransformerEncoder
from models.bert_checkpoint import BertCheckpoint, open_checkpoint
from models.bert_tuning import choose_trainable, reached_blocks
from models.contracts import BuiltModel
from models.text_preprocessing import TextPreprocessor


@dataclass(frozen=True)
class BuiltBert(BuiltModel):
    """A BERT classifier, and what is needed to write it back in Hugging Face layout.

    Attributes:
        checkpoint: The checkpoint it started from.
        settings: How its head was built.
    """

    checkpoint: BertCheckpoint
    settings: BertSettings


def build_bert(
    settings: ModelSettings,
    *,
    num_classes: int,
    modality: str,
    input_shape: tuple[int, ...] | None,
) -> BuiltBert:
    """Builds BERT with a classification head; see `BertSettings`.

    The model takes `token_ids`, `padding_mask` and `segment_ids`, int32 (batch, sequence_length).
    What trains is `settings.bert.trainable` (`models.bert_tuning`). The head always does, and the
    pooler belongs to it.

    Raises:
        SettingError: The texts are longer than the checkpoint's positions, or more blocks are to
            train than there are, or the checkpoint cannot be used.
        UserError: The checkpoint cannot be had.
    """
    del modality, input_shape  # text is all it takes, and the settings say how long it is
    bert = settings.bert
    checkpoint, tensors = open_checkpoint(bert.weights, settings.asset_dir)
    positions = int(checkpoint.config["max_position_embeddings"])
    blocks = int(checkpoint.config["num_hidden_layers"])
    require(
        bert.sequence_length <= positions,
        "model.bert.sequence_length",
        bert.sequence_length,
        f"at most {positions}, the positions this checkpoint knows",
    )
    for key, count in (("top_k", bert.top_k), ("adapted_blocks", bert.adapted_blocks)):
        require(
            (key == "top_k" and bert.trainable != "top_k") or count is None or count <= blocks,
            f"model.bert.{key}",
            count,
            f"at most {blocks}, the encoder blocks of this checkpoint",
        )
    model = _lay_out(_backbone(checkpoint.config), bert, num_classes)
    try:
        bert_parameters.assign(model, tensors)
    except ValueError as error:
        raise SettingError(
            "model.bert.weights", bert.weights, f"a checkpoint with {error}"
        ) from error
    choose_trainable(model, bert)
    return BuiltBert(
        model=model,
        preprocess=TextPreprocessor(
            checkpoint.vocabulary,
            lowercase=checkpoint.lowercase,
            strip_accents=checkpoint.strip_accents,
            sequence_length=bert.sequence_length,
        ),
        origin=dict(checkpoint.origin),
        checkpoint=checkpoint,
        settings=bert,
    )


def _backbone(config: dict[str, Any]) -> Any:
    """Returns KerasHub's BERT of these sizes; its weights are never used."""
    return keras_hub.models.BertBackbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        intermediate_dim=config["intermediate_size"],
        max_sequence_length=config["max_position_embeddings"],
        dropout=0.0,
    )


def _lay_out(backbone: Any, settings: BertSettings, num_classes: int) -> keras.Model:
    """Applies copies of the backbone's layers, in order, to inputs of fixed length."""
    inputs = {
        name: keras.Input((settings.sequence_length,), dtype="int32", name=name)
        for name in ("token_ids", "padding_mask", "segment_ids")
    }
    frozen_blocks = backbone.num_layers - reached_blocks(settings, backbone.num_layers)
    tokens = _copy(backbone.token_embedding)
    positions = _copy(backbone.position_embedding)
    segments = _copy(backbone.segment_embedding)
    normalization = _copy(backbone.embeddings_layer_norm)
    words = tokens(inputs["token_ids"])  # (batch, time, hidden)
    x = keras.layers.Add(name="embeddings_add")(
        [words, positions(words), segments(inputs["segment_ids"])]
    )
    x = normalization(x)
    for index, original in enumerate(backbone.transformer_layers):
        block = _copy(original) if index < frozen_blocks else _trained_block(original, settings)
        x = block(x, padding_mask=inputs["padding_mask"])

    x = _pool(x, inputs["padding_mask"], settings.pooling)  # (batch, hidden)
    if settings.pooling == "pooler":
        x = _copy(backbone.pooled_dense)(x)
    return keras.Model(inputs, _head(x, settings, num_classes), name="bert_classifier")


def _copy(layer: Any, **changes: Any) -> Any:
    """Returns a new, unbuilt layer of the same configuration but for `changes`."""
    return type(layer).from_config({**layer.get_config(), **changes})


def _trained_block(original: Any, settings: BertSettings) -> Any:
    """Returns a block with the settings' dropout and, where they say so, adapters."""
    if settings.trainable != "adapters":
        return _copy(original, dropout=settings.dropout)
    changes = {"dropout": settings.dropout, "adapter_width": settings.adapter_width}
    return AdaptedTransformerEncoder.from_config({**original.get_config(), **changes})


def _pool(x: Any, padding_mask: Any, pooling: str) -> Any:
    """Maps (batch, time, hidden) to one float32 vector per example, (batch, hidden)."""
    if pooling == "mean":
        # float32, because a half-precision sum over hundreds of tokens loses digits.
        return keras.layers.GlobalAveragePooling1D(dtype="float32", name="mean_pooling")(
            x, mask=padding_mask
        )
    length = x.shape[1]
    first = keras.layers.Cropping1D((0, length - 1), name="first_token")(x)
    return keras.layers.Flatten(name="first_token_vector")(first)


def _head(x: Any, settings: BertSettings, num_classes: int) -> Any:
    if settings.dropout:
        x = keras.layers.Dropout(settings.dropout, name="head_dropout")(x)
    if settings.hidden_units:
        x = keras.layers.Dense(
            settings.hidden_units, activation=settings.hidden_activation, name="head_hidden"
        )(x)
        if settings.dropout:
            x = keras.layers.Dropout(settings.dropout, name="head_hidden_dropout")(x)
    return heads.logits(x, num_classes, initializer=keras.initializers.TruncatedNormal(stddev=0.02))
