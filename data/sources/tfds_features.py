"""How a TFDS feature is read as an input, a label or a group attribute.

Promises: names of a `ClassLabel` are kept; a feature that cannot play its part is a `SettingError`
before any example is read. One table per part says which features can play it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema.errors import SettingError, require
from data.columns import Column, MemoryColumn, bytes_column

GROUP_THRESHOLD = 0.5
BELOW, FROM = f"< {GROUP_THRESHOLD}", f">= {GROUP_THRESHOLD}"


@dataclass(frozen=True)
class Reading:
    """How values of one feature become names.

    Attributes:
        path: Keys that lead to the feature.
        name_of: Value to name, None where it is missing.
        names: All names in index order, where the feature fixes them.
    """

    path: tuple[str, ...]
    name_of: Callable[[Any], str | None]
    names: tuple[str, ...] | None = None

    def read(self, example: Mapping[str, Any]) -> str | None:
        """Returns the name of an example's value."""
        return self.name_of(value_at(example, self.path))


@dataclass(frozen=True)
class Input:
    """The feature that models see.

    Attributes:
        path: Keys that lead to the feature.
        shape: Shape of a value that is a uint8 tensor; None where values are bytes: text, or an
            encoded image that TFDS is told not to decode.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...] | None = None

    @property
    def is_encoded(self) -> bool:
        """Whether values are bytes."""
        return self.shape is None

    def column(self, values: Sequence[Any]) -> Column:
        """Returns values that were read as a column in memory."""
        if self.shape is None:
            return bytes_column(values)
        return MemoryColumn(np.array(values, np.uint8).reshape((len(values), *self.shape)))


def value_at(example: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Returns the value that a sequence of keys leads to."""
    value: Any = example
    for key in path:
        value = value[key]
    return value


def nested(path: Sequence[str], leaf: Any) -> Any:
    """Returns the dict of dicts in which `path` leads to `leaf`."""
    for key in reversed(path):
        leaf = {key: leaf}
    return leaf


def leaves(features: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Returns path -> feature for everything below a `FeaturesDict`."""
    if not hasattr(features, "items"):
        return {prefix: features}
    found: dict[tuple[str, ...], Any] = {}
    for key, feature in features.items():
        found.update(leaves(feature, (*prefix, key)))
    return found


def find(features: Any, key: str, name: str) -> tuple[tuple[str, ...], Any]:
    """Returns path and feature of a dotted name.

    Raises:
        SettingError: There is no such feature; the line lists those there are.
    """
    by_name = {".".join(path): (path, feature) for path, feature in leaves(features).items()}
    require(name in by_name, key, name, f"one of the features {list(by_name)}")
    return by_name[name]


def text_input(features: Any, name: str) -> Input:
    """Returns the text feature of that name."""
    key = "data.tfds.text"
    path, feature = find(features, key, name)
    require(_is_scalar(feature) and _is_string(feature), key, name, "a text feature")
    return Input(path)


def image_input(features: Any, name: str) -> Input:
    """Returns the image feature of that name: an `Image`, or a uint8 tensor of fixed shape."""
    import tensorflow_datasets as tfds

    key = "data.tfds.image"
    path, feature = find(features, key, name)
    is_image = isinstance(feature, tfds.features.Image)
    is_tensor = isinstance(feature, tfds.features.Tensor) and len(feature.shape) == 3
    uint8 = (is_image or is_tensor) and np.dtype(feature.np_dtype) == np.uint8
    require(
        uint8 and (is_image or None not in feature.shape),
        key,
        name,
        "an Image feature of uint8, or a uint8 tensor (height, width, channels) of fixed shape",
    )
    return Input(path, None if is_image else tuple(feature.shape))


def label_reading(
    features: Any, name: str, threshold: float | None, label_names: Sequence[str] | None
) -> Reading:
    """Returns how the label of that name is read.

    Args:
        features: The dataset's features.
        name: Dotted name of the label feature.
        threshold: `data.tfds.label_threshold`.
        label_names: `data.label_names`; with a threshold, names of below and above.
    """
    key = "data.tfds.label"
    path, feature = find(features, key, name)
    if threshold is None:
        require(
            not (_is_scalar(feature) and _is_float(feature)),
            "data.tfds.label_threshold",
            None,
            f"a number, because the label {name!r} is a float feature",
        )
        return _named(key, name, path, feature)
    names = tuple(label_names or ("0", "1"))
    require(len(names) == 2, "data.label_names", label_names, "two names: below, and from it on")
    numeric = _is_scalar(feature) and not _is_class(feature) and not _is_string(feature)
    require(numeric, "data.tfds.label_threshold", threshold, f"none: {name!r} is not a number")

    def side(value: Any) -> str | None:
        return None if math.isnan(value) else names[int(value >= threshold)]

    return Reading(path, side, names)


def group_reading(features: Any, name: str) -> Reading:
    """Returns how the group attribute of that name is read."""
    key = "data.tfds.groups"
    path, feature = find(features, key, name)
    if not (_is_scalar(feature) and _is_float(feature)):
        return _named(key, name, path, feature)

    def side(value: Any) -> str | None:
        return None if math.isnan(value) else (FROM if value >= GROUP_THRESHOLD else BELOW)

    return Reading(path, side, (BELOW, FROM))


def user_reading(features: Any, name: str) -> Reading:
    """Returns how the feature that names an example's user is read."""
    path, feature = find(features, "data.user", name)
    return _named("data.user", name, path, feature)


def _named(key: str, name: str, path: tuple[str, ...], feature: Any) -> Reading:
    if _is_class(feature):
        names = tuple(feature.int2str(index) for index in range(feature.num_classes))
        return Reading(path, lambda value: names[value] if value >= 0 else None, names)
    for accepts, name_of, names_of_feature in _NAMED:
        if _is_scalar(feature) and accepts(feature):
            return Reading(path, name_of, names_of_feature)
    raise SettingError(key, name, f"a feature of one value per example, not {feature!r}")


def _is_class(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.ClassLabel)


def _is_scalar(feature: Any) -> bool:
    return getattr(feature, "shape", None) == ()


def _is_string(feature: Any) -> bool:
    return np.dtype(feature.np_dtype).kind in "OSU"


def _is_float(feature: Any) -> bool:
    # bfloat16 is of kind "V" to NumPy, yet no TFDS label is one.
    return np.dtype(feature.np_dtype).kind == "f"


def _of_kind(kinds: str) -> Callable[[Any], bool]:
    return lambda feature: np.dtype(feature.np_dtype).kind in kinds


_NAMED: tuple[
    tuple[Callable[[Any], bool], Callable[[Any], str | None], tuple[str, ...] | None], ...
] = (
    (_of_kind("b"), lambda value: str(bool(value)).lower(), ("false", "true")),
    (_of_kind("iu"), lambda value: str(int(value)), None),
    (_is_string, lambda value: value.decode(errors="replace") or None, None),
)
