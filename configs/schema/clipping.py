"""Settings of the `privacy.clipping` section: how every example's gradient is bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ClippingSettings:
    """How every example's gradient is bounded by `privacy.clipping_norm`.

    Attributes:
        method: `flat`: all trainable variables together.
    """

    method: Literal["flat"] = "flat"
