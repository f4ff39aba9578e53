"""`PrivateModel`: a Keras model whose `compile` and `fit` train with differential privacy.

Its `fit` draws the batches itself, runs the engine's step and counts every release; `evaluate`,
`predict` and saving are Keras' own, on the model inside. Keras' `train_step` hook is not used: it
sees one batch that somebody else made, while a private step is a drawn batch of any size, noise
once at its end and a line in the ledger before that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from configs.schema import UserError
from data.faults import fault_in
from training.batching import Batching
from training.privacy.keras_api.budget import Budget
from training.privacy.keras_api.callbacks import callbacks_given, called_in_fit, history_of
from training.privacy.keras_api.datasets import (
    default_physical_size,
    replicated,
    require_planned_size,
    x_as_source,
)
from training.privacy.keras_api.losses import named_loss, per_example_loss
from training.privacy.keras_api.naming import named_callbacks
from training.privacy.keras_api.paid_steps import PaidSteps
from training.privacy.keras_api.preparation import step_for
from training.privacy.keras_api.requests import (
    refuse_callbacks,
    refuse_compile_arguments,
    refuse_fit_arguments,
    refuse_training_as_validation,
)
from training.privacy.keras_api.root import FitRoot, context_of
from training.privacy.keras_api.sources import Source
from training.privacy.keras_api.spent import PrivacySpent
from training.privacy.keras_api.step import KerasStep
from training.privacy.keras_api.validation import Validation
from training.privacy.keras_api.wrapped import WrappingModel
from training.privacy.plan import PrivacyPlan


class PrivateModel(WrappingModel):
    """See `make_private`, which makes it."""

    def __init__(
        self,
        model: keras.Model,
        plan: PrivacyPlan,
        *,
        physical_batch_size: int | None,
        budget: Budget,
        seed: int | None,
        callbacks_see_training_metrics: bool,
    ):
        super().__init__(model)
        self.plan = plan
        self._budget, self._root = budget, FitRoot(plan, seed)
        self._callbacks_see = callbacks_see_training_metrics
        self._physical_batch_size = physical_batch_size
        self._step: KerasStep | None = None
        self._carried: tuple[np.ndarray, ...] = ()
        self._loss: Any = None
        self._loss_named: Any = None
        self._metrics_given: list[Any] = []
        self._callbacks_named = ""
        # Names of what the metrics measure on training examples.
        self._measured: frozenset[str] = frozenset()

    @property
    def releases(self) -> int:
        """Noisy gradients used so far."""
        return self._budget.releases

    def privacy_spent(self) -> PrivacySpent:
        """Epsilon, delta and the guarantee in words, for all releases so far."""
        return PrivacySpent.on(
            self.plan,
            self.releases,
            reproducible=self._root.reproducible,
            callbacks_see=self._callbacks_see,
        )

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """As `keras.Model.compile`, for one loss.

        Args:
            optimizer: Any Keras optimizer; it sees noisy gradients only.
            loss: A name, a `keras.losses.Loss` or a function of (y_true, y_pred); whatever its
                reduction, each example's own loss is taken and clipped.
            loss_weights, weighted_metrics: Refused.
            metrics: As in Keras; on training examples they leave out padding.
            run_eagerly: Refused.
            steps_per_execution: Steps taken in one call of one TensorFlow function, and between
                two calls of batch callbacks; all of them are in the ledger before the first.
            jit_compile: As in Keras.
            auto_scale_loss: Of no effect: gradients are clipped in float32, at no scale.

        Raises:
            UserError: For what is refused.
        """
        del auto_scale_loss
        refuse_compile_arguments(
            optimizer,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
        )
        self._loss = per_example_loss(loss)
        self._loss_named = named_loss(loss)
        self._metrics_given = [m for m in keras.tree.flatten(metrics) if hasattr(m, "variables")]
        self._drop_step()
        with self.distribute_strategy.scope():
            super().compile(
                optimizer=optimizer,
                loss=loss,
                # With weights, so that rows of padding can weigh nothing.
                weighted_metrics=metrics,
                steps_per_execution=steps_per_execution,
                jit_compile=jit_compile,
                auto_scale_loss=False,
            )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Trains privately. As `keras.Model.fit`, but that the plan draws the batches.

        Args:
            x: Arrays, a random-access source, a `tf.data.Dataset` of single examples, which is
                read through into memory, or a `private_dataset`, which also says whose each
                example is, where the plan protects users.
            y: Labels, where `x` is arrays.
            batch_size: None, or the plan's.
            epochs: As in Keras; none takes all the steps that the plan still allows.
            verbose, validation_data, initial_epoch: As in Keras.
            callbacks: As in Keras, and they may monitor validation only: but for Keras' own
                loggers, their `logs` lack the losses and metrics of training examples
                (`callbacks_see_training_metrics` of `make_private`).
            validation_split, shuffle: At their defaults; anything else is refused.
            class_weight: Public weight of each class.
            sample_weight: (n,), each depending on its own example alone.
            steps_per_epoch: Steps of an epoch; none takes N / expected batch size, rounded up.
            validation_steps, validation_batch_size, validation_freq: As in Keras.

        Returns:
            The `History` callback.

        Raises:
            UserError: If the data or a request does not fit the plan, the loss couples examples,
                the model cannot be private, or the budget does not last.
        """
        if self._loss is None:
            raise UserError("fit: expected compile(optimizer, loss) to be called first.")
        refuse_fit_arguments(
            self.plan, batch_size=batch_size, validation_split=validation_split, shuffle=shuffle
        )
        per_epoch = steps_per_epoch or math.ceil(self.plan.num_examples / self.plan.batch_size)
        steps = self._budget.steps_for(
            None if epochs is None else (epochs - initial_epoch) * per_epoch
        )
        epochs = initial_epoch + math.ceil(steps / per_epoch)
        source = x_as_source(self.plan, x, y, sample_weight, class_weight)
        require_planned_size(self.plan, source)
        self._root.require_same_examples(source)
        refuse_training_as_validation(x, validation_data)
        given = callbacks_given(callbacks)
        refuse_callbacks(given)
        # As text, which Keras does not track.
        self._callbacks_named = json.dumps([named_callbacks(given), self._callbacks_see])
        listed = called_in_fit(
            given,
            self,
            None if self._callbacks_see else lambda: self._measured,
            add_progbar=verbose != 0 and not isinstance(callbacks, keras.callbacks.CallbackList),
            verbose=1 if verbose == "auto" else verbose,
            epochs=epochs,
            steps=per_epoch,
        )
        step = self._prepared_step(source)
        validate = Validation(
            self,
            validation_data,
            validation_steps,
            validation_batch_size or self.plan.batch_size,
            validation_freq,
        )
        batching, first = self._batching(source), self.releases
        batches = replicated(source, batching, self.distribute_strategy, first, first + steps)
        paid = PaidSteps(
            step,
            self._budget,
            self._root(),
            batching,
            iter(batches),
            in_one_call=self.steps_per_execution > 1,
        )
        self.stop_training = False
        listed.on_train_begin()
        logs: dict[str, float] = {}
        try:
            for epoch in range(initial_epoch, epochs):
                self.reset_metrics()
                listed.on_epoch_begin(epoch)
                done = (epoch - initial_epoch) * per_epoch
                self._epoch(min(per_epoch, steps - done), paid, listed)
                logs = self._logs(step)
                logs.update(validate(epoch, listed))
                listed.on_epoch_end(epoch, logs)
                if self.stop_training:
                    break
        except BaseException as error:
            # Half a logical batch may wait in the sums; added to the next, its examples would
            # count twice.
            self._drop_step()
            self.history = history_of(listed)
            fault = fault_in(error)
            if fault is not None:
                raise fault from error
            raise
        step.finalize()
        listed.on_train_end(logs)
        self.history = history_of(listed)
        return self.history

    def _epoch(self, steps: int, paid: PaidSteps, callbacks: Any) -> None:
        """Takes `steps` steps, calling batch callbacks every `steps_per_execution`."""
        done = 0
        while done < steps and not self.stop_training:
            stride = min(self.steps_per_execution, steps - done)
            callbacks.on_train_batch_begin(done)
            paid.take(stride)
            done += stride
            callbacks.on_train_batch_end(done - 1, self._logs(paid.step))

    def _logs(self, step: KerasStep) -> dict[str, float]:
        measured = {name: float(value) for name, value in self.get_metrics_result().items()}
        released = step.released()
        self._measured = frozenset(measured) - frozenset(released)
        return {**measured, **released}

    def _batching(self, source: Source) -> Batching:
        replicas = self.distribute_strategy.num_replicas_in_sync
        size = default_physical_size(self.plan, replicas=replicas, size=self._physical_batch_size)
        sampler = self.plan.sampler(self._root(), source.users)
        return Batching(sampler, size, replicas, self.plan.rows_per_record)

    def _prepared_step(self, source: Source) -> KerasStep:
        """The traced step; refuses a model or loss that cannot be private before it is run."""
        self._budget.require_alone(self.inner.variables)
        self._root.begin(lambda: self._context(source))
        if self._step is not None:
            return self._step
        measured = [v for metric in self._metrics_given for v in metric.variables]
        step = step_for(self, self.plan, self._loss, source, measured)
        batches = replicated(source, self._batching(source), self.distribute_strategy, 0, 0)
        step.trace(batches.element_spec)
        if self.releases:
            step.recall(self.releases, self._root())
        for variable, value in zip(step.state, self._carried, strict=False):
            variable.assign(value)
        self._budget.mark(self.inner.trainable_variables)
        self._step = step
        return step

    def _drop_step(self) -> None:
        """Forgets the compiled step and what it has summed, but not the bound it has reached."""
        if self._step is not None:
            self._carried = tuple(variable.numpy() for variable in self._step.state)
        self._step = None

    def _context(self, source: Source) -> str:
        """What, beside the seed, names the random streams: runs that differ in it share none."""
        return context_of(
            self.inner,
            self.optimizer,
            self.plan,
            source,
            self._physical_batch_size,
            self._loss_named,
            self._callbacks_named,
        )
