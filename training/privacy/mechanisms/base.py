"""What every mechanism offers to the plan and to the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from training.randomness import Randomness


@dataclass(frozen=True)
class Draws:
    """The noise of one step: `stddev * sum_j coefficients[j] * N(0, 1) drawn from seeds[j]`.

    Attributes:
        seeds: int64 (terms, tensors, 2): for each term and each released tensor a seed.
        coefficients: float32 (terms,).
    """

    seeds: np.ndarray
    coefficients: np.ndarray


class Mechanism(Protocol):
    """A noise mechanism: public numbers only.

    Attributes:
        method: Its name in recipes and ledgers.
        noise_multiplier: Noise standard deviation divided by the sensitivity of one step's sum,
            at coefficient 1.
    """

    method: ClassVar[str]

    @property
    def noise_multiplier(self) -> float: ...

    def with_noise(self, noise_multiplier: float) -> Any:
        """The same mechanism at another noise multiplier; calibration looks for the least."""
        ...

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        """The noise of `step` for `tensors` released tensors."""
        ...

    def describe(self, stddev: float) -> str:
        """One clause for the statement of the guarantee; `stddev` is noise in the sum's units."""
        ...
