"""What every clipping method offers to the plan and to the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import tensorflow as tf

from training.privacy.noise import ReplayableGaussianSumQuery

# Below it the squares behind a norm can vanish in float32, and what has no norm is not clipped.
LEAST_BOUND = 1e-12


@dataclass(frozen=True)
class Grouping:
    """Which variables are bounded together, and how the bound is shared out.

    Attributes:
        group_of: The group of each trainable variable, by position.
        shares: Each group's bound as a share of the whole bound. Their squares add up to 1, so
            that gradients within all groups' bounds are within the whole one.
    """

    group_of: tuple[int, ...]
    shares: tuple[float, ...]


@runtime_checkable
class ClipMethod(Protocol):
    """A way of bounding per-example gradients: public numbers only.

    Guarantees (what epsilon depends on):
        An example's gradient in group k is multiplied by a factor that depends on nothing but
        that example's norm in group k and public numbers, and is then no longer than
        `shares[k] * bound`. So adding or removing one example moves the sum over all variables
        by at most `bound` in L2 norm.

    Attributes:
        method: Its name in recipes and ledgers.
        adapts: Whether the bound moves from step to step. Where it does not, it is
            `clipping_norm`.
        clipping_norm: L2 sensitivity of the (first) sum to adding or removing one example.
    """

    method: ClassVar[str]
    adapts: ClassVar[bool]

    @property
    def clipping_norm(self) -> float: ...

    def grouping(self, paths: Sequence[str]) -> Grouping:
        """Groups the trainable variables with these paths.

        Raises:
            SettingError: If the method does not fit the model's variables.
        """
        ...

    def factors(self, norms: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
        """What each gradient is multiplied by.

        Args:
            norms: float32 (records, groups).
            bounds: float32 (groups,).

        Returns:
            float32 (records, groups), each at most `bounds / norms`.
        """
        ...

    def limits(self, bounds: tf.Tensor) -> tf.Tensor:
        """Norms beyond which gradients are cut, float32 (groups,), at these bounds."""
        ...

    def noise_stddev(self, noise_multiplier: float, batch_size: int) -> float:
        """Standard deviation of the noise on the (first) sum."""
        ...

    def query(self, noise_multiplier: float, batch_size: int) -> Any:
        """TF-Privacy's query that adds the noise, at `batch_size` expected examples a step."""
        ...

    def describe(self, unit: str = "example") -> str:
        """One clause for the statement of the guarantee, in which a record is called `unit`."""
        ...


class FixedBound:
    """Shared by the methods whose bound is the same at every step."""

    adapts: ClassVar[bool] = False
    clipping_norm: float

    def factors(self, norms: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
        return hard_factors(norms, bounds)

    def limits(self, bounds: tf.Tensor) -> tf.Tensor:
        return bounds

    def noise_stddev(self, noise_multiplier: float, batch_size: int) -> float:
        return noise_multiplier * self.clipping_norm

    def query(self, noise_multiplier: float, batch_size: int) -> ReplayableGaussianSumQuery:
        stddev = self.noise_stddev(noise_multiplier, batch_size)
        return ReplayableGaussianSumQuery(self.clipping_norm, stddev)


def hard_factors(norms: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
    """min(1, bound / norm): gradients within the bound stay as they are."""
    return tf.where(norms > bounds, bounds / norms, 1.0)


def one_group(paths: Sequence[str]) -> Grouping:
    """All variables together."""
    return Grouping((0,) * len(paths), (1.0,))
