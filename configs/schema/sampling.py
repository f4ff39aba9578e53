"""Settings of the `privacy.sampling` section: how batches are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SamplingSettings:
    """How batches are drawn.

    Attributes:
        method: `poisson`: each example independently with probability batch_size / N.
    """

    method: Literal["poisson"] = "poisson"
