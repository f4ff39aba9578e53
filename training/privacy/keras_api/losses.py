"""A Keras loss as a per-example loss: one number an example, whatever its `reduction` says.

Keras averages or adds up over the batch at the end of `Loss.__call__`; what comes before,
`Loss.call`, keeps examples apart. That is what the engine needs, and what it divides by is the
plan's expected batch size, never the drawn one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from configs.schema import UserError
from training.privacy.clipping import PerExampleLoss
from training.privacy.keras_api.naming import named


class Weighted(NamedTuple):
    """Labels that come with a weight for each example.

    Attributes:
        labels: (batch, ...).
        weights: float32 (batch,).
    """

    labels: Any
    weights: Any


def labels_of(labels: Any) -> Any:
    """The labels without their weights."""
    return labels.labels if isinstance(labels, Weighted) else labels


def per_example_loss(loss: Any) -> PerExampleLoss:
    """What `loss` gives for each example alone.

    Args:
        loss: Whatever `keras.losses.get` takes: a name, a `keras.losses.Loss`, or a function of
            `(y_true, y_pred)` giving (batch, ...).

    Returns:
        (labels, outputs) -> float32 (batch,). Further axes (time, pixels) are averaged, or added
        up where the loss says `reduction="sum"`; positions that Keras masks are left out of the
        average. With `Weighted` labels each example's loss is multiplied by its weight.

    Raises:
        UserError: The loss has no part that keeps examples apart. What is given raises it for
            several outputs, for values that are not one an example, and for texts where one of
            Keras' losses needs numbers.
    """
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise UserError(
            "compile(loss=...): expected one loss for the one output of the model. Received: "
            f"{loss!r}"
        )
    identified = keras.losses.get(loss)
    unreduced, adds_up = _parts(identified)
    name = getattr(identified, "name", getattr(identified, "__name__", "loss"))

    def per_example(labels: Any, outputs: Any) -> tf.Tensor:
        if not tf.is_tensor(outputs) or not tf.is_tensor(labels_of(labels)):
            raise UserError(
                "fit: expected one output and one array of labels, which compile's one loss is of. "
                f"Received: {len(tf.nest.flatten(outputs))} output(s), and "
                f"{len(tf.nest.flatten(labels_of(labels)))} array(s) of labels. Join outputs in "
                "a last layer, or write the loop yourself with clipped_gradient_sum, whose loss "
                "takes all of them."
            )
        _require_numbers(name, identified, labels_of(labels))
        batch_size = outputs.shape[0]
        values = tf.convert_to_tensor(unreduced(_as_keras_does(labels_of(labels)), outputs))
        _require_rows(name, values, batch_size)
        losses = _reduced(tf.cast(values, tf.float32), outputs, adds_up=adds_up)
        if isinstance(labels, Weighted):
            losses *= tf.cast(labels.weights, tf.float32)
        return losses

    return per_example


def named_loss(loss: Any) -> Any:
    """What tells `loss` from another, as far as settings and code do; for `json.dumps`."""
    return named(keras.losses.get(loss))


def _parts(loss: Any) -> tuple[Callable[[Any, Any], Any], bool]:
    """What gives unreduced values, and whether they are to be added up."""
    if not isinstance(loss, keras.losses.Loss):
        return lambda labels, outputs: loss(_of_rank(labels, outputs), outputs), False
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        raise UserError(
            f"compile(loss=...): {type(loss).__name__} overrides __call__, so what it gives for "
            "one example is unknown. Override call(y_true, y_pred) and return one value an "
            "example."
        )
    return loss.call, loss.reduction == "sum"


def _as_keras_does(labels: Any) -> Any:
    """Labels as `Loss.__call__` hands them on: in floating point."""
    if labels.dtype == tf.string:
        return labels
    return tf.cast(labels, keras.config.floatx())


def _of_rank(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """(batch,) labels of (batch, 1) outputs as (batch, 1), and the other way round."""
    if labels.shape.rank == outputs.shape.rank - 1 and outputs.shape[-1] == 1:
        return labels[..., None]
    if labels.shape.rank == outputs.shape.rank + 1 and labels.shape[-1] == 1:
        return labels[..., 0]
    return labels


def _require_numbers(name: str, loss: Any, labels: tf.Tensor) -> None:
    """Refuses texts for Keras' own losses; a user's loss may look them up."""
    computes = getattr(loss, "fn", loss) if isinstance(loss, keras.losses.Loss) else loss
    kind = computes if isinstance(computes, FunctionType) else type(computes)
    if labels.dtype != tf.string or not kind.__module__.startswith("keras."):
        return
    raise UserError(
        f"fit(y): the labels are texts, and {name} takes numbers (class ids, one-hot rows or "
        "values). Give the place of each text in a list of your class names, or "
        "y.astype('int64') where the texts are numbers."
    )


def _require_rows(name: str, values: tf.Tensor, batch_size: int | None) -> None:
    if values.shape.rank and values.shape[0] == batch_size:
        return
    raise UserError(
        f"compile(loss=...): {name} gives shape {values.shape} for {batch_size} examples: it mixes "
        "the examples of a batch, so no per-example gradient exists. Return one value an example "
        "and leave the mean to Sterling."
    )


def _reduced(values: tf.Tensor, outputs: tf.Tensor, *, adds_up: bool) -> tf.Tensor:
    """(batch, ...) -> (batch,)."""
    axes = list(range(1, values.shape.rank))
    if not axes:
        return values
    mask = getattr(outputs, "_keras_mask", None)
    if mask is not None and mask.shape.rank == values.shape.rank:
        kept = tf.cast(mask, values.dtype)
        values = tf.where(mask, values, 0.0)
        count = tf.maximum(tf.reduce_sum(kept, axes), 1.0)
    else:
        count = tf.cast(tf.size(values[0]), values.dtype)
    total = tf.reduce_sum(values, axes)
    return total if adds_up else total / count
