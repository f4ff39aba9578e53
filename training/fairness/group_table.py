"""Tables of a batch by group and label: what constraints and group DRO learn from.

A table T (groups, labels, K) adds up a vector over the examples of each group and label: (1) where
people are only counted, else (1 - s, s), s a number of the example (its answer, its loss). The sum
of a cell's two numbers is its people, and the second over the sum the mean of s. In this form an
example with s in [0, 1] adds at most 1 in L2 norm, which `training.privacy.group_releases` needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf


def selected(logits: tf.Tensor, positive: int) -> tf.Tensor:
    """Whether the answer is the positive label, float32 (batch,) of 0 and 1.

    Args:
        logits: float32 (batch, classes).
        positive: Index of the positive label.
    """
    answer = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(tf.equal(answer, positive), tf.float32)


def bounded(values: tf.Tensor) -> tf.Tensor:
    """Brings numbers into [0, 1]; what is no number becomes 0."""
    return tf.clip_by_value(tf.where(tf.math.is_nan(values), 0.0, values), 0.0, 1.0)


def parts_of(values: tf.Tensor) -> tf.Tensor:
    """What each example adds to its cell: (1 - s, s), (batch, 2) in the precision of s."""
    return tf.stack([1.0 - values, values], axis=-1)


def group_table(
    batch: Mapping[str, Any], attribute: str, shape: tuple[int, int], parts: tf.Tensor
) -> tf.Tensor:
    """Adds up `parts` by group and label.

    Args:
        batch: `labels` (batch,), `mask` (batch,) and `groups` by attribute.
        attribute: The group attribute.
        shape: Numbers of groups and of labels.
        parts: float (batch, K); of padding, anything. Added up in their own precision.

    Returns:
        As `parts`, (groups, labels, K).
    """
    mask = batch["mask"]
    cells = cells_of(batch, attribute, shape)
    # Of padding no entry is 1, and no part is kept: 0 x NaN would be NaN.
    members = tf.one_hot(tf.where(mask, cells, -1), shape[0] * shape[1], dtype=parts.dtype)
    kept = tf.where(mask[:, None], parts, tf.zeros([], parts.dtype))
    return tf.reshape(tf.matmul(members, kept, transpose_a=True), [*shape, parts.shape[-1]])


def cells_of(batch: Mapping[str, Any], attribute: str, shape: tuple[int, int]) -> tf.Tensor:
    """Each example's cell of a flattened (groups, labels) table, int32 (batch,).

    Of padding, any cell.
    """
    groups = tf.clip_by_value(tf.cast(batch["groups"][attribute], tf.int32), 0, shape[0] - 1)
    return groups * shape[1] + tf.cast(batch["labels"], tf.int32)
