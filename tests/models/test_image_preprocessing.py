"""Images of any size and encoding become the same square pixels."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models.image_preprocessing import ImagePreprocessor


def encode(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return ramp.astype(np.uint8)


def test_encoded_and_decoded_images_give_the_same_pixels(photographs):
    preprocess = ImagePreprocessor(16, "symmetric")
    files = np.array([encode(image, "PNG") for image in photographs], object)
    np.testing.assert_allclose(
        preprocess(tf.constant(files))["image"],
        preprocess(tf.constant(photographs))["image"],
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_encoding_in_colour_and_grey_becomes_three_channels(kind, mode):
    image = Image.fromarray(gradient(30, 50)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    result = ImagePreprocessor(8, "symmetric")(tf.constant([stream.getvalue()]))["image"]
    assert result.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(result[..., 0], result[..., 2], atol=0.05)
    expected = np.linspace(-1, 1, 9)[:-1] + 0.125
    np.testing.assert_allclose(result[0, 4, :, 1], expected, atol=0.06)


def test_images_of_different_sizes_share_a_batch():
    files = [encode(gradient(5, 7), "PNG"), encode(gradient(90, 40), "PNG")]
    assert ImagePreprocessor(12, "symmetric")(tf.constant(files))["image"].shape == (2, 12, 12, 3)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_is_repeated_and_transparency_dropped(photographs, channels):
    several = np.concatenate([photographs, photographs[..., :1]], axis=-1)[..., :channels]
    result = ImagePreprocessor(20, "symmetric")(tf.constant(several))["image"].numpy()
    if channels == 4:
        opaque = ImagePreprocessor(20, "symmetric")(tf.constant(photographs))["image"]
        np.testing.assert_array_equal(result, opaque)
    else:
        np.testing.assert_array_equal(result, np.repeat(result[..., :1], 3, axis=-1))


def test_five_channels_are_refused():
    with pytest.raises(ValueError, match="1 to 4 channels"):
        ImagePreprocessor(8, "symmetric")(tf.zeros((1, 8, 8, 5), tf.uint8))


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    result = ImagePreprocessor(8, "symmetric")(tf.constant(stripes[None]))["image"]
    np.testing.assert_allclose(result, np.zeros_like(result), atol=0.05)


def test_imagenet_scaling_is_that_of_keras_applications(photographs):
    square = photographs[:, :20, :20]
    ours = ImagePreprocessor(20, "imagenet")(tf.constant(square))["image"]
    theirs = keras.applications.resnet.preprocess_input(square.astype(np.float32))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_symmetric_scaling_spans_minus_one_to_one():
    black_and_white = np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), 255)]).astype(np.uint8)
    result = ImagePreprocessor(4, "symmetric")(tf.constant(black_and_white))["image"]
    assert result.numpy().min(axis=(1, 2, 3)).tolist() == [-1.0, 1.0]
