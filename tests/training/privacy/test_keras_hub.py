"""KerasHub's backbones, small: the clipped sum equals the naive per-example loop."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import UserError
from tests.training.privacy.naive import (
    clipped_sum,
    cross_entropy,
    per_example_gradients,
    relative_error,
)
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.inspection import probe, problems_of

L = keras.layers
BATCH, TIME, WORDS = 3, 6, 20

_TEXT = {"vocabulary_size": WORDS, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 24}
_HEADS = _TEXT | {"num_heads": 2}
_ENCODER = _HEADS | {"max_sequence_length": 12, "dropout": 0.0}
_GROUPED = _TEXT | {"num_query_heads": 4, "num_key_value_heads": 2}
_GEMMA = _GROUPED | {"head_dim": 4}
_IMAGE = {"image_shape": (16, 16, 3), "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
_PATCHES = _IMAGE | {"patch_size": 8, "intermediate_dim": 24}
_EXPERTS = {"num_experts": 3, "top_k": 2}
_BALANCE = {"router_aux_loss_coefficient": 0.0}

BACKBONES: dict[str, dict[str, Any]] = {
    "Albert": _ENCODER | {"embedding_dim": 8},
    "Bart": _ENCODER,
    "Bert": _ENCODER,
    "Bloom": _HEADS,
    "DebertaV3": _ENCODER | {"bucket_size": 4},
    "DeiT": _PATCHES,
    "DINOV2": _PATCHES | {"position_embedding_shape": (16, 16, 3)},
    "DINOV3": _PATCHES,
    "DistilBert": _ENCODER,
    "Electra": _ENCODER | {"embedding_dim": 8, "vocab_size": WORDS},
    "ESM": _ENCODER,
    "Falcon": _TEXT | {"num_attention_heads": 4},
    "FNet": _TEXT | {"max_sequence_length": 12, "dropout": 0.0},
    "Gemma": _GEMMA,
    "Gemma3": _GEMMA | {"image_size": 16},
    "GPT2": _ENCODER,
    "GPTNeoX": _HEADS | {"rotary_percentage": 0.5},
    "GptOss": _GROUPED | _EXPERTS,
    "Llama": _GROUPED,
    "Llama3": _GROUPED,
    "Mistral": _GROUPED,
    "Mixtral": _GROUPED | _EXPERTS | {"router_aux_loss_coef": 0.0},
    "OPT": _ENCODER,
    "Phi3": _GROUPED,
    "Qwen": _GROUPED,
    "Qwen3": _GEMMA,
    "Qwen3Moe": _GROUPED | _EXPERTS | _BALANCE | {"moe_intermediate_dim": 12},
    "QwenMoe": {
        **(_GROUPED | _EXPERTS | _BALANCE),
        **{"moe_intermediate_dim": 12, "shared_expert_intermediate_dim": 12},
    },
    "Roberta": _ENCODER,
    "RoformerV2": _HEADS | {"head_size": 8, "dropout": 0.0},
    "RWKV7": {
        **{"vocabulary_size": WORDS, "num_layers": 2, "hidden_size": 16, "head_size": 8},
        **{"intermediate_dim": 24, "gate_lora": 4, "mv_lora": 4, "aaa_lora": 4, "decay_lora": 4},
    },
    "SwinTransformer": {
        **{"image_shape": (16, 16, 3), "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]},
        **{"window_size": 2, "drop_path": 0.0},
    },
    "T5": _HEADS | {"dropout": 0.0},
    "ViT": _IMAGE | {"patch_size": (8, 8), "mlp_dim": 24},
    "Whisper": _HEADS
    | {"num_mels": 8, "max_encoder_sequence_length": 16, "max_decoder_sequence_length": 12},
    "XLMRoberta": _ENCODER,
}

# Rotary positions and grouped queries; an attention without a rule, in windows.
QUICK = {"Llama", "SwinTransformer"}


def build(name: str, settings: dict[str, Any]) -> tuple[keras.Model, Any]:
    """A classifier on a backbone, no weight of it zero, and a batch for it."""
    import keras_hub

    keras.utils.set_random_seed(3)
    if "vocab_size" in settings:
        settings = {key: value for key, value in settings.items() if key != "vocabulary_size"}
    if not hasattr(keras_hub.models, f"{name}Backbone"):
        pytest.skip(f"KerasHub {keras_hub.__version__} has no {name}")
    backbone = getattr(keras_hub.models, f"{name}Backbone")(**settings)
    features = backbone.output
    if isinstance(features, dict):
        names = ("pooled_output", "sequence_output", "decoder_sequence_output")
        features = next(features[name] for name in names if name in features)
    while len(features.shape) > 2:
        features = keras.ops.mean(features, axis=1)
    model = keras.Model(backbone.input, L.Dense(3)(features))
    generator = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * generator.normal(size=variable.shape))
    return model, tf.nest.map_structure(batch_for, backbone.input)


def batch_for(tensor: Any) -> tf.Tensor:
    shape = [BATCH, *(TIME if size is None else size for size in tensor.shape[1:])]
    # Keras numbers what has no name of its own, on and on within a process.
    name = re.sub(r"_\d+$", "", tensor.name)
    generator = np.random.default_rng(len(name))
    if not keras.backend.standardize_dtype(tensor.dtype).startswith("int"):
        return tf.constant(generator.normal(size=shape), tensor.dtype)
    if "mask" in tensor.name:
        return tf.ones(shape, tensor.dtype)
    below = 2 if "segment" in tensor.name else WORDS
    return tf.constant(generator.integers(below, size=shape), tensor.dtype)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES],
)
def test_backbone_equals_the_naive_loop(name: str) -> None:
    model, inputs = build(name, BACKBONES[name])
    batch = {
        "inputs": inputs,
        "labels": tf.constant(np.arange(BATCH) % 3),
        "mask": tf.ones(BATCH, bool),
    }
    probe(model, cross_entropy, batch)
    found = clipped_gradient_sum(model, cross_entropy, batch, 0.1)
    expected, norms = clipped_sum(per_example_gradients(model, batch), np.ones(BATCH, bool), 0.1)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)
    assert relative_error(list(found.gradients), expected) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "QwenMoe"])
def test_experts_balanced_over_the_batch_are_refused_and_the_coefficient_named(name: str) -> None:
    (coefficient,) = (key for key in BACKBONES[name] if "loss" in key)
    settings = {key: value for key, value in BACKBONES[name].items() if key != coefficient}
    problems = problems_of(build(name, settings)[0])
    assert {"adds a loss of its own" in str(problem) for problem in problems} == {True}
    assert {problem.remedy.startswith(f"Set {coefficient} to 0") for problem in problems} == {True}


def test_positions_that_go_by_the_row_of_the_batch_are_refused() -> None:
    # KerasHub 0.32 reshapes XLNet's positions (time, batch, d) to (batch, time, d).
    model, inputs = build("XLNet", _HEADS)
    batch = {"inputs": inputs, "labels": tf.constant(np.arange(BATCH) % 3)}
    with pytest.raises(UserError, match="changes with its row"):
        probe(model, cross_entropy, batch)
