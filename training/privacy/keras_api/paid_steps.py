"""The steps of a fit: each is counted before its noise is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.batching import Batching
from training.privacy.keras_api.budget import Budget
from training.privacy.keras_api.step import KerasStep
from training.randomness import Randomness


@dataclass(frozen=True)
class PaidSteps:
    """Takes the steps that a plan has left, in order.

    Attributes:
        step: What one step does.
        budget: What pays.
        root: What noise and batches are drawn from.
        batching: Which examples form each step.
        batches: The physical batches, from the next step's first.
        in_one_call: Whether the steps of one `take` are one call of one TensorFlow function.
    """

    step: KerasStep
    budget: Budget
    root: Randomness
    batching: Batching
    batches: Iterator[Any]
    in_one_call: bool

    def take(self, steps: int) -> None:
        """Takes so many; one alone, unless they go in one call.

        Raises:
            UserError: If the plan has no such steps left, or they cannot be recorded.
        """
        first = self.budget.releases
        numbers = range(first, first + steps)
        counts = [self.batching.count(number) for number in numbers]
        draws = [self.step.draws(number, self.root) for number in numbers]
        if self.in_one_call:
            # Before any of the noisy gradients exists: a crash leaves budget spent, never lost.
            self.budget.spend(self.root.fingerprint, steps)
            self.step.take_group(self.batches, draws, counts)
            return
        for _ in range(counts[0] - 1):
            self.step.add(next(self.batches))
        last = next(self.batches)
        self.budget.spend(self.root.fingerprint)  # likewise
        self.step.finish(last, draws[0], accumulated=counts[0] > 1)
