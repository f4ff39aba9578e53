"""The noises of the last steps, for mechanisms whose noise builds on them.

They are state of the step and nowhere else. In a checkpoint they would be the noise in clear, for
anyone who reads it to subtract from the weights beside it; so a resumed run draws them again from
its root, step by step from the first, which takes what the noise alone took and gives the same
bits: one compiled program makes the noise, in training and in recalling it.

Guarantees (what epsilon depends on):
    After `recall(t)`, and after the noises of steps 0 to t - 1, the memory is the same to the last
    bit (tested, with XLA too), so that correlated noise goes on as the accounting takes it to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from training.privacy.mechanisms import Draws
from training.privacy.noise import with_noise


class NoiseMemory:
    """A ring of the last `slots` noises of every released tensor, on every replica.

    Args:
        shapes: Of the released tensors.
        slots: Noises remembered, >= 1.
        stddev: Standard deviation of a draw at coefficient 1.
        strategy: Where the step runs.
        jit_compile: Compile with XLA.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        slots: int,
        stddev: float,
        strategy: tf.distribute.Strategy,
        *,
        jit_compile: bool = False,
    ):
        self._stddev, self._strategy = stddev, strategy
        with strategy.scope():
            self._rings = [
                tf.Variable(
                    tf.zeros((slots, *shape)),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
                for shape in shapes
            ]
        # Of the parts of `Draws` as tensors; may be called within another function.
        self.remember = tf.function(
            lambda *noise: strategy.run(self.advance_replica, noise),
            autograph=False,
            jit_compile=jit_compile,
        )

    def advance(self, draws: Draws) -> None:
        """Makes the noise of the next step and remembers it in place of the oldest."""
        self.remember(
            tf.constant(draws.seeds),
            tf.constant(draws.coefficients),
            tf.constant(draws.feedback),
            tf.constant(draws.slot),
        )

    def recall(self, steps: int, draws_of: Callable[[int], Draws]) -> None:
        """Makes the noises of the first `steps` steps again, in order.

        Args:
            steps: Steps that the run has taken.
            draws_of: Step -> its draws, from the run's own root.
        """
        for ring in self._rings:
            ring.assign(tf.zeros_like(ring))
        for step in range(steps):
            self.advance(draws_of(step))

    def noises(self, slot: tf.Tensor) -> list[tf.Tensor]:
        """The noises remembered in a slot, one a released tensor; in replica context."""
        return [tf.gather(ring, slot) for ring in self._rings]

    def advance_replica(
        self, seeds: tf.Tensor, coefficients: tf.Tensor, feedback: tf.Tensor, slot: tf.Tensor
    ) -> None:
        """`advance` in replica context."""
        deviations = self._stddev * coefficients
        for i, ring in enumerate(self._rings):
            remembered = tf.convert_to_tensor(ring)
            remains = tf.tensordot(feedback, remembered, axes=1)
            noise = with_noise(remains, deviations, seeds[:, i])
            ring.assign(tf.tensor_scatter_nd_update(remembered, [[slot]], noise[None]))
