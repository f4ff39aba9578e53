"""Layers that no private training can hold, whatever they compute: known by their kind."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from training.privacy.rules import owned_variables

# Augmentations of a whole batch at once. Equalization has one histogram for all images of it.
_OVER_BATCH = (keras.layers.MixUp, keras.layers.CutMix, keras.layers.Equalization)


def normalizes_over_examples(layer: keras.Layer, training: bool) -> bool:
    """Whether a call of the layer takes its statistics from the batch."""
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and getattr(layer, "mixes_examples", True)
        and training
        and layer.trainable
    )


def faults_of(layer: keras.Layer, training: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with a call of the layer and what to do instead, as `problems.Problem` has it.

    Args:
        layer: The layer.
        training: Whether the call is in training mode.
    """
    name = type(layer).__name__
    if normalizes_over_examples(layer, training):
        yield (
            "(BatchNormalization in training mode) mixes the examples of a batch, so no "
            "per-example gradient exists",
            "Use group normalization, or fixed statistics (model.resnet50.normalization: "
            "group or frozen_batch; for a model of your own sterling check-private --convert, "
            "or training.privacy.conversion.to_private in code).",
        )
    if training and isinstance(layer, _OVER_BATCH):
        yield (
            f"({name}) changes an image by the others of its batch, so no per-example gradient "
            "exists",
            "Take an augmentation that sees one example at a time (RandomErasing, RandomFlip).",
        )
    if getattr(layer, "stateful", False):
        yield (
            f"({name}, stateful=True) carries state from one batch to the next, which the "
            "accounting does not cover",
            "Use stateful=False.",
        )
    if getattr(layer, "activity_regularizer", None) is not None:
        yield (
            "has an activity regularizer, whose gradient depends on the examples but is not "
            "clipped",
            "Remove activity_regularizer; regularizers of weights are fine.",
        )
    if any(getattr(v, "overwrite_with_gradient", False) for v in owned_variables(layer)):
        yield (
            f"({name}) computes in float8, whose scales follow the largest values of each batch "
            "in place of a gradient: clipped and with noise they would scale nothing",
            "Train in float32, float16 or bfloat16, and quantize the trained model.",
        )
