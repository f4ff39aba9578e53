"""The Gaussian mechanism: TF-Privacy's `GaussianSumQuery`, with noise that can be replayed.

TF-Privacy draws from TensorFlow's global generator, whose position cannot be stored in a
checkpoint or repeated on every replica. The subclass changes only where the numbers come from: a
counter-based (Philox) stream named by run, step and variable. State, bound and `DpEvent` are the
query's own. (XLA may draw other numbers from the same seed: a seeded run is repeatable under one
setting of `training.jit_compile`.)

Guarantees (what epsilon depends on):
    Every coordinate of every variable receives an independent N(0, stddev^2) draw for every term
    of the mechanism; two draws, two variables or two runs never share a stream; all replicas add
    the very same noise once to the all-reduced sum. A draw named again, with the opposite
    coefficient, cancels exactly, because one program makes both.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import tensorflow as tf

from training.privacy.tf_privacy import GaussianSumQuery


class ReplayableGaussianSumQuery(GaussianSumQuery):
    """A `GaussianSumQuery` whose global state carries the draws of the next release.

    Args:
        l2_norm_clip: Bound on every record's L2 norm.
        stddev: Standard deviation of the noise added to every coordinate of the sum.
    """

    _GlobalState = namedtuple(
        "_GlobalState", ["l2_norm_clip", "stddev", "seeds", "coefficients", "noises"]
    )

    def make_global_state(self, l2_norm_clip: float, stddev: float) -> Any:
        return self._GlobalState(
            tf.cast(l2_norm_clip, tf.float32),
            tf.cast(stddev, tf.float32),
            tf.zeros([0, 0, 2], tf.int64),
            tf.zeros([0], tf.float32),
            (),
        )

    def seeded_global_state(self, seeds: tf.Tensor, coefficients: tf.Tensor) -> Any:
        """The state for one release.

        Args:
            seeds: int64 (terms, tensors, 2), from the plan's mechanism.
            coefficients: float32 (terms,): the noise is the sum of the terms' draws, each times
                its coefficient.
        """
        return self.initial_global_state()._replace(seeds=seeds, coefficients=coefficients)

    def given_global_state(self, noises: list[tf.Tensor]) -> Any:
        """The state for one release whose noise was drawn before, one tensor a variable."""
        return self.initial_global_state()._replace(noises=tuple(noises))

    def get_noised_result(self, sample_state: list[tf.Tensor], global_state: Any) -> Any:
        """Adds the noise; `sample_state` is the list of clipped sums, one a variable."""
        _, global_state, event = super().get_noised_result([], global_state)
        if global_state.noises:
            pairs = zip(sample_state, global_state.noises, strict=True)
            return [total + noise for total, noise in pairs], global_state, event
        deviations = global_state.stddev * global_state.coefficients
        noised = [
            with_noise(total, deviations, global_state.seeds[:, i])
            for i, total in enumerate(sample_state)
        ]
        return noised, global_state, event


def with_noise(total: tf.Tensor, deviations: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """A sum and its noise, one draw for every deviation that is not zero.

    Args:
        total: The sum, float32 of a static shape.
        deviations: Standard deviation of each draw, float32 (terms,), zeros last. A negative one
            subtracts the draw.
        seeds: int64 (terms, 2).
    """

    def add(term: int | tf.Tensor, total: tf.Tensor) -> tf.Tensor:
        # After the sum, so that not all of a model's noise waits in memory from the start.
        with tf.control_dependencies([total]):
            noise = gaussian_noise(total.shape, tf.abs(deviations[term]), seeds[term])
        return total + tf.sign(deviations[term]) * noise

    if deviations.shape[0] == 1:
        with tf.control_dependencies([total]):
            return total + gaussian_noise(total.shape, deviations[0], seeds[0])
    used = tf.math.count_nonzero(deviations, dtype=tf.int32)
    # A loop, not one subgraph a term: unused terms cost nothing, and every term is drawn by the
    # same instructions.
    _, total = tf.while_loop(
        lambda term, _: term < used,
        lambda term, total: (term + 1, add(term, total)),
        (tf.constant(0), total),
        parallel_iterations=1,
        maximum_iterations=deviations.shape[0],
    )
    return total


def gaussian_noise(shape: tf.TensorShape, stddev: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Independent N(0, stddev^2) draws, float32 of a static `shape`, by Box and Muller (1958).

    The same construction on the same Philox bits as TensorFlow's own kernel, but as vectorised
    operations, which take two thirds of its time; and from 32 random bits a uniform, not 23, so
    tails reach 6.7 standard deviations.

    Args:
        shape: Static shape of the result.
        stddev: Standard deviation >= 0, float32 ().
        seed: int64 (2,), used once.
    """
    count = shape.num_elements()
    pairs = (count + 1) // 2
    bits = tf.random.stateless_uniform(
        [2, pairs], seed=seed, dtype=tf.uint32, minval=None, maxval=None
    )
    # In (0, 1]: the half keeps the logarithm finite.
    uniform = (tf.cast(bits[0], tf.float32) + 0.5) * 2.0**-32
    # Not the root of stddev squared: that underflows, and the noise vanishes, below 1e-19.
    radius = stddev * tf.sqrt(-2.0 * tf.math.log(uniform))
    angle = tf.cast(bits[1], tf.float32) * (2.0 * math.pi * 2.0**-32)
    draws = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)
    return tf.reshape(draws[:count], shape)
