"""Settings of the `model` section: which network, from which weights, which parts train."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from configs.schema.errors import require


def _require_widths(widths: list[int], key: str) -> None:
    require(all(width >= 1 for width in widths), key, widths, "whole numbers >= 1")


def _require_counts(section: str, **counts: Optional[int]) -> None:
    for name, count in counts.items():
        require(count is None or count >= 1, f"{section}.{name}", count, "a whole number >= 1")


def _require_alpha(alpha: float, key: str) -> None:
    require(0.0 < alpha < inf, key, alpha, "a number > 0")


BertProjection = Literal["query", "key", "value", "attention_output", "intermediate", "output"]


@dataclass(frozen=True)
class BertSettings:
    """A BERT encoder with a classification head.

    Attributes:
        weights: `embedded` (MiniLM-L6, hash-verified), a Hugging Face directory, or a hub id
            such as `hf://google-bert/bert-base-uncased`.
        trainable: What trains beside the head: nothing (`head`), the last encoder blocks
            (`top_k`), every bias and layer-norm offset (`bitfit`), low-rank changes of
            projections (`lora`), bottlenecks and layer norms (`adapters`), or `all`.
        top_k: With `trainable: top_k`, how many encoder blocks train.
        adapted_blocks: With `bitfit`, `lora` and `adapters`, how many of the last encoder blocks
            they reach; none is every block. What lies in front of them is computed once per
            example (`training.cache_frozen_gb`).
        lora_rank: With `lora`, the rank of each change.
        lora_alpha: With `lora`, each change is `lora_alpha / lora_rank` times the product of its
            two factors.
        lora_projections: With `lora`, the projections of a block that change.
        adapter_width: With `adapters`, units of each bottleneck.
        pooling: What the head sees: the `cls` vector, the `mean` over real tokens, or BERT's
            pretrained `pooler` output.
        dropout: Dropout rate inside the trainable encoder blocks and before the head.
        sequence_length: Tokens per example; longer texts are cut, shorter ones padded.
        hidden_units: Width of a hidden layer in the head; 0 is a linear head.
        hidden_activation: Activation of that hidden layer.
    """

    weights: str = "embedded"
    trainable: Literal["head", "top_k", "bitfit", "lora", "adapters", "all"] = "all"
    top_k: int = 1
    adapted_blocks: Optional[int] = None
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_projections: list[BertProjection] = field(default_factory=lambda: ["query", "value"])
    adapter_width: int = 32
    pooling: Literal["cls", "mean", "pooler"] = "mean"
    dropout: float = 0.0
    sequence_length: int = 128
    hidden_units: int = 0
    hidden_activation: Literal["gelu", "tanh"] = "gelu"

    def __post_init__(self) -> None:
        _require_counts(
            "model.bert",
            top_k=self.top_k,
            adapted_blocks=self.adapted_blocks,
            lora_rank=self.lora_rank,
            adapter_width=self.adapter_width,
        )
        _require_alpha(self.lora_alpha, "model.bert.lora_alpha")
        require(
            0 < len(self.lora_projections) == len(set(self.lora_projections)),
            "model.bert.lora_projections",
            self.lora_projections,
            "at least one projection, none of them twice",
        )
        require(0.0 <= self.dropout < 1.0, "model.bert.dropout", self.dropout, "a rate in [0, 1)")
        require(
            self.sequence_length >= 3,
            "model.bert.sequence_length",
            self.sequence_length,
            "a whole number >= 3 (two tokens are [CLS] and [SEP])",
        )
        require(
            self.hidden_units >= 0,
            "model.bert.hidden_units",
            self.hidden_units,
            "a whole number >= 0",
        )


@dataclass(frozen=True)
class ResNet50Settings:
    """ResNet50 v1 (He et al. 2015).

    Attributes:
        weights: none (random), `imagenet` (through keras.applications), or a `.keras` or
            `.weights.h5` file of a ResNet50 whose layers have the names of keras.applications'.
        normalization: `batch` (mixes examples: not with privacy), `frozen_batch` (batch
            normalization with fixed statistics, scale and offset training; wants pretrained
            weights) or `group` (takes only the convolutions of pretrained weights).
        groups: Groups of channels of `normalization: group`; a divisor of 64.
        image_size: Height and width of the input in pixels; images are resized to it.
        stem: `imagenet` (7x7 stride 2 and max-pooling) or `small` (3x3 stride 1, no pooling;
            for images up to about 64 pixels).
        trainable: What trains beside the head: nothing (`head`), the last stages (`top_k`), every
            bias and normalization scale and offset (`bitfit`), low-rank changes of the stages'
            convolutions (`lora`, which wants pretrained weights), or `all`.
        top_k: With `trainable: top_k`, how many of the four stages train.
        lora_rank: With `lora`, the rank of each change.
        lora_alpha: With `lora`, each change is `lora_alpha / lora_rank` times the product of its
            two factors.
        pixel_scaling: `imagenet` as keras.applications' weights expect, `symmetric` to [-1, 1];
            `auto` is `imagenet` where there are weights and `symmetric` where there are none.
    """

    weights: Optional[str] = None
    normalization: Literal["batch", "frozen_batch", "group"] = "batch"
    groups: int = 32
    image_size: int = 224
    stem: Literal["imagenet", "small"] = "imagenet"
    trainable: Literal["head", "top_k", "bitfit", "lora", "all"] = "all"
    top_k: int = 1
    lora_rank: int = 8
    lora_alpha: float = 16.0
    pixel_scaling: Literal["auto", "imagenet", "symmetric"] = "auto"

    def __post_init__(self) -> None:
        require(
            self.groups >= 1 and 64 % self.groups == 0,
            "model.resnet50.groups",
            self.groups,
            "a divisor of 64, the narrowest layer's channels",
        )
        require(
            self.image_size >= 1,
            "model.resnet50.image_size",
            self.image_size,
            "a whole number of pixels >= 1",
        )
        require(
            self.stem == "imagenet" or self.weights is None,
            "model.resnet50.stem",
            self.stem,
            "`imagenet` where there are weights, because they hold a 7x7 stem",
        )
        require(1 <= self.top_k <= 4, "model.resnet50.top_k", self.top_k, "1 to 4 stages")
        _require_counts("model.resnet50", lora_rank=self.lora_rank)
        _require_alpha(self.lora_alpha, "model.resnet50.lora_alpha")


@dataclass(frozen=True)
class MlpSettings:
    """A multi-layer perceptron over a feature vector or a flattened image.

    Attributes:
        hidden_units: Width of each hidden layer.
        activation: Keras activation of the hidden layers.
        dropout: Dropout rate after each hidden layer.
        image_size: With images, their height and width in pixels; they are resized to it.
    """

    hidden_units: list[int] = field(default_factory=lambda: [128])
    activation: Literal["relu", "gelu", "tanh", "sigmoid", "elu", "selu", "silu"] = "relu"
    dropout: float = 0.0
    image_size: int = 28

    def __post_init__(self) -> None:
        _require_widths(self.hidden_units, "model.mlp.hidden_units")
        require(0.0 <= self.dropout < 1.0, "model.mlp.dropout", self.dropout, "a rate in [0, 1)")
        require(
            self.image_size >= 1,
            "model.mlp.image_size",
            self.image_size,
            "a whole number of pixels >= 1",
        )


@dataclass(frozen=True)
class CnnSettings:
    """A small convolutional baseline with group normalization.

    Attributes:
        filters: Filters of each stage; each stage halves height and width.
        image_size: Height and width of the input in pixels; images are resized to it.
        dropout: Dropout rate before the head.
    """

    filters: list[int] = field(default_factory=lambda: [32, 64])
    image_size: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_widths(self.filters, "model.cnn.filters")
        require(0.0 <= self.dropout < 1.0, "model.cnn.dropout", self.dropout, "a rate in [0, 1)")
        smallest = 2 ** len(self.filters)
        require(
            self.image_size >= smallest,
            "model.cnn.image_size",
            self.image_size,
            f"at least {smallest} pixels, which model.cnn.filters halves {len(self.filters)} times",
        )


@dataclass(frozen=True)
class ModelSettings:
    """Which network to train.

    Attributes:
        name: A name in the registry (`models/registry.py`).
        bert: Settings of `bert`.
        resnet50: Settings of `resnet50`.
        mlp: Settings of `mlp`.
        cnn: Settings of `cnn`.
        asset_dir: As `data.asset_dir`.
    """

    name: Literal["bert", "resnet50", "mlp", "cnn"] = "bert"
    bert: BertSettings = field(default_factory=BertSettings)
    resnet50: ResNet50Settings = field(default_factory=ResNet50Settings)
    mlp: MlpSettings = field(default_factory=MlpSettings)
    cnn: CnnSettings = field(default_factory=CnnSettings)
    asset_dir: Optional[str] = None
