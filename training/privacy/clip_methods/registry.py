"""Name in a recipe -> clipping method. The one place to add to."""

from __future__ import annotations

from configs.schema import ClippingSettings
from training.privacy.clip_methods.base import ClipMethod
from training.privacy.clip_methods.flat import FlatClipping

CLIP_METHODS: dict[str, type] = {cls.method: cls for cls in (FlatClipping,)}


def build_clip_method(settings: ClippingSettings, clipping_norm: float) -> ClipMethod:
    """The recipe's clipping method with total bound `clipping_norm`."""
    method: ClipMethod = CLIP_METHODS[settings.method](clipping_norm)
    return method
