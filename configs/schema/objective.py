"""Settings of the `objective` section: what is added to the task loss beside unfairness."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from configs.schema.errors import require


@dataclass(frozen=True)
class ObjectiveSettings:
    """F = task loss + alpha unfairness + beta opacity + gamma leakage; `docs/objective.md`.

    Alpha is `fairness.penalty.weight`, beside what it weighs.

    Attributes:
        opacity_weight: Beta, >= 0. Opacity is the squared gradient of an example's loss by its
            inputs (of text, by its embeddings): how much small things sway the answer. Not with
            privacy, because it needs gradients of gradients.
        leakage_weight: Gamma, >= 0. Leakage is an answer's confidence, log(labels) less its
            entropy: what tells a training example from another. With privacy too.
    """

    opacity_weight: float = 0.0
    leakage_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("opacity_weight", "leakage_weight"):
            value = getattr(self, name)
            require(0 <= value < inf, f"objective.{name}", value, "a number >= 0")

    def require_private(self) -> None:
        """Refuses what the private engine has no per-example gradient of.

        Raises:
            SettingError: Naming what to use instead.
        """
        require(
            self.opacity_weight == 0,
            "objective.opacity_weight",
            self.opacity_weight,
            "0 with privacy: its gradient is one of second order, and examples are clipped by "
            "their gradients of first order. objective.leakage_weight works with privacy",
        )
