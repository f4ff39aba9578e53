"""What a step tells of the examples it saw, for logs: sums, so that they add up over batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepTotals:
    """Sums over the real examples of a physical batch (training examples: not private).

    Attributes:
        loss: Sum of losses.
        correct: Examples whose most likely label is the true one.
        examples: Real examples.
        non_finite: Examples left out because their gradient was not finite.
        unfairness: Penalty of the physical batch, times its real examples; 0 without one.
        opacity: Sum of opacities; 0 where the objective has no such term.
        leakage: Sum of leakages; likewise.
        adversary_loss: Sum of an adversary's losses; 0 without one.
    """

    loss: float
    correct: float
    examples: float
    non_finite: float
    unfairness: float = 0.0
    opacity: float = 0.0
    leakage: float = 0.0
    adversary_loss: float = 0.0
