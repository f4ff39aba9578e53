"""Settings of the `model` section: which network, from which weights, which parts train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from configs.schema.errors import require


@dataclass(frozen=True)
class BertSettings:
    """A BERT encoder with a classification head.

    Attributes:
        weights: `embedded` (MiniLM-L6, hash-verified), a Hugging Face directory, or a hub id
            such as `hf://google-bert/bert-base-uncased`.
        trainable: Which blocks train: the `head` alone, the head and the `top_k` last encoder
            blocks, or `all`.
        top_k: With `trainable: top_k`, how many encoder blocks train.
        pooling: What the head sees: the `cls` vector, the `mean` over real tokens, or BERT's
            pretrained `pooler` output.
        dropout: Dropout rate inside the trainable encoder blocks and before the head.
        sequence_length: Tokens per example; longer texts are cut, shorter ones padded.
        hidden_units: Width of a hidden layer in the head; 0 is a linear head.
    """

    weights: str = "embedded"
    trainable: Literal["head", "top_k", "all"] = "all"
    top_k: int = 1
    pooling: Literal["cls", "mean", "pooler"] = "mean"
    dropout: float = 0.0
    sequence_length: int = 128
    hidden_units: int = 0

    def __post_init__(self) -> None:
        require(self.top_k >= 1, "model.bert.top_k", self.top_k, "a whole number >= 1")
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
            `.weights.h5` file of a ResNet50 whose parameters have the same names.
        normalization: `batch` (mixes examples: not with privacy), `frozen_batch` (batch
            normalization with fixed statistics, scale and offset training) or `group`.
        groups: Channels groups of `normalization: group`.
        image_size: Height and width of the input in pixels; images are resized to it.
        stem: `imagenet` (7x7 stride 2 and max-pooling) or `small` (3x3 stride 1, no pooling;
            for images up to about 64 pixels).
        trainable: `all`, or the `head` alone.
    """

    weights: Optional[str] = None
    normalization: Literal["batch", "frozen_batch", "group"] = "batch"
    groups: int = 32
    image_size: int = 224
    stem: Literal["imagenet", "small"] = "imagenet"
    trainable: Literal["head", "all"] = "all"

    def __post_init__(self) -> None:
        require(self.groups >= 1, "model.resnet50.groups", self.groups, "a whole number >= 1")
        require(
            self.image_size >= 1,
            "model.resnet50.image_size",
            self.image_size,
            "a whole number of pixels >= 1",
        )


@dataclass(frozen=True)
class MlpSettings:
    """A multi-layer perceptron over a feature vector or a flattened image.

    Attributes:
        hidden_units: Width of each hidden layer.
        activation: Keras activation of the hidden layers.
        dropout: Dropout rate after each hidden layer.
    """

    hidden_units: list[int] = field(default_factory=lambda: [128])
    activation: str = "relu"
    dropout: float = 0.0


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
