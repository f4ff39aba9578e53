"""What a step tells of the examples it saw, for logs: sums, so that they add up over batches."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class StepTotals:
    """Sums over the real examples of a physical batch (training examples: not private).

    Attributes:
        loss: Sum of losses.
        correct: Examples whose most likely label is the true one.
        examples: Real examples.
        non_finite: Examples left out because their gradient was not finite.
        unfairness: Penalty of the physical batch, times its real examples; 0 without one.
        opacity: Sum of opacities; 0 where the objective has no such term.
        leakage: Sum of leakages; likewise.
        adversary_loss: Sum of an adversary's losses; 0 without one.
    """

    loss: float
    correct: float
    examples: float
    non_finite: float
    unfairness: float = 0.0
    opacity: float = 0.0
    leakage: float = 0.0
    adversary_loss: float = 0.0

    @classmethod
    def read(cls, report: dict[str, tf.Tensor]) -> StepTotals:
        """Of a report over all replicas; scalars."""
        return cls(**{name: float(value) for name, value in report.items()})


def report_of(
    labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor, mask: tf.Tensor, non_finite: tf.Tensor
) -> dict[str, tf.Tensor]:
    """`StepTotals` of one batch, as tensors of the graph.

    Args:
        labels: int (batch,).
        logits: float32 (batch, classes).
        losses: float32 (batch,), zero where padding or left out.
        mask: bool (batch,), False where padding.
        non_finite: (), examples left out.
    """
    right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.cast(labels, tf.int32))
    return {
        "loss": tf.reduce_sum(losses),
        "correct": tf.reduce_sum(tf.cast(right & mask, tf.float32)),
        "examples": tf.reduce_sum(tf.cast(mask, tf.float32)),
        "non_finite": tf.cast(non_finite, tf.float32),
    }


def over_replicas(
    strategy: tf.distribute.Strategy, per_replica: dict[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Adds up what the replicas report."""
    if strategy.num_replicas_in_sync == 1:
        return per_replica
    # As one vector: each reduction over several workers is a message that all wait for.
    names = list(per_replica)
    packed = strategy.run(lambda report: tf.stack([report[n] for n in names]), (per_replica,))
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, packed, axis=None)
    return dict(zip(names, tf.unstack(total, num=len(names)), strict=True))
