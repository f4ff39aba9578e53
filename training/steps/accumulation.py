"""What the physical batches of one logical batch have summed up, until the last of them comes."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class Accumulation:
    """Sums over the physical batches so far; each replica holds its own, and tells no other.

    Made within the strategy's scope; the rest is called in replica context.

    Args:
        shapes: Of what is summed up; empty where a logical batch is always one physical batch.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]):
        self.sums = [_of_each_replica(shape) for shape in shapes]
        self.examples = _of_each_replica(())

    def add(self, sums: Sequence[tf.Tensor], examples: tf.Tensor) -> None:
        """Adds a physical batch."""
        for total, value in zip(self.sums, sums, strict=True):
            total.assign_add(value)
        self.examples.assign_add(examples)

    def with_last(
        self, sums: Sequence[tf.Tensor], examples: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Sums and examples of the logical batch, of which these are the last physical batch's."""
        totals = [s + total for s, total in zip(sums, self.sums, strict=True)]
        return totals, examples + self.examples

    def clear(self) -> None:
        """Begins the next logical batch."""
        for total in (*self.sums, self.examples):
            total.assign(tf.zeros_like(total))


def _of_each_replica(shape: tuple[int, ...]) -> tf.Variable:
    return tf.Variable(
        tf.zeros(shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
