"""The plainest baseline: fully connected layers over a feature vector or a flattened image."""

from __future__ import annotations

import keras

from configs.schema import ModelSettings
from models import heads
from models.contracts import BuiltModel, Preprocessor
from models.feature_preprocessing import FeaturePreprocessor
from models.image_preprocessing import CHANNELS, ImagePreprocessor


def build_mlp(
    settings: ModelSettings,
    *,
    num_classes: int,
    modality: str,
    input_shape: tuple[int, ...] | None,
) -> BuiltModel:
    """Builds the multi-layer perceptron; see `MlpSettings`.

    The model takes `features`, float32 (batch, d), or `image`, float32 (batch, size, size, 3).

    Raises:
        ValueError: Feature data came without the one-dimensional shape of a vector.
    """
    mlp = settings.mlp
    preprocess: Preprocessor
    if modality == "image":
        preprocess = ImagePreprocessor(mlp.image_size, "symmetric")
        entry = keras.Input((mlp.image_size, mlp.image_size, CHANNELS), name="image")
        x = keras.layers.Flatten(name="flatten")(entry)
    else:
        if input_shape is None or len(input_shape) != 1:
            raise ValueError(
                f"mlp needs the shape of one feature vector, (d,). Received: {input_shape}"
            )
        preprocess = FeaturePreprocessor(input_shape[0])
        entry = x = keras.Input(input_shape, name="features")
    for index, units in enumerate(mlp.hidden_units):
        x = keras.layers.Dense(units, activation=mlp.activation, name=f"hidden_{index}")(x)
        if mlp.dropout:
            x = keras.layers.Dropout(mlp.dropout, name=f"dropout_{index}")(x)
    model = keras.Model({entry.name: entry}, heads.logits(x, num_classes), name="mlp")
    return BuiltModel(model, preprocess, {"source": "random initialization"})
