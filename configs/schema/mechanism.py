"""Settings of the `privacy.mechanism` section: how noise is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MechanismSettings:
    """How noise is added to the clipped sums.

    Attributes:
        method: `gaussian`: independent Gaussian noise at every step (DP-SGD).
    """

    method: Literal["gaussian"] = "gaussian"
