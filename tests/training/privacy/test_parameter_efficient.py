"""Models of which little trains: clipped exactly, by fast rules, and resumed bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import BertSettings, ModelSettings, ResNet50Settings
from models import build
from tests.models.conftest import TEXTS, tiny_bert  # noqa: F401 (a fixture)
from tests.training.privacy.naive import (
    DrawingAlike,
    clipped_sum,
    cross_entropy,
    per_example_gradients,
    per_example_gradients_in_batch,
    relative_error,
)
from training.checkpoints import Checkpoints, Position
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.rules.fallback import FallbackRule
from training.privacy.sites import Sites, find_sites

BATCH = len(TEXTS)
PROJECTIONS = ["query", "key", "value", "attention_output", "intermediate", "output"]
BERT: dict[str, dict[str, Any]] = {
    "bitfit": {},
    "lora": {"lora_rank": 2, "lora_projections": PROJECTIONS},
    "adapters": {"adapter_width": 4},
}


def bert(weights: Path, trainable: str) -> Any:
    settings = BertSettings(
        weights=str(weights),
        sequence_length=16,
        trainable=trainable,  # type: ignore[arg-type]
        adapted_blocks=1,
        **BERT[trainable],
    )
    return build(ModelSettings(bert=settings), num_classes=3, modality="text", seed=0)


def move(model: keras.Model) -> None:
    """Away from the start, where half of the gradients are zero."""
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(0, 0.05, variable.shape).astype("float32"))


def rules_of(model: keras.Model) -> Sites:
    """The sites of a model, none of which may take the slow fallback."""
    sites = find_sites(model)
    assert not any(isinstance(sites.rule_for(site), FallbackRule) for site in sites)
    return sites


@pytest.mark.parametrize("trainable", BERT)
def test_bert_is_clipped_exactly_by_rules(tiny_bert: Path, trainable: str) -> None:  # noqa: F811
    built = bert(tiny_bert, trainable)
    move(built.model)
    sites = rules_of(built.model)
    batch = {
        "inputs": built.preprocess(tf.constant([text.encode() for text in TEXTS])),
        "labels": tf.constant(np.arange(BATCH) % 3),
        "mask": tf.ones(BATCH, bool),
    }
    gradients = per_example_gradients(built.model, batch)
    norms = np.sqrt([sum((g**2).sum() for g in example) for example in gradients])
    clipping_norm = float(np.median(norms))
    expected, _ = clipped_sum(gradients, np.ones(BATCH, bool), clipping_norm)

    @tf.function(autograph=False)
    def engine(batch: Any) -> Any:
        found = clipped_gradient_sum(built.model, cross_entropy, batch, clipping_norm, sites)
        return found.gradients, found.norms

    found, found_norms = engine(batch)
    assert relative_error(found, expected) <= 1e-5
    np.testing.assert_allclose(found_norms, norms, rtol=1e-5)


def test_resnet50s_low_rank_convolutions_have_a_rule() -> None:
    """That the rule is exact is settled layer by layer in test_conformance.py."""
    settings = ResNet50Settings(image_size=16, normalization="group", trainable="lora")
    model = ModelSettings(name="resnet50", resnet50=settings)
    built = build(model, num_classes=3, modality="image", seed=0)
    assert len(rules_of(built.model)) == 53  # every convolution but the stem, and the head


def test_low_rank_addition_to_whole_numbers_may_have_dropout_beside_it() -> None:
    """Of a quantized layer Keras calls something else than `call`."""
    x = keras.Input((4, 5))
    projection = keras.layers.Dense(4, activation="relu")
    hidden = keras.layers.Dropout(0.3, seed=1)(projection(x))
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))
    projection.quantize("int8")
    projection.enable_lora(2)
    move(model)
    inputs = np.random.default_rng(2).normal(size=(BATCH, 4, 5)).astype("float32")
    batch = {"inputs": tf.constant(inputs), "labels": tf.constant(np.arange(BATCH) % 3)}
    alike = DrawingAlike(model)
    gradients = per_example_gradients_in_batch(alike, batch)
    expected, norms = clipped_sum(gradients, np.ones(BATCH, bool), 0.5)
    alike.rewind()
    sites = find_sites(model)
    everyone = {**batch, "mask": tf.ones(BATCH, bool)}
    found = clipped_gradient_sum(model, cross_entropy, everyone, 0.5, sites)
    assert not sites.whole  # no layer had to be taken with all that it holds
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)
    assert relative_error(list(found.gradients), expected) <= 1e-5


def test_a_resumed_low_rank_model_goes_on_bit_by_bit(tiny_bert: Path, tmp_path: Path) -> None:  # noqa: F811
    def model_and_step() -> tuple[Any, keras.optimizers.Optimizer, Any]:
        built = bert(tiny_bert, "lora")
        inputs = built.preprocess(tf.constant([text.encode() for text in TEXTS]))
        variables = built.model.trainable_variables
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(variables)

        def step() -> None:
            with tf.GradientTape() as tape:
                logits = built.model(inputs, training=True)
                loss = tf.reduce_sum(cross_entropy(tf.constant(np.arange(BATCH) % 3), logits))
            optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

        return built, optimizer, step

    built, optimizer, step = model_and_step()
    step()
    step()
    checkpoints = Checkpoints(tmp_path, built.model, optimizer)
    checkpoints.save(Position(2))
    step()

    resumed, optimizer, step = model_and_step()
    move(resumed.model)
    assert Checkpoints(tmp_path, resumed.model, optimizer).restore() == Position(2)
    step()
    for found, expected in zip(resumed.model.weights, built.model.weights, strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=found.path)
