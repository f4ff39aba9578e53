"""A BERT written back is the same function for anyone who reads Hugging Face's layout."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import transformers
from safetensors import safe_open
from safetensors.numpy import load_file

import models
from configs.schema import BertSettings, ModelSettings
from tests.models.conftest import CONFIG, bert_shapes, kerashub_backbone

LABELS = ["low", "middle", "high"]
LENGTH = 16


def build(weights, seed=0, **changes):
    bert = BertSettings(weights=str(weights), sequence_length=LENGTH, **changes)
    built = models.build(ModelSettings(bert=bert), num_classes=3, modality="text", seed=seed)
    rng = np.random.default_rng(seed)
    for variable in built.model.trainable_variables:  # stands for fine-tuning
        variable.assign_add(rng.normal(0, 0.05, variable.shape).astype(np.float32))
    return built


def dense(x, tensors, name):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def normalize(x, tensors, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(x.var(-1, keepdims=True) + CONFIG["layer_norm_eps"])
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def gelu_new(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def sequence_classification(tensors, ids, mask):
    """`transformers.BertForSequenceClassification` in NumPy, from its parameters by name."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads = CONFIG["num_attention_heads"]
    x = (
        tensors["bert.embeddings.word_embeddings.weight"][ids]
        + tensors["bert.embeddings.position_embeddings.weight"][: ids.shape[1]]
        + tensors["bert.embeddings.token_type_embeddings.weight"][0]
    )
    x = normalize(x, tensors, "bert.embeddings.LayerNorm")
    batch, time, hidden = x.shape
    for index in range(CONFIG["num_hidden_layers"]):
        block = f"bert.encoder.layer.{index}"
        query, key, value = (
            dense(x, tensors, f"{block}.attention.self.{part}")
            .reshape(batch, time, heads, hidden // heads)
            .swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(hidden // heads)
        scores = np.where(mask[:, None, None, :], scores, -1e30)
        mixed = (softmax(scores) @ value).swapaxes(1, 2).reshape(batch, time, hidden)
        mixed = dense(mixed, tensors, f"{block}.attention.output.dense")
        x = normalize(x + mixed, tensors, f"{block}.attention.output.LayerNorm")
        wide = gelu_new(dense(x, tensors, f"{block}.intermediate.dense"))
        narrow = dense(wide, tensors, f"{block}.output.dense")
        x = normalize(x + narrow, tensors, f"{block}.output.LayerNorm")
    pooled = np.tanh(dense(x[:, 0], tensors, "bert.pooler.dense"))
    return dense(pooled, tensors, "classifier")


def test_linear_head_on_the_pooler_is_berts_sequence_classification(tiny_bert, texts, tmp_path):
    built = build(tiny_bert, pooling="pooler")
    models.save_huggingface(built, tmp_path, LABELS)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        **{f"bert.{name}": shape for name, shape in bert_shapes().items()},
        "classifier.weight": (3, CONFIG["hidden_size"]),
        "classifier.bias": (3,),
    }
    inputs = built.preprocess(tf.constant(texts))
    logits = sequence_classification(
        tensors, inputs["token_ids"].numpy(), inputs["padding_mask"].numpy()
    )
    np.testing.assert_allclose(built.model(inputs), logits, atol=1e-5)
    assert not (tmp_path / "classification_head.safetensors").exists()


def test_transformers_reads_the_configuration_and_labels(tiny_bert, tmp_path):
    models.save_huggingface(build(tiny_bert, pooling="pooler"), tmp_path, LABELS)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert config.architectures == ["BertForSequenceClassification"]
    assert config.hidden_act == "gelu_new"
    for key in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
        assert getattr(config, key) == CONFIG[key]


def test_transformers_tokenizer_gives_the_ids_of_the_model(tiny_bert, texts, tmp_path):
    built = build(tiny_bert)
    models.save_huggingface(built, tmp_path, LABELS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs = tokenizer(
        [text.decode("utf-8") for text in texts], padding="max_length", truncation=True
    )
    np.testing.assert_array_equal(
        built.preprocess(tf.constant(texts))["token_ids"], theirs["input_ids"]
    )


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_kerashub_reads_identical_encoder_outputs(tiny_bert, texts, tmp_path, pooling):
    built = build(tiny_bert, pooling=pooling)
    models.save_huggingface(built, tmp_path, LABELS)
    inputs = built.preprocess(tf.constant(texts))
    backbone = kerashub_backbone(tmp_path)
    outputs = backbone(dict(inputs))
    last = f"transformer_layer_{CONFIG['num_hidden_layers'] - 1}"
    encoder = keras.Model(built.model.input, built.model.get_layer(last).output)
    np.testing.assert_array_equal(outputs["sequence_output"], encoder(inputs))
    if pooling == "pooler":
        pooled = keras.Model(built.model.input, built.model.get_layer("pooled_dense").output)
        np.testing.assert_array_equal(outputs["pooled_output"], pooled(inputs))


def test_a_written_folder_is_a_starting_point_again(tiny_bert, texts, tmp_path):
    built = build(tiny_bert, pooling="mean")
    models.save_huggingface(built, tmp_path, LABELS)
    (tmp_path / "vocab.txt").unlink()  # transformers 5 writes tokenizer.json alone
    again = models.build(
        ModelSettings(bert=BertSettings(weights=str(tmp_path), sequence_length=LENGTH)),
        num_classes=3,
        modality="text",
    )
    inputs = again.preprocess(tf.constant(texts))
    np.testing.assert_array_equal(
        inputs["token_ids"], built.preprocess(tf.constant(texts))["token_ids"]
    )
    last = f"transformer_layer_{CONFIG['num_hidden_layers'] - 1}"
    for one, two in zip(
        built.model.get_layer(last).weights, again.model.get_layer(last).weights, strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_other_heads_lie_beside_an_unchanged_pooler(tiny_bert, tmp_path):
    built = build(tiny_bert, pooling="mean", hidden_units=6, hidden_activation="tanh")
    models.save_huggingface(built, tmp_path, LABELS)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == bert_shapes()
    original = load_file(tiny_bert / "model.safetensors")
    np.testing.assert_array_equal(tensors["pooler.dense.weight"], original["pooler.dense.weight"])
    head = load_file(tmp_path / "classification_head.safetensors")
    np.testing.assert_array_equal(
        head["classifier.weight"].T, built.model.get_layer("logits").kernel
    )
    assert {name: tensor.shape for name, tensor in head.items()} == {
        "hidden.weight": (6, CONFIG["hidden_size"]),
        "hidden.bias": (6,),
        "classifier.weight": (3, 6),
        "classifier.bias": (3,),
    }
    with safe_open(tmp_path / "classification_head.safetensors", "np") as file:
        assert file.metadata()["pooling"] == "mean"
        assert file.metadata()["activation"] == "tanh"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]


def test_a_model_that_is_no_bert_is_refused(tmp_path):
    built = models.build(ModelSettings(name="cnn"), num_classes=2, modality="image")
    with pytest.raises(TypeError, match="Only BERT"):
        models.save_huggingface(built, tmp_path, ["a", "b"])
