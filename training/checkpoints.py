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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError
from training.files import sync_directory, write_atomically

_POSITION = "position.json"
_ARRAYS = "callbacks.npz"


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        step: Optimizer steps taken.
        epoch_totals: Sums behind the running metrics of the unfinished epoch.
        callbacks: Callback class name -> its numbers (best value, patience used up ...).
    """

    step: int
    epoch_totals: dict[str, float] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)


class Checkpoints:
    """Saves and restores a model and its optimizer.

    Args:
        directory: Where the checkpoint folders lie.
        model: The whole model.
        optimizer: Its optimizer, or none to restore weights only.
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
        tracked = {"model": [v.value for v in model.variables]}
        if optimizer is not None:
            tracked["optimizer"] = [v.value for v in optimizer.variables]
        self._checkpoint = tf.train.Checkpoint(**tracked)

    def save(self, position: Position, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Path:
        """Writes a checkpoint and removes the oldest beyond those kept."""
        target = self._directory / f"step-{position.step:08d}"
        partial = self._directory / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self._checkpoint.write(str(partial / "variables"))
        numbers, arrays = _state_of(callbacks)
        np.savez(partial / _ARRAYS, **arrays)
        document = {
            "step": position.step,
            "epoch_totals": position.epoch_totals,
            "callbacks": numbers,
            "sha256": {file.name: _sha256(file) for file in sorted(partial.iterdir())},
        }
        write_atomically(partial / _POSITION, json.dumps(document, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync_directory(self._directory)
        for old in self._folders()[: -self._keep]:
            shutil.rmtree(old)
        return target

    def restore(self, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Position | None:
        """Restores the newest checkpoint that is whole; None if there is none.

        A damaged one is passed over with a warning.

        Raises:
            UserError: If there are checkpoints but none can be read.
        """
        folders = self._folders()
        for folder in reversed(folders):
            document = _read_position(folder)
            if document is None:
                logging.warning("%s is damaged; the checkpoint before it is used.", folder)
                continue
            status = self._checkpoint.read(str(folder / "variables"))
            try:
                status.assert_existing_objects_matched()
            except AssertionError as error:
                raise UserError(
                    f"{folder}: does not fit this model ({error}). It was written by another "
                    "recipe or another version."
                ) from error
            with np.load(folder / _ARRAYS) as arrays:
                _restore_state(callbacks, document["callbacks"], dict(arrays))
            return Position(document["step"], document["epoch_totals"], document["callbacks"])
        if folders:
            raise UserError(f"{self._directory}: no checkpoint there can be read.")
        return None

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
        whole = all(_sha256(folder / name) == sha for name, sha in document["sha256"].items())
    except (OSError, ValueError, KeyError):
        return None
    return document if whole else None


def _state_of(
    callbacks: Sequence[keras.callbacks.Callback],
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """What callbacks remember: numbers, and EarlyStopping's best weights."""
    numbers: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    for callback in callbacks:
        name = type(callback).__name__
        numbers[name] = {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in vars(callback).items()
            if isinstance(value, (bool, int, float, np.number)) and not key.startswith("_")
        }
        for i, weight in enumerate(getattr(callback, "best_weights", None) or []):
            arrays[f"{name}/{i:05d}"] = np.asarray(weight)
    return numbers, arrays


def _restore_state(
    callbacks: Sequence[keras.callbacks.Callback],
    numbers: dict[str, dict[str, Any]],
    arrays: dict[str, np.ndarray],
) -> None:
    for callback in callbacks:
        name = type(callback).__name__
        vars(callback).update(numbers.get(name, {}))
        weights = [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]
        if weights:
            callback.best_weights = weights
