"""Feature vectors reach the model as they are."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf


class FeaturePreprocessor(tf.Module):
    """Names a batch of feature vectors `features`.

    Args:
        width: Numbers per example.
    """

    modality: Literal["features"] = "features"

    def __init__(self, width: int):
        super().__init__(name="feature_preprocessor")
        self.batched_outputs = {"features": tf.TensorSpec((width,), tf.float32)}

    def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps float (batch, width) to `features`, float32 (batch, width)."""
        spec = self.batched_outputs["features"]
        return {"features": tf.ensure_shape(tf.cast(raw, tf.float32), (None, *spec.shape))}
