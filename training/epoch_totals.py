"""What an epoch's steps have told so far, and the logs that are made of it.

Bare sums over training examples: for the operator's eyes, covered by no epsilon.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from training.steps.totals import StepTotals

# Beside loss and accuracy; shown where there are any.
_TERMS = ("unfairness", "opacity", "leakage", "adversary_loss")


class EpochTotals:
    """Sums over the physical batches of an epoch.

    Args:
        sums: Those of an epoch that is gone on with; none for one that begins.
        private: Whether steps leave out examples whose gradient is not finite, and so do means.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, *, private: bool):
        self._sums = defaultdict(float, sums or {})
        self._private = private

    @property
    def sums(self) -> dict[str, float]:
        """By name, for a checkpoint to keep."""
        return dict(self._sums)

    @property
    def loss_is_finite(self) -> bool:
        """Whether the loss so far is a number."""
        return math.isfinite(self._sums["loss"])

    @property
    def none_was_finite(self) -> bool:
        """Whether there were examples, and no gradient of theirs was finite."""
        examples = self._sums["examples"]
        return bool(examples) and self._sums["non_finite"] == examples

    def copy(self) -> EpochTotals:
        """The same, which does not grow with these."""
        return EpochTotals(self._sums, private=self._private)

    def add(self, totals: StepTotals) -> None:
        """Adds a physical batch's."""
        for name, value in vars(totals).items():
            if math.isfinite(value) or not self._private:
                self._sums[name] += value

    def logs(self) -> dict[str, float]:
        """Means over the examples so far, as Keras callbacks know them."""
        # Examples whose gradient is not finite take part in no step and in no mean.
        examples = max(self._sums["examples"] - self._sums["non_finite"], 1.0)
        logs = {
            "loss": self._sums["loss"] / examples,
            "accuracy": self._sums["correct"] / examples,
        }
        for term in _TERMS:
            if self._sums[term]:
                logs[term] = self._sums[term] / examples
        if self._sums["non_finite"]:
            logs["non_finite_examples"] = self._sums["non_finite"]
        return logs
