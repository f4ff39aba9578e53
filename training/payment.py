"""What a run's steps cost: asked for before they are prepared, paid before their noise is used.

Guarantees (what epsilon depends on):
    A release is on the disk before it exists: a crash in between leaves budget spent, never lost.
    No step is taken that the plan has not promised. A run goes on from a checkpoint only with the
    ledger that belongs to it and, where its steps depend on each other, with the root they had.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from training.checkpoints import Position
from training.one_root import OneRoot
from training.privacy.ledger import Ledger


@dataclass(frozen=True)
class Payment:
    """How the steps of one run are paid for; without privacy they cost nothing.

    Attributes:
        ledger: Records every noisy release; None without privacy.
        identity: Equal for two runs of a step only if they release the same sum.
        one_root: Of a run that may not draw a step anew; None for others.
        reproducible: Whether a seed lets the same steps release the same again.
    """

    ledger: Ledger | None
    identity: str
    one_root: OneRoot | None
    reproducible: bool

    @property
    def recorded(self) -> int | None:
        """Releases of any kind so far."""
        return None if self.ledger is None else self.ledger.recorded

    @property
    def mark(self) -> dict[str, Any] | None:
        """Where the ledger stands, for a checkpoint to keep."""
        return None if self.ledger is None else self.ledger.mark

    def require_past(self, position: Position) -> None:
        """Makes sure that the ledger is the checkpoint's.

        Raises:
            UserError: If it is not.
        """
        if self.ledger is not None and position.ledger is not None:
            self.ledger.require_past(position.ledger)

    def tell_of_interruptions(self, position: Position) -> None:
        """Says what the ledger holds beyond the checkpoint, and what that costs the run."""
        ledger = self.ledger
        if ledger is None:
            return
        ahead = [release for release in ledger.history if release.step >= position.step]
        again = sum(release.randomness == self.identity for release in ahead)
        lost = spent_without_a_step(ledger, position.step + again)
        if lost:
            planned = ledger.plan.steps
            logging.warning(
                "%s: interruptions came between a release and the checkpoint of its step. The run "
                "goes on after step %d, draws anew and counts again, so that within epsilon it has "
                "%d steps, not the %d asked for.",
                _in_words(lost),
                position.step,
                planned - lost,
                planned,
            )
        elif again:
            logging.info(
                "The ledger holds %d releases after the checkpoint of step %d. They are spent; %s",
                again,
                position.step,
                "with the recipe's seed the same steps release the same again, at no further cost."
                if self.reproducible
                else "the run's root is kept, so the same steps release the same again.",
            )

    def keep_root(self, *, has_checkpoint: bool) -> bool:
        """Keeps the root of a run that needs one, until `forget_root`.

        Args:
            has_checkpoint: Whether the run goes on from one.

        Returns:
            Whether the run needs one.

        Raises:
            UserError: If what was released so far came from another, or from other first weights.
        """
        if self.one_root is None or self.ledger is None:
            return False
        self.one_root.refuse_other(self.ledger, self.identity)
        self.one_root.refuse_other_start(self.ledger, has_checkpoint)
        self.one_root.keep()
        return True

    def forget_root(self) -> None:
        """To be called when training is over."""
        if self.one_root is not None:
            self.one_root.remove()

    def affordable(self, steps: range, planned: int) -> range:
        """Those of `steps`, from the first, that the budget lasts for.

        Args:
            steps: The next ones.
            planned: How many the run has in all.
        """
        if self.ledger is None:
            return steps
        affordable = steps[: self.ledger.count_allowed(steps, self.identity)]
        if not affordable:
            logging.warning(
                "The privacy budget is spent after %d releases: one more would exceed epsilon "
                "%.4g. Steps that were run again after an interruption drew fresh noise and "
                "counted again. Training stops before step %d of %d; what was trained is saved and "
                "exported.",
                self.ledger.releases,
                self.ledger.plan.epsilon(self.ledger.plan.steps),
                steps.start + 1,
                planned,
            )
        return affordable

    def pay(self, steps: range) -> None:
        """Records the releases of all of `steps`, before the first of them exists.

        Raises:
            UserError: If they cannot be recorded; none of the steps must then be taken.
        """
        if self.ledger is not None:
            self.ledger.record_group(steps, self.identity)


def spent_without_a_step(ledger: Ledger, steps: int) -> int:
    """Releases that are spent although none of the run's steps came of them.

    A process that dies between a release and the checkpoint of its step leaves one; so does a line
    of the ledger that was cut off.

    Args:
        ledger: Of a run at rest.
        steps: How many it has taken and kept.
    """
    return max(0, ledger.releases - steps)


def shortfall(ledger: Ledger | None, steps: int) -> str | None:
    """One line on what interruptions cost a run that has ended; None where they cost nothing.

    Args:
        ledger: As `spent_without_a_step` takes it; None without privacy.
        steps: Likewise.
    """
    lost = 0 if ledger is None else spent_without_a_step(ledger, steps)
    if ledger is None or not lost:
        return None
    planned = ledger.plan.steps
    why = f"{_in_words(lost)}: interruptions came between a release and the checkpoint of its step"
    if steps == planned or ledger.releases < planned:
        return f"{why}."
    return (
        f"{why}. So the run has {steps} steps, not the {planned} asked for: one more release would "
        "exceed epsilon."
    )


def _in_words(lost: int) -> str:
    return (
        f"{lost} {'releases were' if lost > 1 else 'release was'} spent without a step being kept"
    )
