"""Predictions: all that the evaluation room knows of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """A model's answers over a whole split, beside the truth.

    Attributes:
        logits: float32 (examples, classes).
        labels: int32 (examples,).
        label_names: Label values in index order.
        groups: Attribute -> int32 (examples,).
        group_names: Attribute -> its value names in index order.
        ids: int64 (examples,), position of each example in its split.
        split: Name of the split; `train` measurements are not covered by a privacy guarantee
            and are marked so by every sink.
    """

    logits: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    groups: Mapping[str, np.ndarray]
    group_names: Mapping[str, tuple[str, ...]]
    ids: np.ndarray
    split: str = "test"
