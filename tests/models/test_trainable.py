"""Every choice of what trains: the right variables, the pretrained start, files that hold it."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from configs.schema import BertSettings, ModelSettings, ResNet50Settings, SettingError, UserError
from models.lora import add_lora, lora_variables, merged_lora
from models.seeding import seeded_initializers
from models.trainability import train_only
from tests.models.conftest import BLOCKS, HIDDEN, INTERMEDIATE
from tests.models.test_export import serve_here

ALL_PROJECTIONS = ["query", "key", "value", "attention_output", "intermediate", "output"]
CHOICES = {
    "bitfit": {"trainable": "bitfit"},
    "lora": {"trainable": "lora", "lora_rank": 2, "lora_projections": ALL_PROJECTIONS},
    "adapters": {"trainable": "adapters", "adapter_width": 4},
}
HEAD = 3 * HIDDEN + 3
LENGTH = 16


def build(weights, pooling="mean", **changes):
    bert = BertSettings(weights=str(weights), sequence_length=LENGTH, pooling=pooling, **changes)
    return models.build(ModelSettings(bert=bert), num_classes=3, modality="text", seed=0)


def tuned(weights, **changes):
    """A model whose trainable variables have moved, as training moves them."""
    built = build(weights, **changes)
    rng = np.random.default_rng(0)
    for variable in built.model.trainable_variables:
        variable.assign_add(rng.normal(0, 0.1, variable.shape).astype(np.float32))
    return built


@pytest.fixture(scope="module")
def moved(tiny_bert):
    """A tuned model for each choice, made once: no test may leave it changed."""
    return functools.cache(lambda choice: tuned(tiny_bert, **CHOICES[choice]))


def encoder(built):
    return keras.Model(built.model.input, built.model.get_layer("mean_pooling").output)


def size(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def resnet(**changes):
    settings = ResNet50Settings(image_size=8, stem="small", normalization="group", **changes)
    return models.build(
        ModelSettings(name="resnet50", resnet50=settings), num_classes=3, modality="image", seed=0
    )


@pytest.mark.parametrize(
    ("choice", "names", "count"),
    [
        ("bitfit", {"bias", "beta"}, BLOCKS * (7 * HIDDEN + INTERMEDIATE)),
        (
            "lora",
            {"lora_kernel_a", "lora_kernel_b"},
            # Keras factors the last axis of a kernel: four heads of eight units each.
            BLOCKS * 2 * (3 * (4 * HIDDEN + 8) + 2 * HIDDEN + 2 * (HIDDEN + INTERMEDIATE)),
        ),
        (
            "adapters",
            {"kernel", "bias", "gamma", "beta"},
            BLOCKS * (2 * (2 * 4 * HIDDEN + 4 + HIDDEN) + 4 * HIDDEN),
        ),
    ],
)
def test_exactly_the_chosen_variables_train(moved, choice, names, count):
    model = moved(choice).model
    head = model.get_layer("logits").weights
    inside = [v for v in model.trainable_variables if not any(v is other for other in head)]
    assert {variable.name for variable in inside} == names
    assert size(inside) == count
    assert size(model.trainable_variables) == count + HEAD


@pytest.mark.parametrize("choice", CHOICES)
def test_training_starts_from_the_pretrained_function(tiny_bert, moved, texts, choice):
    built = build(tiny_bert, **CHOICES[choice])
    inputs = built.preprocess(tf.constant(texts))
    plain = encoder(build(tiny_bert, trainable="head"))(inputs)
    np.testing.assert_array_equal(encoder(built)(inputs), plain)
    assert np.all(np.abs(encoder(moved(choice))(inputs) - plain).max(axis=1) > 1e-2)


@pytest.mark.parametrize("choice", ["lora", "adapters"])
def test_adapting_the_last_block_leaves_a_frozen_prefix(tiny_bert, texts, choice):
    built = tuned(tiny_bert, adapted_blocks=1, **CHOICES[choice])
    inputs = built.preprocess(tf.constant(texts))
    prefix, suffix = models.split_frozen_prefix(built)
    assert set(prefix.output) == {"transformer_layer_1", "padding_mask"}
    assert {v.path.split("/")[0] for v in suffix.trainable_variables} == {
        "transformer_layer_2",
        "logits",
    }
    assert len(suffix.trainable_variables) == len(built.model.trainable_variables)
    np.testing.assert_array_equal(suffix(prefix(inputs)), built.model(inputs))


@pytest.mark.parametrize("choice", CHOICES)
def test_adapting_every_block_caches_the_embeddings(moved, texts, choice):
    built = moved(choice)
    inputs = built.preprocess(tf.constant(texts))
    prefix, suffix = models.split_frozen_prefix(built)
    assert set(prefix.output) == {"embeddings_layer_norm", "padding_mask"}
    np.testing.assert_array_equal(suffix(prefix(inputs)), built.model(inputs))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_keras_file_predicts_the_same_and_trains_the_same(moved, texts, tmp_path, choice):
    built = moved(choice)
    inputs = built.preprocess(tf.constant(texts))
    before = [np.array(value) for value in built.model.get_weights()]
    logits = built.model(inputs)
    models.save_keras(built.model, tmp_path / "model.keras")
    loaded = models.load_keras(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(inputs), logits, atol=1e-6)
    expected = [v.path for v in built.model.trainable_variables if "lora_" not in v.path]
    assert [v.path for v in loaded.trainable_variables] == expected
    assert lora_variables(loaded) == []
    # Writing left the model that trains on as it was.
    for found, value in zip(built.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, value)
    np.testing.assert_array_equal(built.model(inputs), logits)


@pytest.mark.parametrize("choice", ["lora", "adapters"])
def test_a_saved_model_predicts_the_same_and_knows_no_lora(moved, texts, tmp_path, choice):
    built = moved(choice)
    models.export_saved_model(built, tmp_path / "out", label_names=["a", "b", "c"], assets={})
    answers = serve_here(tmp_path / "out", "text", texts)
    logits = built.model(built.preprocess(tf.constant(texts)))
    np.testing.assert_allclose(answers["probabilities"], tf.nn.softmax(logits), atol=1e-5)
    written = tf.train.list_variables(str(tmp_path / "out" / "variables" / "variables"))
    stored = sum(int(np.prod(shape)) for name, shape in written if name.startswith("weights/"))
    assert stored == size(built.model.weights) - size(lora_variables(built.model))
    assert len(lora_variables(built.model)) == (36 if choice == "lora" else 0)


def test_hugging_face_gets_the_tuned_encoder(moved, texts, tmp_path):
    built = moved("lora")
    models.save_huggingface(built, tmp_path, ["a", "b", "c"])
    again = build(tmp_path, trainable="head")
    inputs = built.preprocess(tf.constant(texts))
    np.testing.assert_allclose(encoder(again)(inputs), encoder(built)(inputs), atol=1e-5)


def test_low_rank_inputs_keep_their_size_in_every_projection(tiny_bert):
    model = build(tiny_bert, trainable="lora", lora_rank=16, lora_projections=ALL_PROJECTIONS).model
    summed = {"query": HIDDEN, "attention_output": HIDDEN, "feedforward_output_dense": INTERMEDIATE}
    for variable in lora_variables(model):
        layer, name = variable.path.split("/")[-2:]
        if name == "lora_kernel_b":
            assert not np.any(variable)
        elif layer in summed:
            # 4 standard errors of a deviation estimated from at least 512 draws.
            np.testing.assert_allclose(np.std(variable), summed[layer] ** -0.5, rtol=0.125)


def test_hugging_face_has_no_place_for_adapters(tiny_bert, tmp_path):
    built = build(tiny_bert, **CHOICES["adapters"])
    with pytest.raises(UserError, match="adapters"):
        models.save_huggingface(built, tmp_path / "out", ["a", "b", "c"])
    assert not (tmp_path / "out").exists()


def test_merging_is_undone_bit_by_bit_even_after_an_error(moved, texts):
    built = moved("lora")
    inputs = built.preprocess(tf.constant(texts))
    before, logits = built.model.get_weights(), built.model(inputs)

    def fail_half_way():
        with merged_lora(built.model):
            np.testing.assert_allclose(built.model(inputs), logits, atol=1e-6)
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail_half_way()
    for found, value in zip(built.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, value)
    np.testing.assert_array_equal(built.model(inputs), logits)


def test_the_pooler_trains_with_the_head(tiny_bert):
    model = build(tiny_bert, pooling="pooler", trainable="bitfit").model
    assert len(model.get_layer("pooled_dense").trainable_variables) == 2


def test_dropout_reaches_adapted_blocks_only(tiny_bert):
    model = build(tiny_bert, adapted_blocks=2, dropout=0.3, **CHOICES["adapters"]).model
    blocks = [model.get_layer(f"transformer_layer_{index}") for index in range(BLOCKS)]
    assert [block.dropout for block in blocks] == [0.0, 0.3, 0.3]
    assert [adapter.dropout.rate for adapter in blocks[2].adapters] == [0.3, 0.3]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"trainable": "lora", "adapted_blocks": 4}, "model.bert.adapted_blocks"),
        ({"lora_rank": 0}, "model.bert.lora_rank"),
        ({"lora_alpha": 0.0}, "model.bert.lora_alpha"),
        ({"lora_projections": []}, "model.bert.lora_projections"),
        ({"lora_projections": ["query", "query"]}, "model.bert.lora_projections"),
        ({"adapter_width": 0}, "model.bert.adapter_width"),
    ],
)
def test_impossible_settings_are_named(tiny_bert, changes, key):
    with pytest.raises(SettingError) as caught:
        build(tiny_bert, **changes)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("changes", "names", "layers"),
    [
        (
            {"trainable": "top_k", "top_k": 2},
            {"kernel", "bias", "gamma", "beta"},
            ("conv4", "conv5"),
        ),
        ({"trainable": "bitfit"}, {"bias", "gamma", "beta"}, ("conv",)),
        (
            {"trainable": "lora", "lora_rank": 2},
            {"lora_kernel_a", "lora_kernel_b"},
            ("conv2", "conv3", "conv4", "conv5"),
        ),
    ],
)
def test_resnet_trains_the_chosen_variables(changes, names, layers):
    built = resnet(**changes)
    inside = [v for v in built.model.trainable_variables if not v.path.startswith("predictions")]
    assert len(built.model.trainable_variables) == len(inside) + 2
    assert {variable.name for variable in inside} == names
    assert all(variable.path.startswith(layers) for variable in inside)
    assert {variable.path.split("_")[0] for variable in inside} >= {*layers} - {"conv"}


def test_a_keras_file_of_a_convolution_holds_its_low_rank_change(tmp_path):
    entry = keras.Input((6, 6, 3))
    with seeded_initializers(0):
        model = keras.Model(entry, keras.layers.Conv2D(5, 3, name="conv")(entry))
        train_only(model, add_lora([model.get_layer("conv")], rank=2, alpha=3.0))
    pixels = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    start = model(pixels)
    model.get_layer("conv").lora_kernel_b.assign(np.ones((2, 5)))
    changed = model(pixels)
    assert np.abs(changed - start).max() > 1e-2
    models.save_keras(model, tmp_path / "model.keras")
    loaded = models.load_keras(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(pixels), changed, atol=1e-5)
    # Keras would bring LoRA back with both factors zero.
    assert lora_variables(loaded) == []
    assert loaded.trainable_variables == []


def test_a_partly_frozen_layer_is_not_a_frozen_layer():
    entry = keras.Input((2,))
    model = keras.Model(
        entry, keras.layers.BatchNormalization(name="mixes")(keras.layers.Dense(2)(entry))
    )
    dense, mixes = model.layers[1:]
    train_only(model, [dense.bias])
    assert [v.name for v in model.trainable_variables] == ["bias"]
    assert dense.trainable
    assert not mixes.trainable
    train_only(model, model.weights)
    assert [v.name for v in model.trainable_variables] == ["kernel", "bias", "gamma", "beta"]
