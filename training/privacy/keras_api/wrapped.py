"""A Keras model that is another model in all but how it trains."""

from __future__ import annotations

from typing import Any, NoReturn

import keras

from configs.schema import UserError


class WrappingModel(keras.Model):
    """Computes what the model inside computes, shares its weights and is saved as that model.

    Keras' hooks for training on a batch that somebody made are refused.

    Args:
        model: The model inside.
    """

    def __init__(self, model: keras.Model):
        super().__init__(name=f"private_{model.name}")
        self.inner = model
        self.built = model.built

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.inner(inputs, training=training)

    def build(self, input_shape: Any) -> None:
        if not self.inner.built:
            self.inner.build(input_shape)
        self.built = True

    def train_on_batch(self, *arguments: Any, **further: Any) -> NoReturn:
        """Refused: a batch made by hand is not one that the plan drew.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "train_on_batch: expected fit, or a loop of your own over private_dataset with "
            "clipped_gradient_sum; a batch made by hand is not one that the plan drew."
        )

    def train_step(self, data: Any) -> NoReturn:
        """Refused, as `train_on_batch`.

        Raises:
            UserError: Always.
        """
        self.train_on_batch(data)

    def make_train_function(self, force: bool = False) -> NoReturn:
        """Refused, as `train_on_batch`.

        Raises:
            UserError: Always.
        """
        self.train_on_batch()

    def save(self, filepath: Any, *arguments: Any, **further: Any) -> None:
        """Saves the model inside, which loads without Sterling."""
        self.inner.save(filepath, *arguments, **further)

    def save_weights(self, filepath: Any, *arguments: Any, **further: Any) -> None:
        """Saves the weights of the model inside."""
        self.inner.save_weights(filepath, *arguments, **further)

    def load_weights(self, filepath: Any, *arguments: Any, **further: Any) -> None:
        """Loads weights into the model inside. What was spent stays spent."""
        self.inner.load_weights(filepath, *arguments, **further)

    def export(self, filepath: Any, *arguments: Any, **further: Any) -> Any:
        """Exports the model inside."""
        return self.inner.export(filepath, *arguments, **further)
