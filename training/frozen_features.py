"""The frozen part of a model, computed once for each example instead of once an epoch.

Exact: the frozen part has no randomness and no trainable weight, so its activations never change.
They are held in memory, within `training.cache_frozen_gb` and whatever `data.cache` says: that is
the one thing that may grow with the number of examples, and the log says how large it is.
"""

from __future__ import annotations

import logging

import keras
import numpy as np
import tensorflow as tf

from data.pipeline import PreparedSplit, batches_in_order

_CHUNK_EXAMPLES = 256


def fits_in_memory(prefix: keras.Model, examples: int, budget_bytes: float) -> bool:
    """Whether the activations of `examples` examples take at most `budget_bytes`; logs which."""
    per_example = sum(
        int(np.prod(tensor.shape[1:])) * tf.as_dtype(tensor.dtype).size
        for tensor in tf.nest.flatten(prefix.output)
    )
    needed = per_example * examples
    fits = needed <= budget_bytes
    logging.info(
        "Computing the frozen layers once for %d examples; their activations take %.3g GB of "
        "memory (training.cache_frozen_gb: %g)."
        if fits
        else "The frozen layers run at every step: kept for %d examples, their activations would "
        "take %.3g GB of memory (training.cache_frozen_gb: %g).",
        examples,
        needed / 1e9,
        budget_bytes / 1e9,
    )
    return fits


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
