"""Which of BERT's variables train: each value of `model.bert.trainable` is one function here.

Every function takes one encoder block and returns its variables that train. The head always
trains, the pooler with it; the embeddings train with `all` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from configs.schema import BertSettings
from models import bert_parameters
from models.lora import add_lora
from models.trainability import train_only

Variables = list[keras.Variable]


def reached_blocks(settings: BertSettings, blocks: int) -> int:
    """How many of the last of `blocks` encoder blocks train, wholly or in part."""
    if settings.trainable == "top_k":
        return settings.top_k
    if settings.trainable in ("head", "all"):
        return {"head": 0, "all": blocks}[settings.trainable]
    return blocks if settings.adapted_blocks is None else settings.adapted_blocks


def choose_trainable(model: keras.Model, settings: BertSettings) -> None:
    """Freezes all of a laid-out BERT that its settings do not train; adds LoRA where they say so.

    The pretrained weights must already be in place: LoRA keeps them as they are.
    """
    encoder = bert_parameters.embedding_layers(model)
    blocks = bert_parameters.encoder_blocks(model)
    inside = {id(v) for layer in (*encoder, *blocks) for v in layer.weights}
    chosen = [v for v in model.trainable_weights if id(v) not in inside]
    reached = reached_blocks(settings, len(blocks))
    for block in blocks[len(blocks) - reached :]:
        chosen += _TUNINGS[settings.trainable](block, settings)
    if settings.trainable == "all":
        chosen += [v for layer in encoder for v in layer.weights]
    train_only(model, chosen)


def _everything(block: Any, settings: BertSettings) -> Variables:
    return list(block.trainable_weights)


def _biases(block: Any, settings: BertSettings) -> Variables:
    """Ben Zaken et al. 2021 (2106.10199); Bu et al. 2022 (2210.00036) under privacy."""
    return [v for v in block.trainable_weights if v.name in ("bias", "beta")]


def _low_rank(block: Any, settings: BertSettings) -> Variables:
    dense = bert_parameters.dense_layers(block)
    layers = [dense[_PROJECTIONS[name]] for name in settings.lora_projections]
    return add_lora(layers, rank=settings.lora_rank, alpha=settings.lora_alpha)


def _adapters(block: Any, settings: BertSettings) -> Variables:
    """Layer normalization trains with the adapters, as in Houlsby et al. 2019 (1902.00751)."""
    inside = [v for adapter in block.adapters for v in adapter.trainable_weights]
    return inside + [v for v in block.trainable_weights if v.name in ("gamma", "beta")]


_TUNINGS: dict[str, Callable[[Any, BertSettings], Variables]] = {
    "all": _everything,
    "top_k": _everything,
    "bitfit": _biases,
    "lora": _low_rank,
    "adapters": _adapters,
}
# Names in recipes -> Hugging Face names below a block.
_PROJECTIONS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
