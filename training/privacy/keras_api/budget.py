"""How much of a plan a private model has used: counted before use, in a ledger if there is one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import keras

from configs.schema import UserError
from training.privacy.ledger import Ledger
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling

# Stays with a weight whatever model it is in, so that a second plan cannot forget the first.
_MARK = "_sterling_budget"


class Budget:
    """Counts releases against a plan.

    Args:
        plan: What was promised.
        ledger: File every release is written to; none counts in memory only.
        on_exhausted: `raise`, or `stop` at the last planned step.

    Raises:
        UserError: If the ledger belongs to another plan, or to a run that cannot be continued.
    """

    def __init__(
        self, plan: PrivacyPlan, ledger: Path | None, on_exhausted: Literal["raise", "stop"]
    ):
        self._plan, self._on_exhausted = plan, on_exhausted
        self._ledger = None if ledger is None else Ledger(ledger, plan)
        self._releases = 0 if self._ledger is None else self._ledger.releases
        if self._releases and not _steps_are_independent(plan):
            raise UserError(
                f"{ledger}: holds {self._releases} releases, and with "
                f"{plan.sampling.method} sampling and {plan.mechanism.method} noise the steps of a "
                "run depend on each other, so another process cannot go on with it. Name a new "
                "ledger, and count what this one records as spent; or train by a recipe, which "
                "continues."
            )

    @property
    def releases(self) -> int:
        """Releases so far, those of earlier processes in the ledger included."""
        return self._releases

    def steps_for(self, wanted: int | None) -> int:
        """How many steps may be taken where `wanted` were asked for; none asks for the rest.

        Raises:
            UserError: If they are more than the plan has left.
        """
        left = self._plan.steps - self._releases
        if wanted is not None and wanted <= 0:
            raise UserError(f"fit(epochs=...): expected at least one step. Received: {wanted}")
        if left <= 0 or (wanted or 0) > left:
            message = (
                f"the plan is for {self._plan.steps} steps, {self._releases} are taken, and "
                f"{'more' if wanted is None else wanted} were asked for. Make a plan with more "
                "steps before the first, or ask for fewer epochs"
            )
            if self._on_exhausted == "raise" or left <= 0:
                raise UserError(f"fit: {message}.")
            logging.warning("fit: %s; stopping after the last planned step.", message)
        return left if wanted is None else min(wanted, left)

    def require_alone(self, weights: Iterable[keras.Variable]) -> None:
        """Refuses weights that hold releases of another plan, in whatever model they came by them.

        Raises:
            UserError: Names the first of them.
        """
        require_untrained(w for w in weights if getattr(w, _MARK, None) is not self)

    def mark(self, weights: Iterable[keras.Variable]) -> None:
        """Notes on weights that releases to come are paid for here."""
        for weight in weights:
            setattr(weight, _MARK, self)

    def spend(self, randomness: str, steps: int = 1) -> None:
        """Counts releases, durably where there is a ledger; to be called before their use.

        Args:
            randomness: Tells the root of the steps' randomness from others.
            steps: How many releases: those of the next steps.

        Raises:
            UserError: If not so many are left.
        """
        if self._releases + steps > self._plan.steps:
            raise UserError(
                f"the plan is for {self._plan.steps} steps, and {self._releases} are taken."
            )
        if self._ledger is not None:
            self._ledger.record_group(range(self._releases, self._releases + steps), randomness)
        self._releases += steps


def require_untrained(weights: Iterable[keras.Variable]) -> None:
    """Refuses weights that hold releases of a plan.

    Raises:
        UserError: Names the first of them.
    """
    for weight in weights:
        earlier = getattr(weight, _MARK, None)
        if earlier is not None and earlier.releases:
            raise UserError(
                f"make_private(model): its weights ('{weight.path}') hold {earlier.releases} "
                "releases of another plan, which this plan's epsilon would leave out. Go on with "
                "the private model there is, or start from a model of fresh weights."
            )


def _steps_are_independent(plan: PrivacyPlan) -> bool:
    return isinstance(plan.sampling, PoissonSampling) and isinstance(
        plan.mechanism, GaussianMechanism
    )
