"""What a private model's training has cost, in figures and in words."""

from __future__ import annotations

from typing import NamedTuple

from training.privacy.plan import PrivacyPlan

_SEEN = (
    " On request (callbacks_see_training_metrics) callbacks of the user's own were shown bare "
    "measurements of training examples: all of this holds only if none of them acted on training "
    "because of these."
)


class PrivacySpent(NamedTuple):
    """What a model's training has cost so far.

    Attributes:
        epsilon: Privacy loss of all releases.
        delta: Probability with which epsilon may fail.
        statement: The guarantee in words, with every assumption.
    """

    epsilon: float
    delta: float
    statement: str

    @classmethod
    def on(
        cls, plan: PrivacyPlan, releases: int, *, reproducible: bool, callbacks_see: bool
    ) -> PrivacySpent:
        """What so many releases under a plan cost.

        Args:
            plan: What they fall under.
            releases: Noisy gradients used.
            reproducible: Whether a seed gives batches and noise.
            callbacks_see: Whether a user's callbacks were shown what epsilon does not cover.
        """
        statement = plan.statement(releases, reproducible=reproducible)
        return cls(plan.epsilon(releases), plan.delta, statement + (_SEEN if callbacks_see else ""))
