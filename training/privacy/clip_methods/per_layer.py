"""Per-layer clipping: every layer's gradient by itself (McMahan et al. 2018, arXiv:1710.06963).

K layers have the bound C / sqrt(K) each, so that all together stay within C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from training.privacy.clip_methods.base import FixedBound, Grouping


@dataclass(frozen=True)
class PerLayerClipping(FixedBound):
    """Each example's gradient in each layer, scaled down to its share of `clipping_norm`.

    A layer is what owns variables: the part of a variable's path before its own name.
    """

    method: ClassVar[str] = "per_layer"
    clipping_norm: float

    def grouping(self, paths: Sequence[str]) -> Grouping:
        owners = [path.rpartition("/")[0] for path in paths]
        layers = list(dict.fromkeys(owners))
        share = len(layers) ** -0.5 if layers else 1.0
        return Grouping(tuple(map(layers.index, owners)), (share,) * max(1, len(layers)))

    def describe(self, unit: str = "example") -> str:
        return (
            f"per-{unit} gradients clipped layer by layer, every layer to the same L2 norm and "
            f"all layers together to {self.clipping_norm:g}"
        )
