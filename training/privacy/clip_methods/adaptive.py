"""Adaptive clipping: the bound follows a private quantile of the norms (Andrew et al. 2021).

Source: arXiv:1905.03871; TF-Privacy's `QuantileAdaptiveClipSumQuery` does the arithmetic. What the
count costs: `counted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

import tensorflow as tf

from training.privacy.adaptive_query import ReplayableAdaptiveClipSumQuery
from training.privacy.clip_methods.base import hard_factors
from training.privacy.clip_methods.counted import CountedQuantile


@dataclass(frozen=True)
class AdaptiveClipping(CountedQuantile):
    """Flat clipping at a bound that starts at `clipping_norm` and follows a quantile.

    Guarantees (what epsilon depends on):
        Those of `CountedQuantile`; the sum's noise moves with the bound in use.

    Attributes:
        clipping_norm: The bound of the first step.
        target_quantile: Share of examples to be left unclipped.
        learning_rate: The bound moves by at most a factor of exp(learning_rate) a step.
        count_share: Share of the budget, as 1/noise^2, that the count takes; None for what a
            noise of batch_size / 20 examples takes, and at most a tenth.
    """

    method: ClassVar[str] = "adaptive"
    released_as: ClassVar[str] = "clipping_norm"
    clipping_norm: float
    target_quantile: float = 0.5
    learning_rate: float = 0.2
    count_share: Optional[float] = None

    @property
    def start(self) -> float:
        return self.clipping_norm

    def in_use(self, value: tf.Tensor) -> tf.Tensor:
        return value

    def factors(self, norms: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
        return hard_factors(norms, bounds)

    def query(self, noise_multiplier: float, batch_size: int) -> ReplayableAdaptiveClipSumQuery:
        return ReplayableAdaptiveClipSumQuery(
            initial_l2_norm_clip=self.clipping_norm,
            noise_multiplier=self.sum_noise_multiplier(noise_multiplier, batch_size),
            target_unclipped_quantile=self.target_quantile,
            learning_rate=self.learning_rate,
            clipped_count_stddev=self.count_stddev(noise_multiplier, batch_size),
            expected_num_records=batch_size,
        )

    def describe(self, unit: str = "example") -> str:
        return (
            f"per-{unit} gradients clipped to an L2 norm that starts at {self.clipping_norm:g} "
            f"and moves towards what a share of {self.target_quantile:g} of them stays within, "
            "by noisy counts that are part of the releases (Andrew et al. 2021); the noise on the "
            "sums moves with it, and at the first step is the following"
        )
