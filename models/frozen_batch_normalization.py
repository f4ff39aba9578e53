"""Batch normalization whose statistics are constants, so that examples stay apart.

    y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta

in training as in inference; only gamma and beta train. Variables have the names and order of
`keras.layers.BatchNormalization`, so its weights load unchanged. A subclass rather than a call
with `training=False`, because a functional model overrides that argument when it is called with
`training=True`.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="sterling")
class FrozenBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with fixed statistics.

    Guarantees:
        Row i of the output depends on row i of the input alone, whatever `training` is; the
        moving statistics are never written. `mixes_examples` says so to the private engine.
    """

    mixes_examples = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalizes `inputs` by the moving statistics; `training` and `mask` change nothing."""
        del training, mask
        return super().call(inputs, training=False)
