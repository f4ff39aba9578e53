"""What leaves the model room: a Keras model giving logits, and how raw examples reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


class Preprocessor(Protocol):
    """Raw examples to model inputs, inside the graph, so that an export can carry it.

    Attributes:
        modality: What it accepts.
        batched_outputs: Fixed shapes (without batch axis) and dtypes of what it returns.
    """

    modality: Literal["text", "image", "features"]

    def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps a batch of raw examples to the model's named inputs.

        Args:
            raw: Text: string (batch,). Image: string (batch,) of encoded bytes of any size, or
                uint8 (batch, height, width, channels). Features: float32 (batch, d).
        """
        ...


@dataclass(frozen=True)
class BuiltModel:
    """A model ready to train.

    Attributes:
        model: From a dict of named inputs to logits, float32 (batch, classes).
        preprocess: Raw examples to the model's inputs.
        origin: Where its starting weights came from: source, version, licence, SHA-256.
    """

    model: keras.Model
    preprocess: Preprocessor
    origin: dict[str, str]
