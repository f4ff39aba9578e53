"""The Gaussian mechanism: TF-Privacy's `GaussianSumQuery`, with noise that can be replayed.

TF-Privacy draws from TensorFlow's global generator, whose position cannot be stored in a
checkpoint or repeated on every replica. The subclass changes only where the numbers come from: a
counter-based stream named by run, step and variable. State, bound and `DpEvent` are the
query's own. (XLA may round other numbers from the same bits: a seeded run is repeatable under one
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
from training.wide_vectors import prefer_wide_vectors

prefer_wide_vectors()


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
        noised = all_with_noise(sample_state, deviations, global_state.seeds)
        return noised, global_state, event


# Tensors smaller than this are not worth a compiled program each.
_LEAST_COMPILED = 2**16


def all_with_noise(
    totals: list[tf.Tensor], deviations: tf.Tensor, seeds: tf.Tensor
) -> list[tf.Tensor]:
    """`with_noise` of several sums; all small ones as one tensor, from the stream of the first.

    A model has hundreds of biases and scales: drawn one by one they would be most of the step's
    graph.
    """
    noised = [
        with_noise(total, deviations, seeds[:, i]) if _is_large(total.shape) else total
        for i, total in enumerate(totals)
    ]
    small = [i for i, total in enumerate(totals) if not _is_large(total.shape)]
    if small:
        flat = tf.concat([tf.reshape(totals[i], [-1]) for i in small], axis=0)
        sizes = [totals[i].shape.num_elements() for i in small]
        parts = tf.split(with_noise(flat, deviations, seeds[:, small[0]]), sizes)
        for i, part in zip(small, parts, strict=True):
            noised[i] = tf.reshape(part, totals[i].shape)
    return noised


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
            bits = _bits(total.shape, seeds[0])
        # Flat, so that matrices of one size share a program whatever their sides.
        release = _compiled_release if _is_large(total.shape) else _release
        return tf.reshape(release(tf.reshape(total, [-1]), deviations[0], bits), total.shape)
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

    The bits are TensorFlow's counter-based generators' (Salmon et al. 2011), 32 for a number, so
    that tails reach 6.7 standard deviations: Philox for small tensors; for large ones ThreeFry,
    which XLA makes in half the time. Those are drawn by two small programs, bits and arithmetic.
    The cosine is a polynomial, because a call for every number would keep XLA from using vector
    instructions.

    Args:
        shape: Static shape of the result.
        stddev: Standard deviation >= 0, float32 ().
        seed: int64 (2,), used once.
    """
    scaled = _compiled_scaled if _is_large(shape) else _scaled
    return tf.reshape(scaled(stddev, _bits(shape, seed))[: shape.num_elements()], shape)


def _is_large(shape: tf.TensorShape) -> bool:
    return shape.num_elements() >= _LEAST_COMPILED


def _bits(shape: tf.TensorShape, seed: tf.Tensor) -> tf.Tensor:
    """32 random bits for every number, uint32 (2, half of them rounded up)."""
    pairs = (shape.num_elements() + 1) // 2
    if _is_large(shape):
        return _compiled_uniform(seed, pairs, "threefry")
    return _uniform(seed, pairs, "philox")  # TensorFlow's own kernels on CPU have no ThreeFry


def _uniform(seed: tf.Tensor, pairs: int, alg: str) -> tf.Tensor:
    return tf.random.stateless_uniform(
        [2, pairs], seed=seed, dtype=tf.uint32, minval=None, maxval=None, alg=alg
    )


def _scaled(stddev: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Normal draws of a standard deviation, float32 (twice the pairs,)."""
    # In (0, 1]: the half keeps the logarithm finite.
    uniform = (tf.cast(bits[:1], tf.float32) + 0.5) * 2.0**-32
    # Not the root of stddev squared: that underflows, and the noise vanishes, below 1e-19.
    radius = stddev * tf.sqrt(-2.0 * tf.math.log(uniform))
    # 24 bits, so that the conversion is exact. A pair takes the cosine of its angle and of a
    # quarter turn less, which is the sine.
    whole = tf.bitwise.right_shift(bits[1:], tf.constant(8, tf.uint32))
    turns = tf.cast(whole, tf.float32) * 2.0**-24 - tf.constant([[0.0], [0.25]])
    return tf.reshape(radius * cosine_of_turns(turns), [-1])


def _release(total: tf.Tensor, stddev: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    return total + _scaled(stddev, bits)[: total.shape.num_elements()]


def cosine_of_turns(turns: tf.Tensor) -> tf.Tensor:
    """cos(2 pi turns) to 1.2e-7, for float32 `turns` in [-1, 1].

    The polynomials are those of the Cephes library (S. Moshier, single precision) for an eighth
    of a turn to both sides; the nearest quarter turn says which of them, and its sign.
    """
    quarters = tf.round(turns * 4.0)
    angle = (turns - quarters * 0.25) * (2.0 * math.pi)
    square = angle * angle
    sine = angle + angle * square * (
        -1.6666654611e-1 + square * (8.3321608736e-3 - square * 1.9515295891e-4)
    )
    cosine = (
        1.0
        - 0.5 * square
        + square
        * square
        * (4.166664568298827e-2 + square * (-1.388731625493765e-3 + square * 2.443315711809948e-5))
    )
    quadrant = tf.bitwise.bitwise_and(tf.cast(quarters, tf.int32), 3)
    is_odd = tf.equal(tf.bitwise.bitwise_and(quadrant, 1), 1)
    value = tf.where(is_odd, sine, cosine)
    return tf.where((quadrant == 1) | (quadrant == 2), -value, value)


# Apart from each other: fused into one program, XLA would draw the bits again for every use.
_compiled_uniform = tf.function(_uniform, jit_compile=True, autograph=False)
_compiled_scaled = tf.function(_scaled, jit_compile=True, autograph=False)
_compiled_release = tf.function(_release, jit_compile=True, autograph=False)
