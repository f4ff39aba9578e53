"""Checkpoints: everything a run needs to go on as if it had never stopped.

Each is a folder `step-00000120/` holding a `tf.train.Checkpoint` of the model's and optimizer's
variables and `position.json` (the step, the callbacks' state, a SHA-256 of every file). It is
written under a temporary name, flushed, and renamed: a folder with the final name is whole. The
samplers and the noise need no state but the step (`training.randomness`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError
from training.callback_state import CallbackState
from training.files import sync_directory, write_atomically

_POSITION = "position.json"
_ARRAYS = "callbacks.npz"


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        step: Optimizer steps taken.
        epoch_totals: Sums behind the running metrics of the unfinished epoch.
        complete: Whether training is over, its last word (averaged or best weights) written.
        callbacks: What the Keras callbacks remember.
    """

    step: int
    epoch_totals: dict[str, float] = field(default_factory=dict)
    complete: bool = False
    callbacks: CallbackState = field(default_factory=CallbackState)


class Checkpoints:
    """Saves and restores a model and its optimizer.

    Args:
        directory: Where the checkpoint folders lie.
        model: The whole model.
        optimizer: Its optimizer, built, or none to restore weights only.
        keep: Newest checkpoints kept.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None = None,
        keep: int = 2,
    ):
        self._directory, self._keep = directory, keep
        # Plain lists of tf.Variables: names inside stay the same whatever Keras tracks beside.
        self._tracked = {"model": [v.value for v in model.variables]}
        if optimizer is not None:
            self._tracked["optimizer"] = [v.value for v in optimizer.variables]
        self._checkpoint = tf.train.Checkpoint(**self._tracked)

    def save(self, position: Position) -> Path:
        """Writes a checkpoint and removes the oldest beyond those kept."""
        target = self._directory / f"step-{position.step:08d}"
        partial = self._directory / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self._checkpoint.write(str(partial / "variables"))
        np.savez(partial / _ARRAYS, **position.callbacks.arrays)
        document = {
            "step": position.step,
            "epoch_totals": position.epoch_totals,
            "complete": position.complete,
            "callbacks": position.callbacks.numbers,
            "shapes": self._shapes(),
            "sha256": {file.name: _sha256(file) for file in sorted(partial.iterdir())},
        }
        write_atomically(partial / _POSITION, json.dumps(document, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync_directory(self._directory)
        for old in self._folders()[: -self._keep]:
            shutil.rmtree(old)
        return target

    def restore(self) -> Position | None:
        """Restores the newest checkpoint that is whole; None if there is none.

        A damaged one is passed over with a warning.

        Raises:
            UserError: If there are checkpoints but none can be read, or the newest is of another
                model.
        """
        folders = self._folders()
        for folder in reversed(folders):
            document = _read_position(folder)
            if document is None:
                logging.warning("%s is damaged; the checkpoint before it is used.", folder)
                continue
            self._refuse_other_shapes(folder, document["shapes"])
            status = self._checkpoint.read(str(folder / "variables"))
            status.assert_existing_objects_matched()
            with np.load(folder / _ARRAYS) as arrays:
                callbacks = CallbackState(document["callbacks"], dict(arrays))
            return Position(
                document["step"], document["epoch_totals"], document["complete"], callbacks
            )
        if folders:
            raise UserError(
                f"{self._directory}: every checkpoint there is damaged, so the weights are lost. "
                "Start again in another run directory."
            )
        return None

    def _shapes(self) -> dict[str, list[list[int]]]:
        return {name: [list(v.shape) for v in tracked] for name, tracked in self._tracked.items()}

    def _refuse_other_shapes(self, folder: Path, saved: dict[str, list[list[int]]]) -> None:
        for name, shapes in self._shapes().items():
            if saved.get(name) != shapes:
                raise UserError(
                    f"{folder}: was written for another {name}: its {len(saved.get(name, []))} "
                    f"variables do not have the shapes of the {len(shapes)} expected. Use the "
                    "recipe it was written with (config.yaml beside it)."
                )

    def _folders(self) -> list[Path]:
        return sorted(self._directory.glob("step-*"))


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(stream.read()).hexdigest()
        )


def _read_position(folder: Path) -> dict[str, Any] | None:
    try:
        document = json.loads((folder / _POSITION).read_text(encoding="utf-8"))
        whole = {"step", "epoch_totals", "complete", "callbacks", "shapes"} <= set(
            document
        ) and all(_sha256(folder / name) == sha for name, sha in document["sha256"].items())
    except (OSError, ValueError, KeyError):
        return None
    return document if whole else None
