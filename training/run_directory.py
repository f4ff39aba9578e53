"""The run directory: what lies where, and whether it may be written to.

It may lie on a disk or in an object store (`training.files`). TensorBoard's event files can only
be written on a disk: a remote run's are written beside, and uploaded by `publish_logs`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from configs.schema import UserError
from training.differences import differences
from training.files import (
    AnyPath,
    is_local,
    path_of,
    remove_leavings,
    upload_tree,
    write_atomically,
    writing,
)
from training.run_lock import LOCK_NAME, RunLock

if TYPE_CHECKING:
    from training.privacy.ledger import Ledger


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run.

    Attributes:
        root: The run's own folder.
    """

    root: Path
    _scratch: tempfile.TemporaryDirectory | None = field(default=None, repr=False, compare=False)

    @classmethod
    def at(cls, location: str | AnyPath) -> RunDirectory:
        """The run directory at a path or a URL, whether it exists or not.

        Raises:
            UserError: If nothing here can open such URLs.
        """
        root = path_of(location)
        return cls(root, None if is_local(root) else tempfile.TemporaryDirectory())

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        """Where event files are written: always on a disk."""
        return self.root / "logs" if self._scratch is None else Path(self._scratch.name)

    @property
    def published_logs(self) -> Path:
        """Where event files can be found."""
        return self.root / "logs"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def decision(self) -> Path:
        """How scores become answers, once fitted."""
        return self.root / "decision.json"

    @property
    def dataset_card(self) -> Path:
        return self.root / "dataset.json"

    @property
    def privacy_statement(self) -> Path:
        return self.root / "privacy.txt"

    @property
    def noise_root(self) -> Path:
        """The root of a run that needs one, while it trains; secret (`training.one_root`)."""
        return self.root / "noise_root"

    @property
    def export(self) -> Path:
        return self.root / "export"

    def publish_logs(self) -> None:
        """Brings the event files to where they can be found.

        Raises:
            UserError: If they cannot be written there.
        """
        if self._scratch is not None:
            upload_tree(self.logs, self.published_logs)

    def refuse_other(self, recipe_text: str) -> None:
        """Makes sure that a recipe may write here; writes nothing.

        Raises:
            UserError: If the directory belongs to another recipe, or is a folder of something
                else.
        """
        if self.config.exists():
            changes = _changed_settings(_text_of(self.config), recipe_text)
            if changes:
                raise UserError(
                    f"{self.root}: holds a run of another recipe ({changes}). Continue it with its "
                    f"own recipe ({self.config.name} there), or name another directory with --run."
                )
        elif self.root.is_file() or (self.root.exists() and any(map(_is_foreign, self._entries()))):
            raise UserError(f"{self.root}: is no run directory. Name another one with --run.")

    def open(self, recipe_text: str, lock: RunLock, ledger: Ledger | None = None) -> None:
        """Creates the directory for a recipe, or reopens it for the same recipe, under its lock.

        Args:
            recipe_text: The recipe.
            lock: Of this directory; held from here on.
            ledger: A private run's. It begins before the run is there, so that a run without one
                has lost it.

        Raises:
            UserError: As `refuse_other`, or if another process holds the directory or has begun a
                run in it meanwhile, or the directory cannot be written to.
        """
        existed = self.config.exists()
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        begun_unseen = not lock.held and existed
        lock.acquire()
        if begun_unseen or self.config.exists() != existed:
            raise UserError(
                f"{self.root}: another process began this run meanwhile. The same command "
                "continues it."
            )
        self.refuse_other(recipe_text)
        if is_local(self.root):
            with writing(self.root):
                remove_leavings(self.root)
        if ledger is not None:
            if existed and not self.ledger.exists():
                raise self.lost_ledger()
            ledger.begin()
        if not existed:
            write_atomically(self.config, recipe_text)

    def lost_ledger(self) -> UserError:
        """The error for a private run whose ledger is gone."""
        return UserError(
            f"{self.ledger}: is missing, so what this private run spent is unknown. Restore the "
            "ledger that belongs to its checkpoints; or start in a new run directory, and count "
            "all that this run planned to spend as spent."
        )

    @classmethod
    def existing(cls, location: str | AnyPath) -> RunDirectory:
        """An existing run.

        Raises:
            UserError: If there is none at `location`.
        """
        run = cls.at(location)
        if not run.config.exists():
            raise UserError(f"{location}: is not a run directory (it has no config.yaml).")
        return run

    def _entries(self) -> list[Path]:
        return list(self.root.iterdir())


def _is_foreign(path: AnyPath) -> bool:
    """Whether a killed process of Sterling cannot have left `path` in a run it had not begun."""
    name = path.name
    return not (name.startswith(LOCK_NAME) or name.endswith(".partial") or name == "ledger.jsonl")


def _text_of(config: Path) -> str:
    """What can be read of a recipe that may be damaged."""
    return config.read_text(encoding="utf-8", errors="replace")


def _changed_settings(there: str, here: str) -> str:
    try:
        return differences(yaml.safe_load(there), yaml.safe_load(here))
    except yaml.YAMLError:
        return "its config.yaml cannot be read"
