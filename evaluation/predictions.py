"""Predictions: all that the evaluation room knows of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from configs.schema.errors import UserError

_ROUNDING = 1e-4  # of probabilities that must sum to 1, written in a file with few digits


@dataclass(frozen=True)
class Predictions:
    """A model's answers over a whole split, beside the truth.

    A task either labels examples or the tokens of examples. A token is an event of its example's
    group; `events` gives the tokens as rows.

    Attributes:
        logits: float32 (examples, classes), or (examples, tokens, classes).
        labels: int32 (examples,), or (examples, tokens).
        label_names: Label values in index order.
        groups: Attribute -> int32 (examples,).
        group_names: Attribute -> its value names in index order.
        ids: int64 (examples,), position of each example in its split.
        split: Name of the split; `train` measurements are not covered by a privacy guarantee
            and are marked so by every sink.
        mask: bool (examples, tokens), False where a token is not counted; None for a task that
            labels examples.
        soft_groups: Attribute -> float (examples, values), the probability of each value, for
            attributes whose groups are inferred; rows sum to 1.
        example_of: int64 (rows,), where rows are tokens: the example each belongs to.

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
    mask: np.ndarray | None = None
    soft_groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    example_of: np.ndarray | None = None

    def __post_init__(self) -> None:
        labels, classes = self.labels, len(self.label_names)
        if len(labels) == 0:
            raise UserError(f"split {self.split!r} has no examples: nothing can be measured")
        if self.logits.shape != (*labels.shape, classes):
            shape = ", ".join(map(str, (*labels.shape, classes)))
            raise UserError(
                f"split {self.split!r}: expected logits of shape ({shape}), "
                f"a row per example and a column per label. Received: {self.logits.shape}"
            )
        if labels.ndim == 2 and (self.mask is None or self.mask.shape != labels.shape):
            received = None if self.mask is None else self.mask.shape
            raise UserError(
                f"split {self.split!r}: expected a mask of shape {labels.shape}, True where a "
                f"token is counted. Received: {received}"
            )
        counted = labels if labels.ndim == 1 or self.mask is None else labels[self.mask]
        if len(counted) == 0:
            raise UserError(f"split {self.split!r} has no tokens to count: its mask is all False")
        self._check_indices("labels", counted, classes)
        for attribute, values in self.groups.items():
            names = self._names_of(attribute)
            if values.shape != (len(labels),):
                raise UserError(
                    f"split {self.split!r}: expected {len(labels)} groups {attribute!r}. "
                    f"Received: shape {values.shape}"
                )
            self._check_indices(f"groups {attribute!r}", values, len(names))
        for attribute, shares in self.soft_groups.items():
            self._check_shares(attribute, shares, len(self._names_of(attribute)))

    @property
    def attributes(self) -> tuple[str, ...]:
        """The group attributes, certain ones first."""
        return (*self.groups, *(name for name in self.soft_groups if name not in self.groups))

    @property
    def example_count(self) -> int:
        """Examples, also where the rows are their tokens."""
        if self.example_of is None:
            return len(self.labels)
        return int(self.example_of.max()) + 1

    def events(self) -> Predictions:
        """Returns what is counted, one row each: the counted tokens, or the examples themselves."""
        if self.labels.ndim == 1 or self.mask is None:
            return self
        example, _ = np.nonzero(self.mask)
        return replace(
            self,
            logits=self.logits[self.mask],
            labels=self.labels[self.mask],
            groups={name: values[example] for name, values in self.groups.items()},
            ids=self.ids[example],
            mask=None,
            soft_groups={name: shares[example] for name, shares in self.soft_groups.items()},
            example_of=example,
        )

    def predicted(self) -> np.ndarray:
        """Returns the label of the largest logit, int64; NaN counts as smallest."""
        return np.where(np.isnan(self.logits), -np.inf, self.logits).argmax(axis=-1)

    def log_probabilities(self) -> np.ndarray:
        """Returns log softmax of the logits, float64, of the logits' shape."""
        logits = self.logits.astype(np.float64)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    def has_finite_logits(self) -> bool:
        """Whether every logit is a number; without that, no probability can be spoken of."""
        return bool(np.isfinite(self.logits).all())

    def _names_of(self, attribute: str) -> tuple[str, ...]:
        if attribute not in self.group_names:
            raise UserError(f"group attribute {attribute!r} has no value names")
        return self.group_names[attribute]

    def _check_indices(self, what: str, values: np.ndarray, count: int) -> None:
        low, high = int(values.min()), int(values.max())
        if values.ndim != 1 or low < 0 or high >= count:
            raise UserError(
                f"split {self.split!r}: expected {what} in 0 to {count - 1}. "
                f"Received: {low} to {high}"
            )

    def _check_shares(self, attribute: str, shares: np.ndarray, count: int) -> None:
        expected = (len(self.labels), count)
        if shares.shape != expected:
            raise UserError(
                f"split {self.split!r}: expected probabilities of {attribute!r} of shape "
                f"{expected}, a row per example and a column per value. Received: {shares.shape}"
            )
        require_shares(attribute, shares, self.split)


def require_shares(
    attribute: str, shares: np.ndarray, split: str, rows: np.ndarray | None = None
) -> None:
    """Refuses rows, float (examples, values), that are no probabilities of an attribute's values.

    Args:
        attribute, split: Named in the error.
        shares: The rows.
        rows: Of a file, from 0, int64 (examples,), that they were read from.

    Raises:
        UserError: Naming the first of them.
    """
    wrong = np.flatnonzero(
        ~((shares >= 0).all(axis=1) & (np.abs(shares.sum(axis=1) - 1) < _ROUNDING))
    )
    if len(wrong):
        where = "" if rows is None else f" (row {rows[wrong[0]] + 1} below the names of the groups)"
        raise UserError(
            f"split {split!r}: expected probabilities of {attribute!r} that are >= 0 and "
            f"sum to 1. Received: {shares[wrong[0]].tolist()} for example {wrong[0]}{where}"
        )
