"""What methods share that follow a quantile of the norms: a paid count beside every sum.

After every step a noisy count of the examples whose norm was within the value that moves (a bound,
a threshold) moves it geometrically towards the quantile asked for. Count and sum are one release,
whose noise is shared out so that together they cost what a sum alone with the plan's noise
multiplier z would:

    1 / z^2 = 1 / z_sum^2 + 1 / (2 s)^2

with z_sum the sum's noise multiplier and s the count's noise, in examples. (Each example counts
+1/2 or -1/2, so the count's sensitivity is 1/2.) The second term is the count's share of the
budget. Sources: Andrew et al. 2021, arXiv:1905.03871, Theorem 1; TF-Privacy's
`QuantileEstimatorQuery` does the arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar, Optional

import tensorflow as tf

from training.privacy.clip_methods.base import Grouping, one_group

# Andrew et al.: noise on the count of a twentieth of the batch.
_COUNT_NOISE_PER_EXAMPLE = 1 / 20
# Small batches would give most of the budget to the count.
_LARGEST_DEFAULT_SHARE = 0.1


class CountedQuantile(ABC):
    """A method with a value that follows a quantile, by noisy counts that the budget pays for.

    Guarantees (what epsilon depends on):
        The value is computed from released noisy counts alone. At every step, sum and count of
        the same batch are one Gaussian mechanism with the plan's noise multiplier. The count is
        divided by the expected batch size, a public constant.

    Attributes:
        released_as: What logs call the value that moves.
        clipping_norm: L2 sensitivity of the (first) sum.
        target_quantile: Share of examples to be left within the value.
        learning_rate: The value moves by at most a factor of exp(learning_rate) a step.
        count_share: Share of the budget, as 1/noise^2, that the count takes; None for what a
            noise of batch_size / 20 examples takes, and at most a tenth.
    """

    adapts: ClassVar[bool] = True
    released_as: ClassVar[str]
    clipping_norm: float
    target_quantile: float
    learning_rate: float
    count_share: Optional[float]

    @property
    @abstractmethod
    def start(self) -> float:
        """The value at the first step."""

    @abstractmethod
    def in_use(self, value: tf.Tensor) -> Any:
        """What clips where the value is `value`, float32 (): as `clipped_gradient_sum` takes it."""

    def grouping(self, paths: Sequence[str]) -> Grouping:
        return one_group(paths)

    def limits(self, bounds: tf.Tensor) -> tf.Tensor:
        return bounds

    def share(self, noise_multiplier: float, batch_size: int) -> float:
        """Share of the budget that the count takes."""
        if self.count_share is not None:
            return self.count_share
        recommended = noise_multiplier / (2 * _COUNT_NOISE_PER_EXAMPLE * batch_size)
        return min(recommended**2, _LARGEST_DEFAULT_SHARE)

    def sum_noise_multiplier(self, noise_multiplier: float, batch_size: int) -> float:
        """Noise on the sum, in multiples of its sensitivity."""
        return noise_multiplier / sqrt(1 - self.share(noise_multiplier, batch_size))

    def count_stddev(self, noise_multiplier: float, batch_size: int) -> float:
        """Noise on the count, in examples."""
        return noise_multiplier / (2 * sqrt(self.share(noise_multiplier, batch_size)))

    def noise_stddev(self, noise_multiplier: float, batch_size: int) -> float:
        return self.sum_noise_multiplier(noise_multiplier, batch_size) * self.clipping_norm
