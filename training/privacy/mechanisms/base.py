"""What every mechanism offers to the plan and to the step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from training.randomness import Randomness


@dataclass(frozen=True)
class Draws:
    """The noise of one step, `stddev` times

        sum_j coefficients[j] * N(0, 1) drawn from seeds[j]  +  sum_k feedback[k] * memory[k]

    where `memory` holds the noise of earlier steps (`training.privacy.noise_memory`); most
    mechanisms have none.

    Attributes:
        seeds: int64 (terms, tensors, 2): for each term and each released tensor a seed.
        coefficients: float32 (terms,). Those that are not zero come first: noise is drawn for
            them alone.
        feedback: float32 (slots,): what remains of each remembered noise.
        slot: Where this step's noise is remembered, in place of the oldest.
    """

    seeds: np.ndarray
    coefficients: np.ndarray
    feedback: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    slot: int = 0


class Mechanism(Protocol):
    """A noise mechanism: public numbers only.

    Attributes:
        method: Its name in recipes and ledgers.
        noise_multiplier: Noise standard deviation divided by the sensitivity of one step's sum,
            at coefficient 1.
        slots: Noises of earlier steps that a step needs; 0 where seeds suffice.
        needs_one_root: Whether a run that is resumed must go on with the same randomness, because
            its accounting knows no step that is drawn anew.
    """

    method: ClassVar[str]

    @property
    def noise_multiplier(self) -> float: ...

    @property
    def slots(self) -> int: ...

    @property
    def needs_one_root(self) -> bool: ...

    def with_noise(self, noise_multiplier: float) -> Any:
        """The same mechanism at another noise multiplier; calibration looks for the least."""
        ...

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        """The noise of `step` for `tensors` released tensors."""
        ...

    def describe(self, stddev: float) -> str:
        """One clause for the statement of the guarantee; `stddev` is noise in the sum's units."""
        ...
