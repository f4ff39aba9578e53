"""Name in a recipe -> clipping method. The one place to add to."""

from __future__ import annotations

from collections.abc import Callable

from configs.schema import ClippingSettings
from training.privacy.clip_methods.adaptive import AdaptiveClipping
from training.privacy.clip_methods.automatic import AutomaticClipping
from training.privacy.clip_methods.base import ClipMethod
from training.privacy.clip_methods.flat import FlatClipping
from training.privacy.clip_methods.global_adapt import GlobalAdaptClipping
from training.privacy.clip_methods.grouped import GroupClipping
from training.privacy.clip_methods.per_layer import PerLayerClipping

CLIP_METHODS: dict[str, type] = {
    cls.method: cls
    for cls in (
        FlatClipping,
        PerLayerClipping,
        GroupClipping,
        AutomaticClipping,
        AdaptiveClipping,
        GlobalAdaptClipping,
    )
}


def _adaptive(settings: ClippingSettings, clipping_norm: float) -> ClipMethod:
    quantile = 0.5 if settings.target_quantile is None else settings.target_quantile
    return AdaptiveClipping(clipping_norm, quantile, settings.learning_rate, settings.count_share)


def _global_adapt(settings: ClippingSettings, clipping_norm: float) -> ClipMethod:
    return GlobalAdaptClipping(
        clipping_norm,
        clipping_norm if settings.threshold is None else settings.threshold,
        0.9 if settings.target_quantile is None else settings.target_quantile,
        settings.learning_rate,
        settings.count_share,
    )


_BUILDERS: dict[str, Callable[[ClippingSettings, float], ClipMethod]] = {
    "flat": lambda settings, norm: FlatClipping(norm),
    "per_layer": lambda settings, norm: PerLayerClipping(norm),
    "groups": lambda settings, norm: GroupClipping(norm, tuple(settings.groups)),
    "automatic": lambda settings, norm: AutomaticClipping(norm, settings.stability),
    "adaptive": _adaptive,
    "global_adapt": _global_adapt,
}


def build_clip_method(settings: ClippingSettings, clipping_norm: float) -> ClipMethod:
    """The recipe's clipping method with total bound `clipping_norm`.

    Raises:
        SettingError: If the settings contradict `clipping_norm`.
    """
    return _BUILDERS[settings.method](settings, clipping_norm)
