"""The run directory: what lies where, and whether it may be written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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

    def refuse_other(self, recipe_text: str) -> None:
        """Makes sure that a recipe may write here; writes nothing.

        Raises:
            UserError: If the directory belongs to another recipe, or is a folder of something
                else.
        """
        if self.config.exists():
            changes = _differences(self.config.read_text(encoding="utf-8"), recipe_text)
            if changes:
                raise UserError(
                    f"{self.root}: holds a run of another recipe ({changes}). Continue it with its "
                    f"own recipe ({self.config.name} there), or name another directory with --run."
                )
        elif self.root.is_file() or (self.root.exists() and any(self.root.iterdir())):
            raise UserError(f"{self.root}: is no run directory. Name another one with --run.")

    def open(self, recipe_text: str) -> None:
        """Creates the directory for a recipe, or reopens it for the same recipe.

        Raises:
            UserError: As `refuse_other`, or if the directory cannot be created.
        """
        self.refuse_other(recipe_text)
        if self.config.exists():
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, recipe_text)
        except OSError as error:
            raise UserError(f"{self.root}: cannot be written ({error.strerror}).") from error

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


def _differences(there: str, here: str) -> str:
    """The first settings in which two recipes differ; "" if they are the same."""
    try:
        old, new = _flat(yaml.safe_load(there)), _flat(yaml.safe_load(here))
    except yaml.YAMLError:
        return "its config.yaml cannot be read"
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    shown = [f"{key} is {old.get(key)!r} there, {new.get(key)!r} here" for key in keys[:3]]
    return "; ".join([*shown, *(["..."] if len(keys) > len(shown) else [])])


def _flat(document: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(document, dict) or not document:
        return {prefix.rstrip("."): document}
    return {
        key: value
        for name, inner in document.items()
        for key, value in _flat(inner, f"{prefix}{name}.").items()
    }
