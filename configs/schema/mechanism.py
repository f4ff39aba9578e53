"""Settings of the `privacy.mechanism` section: how noise is added."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from configs.schema.errors import require


@dataclass(frozen=True)
class MechanismSettings:
    """How noise is added to the clipped sums.

    Attributes:
        method: `gaussian`: independent Gaussian noise at every step (DP-SGD). `tree`: noise
            correlated by tree aggregation (DP-FTRL), for shuffled sampling.
            `banded_matrix_factorization`: every step takes back part of the noise of the steps
            before, for cyclic or shuffled sampling.
        schedule: With `gaussian`, how the noise multiplier goes over the run: `constant`; `linear`
            or `exponential` from 1 to `final_factor` times its value, in stairs; `step` by
            `milestones`.
        final_factor: Factor on the noise multiplier at the end of the run.
        milestones: Step -> factor on the noise multiplier from that step on.
        bands: With `banded_matrix_factorization`, steps over which noise is correlated; none takes
            `privacy.sampling.bands` with cyclic sampling, else 8. Takes memory for bands - 1 copies
            of the trained weights.
    """

    method: Literal["gaussian", "tree", "banded_matrix_factorization"] = "gaussian"
    schedule: Literal["constant", "linear", "exponential", "step"] = "constant"
    final_factor: float = 1.0
    milestones: dict[int, float] = field(default_factory=dict)
    bands: Optional[int] = None

    def __post_init__(self) -> None:
        key = "privacy.mechanism"
        require(
            self.schedule == "constant" or self.method == "gaussian",
            f"{key}.schedule",
            self.schedule,
            f"constant where {key}.method is {self.method}: nothing is proven about others",
        )
        require(
            0 < self.final_factor < inf,
            f"{key}.final_factor",
            self.final_factor,
            "a number > 0",
        )
        require(
            self.final_factor == 1.0 or self.schedule in ("linear", "exponential"),
            f"{key}.final_factor",
            self.final_factor,
            f"{key}.schedule: linear or exponential beside it",
        )
        require(
            all(step >= 0 and 0 < factor < inf for step, factor in self.milestones.items()),
            f"{key}.milestones",
            self.milestones,
            "steps >= 0, each with a factor > 0",
        )
        require(
            bool(self.milestones) == (self.schedule == "step"),
            f"{key}.milestones",
            self.milestones,
            f"steps with factors where, and only where, {key}.schedule is step",
        )
        require(
            self.bands is None
            or (self.bands >= 2 and self.method == "banded_matrix_factorization"),
            f"{key}.bands",
            self.bands,
            f"a whole number >= 2 where {key}.method is banded_matrix_factorization, else null",
        )
