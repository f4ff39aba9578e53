"""What every model in the registry must do, whatever it is."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from configs.schema import (
    BertSettings,
    CnnSettings,
    MlpSettings,
    ModelSettings,
    ResNet50Settings,
    SettingError,
)
from models.registry import MODELS

CLASSES = 3
ROOT = Path(__file__).resolve().parents[2]


def bert(**changes):
    return lambda weights: ModelSettings(
        name="bert", bert=BertSettings(weights=weights, sequence_length=16, **changes)
    )


def resnet(**changes):
    return lambda _: ModelSettings(
        name="resnet50", resnet50=ResNet50Settings(image_size=33, **changes)
    )


CASES = {
    "bert_all": (bert(), "text"),
    "bert_head": (bert(trainable="head", hidden_units=8), "text"),
    "bert_top_k_pooler": (bert(trainable="top_k", top_k=2, pooling="pooler"), "text"),
    "bert_cls_dropout": (bert(pooling="cls", dropout=0.1), "text"),
    "resnet50_batch": (resnet(), "image"),
    "resnet50_frozen_batch": (resnet(normalization="frozen_batch"), "image"),
    "resnet50_group_small": (resnet(normalization="group", stem="small"), "image"),
    "mlp_features": (
        lambda _: ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[16, 8], dropout=0.1)),
        "features",
    ),
    "mlp_image": (lambda _: ModelSettings(name="mlp", mlp=MlpSettings(image_size=9)), "image"),
    "cnn": (lambda _: ModelSettings(name="cnn", cnn=CnnSettings(image_size=20)), "image"),
}


@pytest.fixture(scope="module")
def build(tiny_bert):
    """Builds a case by name, with another seed where one is given."""

    def build_case(case: str, seed: int | None = 0) -> models.BuiltModel:
        settings, modality = CASES[case]
        return models.build(
            settings(str(tiny_bert)),
            num_classes=CLASSES,
            modality=modality,
            input_shape=(5,) if modality == "features" else None,
            seed=seed,
        )

    return build_case


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def built(build, case):
    """The model of a case, made once: what training mode moves in it is no test's subject."""
    return build(case)


@pytest.fixture(scope="module")
def raw(texts, photographs):
    features = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
    return {"text": texts, "image": photographs, "features": features}


def is_undone_later(path: str, case: str) -> bool:
    """Whether a weight's gradient is zero but for rounding.

    A constant added to every key shifts each query's scores alike, which softmax undoes; one
    added to a channel is subtracted by batch normalization in training.
    """
    return path.endswith("key/bias") or (case == "resnet50_batch" and path.endswith("conv/bias"))


class TestEveryModel:
    def test_gradient_reaches_every_trainable_weight(self, built, raw, case):
        inputs = built.preprocess(tf.constant(raw[built.preprocess.modality]))
        with tf.GradientTape() as tape:
            logits = built.model(inputs, training=True)
            weighted = logits * np.linspace(-1.0, 2.0, CLASSES, dtype=np.float32)
            loss = tf.reduce_sum(tf.nn.log_softmax(weighted) * np.eye(CLASSES)[0])
        variables = [variable.value for variable in built.model.trainable_variables]
        assert variables
        gradients = tape.gradient(loss, variables)
        without = [
            variable.path
            for variable, gradient in zip(built.model.trainable_variables, gradients, strict=True)
            if gradient is not None and not np.any(tf.convert_to_tensor(gradient))
        ]
        assert [path for path in without if not is_undone_later(path, case)] == []
        assert None not in gradients

    def test_save_and_load_gives_identical_outputs(self, built, raw, tmp_path):
        inputs = built.preprocess(tf.constant(raw[built.preprocess.modality]))
        models.save_keras(built.model, tmp_path / "model.keras")
        loaded = models.load_keras(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(inputs), built.model(inputs))
        assert [variable.path for variable in loaded.trainable_variables] == [
            variable.path for variable in built.model.trainable_variables
        ]
        assert list(tmp_path.iterdir()) == [tmp_path / "model.keras"]

    def test_same_seed_gives_same_weights_and_another_seed_others(self, build, case):
        first, second, other = (build(case, seed=seed).model for seed in (7, 7, 8))
        for one, two in zip(first.weights, second.weights, strict=True):
            np.testing.assert_array_equal(one, two, err_msg=one.path)
        assert any(np.any(a != b) for a, b in zip(first.weights, other.weights, strict=True))

    def test_preprocessing_has_the_shapes_and_dtypes_it_declares(self, built, raw):
        inputs = built.preprocess(tf.constant(raw[built.preprocess.modality]))
        assert {name: (tensor.shape[1:], tensor.dtype) for name, tensor in inputs.items()} == {
            name: (spec.shape, spec.dtype)
            for name, spec in built.preprocess.batched_outputs.items()
        }
        assert set(built.model.input) == set(inputs)
        assert built.origin["source"]


@pytest.mark.parametrize("case", ["bert_all", "resnet50_group_small", "mlp_features", "cnn"])
def test_logits_stay_float32_in_mixed_precision(build, raw, case):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        built = build(case)
    finally:
        keras.config.set_dtype_policy(policy)
    logits = built.model(built.preprocess(tf.constant(raw[built.preprocess.modality])))
    assert logits.dtype == tf.float32
    assert {variable.dtype for variable in built.model.trainable_variables} == {"float32"}
    assert np.all(np.isfinite(logits))
    hidden = [layer for layer in built.model.layers if layer.compute_dtype == "bfloat16"]
    assert len(hidden) > 1


def test_every_registered_model_is_covered_here():
    assert {case.split("_")[0] for case in CASES} == set(MODELS)


def test_wrong_modality_names_the_models_that_fit():
    with pytest.raises(SettingError, match=r"model\.name: .*text data.*\['bert'\].*'cnn'"):
        models.build(ModelSettings(name="cnn"), num_classes=2, modality="text")


def test_unseeded_builds_differ_and_leave_pythons_generator_alone(build):
    import random

    random.seed(3)
    expected = random.random()
    random.seed(3)
    build("cnn", seed=5)
    assert random.random() == expected
    first, second = build("cnn", seed=None).model, build("cnn", seed=None).model
    assert np.any(first.weights[0] != second.weights[0])


def test_importing_the_package_imports_neither_tensorflow_nor_kerashub():
    code = (
        "import sys, models; print(sorted({'tensorflow', 'keras', 'keras_hub'} & {*sys.modules}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert shown.strip() == "[]"
