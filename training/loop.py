"""The outer loop: epochs, Keras callbacks, checkpoints, ledger. Knows nothing of gradients.

Keras's own `CallbackList` drives it, so the familiar progress bar and users' own callbacks
(EarlyStopping, ReduceLROnPlateau, TensorBoard ...) work as they do in `model.fit`.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from configs.schema import UserError
from training.batching import Batching
from training.checkpoints import Checkpoints, Position
from training.privacy.ledger import Ledger
from training.randomness import Randomness
from training.steps import StepTotals, TrainingStep

# (first step, last step) -> an iterator over physical batches.
Feed = Callable[[int, int], Iterator[Any]]


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        steps: Optimizer steps in all.
        steps_per_epoch: Optimizer steps of one pass (with Poisson sampling, one expected pass).
    """

    steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        return math.ceil(self.steps / self.steps_per_epoch)


@dataclass
class Loop:
    """Runs a `TrainingStep` for its length.

    Attributes:
        model: The model that callbacks see.
        step: The inner step.
        length: How long.
        batching: Which examples form each step.
        feed: Where the physical batches come from.
        randomness: Root of the noise seeds.
        checkpoints: Where the run is saved.
        ledger: Records every noisy release; None without privacy.
        callbacks: Keras callbacks, in the order they are called.
        checkpoint_every: Steps between checkpoints; None for each epoch's end.
        verbose: 1 shows the progress bar.
    """

    model: keras.Model
    step: TrainingStep
    length: Length
    batching: Batching
    feed: Feed
    randomness: Randomness
    checkpoints: Checkpoints
    ledger: Ledger | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    checkpoint_every: int | None = None
    verbose: int = 1
    _totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def run(self) -> int:
        """Trains from the newest checkpoint, or from the start, to the end.

        Returns:
            Optimizer steps taken in all.

        Raises:
            UserError: If the loss is no longer finite.
        """
        position = self.checkpoints.restore(self.callbacks) or Position(0)
        self._totals = defaultdict(float, position.epoch_totals)
        done, length = position.step, self.length
        self.model.stop_training = False
        callbacks = keras.callbacks.CallbackList(
            list(self.callbacks),
            add_progbar=bool(self.verbose),
            model=self.model,
            verbose=self.verbose,
            epochs=length.epochs,
            steps=length.steps_per_epoch,
        )
        callbacks.on_train_begin()
        batches = self.feed(done, length.steps)
        while done < length.steps and not self.model.stop_training:
            epoch, within = divmod(done, length.steps_per_epoch)
            if within == 0:
                self._totals = defaultdict(float)
            callbacks.on_epoch_begin(epoch)
            last = min((epoch + 1) * length.steps_per_epoch, length.steps)
            for step in range(done, last):
                if not self._within_budget(step):
                    self.model.stop_training = True
                    break
                callbacks.on_train_batch_begin(step - epoch * length.steps_per_epoch)
                self._take(step, batches)
                done = step + 1
                callbacks.on_train_batch_end(
                    done - 1 - epoch * length.steps_per_epoch, self._logs()
                )
                if self.checkpoint_every and done % self.checkpoint_every == 0 and done < last:
                    self._save(done)
            callbacks.on_epoch_end(epoch, self._logs())
            self._save(done)
        callbacks.on_train_end(self._logs())
        return done

    def _within_budget(self, step: int) -> bool:
        if self.ledger is None or self.ledger.allows(step, self.randomness.fingerprint):
            return True
        logging.warning(
            "The privacy budget is spent: steps that were run again after an interruption drew "
            "fresh noise and count again. Training stops before step %d of %d.",
            step + 1,
            self.length.steps,
        )
        return False

    def _take(self, step: int, batches: Iterator[Any]) -> None:
        count = self.batching.count(step)
        for _ in range(count - 1):
            self._tally(self.step.add(next(batches)))
        if self.ledger is not None:
            # Before the noisy gradient exists: a crash here leaves budget spent, never lost.
            self.ledger.record(step, self.randomness.fingerprint)
        seeds = self.randomness.stateless_seeds(
            "noise", step, max(1, len(self.model.trainable_variables))
        )
        self._tally(self.step.finish(next(batches), seeds, accumulated=count > 1))

    def _tally(self, totals: StepTotals) -> None:
        if not math.isfinite(totals.loss) and self.ledger is None:
            raise UserError(
                "training: the loss is no longer finite. Lower training.optimizer.learning_rate, "
                "or look for broken values in the data. The last checkpoint is kept."
            )
        for name, value in vars(totals).items():
            if math.isfinite(value):
                self._totals[name] += value

    def _logs(self) -> dict[str, float]:
        examples = max(self._totals["examples"], 1.0)
        logs = {
            "loss": self._totals["loss"] / examples,
            "accuracy": self._totals["correct"] / examples,
        }
        if self._totals["non_finite"]:
            logs["non_finite_examples"] = self._totals["non_finite"]
        return logs

    def _save(self, done: int) -> None:
        position = Position(done, dict(self._totals))
        self.checkpoints.save(position, self.callbacks)
