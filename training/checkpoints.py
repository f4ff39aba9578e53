"""Checkpoints: everything a run needs to go on as if it had never stopped.

Each is a folder `step-00000120/` holding a `tf.train.Checkpoint` of the model's and optimizer's
variables and `position.json` (the step, the callbacks' state, where the ledger stands, a SHA-256 of
every file and of itself). On a disk it is written under a temporary name, flushed, and renamed; in
an object store `position.json` comes last: a folder that has one is whole, and its hashes tell
whether it still is. The samplers and the noise need no state but the step (`training.randomness`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError
from training.callback_state import CallbackState
from training.files import on_disk, remove_tree, staged, unwritable, writing

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
        ledger: Where the privacy ledger stood (`Ledger.mark`); None without privacy.
    """

    step: int
    epoch_totals: dict[str, float] = field(default_factory=dict)
    complete: bool = False
    callbacks: CallbackState = field(default_factory=CallbackState)
    ledger: Mapping[str, Any] | None = None


class Checkpoints:
    """Saves and restores a model and its optimizer.

    Args:
        directory: Where the checkpoint folders lie.
        model: The whole model.
        optimizer: Its optimizer, built, or none to restore weights only.
        keep: Newest checkpoints kept.
        of_step: The training step's own variables (`TrainingStep.state`).
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None = None,
        keep: int = 2,
        of_step: Sequence[tf.Variable] = (),
    ):
        self._directory, self._keep = directory, keep
        self._damaged: set[str] = set()
        # Plain lists of tf.Variables: names inside stay the same whatever Keras tracks beside.
        self._tracked = {"model": [v.value for v in model.variables]}
        if optimizer is not None:
            self._tracked["optimizer"] = [v.value for v in optimizer.variables]
        if of_step:
            self._tracked["step"] = list(of_step)
        self._checkpoint = tf.train.Checkpoint(**self._tracked)

    def save(self, position: Position) -> Path:
        """Writes a checkpoint; then removes damaged ones, and the oldest beyond those kept.

        Raises:
            UserError: If it cannot be written. The checkpoints before it are untouched.
        """
        target = self._new_folder(position.step)
        try:
            with staged(target, last=_POSITION) as folder:
                self._checkpoint.write(str(folder / "variables"))
                np.savez(folder / _ARRAYS, **position.callbacks.arrays)
                document = {
                    "step": position.step,
                    "epoch_totals": position.epoch_totals,
                    "complete": position.complete,
                    "callbacks": position.callbacks.numbers,
                    "ledger": position.ledger,
                    "shapes": self._shapes(),
                    "sha256": {file.name: _sha256(file) for file in sorted(folder.iterdir())},
                }
                document["check"] = _check(document)
                (folder / _POSITION).write_text(json.dumps(document, indent=1), encoding="utf-8")
        except tf.errors.OpError as error:
            raise unwritable(target, error.message) from error
        whole = [folder for folder in self._folders() if folder.name not in self._damaged]
        kept = {folder.name for folder in whole[-self._keep :]}
        with writing(self._directory):
            for old in self._folders():
                if old.name not in kept:
                    remove_tree(old)
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
            with ExitStack() as stack:
                try:
                    copy = stack.enter_context(on_disk(folder))
                    document = _read_position(copy)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    logging.warning(
                        "%s is damaged (%s); the checkpoint before it is used.", folder, error
                    )
                    self._damaged.add(folder.name)
                    continue
                self._refuse_other_shapes(folder, document["shapes"])
                status = self._checkpoint.read(str(copy / "variables"))
                status.assert_existing_objects_matched()
                with np.load(copy / _ARRAYS) as arrays:
                    callbacks = CallbackState(document["callbacks"], dict(arrays))
            return Position(
                document["step"],
                document["epoch_totals"],
                document["complete"],
                callbacks,
                document["ledger"],
            )
        if folders:
            raise UserError(
                f"{self._directory}: every checkpoint there is damaged, so the weights are lost. "
                "Start again in another run directory; with privacy, what this run spent counts "
                "beside it."
            )
        return None

    @staticmethod
    def verified(folder: Path) -> dict[str, Any]:
        """What a checkpoint on a disk says of itself, if every byte is as it was written.

        Raises:
            OSError, ValueError, KeyError, TypeError: If it is not.
        """
        return _read_position(folder)

    def _new_folder(self, step: int) -> Path:
        """A name that is not taken, so that no whole checkpoint is ever replaced."""
        name = f"step-{step:08d}"
        taken = {folder.name for folder in self._folders()}
        names = chain([name], (f"{name}.{again:03d}" for again in count(1)))
        return self._directory / next(name for name in names if name not in taken)

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
        if not self._directory.exists():
            return []
        found = [path for path in self._directory.iterdir() if path.name.startswith("step-")]
        return sorted(found, key=lambda path: path.name)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check(document: Mapping[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key != "check"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_position(folder: Path) -> dict[str, Any]:
    """What `position.json` says, once it is sure that every byte is as it was written.

    Raises:
        OSError, ValueError, KeyError, TypeError: If it is not.
    """
    document = json.loads((folder / _POSITION).read_text(encoding="utf-8"))
    if document["check"] != _check(document):
        raise ValueError(f"{_POSITION} was changed")
    for name, sha in document["sha256"].items():
        if _sha256(folder / name) != sha:
            raise ValueError(f"{name} was changed")
    return document
