"""The Gaussian mechanism: TF-Privacy's `GaussianSumQuery`, with noise that can be replayed.

TF-Privacy draws from TensorFlow's global generator, whose position cannot be stored in a
checkpoint or repeated on every replica. The subclass changes only where the numbers come from: a
counter-based (Philox) stream named by run, step and variable. State, bound and `DpEvent` are the
query's own. (XLA draws other numbers from the same seed: a seeded run is repeatable under one
setting of `training.jit_compile`.)

Guarantees (what epsilon depends on):
    Every coordinate of every variable receives an independent N(0, stddev^2) draw; two steps, two
    variables or two runs never share a stream; all replicas add the very same noise once to the
    all-reduced sum.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import tensorflow as tf

from training.privacy.tf_privacy import GaussianSumQuery


class ReplayableGaussianSumQuery(GaussianSumQuery):
    """A `GaussianSumQuery` whose global state carries the seeds of the next release.

    Args:
        l2_norm_clip: Bound on every record's L2 norm.
        stddev: Standard deviation of the noise added to every coordinate of the sum.
    """

    _GlobalState = namedtuple("_GlobalState", ["l2_norm_clip", "stddev", "seeds"])

    def make_global_state(self, l2_norm_clip: float, stddev: float) -> Any:
        return self._GlobalState(
            tf.cast(l2_norm_clip, tf.float32),
            tf.cast(stddev, tf.float32),
            tf.zeros([0, 2], tf.int64),
        )

    def seeded_global_state(self, seeds: tf.Tensor) -> Any:
        """The state for one release; `seeds` int64 (variables, 2), used once and never again."""
        return self.initial_global_state()._replace(seeds=seeds)

    def get_noised_result(self, sample_state: list[tf.Tensor], global_state: Any) -> Any:
        """Adds the noise; `sample_state` is the list of clipped sums, one a variable."""
        _, global_state, event = super().get_noised_result([], global_state)
        noised = [
            total
            + global_state.stddev
            * tf.random.stateless_normal(total.shape, seed=global_state.seeds[i], dtype=total.dtype)
            for i, total in enumerate(sample_state)
        ]
        return noised, global_state, event
