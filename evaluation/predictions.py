"""Predictions: all that the evaluation room knows of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from configs.schema.errors import UserError


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

    Raises:
        UserError: If there are no examples, or the parts do not fit one another.
    """

    logits: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    groups: Mapping[str, np.ndarray]
    group_names: Mapping[str, tuple[str, ...]]
    ids: np.ndarray
    split: str = "test"

    def __post_init__(self) -> None:
        examples, classes = len(self.labels), len(self.label_names)
        if examples == 0:
            raise UserError(f"split {self.split!r} has no examples: nothing can be measured")
        if self.logits.shape != (examples, classes):
            raise UserError(
                f"split {self.split!r}: expected logits of shape ({examples}, {classes}), "
                f"a row per example and a column per label. Received: {self.logits.shape}"
            )
        self._check_indices("labels", self.labels, classes)
        for attribute, values in self.groups.items():
            if attribute not in self.group_names:
                raise UserError(f"group attribute {attribute!r} has no value names")
            self._check_indices(f"groups {attribute!r}", values, len(self.group_names[attribute]))

    def _check_indices(self, what: str, values: np.ndarray, count: int) -> None:
        if values.shape != (len(self.labels),):
            raise UserError(
                f"split {self.split!r}: expected {len(self.labels)} {what}. "
                f"Received: shape {values.shape}"
            )
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= count:
            raise UserError(
                f"split {self.split!r}: expected {what} in 0 to {count - 1}. "
                f"Received: {low} to {high}"
            )

    def predicted(self) -> np.ndarray:
        """Returns the label of the largest logit, int64 (examples,); NaN counts as smallest."""
        return np.where(np.isnan(self.logits), -np.inf, self.logits).argmax(axis=1)

    def log_probabilities(self) -> np.ndarray:
        """Returns log softmax of the logits, float64 (examples, classes)."""
        logits = self.logits.astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    def has_finite_logits(self) -> bool:
        """Whether every logit is a number; without that, no probability can be spoken of."""
        return bool(np.isfinite(self.logits).all())
