"""The frozen prefix and the suffix are together the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from configs.schema import BertSettings, ModelSettings, ResNet50Settings


@pytest.fixture(scope="module")
def build(tiny_bert):
    def build_bert(**changes):
        bert = BertSettings(weights=str(tiny_bert), sequence_length=16, **changes)
        return models.build(ModelSettings(bert=bert), num_classes=3, modality="text", seed=0)

    return build_bert


@pytest.mark.parametrize(
    ("changes", "border"),
    [
        ({"trainable": "head"}, {"mean_pooling": (None, 32)}),
        ({"trainable": "head", "dropout": 0.5}, {"mean_pooling": (None, 32)}),
        (
            {"trainable": "head", "pooling": "pooler", "hidden_units": 4},
            {"first_token_vector": (None, 32)},
        ),
        (
            {"trainable": "top_k", "top_k": 1, "pooling": "mean"},
            {"transformer_layer_1": (None, 16, 32), "padding_mask": (None, 16)},
        ),
        (
            {"trainable": "top_k", "top_k": 3, "pooling": "cls", "dropout": 0.1},
            {"embeddings_layer_norm": (None, 16, 32), "padding_mask": (None, 16)},
        ),
    ],
)
def test_bert_is_cut_before_its_first_trainable_layer(build, texts, changes, border):
    built = build(**changes)
    prefix, suffix = models.split_frozen_prefix(built)
    assert {name: tensor.shape for name, tensor in prefix.output.items()} == border
    assert prefix.trainable_weights == []
    assert {id(v) for v in suffix.trainable_weights} == {
        id(v) for v in built.model.trainable_weights
    }
    inputs = built.preprocess(tf.constant(texts))
    np.testing.assert_array_equal(suffix(prefix(inputs)), built.model(inputs))


def test_fully_trainable_models_have_no_prefix(build):
    built = build(trainable="all")
    assert models.split_frozen_prefix(built) == (None, built.model)


def test_resnet_head_caches_one_vector_per_image(photographs):
    settings = ModelSettings(
        name="resnet50", resnet50=ResNet50Settings(trainable="head", image_size=32)
    )
    built = models.build(settings, num_classes=3, modality="image", seed=0)
    prefix, suffix = models.split_frozen_prefix(built)
    assert {name: tensor.shape for name, tensor in prefix.output.items()} == {
        "avg_pool": (None, 2048)
    }
    inputs = built.preprocess(tf.constant(photographs))
    np.testing.assert_array_equal(suffix(prefix(inputs)), built.model(inputs))
    np.testing.assert_array_equal(
        suffix(prefix(inputs, training=True), training=True), built.model(inputs)
    )


def test_training_the_suffix_trains_the_model(build, texts, tmp_path):
    built = build(trainable="top_k", pooling="cls")
    inputs = built.preprocess(tf.constant(texts))
    before = built.model(inputs).numpy()
    prefix, suffix = models.split_frozen_prefix(built)
    border = prefix(inputs)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(suffix(border, training=True)[:, 0])
    gradients = tape.gradient(loss, [v.value for v in suffix.trainable_variables])
    keras.optimizers.SGD(0.1).apply(gradients, suffix.trainable_variables)
    after = built.model(inputs).numpy()
    assert np.all(after[:, 0] < before[:, 0])
    np.testing.assert_array_equal(after, suffix(border))
    models.save_keras(built.model, tmp_path / "model.keras")
    np.testing.assert_array_equal(models.load_keras(tmp_path / "model.keras")(inputs), after)


def test_dropout_before_the_head_stays_random_in_the_suffix(build, texts):
    built = build(trainable="head", dropout=0.5)
    prefix, suffix = models.split_frozen_prefix(built)
    border = prefix(built.preprocess(tf.constant(texts)))
    first, second = (suffix(border, training=True).numpy() for _ in range(2))
    assert np.any(first != second)


def test_a_model_without_trainable_weights_is_refused(build):
    built = build(trainable="head")
    built.model.get_layer("logits").trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        models.split_frozen_prefix(built)
