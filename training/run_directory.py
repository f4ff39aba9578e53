"""The run directory: what lies where, and whether it may be written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.schema import UserError
from training.files import write_atomically


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run.

    Attributes:
        root: The run's own folder.
    """

    root: Path

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
        return self.root / "logs"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def dataset_card(self) -> Path:
        return self.root / "dataset.json"

    @property
    def privacy_statement(self) -> Path:
        return self.root / "privacy.txt"

    @property
    def export(self) -> Path:
        return self.root / "export"

    def open(self, recipe_text: str) -> None:
        """Creates the directory for a recipe, or reopens it for the same recipe.

        Raises:
            UserError: If it belongs to another recipe, or is a folder of something else.
        """
        if self.config.exists():
            if self.config.read_text(encoding="utf-8") != recipe_text:
                raise UserError(
                    f"{self.root}: holds a run of another recipe (see {self.config.name}). "
                    "Continue it with its own recipe, or name another directory with --run."
                )
            return
        if self.root.exists() and any(self.root.iterdir()):
            raise UserError(f"{self.root}: is not empty and holds no run. Name another directory.")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.root}: cannot be created ({error.strerror}).") from error
        write_atomically(self.config, recipe_text)

    @classmethod
    def existing(cls, root: str | Path) -> RunDirectory:
        """An existing run.

        Raises:
            UserError: If there is none at `root`.
        """
        run = cls(Path(root))
        if not run.config.exists():
            raise UserError(f"{root}: is not a run directory (it has no config.yaml).")
        return run
