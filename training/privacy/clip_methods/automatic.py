"""Automatic clipping: gradients normalised, not cut (Bu et al. 2023, arXiv:2206.07136, AUTO-S).

Every example's gradient g becomes C g / (|g| + gamma). The bound then only scales the learning
rate, so it needs no tuning: leave it at 1. Small gradients keep their order of size by gamma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from training.privacy.clip_methods.base import FixedBound, Grouping, one_group


@dataclass(frozen=True)
class AutomaticClipping(FixedBound):
    """Each example's gradient over all trainable variables, brought to about `clipping_norm`.

    Attributes:
        clipping_norm: What large gradients' norms become.
        stability: gamma > 0: gradients much smaller than this stay small.
    """

    method: ClassVar[str] = "automatic"
    clipping_norm: float
    stability: float = 0.01

    def grouping(self, paths: Sequence[str]) -> Grouping:
        return one_group(paths)

    def factors(self, norms: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
        return bounds / (norms + self.stability)

    def describe(self, unit: str = "example") -> str:
        return (
            f"per-{unit} gradients g normalised to {self.clipping_norm:g} g / (|g| + "
            f"{self.stability:g}), so to an L2 norm below {self.clipping_norm:g}"
        )
