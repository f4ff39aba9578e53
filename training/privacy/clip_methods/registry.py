"""Name in a recipe -> clipping method. The one place to add to."""

from __future__ import annotations

from collections.abc import Callable

from configs.schema import ClippingSettings
from training.privacy.clip_methods.adaptive import AdaptiveClipping
from training.privacy.clip_methods.automatic import AutomaticClipping
from training.privacy.clip_methods.base import ClipMethod
from training.privacy.clip_methods.flat import FlatClipping
from training.privacy.clip_methods.grouped import GroupClipping
from training.privacy.clip_methods.per_layer import PerLayerClipping

CLIP_METHODS: dict[str, type] = {
    cls.method: cls
    for cls in (FlatClipping, PerLayerClipping, GroupClipping, AutomaticClipping, AdaptiveClipping)
}


def _adaptive(settings: ClippingSettings, clipping_norm: float) -> ClipMethod:
    return AdaptiveClipping(
        clipping_norm, settings.target_quantile, settings.learning_rate, settings.count_share
    )


_BUILDERS: dict[str, Callable[[ClippingSettings, float], ClipMethod]] = {
    "flat": lambda settings, norm: FlatClipping(norm),
    "per_layer": lambda settings, norm: PerLayerClipping(norm),
    "groups": lambda settings, norm: GroupClipping(norm, tuple(settings.groups)),
    "automatic": lambda settings, norm: AutomaticClipping(norm, settings.stability),
    "adaptive": _adaptive,
}


def build_clip_method(settings: ClippingSettings, clipping_norm: float) -> ClipMethod:
    """The recipe's clipping method with total bound `clipping_norm`.

    Raises:
        SettingError: If the settings contradict `clipping_norm`.
    """
    return _BUILDERS[settings.method](settings, clipping_norm)
