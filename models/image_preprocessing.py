"""Images of any size and encoding to the square float pixels a model was made for.

Everything happens inside the graph, so that a SavedModel takes the bytes of a PNG, JPEG, GIF or
BMP file. Images always become three channels: grey is repeated, transparency is dropped, and of
an animation the first frame is taken. Resizing is bilinear with antialiasing, so that shrinking
a photograph does not alias.
"""

from __future__ import annotations

from typing import Literal, cast

import keras
import tensorflow as tf

PixelScaling = Literal["imagenet", "symmetric"]
CHANNELS = 3


def _to_rgb(images: tf.Tensor) -> tf.Tensor:
    """Maps uint8 (batch, height, width, 1 to 4 channels) to (batch, height, width, 3)."""
    channels = images.shape[-1]
    if channels is None or not 1 <= channels <= 4:
        raise ValueError(f"Images need 1 to 4 channels (grey or colour). Received: {images.shape}")
    if channels <= 2:  # grey, grey with transparency
        return tf.image.grayscale_to_rgb(images[..., :1])
    return images[..., :CHANNELS]


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    """Maps the bytes of one image file to uint8 (height, width, 3)."""
    # decode_image cannot repeat the single channel of a BMP, so channels are settled afterwards.
    image = tf.image.decode_image(encoded, expand_animations=False)
    grey = tf.shape(image)[-1] <= 2
    image = tf.cond(
        grey,
        lambda: tf.repeat(image[..., :1], CHANNELS, axis=-1),
        lambda: image[..., :CHANNELS],
    )
    return tf.ensure_shape(image, (None, None, CHANNELS))


class ImagePreprocessor(tf.Module):
    """Decodes, resizes and scales images.

    Args:
        size: Height and width of the result in pixels.
        scaling: `imagenet` is what keras.applications' ResNet50 weights expect (blue, green, red;
            the ImageNet mean subtracted); `symmetric` maps 0..255 to [-1, 1].
    """

    modality: Literal["image"] = "image"

    def __init__(self, size: int, scaling: PixelScaling):
        super().__init__(name="image_preprocessor")
        self.size = size
        self.scaling: PixelScaling = scaling
        self.batched_outputs = {"image": tf.TensorSpec((size, size, CHANNELS), tf.float32)}

    def _resize(self, images: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(images, (self.size, self.size), method="bilinear", antialias=True)

    def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps images to `image`, float32 (batch, size, size, 3).

        Args:
            raw: String (batch,) of image files' bytes, or uint8 (batch, height, width, channels).
        """
        if raw.dtype == tf.string:
            pixels = tf.map_fn(
                lambda encoded: self._resize(_decode(encoded)),
                raw,
                fn_output_signature=self.batched_outputs["image"],
            )
        else:
            pixels = self._resize(_to_rgb(raw))
        return {"image": SCALINGS[self.scaling](tf.cast(pixels, tf.float32))}


def _imagenet(pixels: tf.Tensor) -> tf.Tensor:
    return cast(tf.Tensor, keras.applications.resnet.preprocess_input(pixels))


def _symmetric(pixels: tf.Tensor) -> tf.Tensor:
    return pixels / 127.5 - 1.0


SCALINGS = {"imagenet": _imagenet, "symmetric": _symmetric}
