"""`make_private`: a model and a plan to a Keras model that trains privately."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import keras

from configs.schema import UserError
from training.privacy.half_precision import use_whole_float32
from training.privacy.inspection import problems_of
from training.privacy.keras_api.budget import Budget, require_untrained
from training.privacy.keras_api.model import PrivateModel
from training.privacy.keras_api.requests import refuse_own_training
from training.privacy.measured_precision import require_whole_float32
from training.privacy.plan import PrivacyPlan
from training.privacy.problems import refuse
from training.strategy import has_accelerators


def make_private(
    model: keras.Model,
    plan: PrivacyPlan,
    *,
    physical_batch_size: int | None = None,
    ledger: str | Path | None = None,
    seed: int | None = None,
    on_exhausted: Literal["raise", "stop"] = "raise",
    callbacks_see_training_metrics: bool = False,
) -> PrivateModel:
    """A Keras model that trains `model` privately by `compile` and `fit`.

    Guarantees:
        The weights that `fit` leaves, and anything computed from them, are
        (epsilon, delta)-differentially private as `privacy_spent()` says, counted from weights
        that no training example had touched. What would void that is refused. Losses and metrics
        that `fit` shows are bare measurements of training examples and not covered.

    Args:
        model: Any Keras model with one output, made under the strategy it is to train under. Its
            weights are shared; training it by itself in between is not covered.
        plan: Sampling, clipping, noise and length.
        physical_batch_size: Examples of a forward and backward pass over all replicas: memory,
            not privacy. None takes the expected batch size and a little more.
        ledger: File to which every release is written before it is used.
        seed: Makes batches and noise repeatable. Whoever knows it can subtract the noise. A seed
            must not be given to another fit on the same or overlapping data, or the two may share
            noise, which their difference then lacks. First fits that visibly differ at their start
            (plan, examples as a transform leaves them, weights, layers, loss, optimizer,
            callbacks) share none. Not seen: what other code does that these call, validation data
            and epochs' ends (by which a callback may act), and what changes before a second fit.
        on_exhausted: What `fit` does when asked for more steps than planned: `raise` before the
            first, or `stop` after the last.
        callbacks_see_training_metrics: Whether callbacks other than Keras' own loggers (CSVLogger,
            History, ProgbarLogger, RemoteMonitor, TensorBoard) find losses and metrics of training
            examples in `logs`. They are bare: a callback that acts on training because of them
            (stops it, sets the learning rate) voids epsilon. For callbacks that only write down;
            the statement then says what it rests on.

    Raises:
        UserError: If the model cannot be private; names layer and remedy.

    Example:
        plan = PrivacyPlan.dp_sgd(num_examples=len(x), batch_size=256, steps=1000,
                                  clipping_norm=1.0, noise_multiplier=1.1, delta=1e-6)
        private = make_private(model, plan)
        private.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        private.fit(x, y, validation_data=(x_val, y_val))
        print(private.privacy_spent().statement)
    """
    if isinstance(model, PrivateModel) or not isinstance(model, keras.Model):
        raise UserError(
            f"make_private(model): expected a keras.Model. Received: {type(model).__name__}"
        )
    if on_exhausted not in ("raise", "stop"):
        raise UserError(f"on_exhausted: expected 'raise' or 'stop'. Received: {on_exhausted!r}")
    refuse_own_training(model)
    require_untrained(model.variables)
    _warn_of_adapted(model)
    if model.built and getattr(model, "inputs", None):
        refuse(problems_of(model))
    use_whole_float32()
    if has_accelerators():
        require_whole_float32(model.distribute_strategy)
    with model.distribute_strategy.scope():
        budget = Budget(plan, None if ledger is None else Path(ledger), on_exhausted)
        return PrivateModel(
            model,
            plan,
            physical_batch_size=physical_batch_size,
            budget=budget,
            seed=seed,
            callbacks_see_training_metrics=callbacks_see_training_metrics,
        )


# Keras' layers that learn by `adapt`, and where they keep what they were given in its place.
_GIVEN_INSTEAD = {
    "IntegerLookup": "input_vocabulary",
    "Normalization": "input_mean",
    "StringLookup": "input_vocabulary",
}


def _warn_of_adapted(model: keras.Model) -> None:
    """Says of what was counted before the plan began that epsilon leaves it out."""
    for layer in model._flatten_layers():
        given = _GIVEN_INSTEAD.get(type(layer).__name__)
        if given is not None and getattr(layer, given, layer) is None:
            logging.warning(
                "make_private(model): layer '%s' (%s) holds what adapt() counted. Epsilon covers "
                "none of it: adapt on public data alone, or give the layer public values.",
                layer.path,
                type(layer).__name__,
            )
