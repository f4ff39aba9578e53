"""What `compile` and `fit` may not be asked for, because epsilon would not cover it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from configs.schema import UserError
from training.privacy.acting_callbacks import measurement_acted_on, names_files_by_training
from training.privacy.plan import PrivacyPlan

# What Keras' own fit would call, and a private fit does not.
_TRAINING = ("train_step", "compute_loss", "make_train_function", "fit")


def refuse_own_training(model: keras.Model) -> None:
    """Refuses a model of a class that says itself how it trains, which would not be heeded.

    Raises:
        UserError: Names the method.
    """
    for name in _TRAINING:
        (owner, *_) = (kind for kind in type(model).__mro__ if name in vars(kind))
        if owner.__module__.partition(".")[0] not in ("keras", "keras_hub"):
            raise UserError(
                f"make_private(model): {owner.__name__} has a {name} of its own, which private "
                "training does not run: it clips the gradient of compile's loss. Give the "
                "functional model, or one with call alone, and the loss to compile; or write the "
                "loop yourself with clipped_gradient_sum."
            )


def refuse_compile_arguments(
    optimizer: Any, *, loss_weights: Any, metrics: Any, weighted_metrics: Any, run_eagerly: bool
) -> None:
    """Refuses what private training cannot carry out.

    Raises:
        UserError: Names the argument and what to do.
    """
    if loss_weights is not None:
        raise UserError(
            "compile(loss_weights=...): a private model has one loss; scale it instead."
        )
    if weighted_metrics is not None:
        raise UserError(
            "compile(weighted_metrics=...): expected none. Name them in metrics, where padding is "
            "left out."
        )
    for metric in keras.tree.flatten(metrics):
        function_name = getattr(metric, "__name__", "")
        name = str(metric if isinstance(metric, str) else getattr(metric, "name", function_name))
        if name == "epsilon" or name.startswith("val_"):
            raise UserError(
                f"compile(metrics=...): expected names that do not begin with val_, and not "
                f"epsilon. Received: {name!r}, under which a measurement of training examples "
                "would pass for one of validation."
            )
    if run_eagerly:
        raise UserError(
            "compile(run_eagerly=True): expected False; the private step is traced, because what "
            "layers do to a batch is read off the graph."
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UserError(
            "compile(optimizer=LossScaleOptimizer): expected the optimizer inside it; clipped "
            "gradients come in float32 and at no scale."
        )


def refuse_fit_arguments(
    plan: PrivacyPlan, *, batch_size: int | None, validation_split: float, shuffle: Any
) -> None:
    """Refuses arguments that would train otherwise than planned.

    Raises:
        UserError: Names the argument and what to do.
    """
    if batch_size not in (None, plan.batch_size):
        raise UserError(
            f"fit(batch_size={batch_size}): expected none, or the plan's {plan.batch_size}, for "
            "which epsilon was computed. physical_batch_size of make_private bounds memory."
        )
    if validation_split:
        raise UserError(
            f"fit(validation_split={validation_split}): expected 0, because it would take examples "
            "away from those the plan was made for. Split first, make the plan for what is left, "
            "and give validation_data."
        )
    if shuffle is not True:
        raise UserError(f"fit(shuffle={shuffle}): expected True; the plan draws the batches.")


def refuse_training_as_validation(x: Any, validation_data: Any) -> None:
    """Refuses training examples for validation: callbacks may act on what is measured there.

    Seen are the same object, arrays that overlap in memory, and equal arrays.

    Raises:
        UserError: If so.
    """
    if validation_data is None:
        return
    held_out = validation_data[0] if isinstance(validation_data, (tuple, list)) else validation_data
    if held_out is x or any(map(_same, keras.tree.flatten(x), keras.tree.flatten(held_out))):
        raise UserError(
            "fit(validation_data=...): expected examples that are not trained on; what callbacks "
            "(and whoever chooses a model) read there would tell of training examples, which "
            "epsilon does not cover. Hold some out before the plan is made; metrics of compile "
            "show how training goes."
        )


def _same(array: Any, other: Any) -> bool:
    if not (isinstance(array, np.ndarray) and isinstance(other, np.ndarray)):
        return False
    if array.shape == other.shape and np.array_equal(array, other):
        return True
    try:
        return np.shares_memory(array, other, max_work=10**4)
    except np.exceptions.TooHardError:
        return False  # strides that no slice of whole examples has


def refuse_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuses callbacks that act on bare measurements of training examples, or name files by them.

    Raises:
        UserError: Names the callback.
    """
    for callback in callbacks:
        name = type(callback).__name__
        monitored = measurement_acted_on(callback)
        if monitored is not None:
            raise UserError(
                f"fit(callbacks=[{name}]): expected one that monitors validation (val_...). "
                f"Received: {monitored!r}, a measurement of training examples; acting on it would "
                "void epsilon."
            )
        if names_files_by_training(getattr(callback, "filepath", "")):
            raise UserError(
                f"fit(callbacks=[{name}]): expected a filepath of {{epoch}} and val_ figures "
                f"alone. Received: {str(callback.filepath)!r}, which would tell of training "
                "examples what epsilon does not cover."
            )
