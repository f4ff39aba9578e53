"""A small convolutional baseline. Group normalization keeps examples apart, so it trains privately.

Each stage: 3x3 convolution, group normalization, ReLU, 2x2 max-pooling. Then the mean over
positions and a linear head.
"""

from __future__ import annotations

import math

import keras

from configs.schema import ModelSettings
from models import heads
from models.contracts import BuiltModel
from models.image_preprocessing import CHANNELS, ImagePreprocessor

_MOST_GROUPS = 8


def build_cnn(
    settings: ModelSettings,
    *,
    num_classes: int,
    modality: str,
    input_shape: tuple[int, ...] | None,
) -> BuiltModel:
    """Builds the convolutional baseline; see `CnnSettings`.

    The model takes `image`, float32 (batch, size, size, 3).
    """
    del modality, input_shape  # images are all it takes, and the settings say how large
    cnn = settings.cnn
    image = keras.Input((cnn.image_size, cnn.image_size, CHANNELS), name="image")
    x = image
    for index, filters in enumerate(cnn.filters):
        # No bias: the normalization that follows subtracts a mean and adds its own offset.
        x = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"stage_{index}_conv",
        )(x)
        x = keras.layers.GroupNormalization(
            groups=math.gcd(filters, _MOST_GROUPS), name=f"stage_{index}_norm"
        )(x)
        x = keras.layers.Activation("relu", name=f"stage_{index}_relu")(x)
        x = keras.layers.MaxPooling2D(2, name=f"stage_{index}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean_pooling")(x)
    if cnn.dropout:
        x = keras.layers.Dropout(cnn.dropout, name="dropout")(x)
    model = keras.Model({"image": image}, heads.logits(x, num_classes), name="cnn")
    return BuiltModel(
        model,
        ImagePreprocessor(cnn.image_size, "symmetric"),
        {"source": "random initialization"},
    )
