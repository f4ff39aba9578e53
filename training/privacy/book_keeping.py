"""What one forward and one backward pass leave of a batch: every record's gradient, factored.

The forward pass runs with taps, the backward pass goes to the tapped outputs and no further; what a
layer's inputs and output gradients say of its variables, its rule knows. Nothing is clipped here.

Source: Bu et al. 2023, book-keeping (arXiv:2210.00038).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import PerExampleGradient
from training.privacy.half_precision import Scaled, loss_scale
from training.privacy.merging import merge
from training.privacy.norms import named, within_memory
from training.privacy.records import by_record
from training.privacy.sites import Sites
from training.privacy.taps import Tap, tapped_forward

# (labels (batch,), logits (batch, classes)) -> losses (batch,); of a model with several outputs
# all of them, nested as the model gives them
PerExampleLoss = Callable[[tf.Tensor, Any], tf.Tensor]


@dataclass(frozen=True)
class BookKept:
    """What one forward and one backward pass leave of a batch.

    Attributes:
        gradients: Variable id -> factored gradient of every record; variables that the loss does
            not reach are absent.
        losses: float32 (batch,), zero where masked.
        logits: float32 (batch, classes), or a nest of such.
        backward: What the backward pass made; when all are there it is over.
    """

    gradients: dict[int, PerExampleGradient]
    losses: tf.Tensor
    logits: Any
    backward: list[tf.Tensor]


def per_example_gradients(
    model: keras.Model,
    loss: PerExampleLoss,
    inputs: Any,
    labels: tf.Tensor,
    mask: tf.Tensor,
    sites: Sites,
    rows_per_record: int = 1,
    memory_bytes: float | None = None,
) -> BookKept:
    """Factored gradients of every trainable variable for every record.

    A record's gradient is the sum over its real rows divided by `rows_per_record`, a constant: rows
    count alike, and a full record's gradient is of the size of one example's.
    """
    batch_size = mask.shape[0]
    if batch_size is None:
        raise ValueError("The batch size must be static. Received: mask of shape (None,)")
    if batch_size % rows_per_record:
        raise ValueError(
            f"A batch must hold whole records of {rows_per_record} rows. Received: {batch_size} "
            "rows"
        )
    scale = loss_scale(model)
    with tf.GradientTape(watch_accessed_variables=False, persistent=False) as tape:
        outputs, taps = tapped_forward(model, inputs, batch_size, sites, tape.watch)
        # One by one: a cast of a list would stack its tensors along a new first axis.
        logits = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), outputs)
        losses = loss(labels, logits)
        losses.shape.assert_is_compatible_with([batch_size])
        # `where`, not a product: a padding row may hold anything, even a NaN loss.
        losses = tf.where(mask, losses, 0.0)
        total = tf.reduce_sum(losses) * (scale / rows_per_record)
    flat = [output for tap in taps for output in tap.outputs]
    backward = tape.gradient(total, flat)
    flat_gradients = iter(backward)
    uses: dict[int, list[PerExampleGradient]] = defaultdict(list)
    for tap in taps:
        gradients = [next(flat_gradients) for _ in tap.outputs]
        for variable, gradient in _gradients_at(tap, gradients):
            uses[id(variable)].append(gradient)

    def of_records(gradient: PerExampleGradient) -> PerExampleGradient:
        if rows_per_record == 1:
            return gradient
        # Before the rows are added up: a padding row may hold anything, a record's others not.
        return by_record(gradient.zeroed_where(~mask), rows_per_record)

    found = within_memory(
        {key: of_records(merge(parts)) for key, parts in uses.items()}, memory_bytes
    )
    if scale != 1.0:
        found = {key: Scaled(gradient, 1.0 / scale) for key, gradient in found.items()}
    made = [tf.convert_to_tensor(gradient) for gradient in backward if gradient is not None]
    return BookKept(found, losses, logits, made)


def _gradients_at(tap: Tap, gradients: list[tf.Tensor | None]) -> list:
    if all(gradient is None for gradient in gradients):
        return []  # not on the way to the loss
    dense = [
        tf.zeros_like(output) if gradient is None else tf.convert_to_tensor(gradient)
        for output, gradient in zip(tap.outputs, gradients, strict=True)
    ]
    with named("norms", tap.layer.path):
        return tap.rule.gradients(tap.layer, tap.args, tap.kwargs, dense)
