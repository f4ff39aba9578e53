r"""Global scaling with an adaptive threshold: DPSGD-Global-Adapt (Esipova et al. 2023).

Clipping turns a batch's mean gradient, because the gradients that are cut are those of the examples
that the model serves worst, mostly a minority's. DPSGD-Global (Bu et al. 2021, arXiv:2106.07830)
scales all gradients within a threshold Z by the same C / Z, which keeps their mean's direction, and
drops those beyond. Global-Adapt keeps these, cut to C, and moves Z by a private count of them, so
that they stay few:

    g -> g C / max(|g|, Z)         |g| <= Z: scaled by C / Z;   |g| > Z: cut to norm C

With b the noisy share of examples beyond Z, Z is multiplied by exp(learning_rate (b - (1 -
target_quantile))); b is divided by the expected batch size and brought into [0, 1]. The paper's
exp(b - eta) is learning_rate 1 and target_quantile 1 - eta, where it counts those beyond Z itself.

What it is beside `adaptive`: a sum is C / Z times that of flat clipping at Z, and so is its noise.
The two see the same batches with the same signal to noise; here the sums stay on the scale of C
whatever Z does, so that the size of a plain SGD step does not follow the quantile.

Source: arXiv:2206.07737.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Optional

import tensorflow as tf

from training.privacy.adaptive_query import ReplayableThresholdQuery
from training.privacy.clip_methods.base import LEAST_BOUND
from training.privacy.clip_methods.counted import CountedQuantile


@dataclass(frozen=True)
class GlobalAdaptClipping(CountedQuantile):
    """Gradients scaled down by one factor below a threshold, and cut beyond it.

    Guarantees (what epsilon depends on):
        |g| C / max(|g|, Z) <= C whatever Z > 0 is: the sum's sensitivity is `clipping_norm` at
        every step, and its noise stays the same. Otherwise those of `CountedQuantile`.

    Attributes:
        clipping_norm: C.
        threshold: Z at the first step.
        target_quantile: Share of examples to be left within Z.
        learning_rate: Z moves by at most a factor of exp(learning_rate) a step.
        count_share: Share of the budget, as 1/noise^2, that the count takes; None for what a
            noise of batch_size / 20 examples takes, and at most a tenth.
    """

    method: ClassVar[str] = "global_adapt"
    released_as: ClassVar[str] = "clipping_threshold"
    clipping_norm: float
    threshold: float
    target_quantile: float = 0.9
    learning_rate: float = 0.2
    count_share: Optional[float] = None

    @property
    def start(self) -> float:
        return self.threshold

    def in_use(self, value: tf.Tensor) -> GlobalAdaptClipping:
        return replace(self, threshold=value)

    def factors(self, norms: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
        return bounds / tf.maximum(norms, self.limits(bounds))

    def limits(self, bounds: tf.Tensor) -> tf.Tensor:
        threshold = tf.maximum(tf.cast(self.threshold, tf.float32), LEAST_BOUND)
        return threshold * tf.ones_like(bounds)

    def query(self, noise_multiplier: float, batch_size: int) -> ReplayableThresholdQuery:
        return ReplayableThresholdQuery(
            l2_norm_clip=self.clipping_norm,
            stddev=self.noise_stddev(noise_multiplier, batch_size),
            initial_threshold=self.threshold,
            target_quantile=self.target_quantile,
            learning_rate=self.learning_rate,
            count_stddev=self.count_stddev(noise_multiplier, batch_size),
            expected_num_records=batch_size,
        )

    def describe(self, unit: str = "example") -> str:
        return (
            f"per-{unit} gradients of an L2 norm up to a threshold scaled by "
            f"{self.clipping_norm:g} / threshold, longer ones cut to {self.clipping_norm:g}; the "
            f"threshold starts at {self.threshold:g} and moves towards what a share of "
            f"{self.target_quantile:g} of them stays within, by noisy counts that are part of the "
            "releases (DPSGD-Global-Adapt, Esipova et al. 2023)"
        )
