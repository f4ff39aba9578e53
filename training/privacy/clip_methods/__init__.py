"""How each example's gradient is bounded. One file a method.

A method is a frozen dataclass of public numbers. `clipping_norm` is what the guarantee rests on:
adding or removing one example moves the sum of bounded gradients by no more than that in L2 norm.
A method says which variables are bounded together (`grouping`) and by which factor (`factors`).
"""

from training.privacy.clip_methods.adaptive import AdaptiveClipping
from training.privacy.clip_methods.automatic import AutomaticClipping
from training.privacy.clip_methods.base import ClipMethod, Grouping
from training.privacy.clip_methods.counted import CountedQuantile
from training.privacy.clip_methods.flat import FlatClipping
from training.privacy.clip_methods.global_adapt import GlobalAdaptClipping
from training.privacy.clip_methods.grouped import GroupClipping
from training.privacy.clip_methods.per_layer import PerLayerClipping
from training.privacy.clip_methods.registry import CLIP_METHODS, build_clip_method

__all__ = [
    "CLIP_METHODS",
    "AdaptiveClipping",
    "AutomaticClipping",
    "ClipMethod",
    "CountedQuantile",
    "FlatClipping",
    "GlobalAdaptClipping",
    "GroupClipping",
    "Grouping",
    "PerLayerClipping",
    "build_clip_method",
]
