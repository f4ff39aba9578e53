"""Adaptive clipping: the bound follows a private quantile of the norms (Andrew et al. 2021).

After every step a noisy count of the examples whose norm was within the bound moves the bound
geometrically towards the quantile asked for. Count and sum are one release, whose noise is shared
out so that together they cost what a sum alone with the plan's noise multiplier z would:

    1 / z^2 = 1 / z_sum^2 + 1 / (2 s)^2

with z_sum the sum's noise multiplier and s the count's noise, in examples. (Each example counts
+1/2 or -1/2, so the count's sensitivity is 1/2.) The second term is the count's share of the
budget. Sources: arXiv:1905.03871, Theorem 1; TF-Privacy's `QuantileAdaptiveClipSumQuery` does the
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Optional

import tensorflow as tf

from training.privacy.adaptive_query import ReplayableAdaptiveClipSumQuery
from training.privacy.clip_methods.base import Grouping, hard_factors, one_group

# Andrew et al.: noise on the count of a twentieth of the batch.
_COUNT_NOISE_PER_EXAMPLE = 1 / 20
# Small batches would give most of the budget to the count.
_LARGEST_DEFAULT_SHARE = 0.1


@dataclass(frozen=True)
class AdaptiveClipping:
    """Flat clipping at a bound that starts at `clipping_norm` and follows a quantile.

    Guarantees (what epsilon depends on):
        The bound is computed from released noisy counts alone. At every step, sum and count of
        the same batch are one Gaussian mechanism with the plan's noise multiplier. The count is
        divided by the expected batch size, a public constant.

    Attributes:
        clipping_norm: The bound of the first step.
        target_quantile: Share of examples to be left unclipped.
        learning_rate: The bound moves by at most a factor of exp(learning_rate) a step.
        count_share: Share of the budget, as 1/noise^2, that the count takes; None for what a
            noise of batch_size / 20 examples takes, and at most a tenth.
    """

    method: ClassVar[str] = "adaptive"
    adapts: ClassVar[bool] = True
    clipping_norm: float
    target_quantile: float = 0.5
    learning_rate: float = 0.2
    count_share: Optional[float] = None

    def grouping(self, paths: Sequence[str]) -> Grouping:
        return one_group(paths)

    def factors(self, norms: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
        return hard_factors(norms, bounds)

    def share(self, noise_multiplier: float, batch_size: int) -> float:
        """Share of the budget that the count takes."""
        if self.count_share is not None:
            return self.count_share
        recommended = noise_multiplier / (2 * _COUNT_NOISE_PER_EXAMPLE * batch_size)
        return min(recommended**2, _LARGEST_DEFAULT_SHARE)

    def sum_noise_multiplier(self, noise_multiplier: float, batch_size: int) -> float:
        """Noise on the sum, in multiples of the bound in use."""
        return noise_multiplier / sqrt(1 - self.share(noise_multiplier, batch_size))

    def count_stddev(self, noise_multiplier: float, batch_size: int) -> float:
        """Noise on the count, in examples."""
        return noise_multiplier / (2 * sqrt(self.share(noise_multiplier, batch_size)))

    def noise_stddev(self, noise_multiplier: float, batch_size: int) -> float:
        return self.sum_noise_multiplier(noise_multiplier, batch_size) * self.clipping_norm

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
