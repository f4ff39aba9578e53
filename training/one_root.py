"""One root of randomness for a run that may not draw a step anew, however often it is resumed.

Independent noise can be drawn again after a crash: the ledger counts the step twice. Correlated
noise cannot: half of a tree drawn from one root and half from another no longer cancels, and its
accounting says nothing of it; nor can sampling in epochs, in which an example would come twice.
Such a run without a seed keeps its root beside its checkpoints, in `noise_root`, which only its
owner can read, from before the first release until training is over. Whoever reads it meanwhile,
and sees the weights, can subtract the noise; it is never exported.

Guarantees (what epsilon depends on):
    Every release of such a run, first or repeated, comes from one root, on the same devices, from
    the same first weights: `refuse_other` stops whatever else would be released.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from configs.schema import UserError
from training.files import sync_directory, writing
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness
from training.run_directory import RunDirectory


@dataclass(frozen=True)
class OneRoot:
    """The root of a run that needs one.

    Attributes:
        randomness: The root.
        path: Where it is kept; None where the recipe's seed gives it, or another worker keeps it.
    """

    randomness: Randomness
    path: Path | None = None

    @classmethod
    def of(
        cls, plan: PrivacyPlan | None, randomness: Randomness, run: RunDirectory, *, keeps: bool
    ) -> OneRoot | None:
        """The root of a run under `plan`; None where it may draw every step anew.

        Args:
            plan: The privacy plan; None without privacy.
            randomness: The root.
            run: Where it is kept.
            keeps: Whether this worker is the one that keeps it.

        Raises:
            UserError: If it would have to be kept where others can read it.
        """
        if plan is None or not plan.needs_one_root:
            return None
        if randomness.reproducible or not keeps:
            return cls(randomness)
        if not isinstance(run.noise_root, Path):
            raise UserError(
                f"{run.root}: with {plan.sampling.method} sampling and "
                f"{plan.mechanism.method} noise the root of randomness is kept with the run, "
                "and only a disk can keep it from other readers. Name a run directory on a disk, "
                "or set training.seed."
            )
        return cls(randomness, run.noise_root)

    def refuse_other(self, ledger: Ledger, identity: str) -> None:
        """Makes sure that what was released so far came from this root; writes nothing.

        Args:
            ledger: The run's.
            identity: Of this run's releases (`training.stream_names.release_identity`).

        Raises:
            UserError: If some of it did not.
        """
        others = sum(release.randomness != identity for release in ledger.history)
        if others:
            raise UserError(
                f"{self.path or 'training.seed'}: {others} releases of this run were made from "
                "another root of randomness, other data or other devices, and with "
                f"{ledger.plan.sampling.method} sampling and {ledger.plan.mechanism.method} noise "
                "its steps depend on each other. Bring back noise_root and the devices it began "
                "with; or start in a new run directory, and count what this one spent as spent."
            )

    def refuse_other_start(self, ledger: Ledger, has_checkpoint: bool) -> None:
        """Makes sure that a run which lost its checkpoints does not begin again; writes nothing.

        From other first weights the same steps would release other sums under the same noise.

        Raises:
            UserError: If it would.
        """
        if self.randomness.reproducible or has_checkpoint or not ledger.releases:
            return
        raise UserError(
            f"{self.path or 'noise_root'}: {ledger.releases} releases were made with this root of "
            "randomness, and the checkpoints that belong to them are gone. Other weights under the "
            "same noise would undo it. Restore the checkpoints; or start in a new run directory, "
            "and count what this one spent as spent."
        )

    def keep(self) -> None:
        """Writes the root, readable by its owner alone, if it is not there yet.

        Raises:
            UserError: If it cannot be written.
        """
        if self.path is None or self.path.exists():
            return
        partial = self.path.with_name(f".{self.path.name}.partial")
        with writing(self.path):
            partial.unlink(missing_ok=True)
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="ascii") as file:
                file.write(f"{self.randomness.root:032x}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
            sync_directory(self.path.parent)

    def remove(self) -> None:
        """Removes the root: nothing will be drawn from it again."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def kept_root(path: Path) -> int | None:
    """The root that a run has kept at `path`; None if there is none.

    Raises:
        UserError: If it cannot be read.
    """
    if not path.exists():
        return None
    try:
        return int(path.read_text(encoding="ascii"), 16)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}), so the run's noise cannot go on. Restore it; or "
            "start in a new run directory, and count what this one spent as spent."
        ) from error
