"""Banded matrix factorisation (Choquette-Choo et al. 2023, arXiv:2306.08153; McKenna 2024).

The noise of step t is `z_t - sum_(j<b) c_j noise_(t-j)` with fresh Gaussian z_t: C^-1 z for the
banded Toeplitz matrix C of `training.privacy.mechanisms.toeplitz`. Each step thereby takes back
part of what the b - 1 steps before added, so that prefix sums, which are what training follows,
carry less noise; and b = 1 would be DP-SGD.

Why C is banded and not its inverse: only for banded C is amplification by sampling proven, and
amplification is most of what makes noise small. The price is that C^-1 is not banded: the noise of
b - 1 earlier steps must be at hand. They are kept in memory and never written to a disk, where they
would undo the guarantee; a run that is resumed computes them again from its root
(`training.privacy.noise_memory`).

Guarantees (what epsilon depends on):
    Cyclic Poisson sampling in at least b groups: two steps of one example are at least b apart, so
    their columns of C share no row, and the run is as private as ceil(steps / groups) rounds of a
    Gaussian mechanism of this noise multiplier on Poisson samples of the example's own group
    (theorem 4 and algorithm 2 there).

    Epochs, each example once in each: a Gaussian mechanism whose squared sensitivity
    `toeplitz.squared_sensitivity_of_epochs` gives; no amplification is claimed.

    Steps may depend on what was released before (Denisov et al. 2022, arXiv:2202.08312, theorem
    2.1; for sampled batches theorem 4 above).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from configs.schema import require
from training.privacy.mechanisms.base import Draws
from training.randomness import Randomness


@dataclass(frozen=True)
class BandedMechanism:
    """Gaussian noise of which every step takes back part of what the steps before added.

    Attributes:
        noise_multiplier: Standard deviation of C x's noise z over the sensitivity of one
            participation (clipping norm times the norm of C's columns).
        coefficients: c_0 = 1, c_1 ... c_(b-1) of C; b >= 2, none negative.
    """

    method: ClassVar[str] = "banded_matrix_factorization"
    needs_one_root: ClassVar[bool] = True
    noise_multiplier: float
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        require(
            len(self.coefficients) >= 2
            and self.coefficients[0] == 1.0
            and min(self.coefficients) >= 0.0,
            "privacy.mechanism.coefficients",
            self.coefficients,
            "two or more numbers >= 0 of which the first is 1",
        )

    @property
    def bands(self) -> int:
        return len(self.coefficients)

    @property
    def slots(self) -> int:
        return self.bands - 1

    @property
    def column_norm(self) -> float:
        """L2 norm of C's columns: how much C widens one participation."""
        return float(np.linalg.norm(self.coefficients))

    def with_noise(self, noise_multiplier: float) -> BandedMechanism:
        return replace(self, noise_multiplier=noise_multiplier)

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        seeds = randomness.stateless_seeds("noise", step, tensors)
        feedback = np.zeros(self.slots, np.float32)
        for back in range(1, self.bands):
            # What no step has filled yet is zero.
            feedback[(step - back) % self.slots] = -self.coefficients[back]
        return Draws(
            seeds[None], np.full(1, self.column_norm, np.float32), feedback, step % self.slots
        )

    def describe(self, stddev: float) -> str:
        return (
            f"noise correlated over {self.bands} steps by banded matrix factorisation, from fresh "
            f"Gaussian noise of standard deviation {stddev * self.column_norm:.6g} a step (noise "
            f"multiplier {self.noise_multiplier:.6g}, column norm {self.column_norm:.6g})"
        )
