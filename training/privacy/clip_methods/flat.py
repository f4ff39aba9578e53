"""Flat clipping: all trainable variables together (Abadi et al. 2016, arXiv:1607.00133)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from training.privacy.clip_methods.base import FixedBound, Grouping, one_group


@dataclass(frozen=True)
class FlatClipping(FixedBound):
    """Each example's gradient over all trainable variables, scaled down to `clipping_norm`."""

    method: ClassVar[str] = "flat"
    clipping_norm: float

    def grouping(self, paths: Sequence[str]) -> Grouping:
        return one_group(paths)

    def describe(self, unit: str = "example") -> str:
        return f"per-{unit} gradients clipped to L2 norm {self.clipping_norm:g}"
