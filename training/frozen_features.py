"""The frozen part of a model, computed once for each example instead of once an epoch.

Exact: the frozen part has no randomness and no trainable weight, so its activations never change.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from data.pipeline import PreparedSplit, batches_in_order

_CHUNK_EXAMPLES = 256


def fits_in_memory(prefix: keras.Model, examples: int, budget_bytes: float) -> bool:
    """Whether the activations of `examples` examples take at most `budget_bytes`."""
    per_example = sum(
        int(np.prod(tensor.shape[1:])) * tf.as_dtype(tensor.dtype).size
        for tensor in tf.nest.flatten(prefix.output)
    )
    return per_example * examples <= budget_bytes


def through_prefix(prepared: PreparedSplit, prefix: keras.Model) -> PreparedSplit:
    """The same split with `prefix`'s activations as its inputs, held in memory."""
    names = list(prefix.output)
    arrays = {
        name: np.empty(
            (len(prepared), *prefix.output[name].shape[1:]),
            tf.as_dtype(prefix.output[name].dtype).as_numpy_dtype,
        )
        for name in names
    }
    forward = tf.function(
        lambda inputs: prefix(inputs, training=False), autograph=False, reduce_retracing=True
    )
    for batch in batches_in_order(prepared, _CHUNK_EXAMPLES):
        activations = forward(batch["inputs"])
        real = batch["mask"].numpy()
        ids = batch["ids"].numpy()[real]
        for name in names:
            arrays[name][ids] = activations[name].numpy()[real]
    return PreparedSplit(prepared.split, prepared.preprocess, arrays)
