"""Validation after an epoch, as Keras' own `fit` does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class Validation:
    """Evaluates a model on data given as `validation_data`.

    Args:
        model: The compiled model.
        data: `(x, y)`, `(x, y, weights)`, a dataset; or None, which measures nothing.
        steps: Batches to evaluate; None takes all.
        batch_size: Rows of a batch of arrays.
        every: Epochs between two evaluations, or the epochs after which to evaluate.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        steps: int | None,
        batch_size: int,
        every: int | Sequence[int],
    ):
        self._model, self._data, self._steps, self._every = model, data, steps, every
        self._batch_size = batch_size

    def __call__(self, epoch: int, callbacks: Any) -> dict[str, float]:
        due = (
            (epoch + 1) % self._every == 0
            if isinstance(self._every, int)
            else epoch + 1 in self._every
        )
        if self._data is None or not due:
            return {}
        x, y, weights = keras.utils.unpack_x_y_sample_weight(self._data)
        arrays = not isinstance(x, (tf.data.Dataset, keras.utils.PyDataset))
        measured = self._model.evaluate(
            x=x,
            y=y,
            sample_weight=weights,
            batch_size=self._batch_size if arrays else None,
            steps=self._steps,
            callbacks=callbacks,
            return_dict=True,
        )
        return {f"val_{name}": value for name, value in measured.items()}
