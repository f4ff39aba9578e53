"""Whole models: the clipped sum equals the naive per-example loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import ModelSettings, ResNet50Settings
from models import build
from tests.training.privacy.naive import (
    clipped_sum,
    cross_entropy,
    per_example_gradients,
    per_example_gradients_in_batch,
    relative_error,
)
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.conversion import to_private

L = keras.layers
BATCH = 3


def numbers(*shape: int, below: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, below, (BATCH, *shape)).astype("int32")


def pictures(size: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(BATCH, size, size, 3)).astype("float32")


def bert() -> tuple[keras.Model, Any]:
    """The sizes of MiniLM: 6 layers, 384 wide, 12 heads."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=1000,
        num_layers=6,
        num_heads=12,
        hidden_dim=384,
        intermediate_dim=1536,
        dropout=0.0,
        max_sequence_length=32,
    )
    mask = np.ones((BATCH, 16), "int32")
    mask[0, 9:] = 0
    inputs = {
        "token_ids": numbers(16, below=1000),
        "padding_mask": mask,
        "segment_ids": numbers(16, below=2),
    }
    model = keras.Model(backbone.input, L.Dense(3)(backbone.output["pooled_output"]))
    return model, inputs


def resnet50(normalization: str) -> tuple[keras.Model, Any]:
    settings = ModelSettings(
        name="resnet50",
        resnet50=ResNet50Settings(
            image_size=32, normalization=normalization, stem="small", weights=None
        ),
    )
    model = build(settings, num_classes=3, modality="image", seed=1).model
    return model, {"image": pictures(32)}


def mobilenet() -> tuple[keras.Model, Any]:
    keras.utils.set_random_seed(3)
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)
    pooled = model.layers[-2].output
    return to_private(keras.Model(model.input, L.Dense(3)(pooled))), pictures(32)


def lstm_classifier() -> tuple[keras.Model, Any]:
    x = keras.Input((7,), dtype="int32")
    y = L.LSTM(12)(L.Embedding(20, 8, mask_zero=True)(x))
    return keras.Model(x, L.Dense(3)(y)), numbers(7, below=20)


def vision_transformer() -> tuple[keras.Model, Any]:
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=(8, 8),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        dropout_rate=0.0,
        attention_dropout=0.0,
    )
    return keras.Model(backbone.input, L.Dense(3)(backbone.output[:, 0])), pictures(16)


def grouped_query_attention() -> tuple[keras.Model, Any]:
    """Four query heads on two heads of keys and values, through EinsumDense projections."""
    x = keras.Input((6,), dtype="int32")
    y = L.Embedding(20, 8)(x)
    y = L.GroupQueryAttention(head_dim=4, num_query_heads=4, num_key_value_heads=2)(y, y)
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(y))), numbers(6, below=20)


def decoder_with_tied_embeddings() -> tuple[keras.Model, Any]:
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=17,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        dropout=0.0,
        max_sequence_length=12,
    )
    logits = backbone.token_embedding(backbone.output, reverse=True)
    inputs = {
        "token_ids": numbers(6, below=17),
        "padding_mask": np.ones((BATCH, 6), "int32"),
    }
    return keras.Model(backbone.input, logits[:, -1]), inputs


MODELS: dict[str, Callable[[], tuple[keras.Model, Any]]] = {
    "bert": bert,
    "resnet50_group": lambda: resnet50("group"),
    "resnet50_frozen_batch": lambda: resnet50("frozen_batch"),
    "mobilenet": mobilenet,
    "lstm": lstm_classifier,
    "vision_transformer": vision_transformer,
    "grouped_query_attention": grouped_query_attention,
    "decoder_with_tied_embeddings": decoder_with_tied_embeddings,
}


# Compared inside one batch; `per_example_gradients_in_batch` says why.
DEEP_RECTIFIERS = {"resnet50_group", "resnet50_frozen_batch", "mobilenet"}


# A second of their kind each; the first of it runs every time.
SLOW = {"resnet50_frozen_batch", "mobilenet"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS],
)
def test_clipped_sum_equals_the_naive_loop(name: str) -> None:
    model, inputs = MODELS[name]()
    batch = {
        "inputs": tf.nest.map_structure(tf.constant, inputs),
        "labels": tf.constant(np.arange(BATCH) % 3),
        "mask": tf.ones(BATCH, bool),
    }
    loop = per_example_gradients_in_batch if name in DEEP_RECTIFIERS else per_example_gradients
    gradients = loop(model, batch)
    norms = np.sqrt([sum((g**2).sum() for g in example) for example in gradients])
    expected, _ = clipped_sum(gradients, np.ones(BATCH, bool), float(np.median(norms)))

    @tf.function(autograph=False)
    def engine(batch: Any) -> Any:
        found = clipped_gradient_sum(model, cross_entropy, batch, float(np.median(norms)))
        return found.gradients, found.norms

    found, found_norms = engine(batch)
    assert relative_error(found, expected) <= 1e-5
    np.testing.assert_allclose(found_norms, norms, rtol=1e-5)
