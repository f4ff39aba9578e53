"""How each example's gradient is bounded. One file a method.

A method is a frozen dataclass of public numbers. `clipping_norm` is what the guarantee rests on:
adding or removing one example moves the sum of bounded gradients by no more than that in L2 norm.
"""

from training.privacy.clip_methods.base import ClipMethod
from training.privacy.clip_methods.flat import FlatClipping
from training.privacy.clip_methods.registry import CLIP_METHODS, build_clip_method

__all__ = ["CLIP_METHODS", "ClipMethod", "FlatClipping", "build_clip_method"]
