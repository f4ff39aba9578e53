"""Independent Gaussian noise at every step: DP-SGD (Abadi et al. 2016, arXiv:1607.00133)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from training.privacy.mechanisms.base import Draws
from training.randomness import Randomness


@dataclass(frozen=True)
class GaussianMechanism:
    """N(0, (noise_multiplier * sensitivity)^2) on every coordinate, fresh at every step."""

    method: ClassVar[str] = "gaussian"
    noise_multiplier: float

    def with_noise(self, noise_multiplier: float) -> GaussianMechanism:
        return replace(self, noise_multiplier=noise_multiplier)

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        seeds = randomness.stateless_seeds("noise", step, tensors)
        return Draws(seeds[None], np.ones(1, np.float32))

    def describe(self, stddev: float) -> str:
        return (
            f"independent Gaussian noise of standard deviation {stddev:.6g} "
            f"(noise multiplier {self.noise_multiplier:.6g})"
        )
