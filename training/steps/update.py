"""The optimizer's update as one compiled program.

Keras writes an update as a dozen operations a variable, each of which reads and writes all of it.
Compiled by XLA they are one pass over the weights and the optimizer's slots (MiniLM's 22.6 M
weights under Adam, two cores: 90 ms become 32), and the division of the gradient is part of it.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from configs.schema import require
from training.steps.loss_scaling import scaled_again
from training.wide_vectors import prefer_wide_vectors

prefer_wide_vectors()

# (gradient sums, one a variable; their divisor, float32 (); penalties' gradients or none)
Update = Callable[[list[tf.Tensor], tf.Tensor, "list[tf.Tensor] | None"], None]


def build_update(
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    strategy: tf.distribute.Strategy,
) -> Update:
    """The function that divides gradient sums, adds penalties and lets the optimizer move.

    Compiled on one device and for optimizers of Keras itself, each of which is tested so.
    Strategies for replicas, even for one, update by a merge that no compiled program can hold, and
    what optimizers, learning-rate schedules and constraints of others do, XLA may not take, and
    says so only when a release is paid: both run as they are.

    Args:
        optimizer: Built on `variables`.
        variables: The trainable ones.
        strategy: Where they live. Every replica holds the same sums, and Keras adds up what
            replicas hand it.

    Raises:
        SettingError: For an option that Keras takes on one device alone.
    """
    replicas = strategy.num_replicas_in_sync
    one_device = _is_one_device(strategy)
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # LossScaleOptimizer
    if not one_device:
        _refuse_sometimes_updating(inner)

    def update(
        sums: list[tf.Tensor], divisor: tf.Tensor, penalties: list[tf.Tensor] | None
    ) -> None:
        gradients = [total / divisor for total in sums]
        if penalties is not None:
            gradients = [g + p for g, p in zip(gradients, penalties, strict=True)]
        if replicas > 1:
            # Keras bounds what each replica hands it (clipnorm and its kin) before it adds up:
            # bounded here, what is handed over is within, and the sum is what one device bounds.
            bounded = inner._clip_gradients(gradients)
            if inner is not optimizer:
                # An overflow must not be bounded away: it is what a loss scale goes down by.
                pairs = zip(gradients, bounded, strict=True)
                bounded = [tf.where(tf.math.is_finite(g), b, g) for g, b in pairs]
            gradients = [g / replicas for g in bounded]
        optimizer.apply(scaled_again(optimizer, gradients), variables)

    if not (one_device and _is_of_keras(optimizer, variables) and variables):
        return update
    return tf.function(update, jit_compile=True, autograph=False)


def _refuse_sometimes_updating(optimizer: keras.optimizers.Optimizer) -> None:
    """Refuses what Keras does in some steps only, which replicas cannot do together."""
    instead = {
        "gradient_accumulation_steps": "training.physical_batch_size accumulates within a step",
        "ema_overwrite_frequency": "without it use_ema takes the average when training ends",
    }
    for option, way_out in instead.items():
        value = getattr(optimizer, option, None)
        require(
            value is None,
            f"training.optimizer.options.{option}",
            value,
            f"none, or training.strategy: one_device; on replicas Keras cannot ({way_out})",
        )


def _is_one_device(strategy: tf.distribute.Strategy) -> bool:
    with strategy.scope():
        is_default = not tf.distribute.has_strategy()
    return is_default or isinstance(strategy, tf.distribute.OneDeviceStrategy)


def _is_of_keras(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> bool:
    """Whether all that takes part in an update is known code, schedule and constraints too."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # LossScaleOptimizer
    parts = [optimizer, inner, getattr(inner, "_learning_rate", None)]
    parts += [variable.constraint for variable in variables]
    known = ("keras.src.", "training.")
    return all(part is None or type(part).__module__.startswith(known) for part in parts)
