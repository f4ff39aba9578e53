"""ResNet50 is keras.applications' ResNet50, and takes its weights by name."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from configs.schema import ModelSettings, ResNet50Settings, SettingError, UserError
from models import resnet50_weights
from models.frozen_batch_normalization import FrozenBatchNormalization
from models.seeding import seeded_initializers

SIZE = 32  # the least that keras.applications takes


def build(num_classes=1000, image_size=SIZE, **changes):
    settings = ModelSettings(
        name="resnet50", resnet50=ResNet50Settings(image_size=image_size, **changes)
    )
    return models.build(settings, num_classes=num_classes, modality="image", seed=0)


@pytest.fixture(scope="module")
def reference():
    """keras.applications' own model, with statistics that are not the initial ones."""
    with seeded_initializers(0):
        model = keras.applications.ResNet50(
            weights=None, input_shape=(SIZE, SIZE, 3), classifier_activation=None
        )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, shape),
                    rng.normal(0, 0.1, shape),
                    rng.normal(0, 0.1, shape),
                    rng.uniform(0.5, 1.5, shape),
                ]
            )
    return model


@pytest.fixture(scope="module")
def weights_file(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet50") / "reference.weights.h5"
    reference.save_weights(path)
    return path


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).normal(0, 60, (2, SIZE, SIZE, 3)).astype(np.float32)


def test_parameters_equal_those_of_keras_applications_one_to_one(reference):
    model = build().model
    assert model.count_params() == 25_636_712
    assert [(variable.path, variable.shape) for variable in model.weights] == [
        (variable.path, variable.shape) for variable in reference.weights
    ]


def legacy_file(reference, folder):
    """The layout of the files that keras.applications downloads."""
    path = folder / "reference.h5"
    with h5py.File(path, "w") as file:
        layers = [layer for layer in reference.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, variable in zip(names, layer.weights, strict=True):
                group[name] = variable.numpy()
    return path


@pytest.mark.parametrize("kind", ["weights.h5", "keras", "h5"])
def test_every_kind_of_file_gives_outputs_identical_to_keras_applications(
    reference, weights_file, pixels, kind, tmp_path
):
    path = weights_file
    if kind == "keras":
        path = tmp_path / "reference.keras"
        reference.save(path)
    elif kind == "h5":
        path = legacy_file(reference, tmp_path)
    built = build(weights=str(path))
    np.testing.assert_array_equal(built.model({"image": pixels}), reference(pixels))
    assert built.preprocess.scaling == "imagenet"
    assert len(built.origin["sha256"]) == 64


def test_frozen_batch_keeps_pretrained_statistics_in_training(reference, weights_file, pixels):
    model = build(weights=str(weights_file), normalization="frozen_batch").model
    before = [variable.numpy() for variable in model.non_trainable_variables]
    np.testing.assert_allclose(
        model({"image": pixels}, training=True), reference(pixels, training=False), atol=1e-4
    )
    for old, variable in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    frozen = [layer for layer in model.layers if isinstance(layer, FrozenBatchNormalization)]
    assert len(frozen) == 53
    assert {variable.name for layer in frozen for variable in layer.trainable_variables} == {
        "gamma",
        "beta",
    }


def test_frozen_batch_keeps_examples_apart_where_batch_mixes_them(weights_file, pixels):
    changed = pixels.copy()
    changed[1] = -changed[1]
    for normalization, apart in (("frozen_batch", True), ("group", True), ("batch", False)):
        model = build(weights=str(weights_file), normalization=normalization).model
        first, second = (
            model({"image": batch}, training=True)[0].numpy() for batch in (pixels, changed)
        )
        assert np.allclose(first, second, atol=1e-4) == apart, normalization


def test_another_number_of_classes_gets_a_fresh_head(reference, weights_file):
    model = build(num_classes=7, weights=str(weights_file)).model
    assert model.output.shape == (None, 7)
    np.testing.assert_array_equal(
        model.get_layer("conv5_block3_3_conv").kernel,
        reference.get_layer("conv5_block3_3_conv").kernel,
    )


def test_group_normalization_takes_only_convolutions_and_head(reference, weights_file):
    model = build(weights=str(weights_file), normalization="group").model
    for name in ("conv1_conv", "conv4_block6_2_conv", "predictions"):
        for ours, theirs in zip(
            model.get_layer(name).weights, reference.get_layer(name).weights, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert np.all(model.get_layer("conv1_gn").gamma == 1.0)


def test_head_alone_trains_two_variables():
    model = build(num_classes=4, trainable="head").model
    assert [v.path for v in model.trainable_variables] == [
        "predictions/kernel",
        "predictions/bias",
    ]


@pytest.mark.parametrize(("stem", "size", "final"), [("small", 8, 1), ("imagenet", 65, 3)])
def test_any_input_size_works(stem, size, final):
    model = build(num_classes=3, image_size=size, stem=stem, normalization="group").model
    assert model.get_layer("conv5_block3_out").output.shape[1] == final
    assert model({"image": tf.zeros((1, size, size, 3))}).shape == (1, 3)


def test_missing_foreign_and_unreadable_weights_are_one_clear_line(tmp_path):
    with pytest.raises(SettingError, match=r"model\.resnet50\.weights: expected `imagenet` or"):
        build(weights=str(tmp_path / "none.keras"))
    text = tmp_path / "text.weights.h5"
    text.write_text("no HDF5")
    with pytest.raises(SettingError, match="written by Keras"):
        build(weights=str(text))
    foreign = models.build(ModelSettings(name="cnn"), num_classes=2, modality="image", seed=0).model
    foreign.save(tmp_path / "foreign.keras")
    with pytest.raises(SettingError, match=r"layer conv1_conv .* no such layer"):
        build(weights=str(tmp_path / "foreign.keras"))


def test_failed_imagenet_download_is_one_clear_line(monkeypatch, tmp_path):
    # An unused port of this machine stands for a hub out of reach; the download itself is real.
    address = "http://127.0.0.1:9/"
    monkeypatch.setattr("keras.src.applications.resnet.BASE_WEIGHTS_PATH", address)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path), raising=False)
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        resnet50_weights.read("imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"groups": 48}, "model.resnet50.groups"),
        ({"stem": "small", "weights": "imagenet"}, "model.resnet50.stem"),
        ({"image_size": 0}, "model.resnet50.image_size"),
    ],
)
def test_impossible_settings_are_named(changes, key):
    with pytest.raises(SettingError) as caught:
        ResNet50Settings(**changes)
    assert caught.value.key == key
