"""The outer loop: epochs, Keras callbacks, checkpoints, ledger. Knows nothing of gradients.

Keras's own `CallbackList` drives it, so the familiar progress bar and users' own callbacks
(EarlyStopping, ReduceLROnPlateau, TensorBoard ...) work as they do in `model.fit`. SIGTERM and
Ctrl-C are obeyed between physical batches: the run is saved as it stood after the last whole step,
and goes on from there to the same end. Where several steps are taken in one call, all of this
happens between calls; an epoch's end and a checkpoint that is due end a call early.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from configs.schema import UserError
from training.batching import Batching
from training.callback_state import CallbackState
from training.checkpoints import Checkpoints, Position
from training.epoch_totals import EpochTotals
from training.interruption import Interruption, Stopped
from training.length import Length
from training.one_root import OneRoot
from training.payment import Payment
from training.privacy.ledger import Ledger
from training.progress_bar import ProgressBar
from training.randomness import Randomness
from training.step_clock import StepClock
from training.steps import TrainingStep
from training.volatile_state import VolatileState
from training.workers import Workers

# (first step, last step) -> an iterator over physical batches.
Feed = Callable[[int, int], Iterator[Any]]


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
        release_identity: Equal for two runs of a step only if they release the same sum.
        one_root: Of a run that may not draw a step anew; None for others.
        callbacks: Keras callbacks, in the order they are called.
        checkpoint_every: Steps between checkpoints; None for each epoch's end.
        steps_per_execution: Most steps taken in one call.
        verbose: 1 shows the progress bar.
        before_step: Called with every step (the first of those taken in one call) about to be
            taken, before its batch is read; None for nothing to be done then.
        clock: Times the steps.
        workers: The processes of the run; the chief's saves and records.
        give_up: Makes a batch that is still being prepared fail at once, so that a stop need not
            wait for it.
        steps_taken: Optimizer steps that `run` has taken.
    """

    model: keras.Model
    step: TrainingStep
    length: Length
    batching: Batching
    feed: Feed
    randomness: Randomness
    checkpoints: Checkpoints
    ledger: Ledger | None = None
    release_identity: str = ""
    one_root: OneRoot | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    checkpoint_every: int | None = None
    steps_per_execution: int = 1
    verbose: int = 1
    before_step: Callable[[int], None] | None = None
    clock: StepClock = field(default_factory=StepClock)
    workers: Workers = field(default_factory=Workers)
    give_up: Callable[[], None] = lambda: None
    steps_taken: int = 0
    _started: bool = False

    def __post_init__(self) -> None:
        # One of several workers must take part in the step until all have agreed to stop, and
        # steps of one call are paid for before their batches are read.
        alone = self.workers.count == 1 and self.steps_per_execution == 1
        self._interruption = Interruption(self.give_up if alone else None)
        self._payment = Payment(
            self.ledger, self.release_identity, self.one_root, self.randomness.reproducible
        )
        self._totals = self._epoch_of({})

    def _epoch_of(self, sums: Mapping[str, float]) -> EpochTotals:
        return EpochTotals(sums, private=self.ledger is not None)

    def run(self) -> int:
        """Trains from the newest checkpoint, or from the start, to the end.

        A run that is complete is left as it is: no callback is called, nothing is trained.

        Returns:
            Optimizer steps taken in all.

        Raises:
            UserError: If the loss or the weights are no longer finite, the ledger does not belong
                to the checkpoint, or something cannot be written.
            Stopped: By SIGTERM or Ctrl-C, once what was done is saved.
        """
        if self._started:
            raise RuntimeError("A loop runs once: its weights and sums are no longer the start's.")
        self._started = True
        restored = self.checkpoints.restore()
        position = restored or Position(0)
        # Before anything is written: all have read by now.
        self.workers.require_same(
            [position.step, self._payment.recorded],
            "the checkpoint and the ledger to go on from",
        )
        self._payment.require_past(position)
        if position.complete:
            self._payment.forget_root()
            return position.step
        if self._payment.keep_root(has_checkpoint=restored is not None) and restored is None:
            # A first step that is run again must begin from the same weights.
            self._save(0)
        self._payment.tell_of_interruptions(position)
        self.step.recall(position.step, self.randomness)
        with self._interruption:
            try:
                return self._from(position)
            finally:
                self.clock.close()

    def _from(self, position: Position) -> int:
        self.model.stop_training = False
        callbacks = keras.callbacks.CallbackList(
            [*self.callbacks, *([ProgressBar()] if self.verbose else [])],
            model=self.model,
            verbose=self.verbose,
            epochs=self.length.epochs,
            steps=self.length.steps_per_epoch,
        )
        callbacks.on_train_begin()
        position.callbacks.restore(self.callbacks)
        self._totals = self._epoch_of(position.epoch_totals)
        batches = self.feed(position.step, self.length.steps)
        done = position.step
        while done < self.length.steps and not self.model.stop_training:
            done = self._epoch(done, callbacks, batches)
        self.step.finalize()
        callbacks.on_train_end(self._logs())
        self._save(done, complete=True)
        self._payment.forget_root()
        if number := self._interruption.requested:
            raise Stopped(number, done)
        return done

    def _epoch(self, done: int, callbacks: Any, batches: Iterator[Any]) -> int:
        """Runs the epoch that comes after `done` steps, or what is left of it."""
        epoch, within = divmod(done, self.length.steps_per_epoch)
        if within == 0:
            self._totals = self._epoch_of({})
            self.step.begin_epoch()
        callbacks.on_epoch_begin(epoch)
        first = epoch * self.length.steps_per_epoch
        last = min(first + self.length.steps_per_epoch, self.length.steps)
        while done < last and not self.model.stop_training:
            steps = self._next_steps(done, last)
            if not steps:
                self.model.stop_training = True  # one more release would exceed epsilon
                break
            # As Keras does it: a call begins with its first batch and ends with its last.
            callbacks.on_train_batch_begin(done - first)
            with self.clock.step(done):
                self._take(steps, batches)
            done = steps.stop
            callbacks.on_train_batch_end(done - 1 - first, self._logs())
            self._require_finite(self._totals.loss_is_finite)
            self.steps_taken += len(steps)
            if done == last:
                break
            if self._asked_to_stop():
                self._save_and_stop(done)
            if self.checkpoint_every and done % self.checkpoint_every == 0:
                self._save(done)
        if self._totals.none_was_finite:
            self._warn_of_noise_alone(epoch)
        callbacks.on_epoch_end(epoch, {**self._logs(), **self.step.of_groups()})
        self.model.stop_training = self.workers.any(self.model.stop_training)
        if done < self.length.steps and not self.model.stop_training:
            if self._asked_to_stop():
                self._save_and_stop(done)
            self._save(done)
        return done

    def _warn_of_noise_alone(self, epoch: int) -> None:
        # To stop a private run for it would tell something of its examples that epsilon does not
        # cover: the operator hears of it, the run goes on.
        self._require_finite(self.ledger is not None)
        logging.warning(
            "No example of epoch %d had a finite gradient (seen by you alone; not covered by "
            "epsilon). Training goes on with noise alone.",
            epoch + 1,
        )

    def _next_steps(self, done: int, last: int) -> range:
        """The steps of the next call; none if the privacy budget is spent."""
        end = min(done + self.steps_per_execution, last)
        if self.checkpoint_every:
            end = min(end, (done // self.checkpoint_every + 1) * self.checkpoint_every)
        return self._payment.affordable(range(done, end), self.length.steps)

    def _take(self, steps: range, batches: Iterator[Any]) -> None:
        if self.before_step is not None:
            # Tables of groups are due where epochs begin, and no call goes beyond an epoch.
            try:
                self.before_step(steps[0])
            except tf.errors.OpError:
                if not self._interruption.given_up:
                    raise
                self._leave(steps[0], None, self._totals)
        if self.steps_per_execution == 1:
            self._take_one(steps[0], batches)
            return
        counts = [self.batching.count(step) for step in steps]
        draws = [self.step.draws(step, self.randomness) for step in steps]
        self._payment.pay(steps)  # all of them, before the first exists
        for totals in self.step.take_group(batches, draws, counts):
            self._totals.add(totals)

    def _take_one(self, step: int, batches: Iterator[Any]) -> None:
        count = self.batching.count(step)
        before = VolatileState.of(self.model) if count > 1 else None
        totals = self._totals.copy()
        for _ in range(count - 1):
            batch = self._next(batches)
            if batch is not None:
                self._totals.add(self.step.add(batch))
            if batch is None or self._asked_to_stop():
                self._leave(step, before, totals)
        batch = self._next(batches)
        if batch is None:
            self._leave(step, before, totals)
        self._payment.pay(range(step, step + 1))  # before the noisy gradient exists
        draws = self.step.draws(step, self.randomness)
        self._totals.add(self.step.finish(batch, draws, accumulated=count > 1))

    def _leave(self, step: int, before: VolatileState | None, totals: EpochTotals) -> None:
        """Stops within a logical batch, which can take longer than a scheduler waits.

        Its beginning is given up, and what its forward passes changed is put back.
        """
        if before is not None:
            before.restore()
        self._totals = totals
        self._save_and_stop(step)

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next physical batch; None if a signal came that gave it up."""
        with self.clock.waiting():
            try:
                return next(batches)
            except (tf.errors.OpError, RuntimeError):  # of TensorFlow's, or of what reads ahead
                if self._interruption.given_up:
                    return None
                raise

    def _require_finite(self, finite: bool) -> None:
        if finite or self.model.stop_training:  # a callback (TerminateOnNaN) may prefer to stop
            return
        private = "" if self.ledger is None else " Its privacy ledger stays: that budget is spent."
        raise UserError(
            "training: the loss or the weights are no longer finite. The last checkpoint is kept. "
            "Lower training.optimizer.learning_rate in a new run directory (--run), or look for "
            f"broken values in the data.{private}"
        )

    def _logs(self) -> dict[str, float]:
        return {**self._totals.logs(), **self.step.released()}

    def _asked_to_stop(self) -> bool:
        """Whether any worker was; all of them then stop after the same step."""
        return self.workers.any(self._interruption.requested is not None)

    def _save_and_stop(self, done: int) -> None:
        self.give_up()  # what is read ahead is needed no more
        self._save(done)
        self.workers.from_chief(None)  # the chief, which serves the cluster, has saved
        raise Stopped(self._interruption.requested or signal.SIGTERM, done)

    def _save(self, done: int, *, complete: bool = False) -> None:
        # A private step passes over non-finite examples; its weights, which ε covers, tell.
        self._require_finite(self.step.weights_are_finite())
        if not self.workers.is_chief:
            return
        # Bare sums over training examples: kept only while an epoch is to be gone on with.
        unfinished = not complete and done % self.length.steps_per_epoch
        self.checkpoints.save(
            Position(
                done,
                self._totals.sums if unfinished else {},
                complete,
                CallbackState.of(self.callbacks),
                self._payment.mark,
            )
        )
