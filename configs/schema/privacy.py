"""Settings of the `privacy` section: the guarantee asked for, and how it is to be met."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from configs.schema.clipping import ClippingSettings
from configs.schema.errors import require
from configs.schema.mechanism import MechanismSettings
from configs.schema.sampling import SamplingSettings


@dataclass(frozen=True)
class PrivacySettings:
    """The differential-privacy guarantee asked for.

    Attributes:
        enabled: Train privately (DP-SGD). When false every other setting here is ignored.
        epsilon: Target privacy loss; the noise multiplier is calibrated to it. Give this or
            `noise_multiplier`, not both.
        noise_multiplier: Standard deviation of the noise divided by `clipping_norm`.
        delta: Probability with which epsilon may fail; none takes N^-1.1 for N training examples.
        clipping_norm: Bound on every example's gradient L2 norm.
        clipping: How every example's gradient is bounded.
        memory_budget: GB that per-example gradients may hold at once to save time (a replica); 0
            holds none, none as much as the trained weights take. Changes no guarantee;
            `sterling check-private --explain` shows what each layer does with it.
        sampling: How batches are drawn.
        mechanism: How noise is added.
        accountant: How epsilon is computed: privacy loss distribution or Renyi.
    """

    enabled: bool = False
    epsilon: Optional[float] = None
    noise_multiplier: Optional[float] = None
    delta: Optional[float] = None
    clipping_norm: float = 1.0
    memory_budget: Optional[float] = None
    clipping: ClippingSettings = field(default_factory=ClippingSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    mechanism: MechanismSettings = field(default_factory=MechanismSettings)
    accountant: Literal["pld", "rdp"] = "pld"

    def __post_init__(self) -> None:
        require(
            self.epsilon is None or 0 < self.epsilon < inf,
            "privacy.epsilon",
            self.epsilon,
            "a number > 0",
        )
        require(
            self.noise_multiplier is None or 0 < self.noise_multiplier < inf,
            "privacy.noise_multiplier",
            self.noise_multiplier,
            "a number > 0",
        )
        require(
            self.delta is None or 0 < self.delta < 1,
            "privacy.delta",
            self.delta,
            "a probability in (0, 1)",
        )
        require(
            0 < self.clipping_norm < inf,
            "privacy.clipping_norm",
            self.clipping_norm,
            "a number > 0",
        )
        require(
            self.memory_budget is None or 0 <= self.memory_budget < inf,
            "privacy.memory_budget",
            self.memory_budget,
            "a number of GB >= 0",
        )
        if self.enabled:
            require(
                self.epsilon is not None or self.noise_multiplier is not None,
                "privacy.epsilon",
                self.epsilon,
                "a number > 0, because privacy is enabled and privacy.noise_multiplier is not set",
            )
            require(
                self.epsilon is None or self.noise_multiplier is None,
                "privacy.noise_multiplier",
                self.noise_multiplier,
                f"null where privacy.epsilon is set (it is {self.epsilon}); one follows from the "
                "other",
            )
