"""Keras callbacks: accuracy, fairness and privacy, per epoch, into TensorBoard and `logs`.

They work in Sterling's own loop and in a user's `model.fit` alike: `FairnessCallback` needs
nothing but a way to get `Predictions`. Promises: measurements of validation examples also enter
Keras's `logs` (`val_accuracy`, `val_demographic_parity_difference` ...), so that EarlyStopping or
ReduceLROnPlateau placed after it can act on them; whatever is computed from training examples
says in its tag that ε does not cover it.

Numbers are written at every epoch's end, pictures at about ten of them and the last: drawing takes
seconds, and a picture of curves holds all epochs anyway. They begin where the process began: a
resumed run's earlier epochs are in its scalars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema.evaluation import EvaluationSettings
from evaluation.epoch_pages import (
    write_figures,
    write_headline,
    write_hparams,
    write_training_scalars,
)
from evaluation.event_writer import event_writer, picture_is_due
from evaluation.fairness import with_soft_groups
from evaluation.headlines import headlines
from evaluation.measurements import Evaluation, evaluate
from evaluation.predict import Outputs, predict_arrays, predict_batches
from evaluation.predictions import Predictions

if TYPE_CHECKING:
    from data.contracts import Batch, DatasetInfo, Origin

_RESAMPLES_BETWEEN_EPOCHS = 200


class FairnessCallback(keras.callbacks.Callback):
    """Measures a split at the end of each epoch, and shows it.

    Args:
        predict: Returns the model's current `Predictions` for the whole validation split.
        log_dir: TensorBoard log directory of the run; a second FairnessCallback (for another
            split) takes another one.
        settings: What is measured, and of whom.
        recipe_text: The recipe (YAML), shown in TensorBoard's text page.
        hparams: Name -> number, truth value or text, for TensorBoard's hparams page.

    Attributes:
        evaluation: The latest `Evaluation`; None before the first epoch's end.

    Raises:
        SettingError: At the first epoch's end, for an attribute or a positive label that the
            data do not have.

    Example:
        ```python
        fairness = FairnessCallback.from_arrays(
            model, x_valid, y_valid, {"sex": sex_valid}, log_dir="runs/mine"
        )
        model.fit(x, y, epochs=9, callbacks=[fairness, keras.callbacks.EarlyStopping("val_loss")])
        ```
    """

    def __init__(
        self,
        predict: Callable[[], Predictions],
        log_dir: str | Path,
        settings: EvaluationSettings | None = None,
        *,
        recipe_text: str | None = None,
        hparams: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.evaluation: Evaluation | None = None
        self._predict = predict
        self._log_dir = log_dir
        self._settings = settings or EvaluationSettings()
        self._recipe_text = recipe_text
        self._hparams = hparams
        self._writer: Any = None
        self._history: list[tuple[int, Any]] = []
        self._is_pictured = True

    @classmethod
    def from_arrays(
        cls,
        model: keras.Model,
        inputs: Any,
        labels: np.ndarray,
        groups: Mapping[str, np.ndarray],
        *,
        log_dir: str | Path,
        label_names: Sequence[str] | None = None,
        outputs: Outputs = "logits",
        settings: EvaluationSettings | None = None,
        **further: Any,
    ) -> FairnessCallback:
        """Measures validation examples held in arrays; see `predict_arrays`."""
        settings = settings or EvaluationSettings()

        def predict() -> Predictions:
            return predict_arrays(
                model,
                inputs,
                labels,
                groups,
                label_names=label_names,
                outputs=outputs,
                batch_size=settings.batch_size,
            )

        return cls(predict, log_dir, settings, **further)

    @classmethod
    def from_batches(
        cls,
        model: keras.Model,
        batches: Iterable[Batch],
        info: DatasetInfo,
        *,
        log_dir: str | Path,
        split: str = "validation",
        settings: EvaluationSettings | None = None,
        origin: Origin | None = None,
        **further: Any,
    ) -> FairnessCallback:
        """Measures a tf.data of Batch (iterated anew each epoch); see `predict_batches`.

        `origin` says which record of the source each example is, for files of inferred groups; see
        `with_soft_groups`.
        """
        chosen = settings or EvaluationSettings()
        return cls(
            lambda: with_soft_groups(predict_batches(model, batches, info, split), chosen, origin),
            log_dir,
            chosen,
            **further,
        )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._writer = event_writer(self._log_dir)
        with self._writer.as_default(step=0):
            if self._recipe_text is not None:
                tf.summary.text("recipe", f"```yaml\n{self._recipe_text.rstrip()}\n```")
            if self._hparams is not None:
                write_hparams(self._hparams)
        self._writer.flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        self.evaluation = evaluate(self._predict(), _between_epochs(self._settings))
        shown = headlines(self.evaluation)
        self._history.append((epoch + 1, self.evaluation.fairness))
        with self._writer.as_default(step=epoch + 1):
            write_training_scalars(logs)
            for headline in shown:
                write_headline(headline)
        self._is_pictured = False
        if picture_is_due(epoch, self.params):
            self._draw()
        self._writer.flush()
        for headline in shown:
            if headline.log is not None:
                value = math.nan if headline.value is None else headline.value
                logs.setdefault(headline.log, value)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # Training that was stopped early ends where no picture was due.
        if not self._is_pictured:
            self._draw()
            self._writer.flush()

    def _draw(self) -> None:
        if self.evaluation is None:
            return
        epoch, _ = self._history[-1]
        with self._writer.as_default(step=epoch):
            write_figures(self.evaluation, self._history)
        self._is_pictured = True


def _between_epochs(settings: EvaluationSettings) -> EvaluationSettings:
    """Enough for bands that are looked at, epoch after epoch; the final evaluation does it all."""
    return replace(
        settings,
        bootstrap_resamples=min(settings.bootstrap_resamples, _RESAMPLES_BETWEEN_EPOCHS),
        permutations=0,
    )


class PrivacyCallback(keras.callbacks.Callback):
    """Shows the privacy budget spent so far, and puts `epsilon` into `logs`.

    Between epochs the progress bar shows the value of the last epoch's end, because accounting
    takes longer than a step.

    Args:
        spent: Returns (epsilon, delta) of everything released so far.
        log_dir: TensorBoard log directory of the run.
        unit: What the guarantee protects: `example` or `user`.
    """

    def __init__(
        self, spent: Callable[[], tuple[float, float]], log_dir: str | Path, unit: str = "example"
    ):
        super().__init__()
        self._spent = spent
        self._log_dir = log_dir
        self._unit = unit
        self._writer: Any = None
        self._epsilon = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._writer = event_writer(self._log_dir)
        self._epsilon, _ = self._spent()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["epsilon"] = self._epsilon

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epsilon, delta = self._spent()
        if logs is not None:
            logs["epsilon"] = self._epsilon
        description = f"Privacy spent on the training {self._unit}s: (ε, δ) with δ = {delta:.3g}"
        with self._writer.as_default(step=epoch + 1):
            tf.summary.scalar("1 overview/4 epsilon", self._epsilon, description=description)
            tf.summary.scalar("4 privacy/delta", delta, description=description)
        self._writer.flush()
