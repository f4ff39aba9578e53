"""Adapters: a small bottleneck after each half of an encoder block, trained in its place.

    y = x + up(gelu(down(x)))

with `down` to a few units and `up` back, applied before the residual sum, after attention and
after the feed-forward layers. `up` starts at zero, so the block starts as it was pretrained.

Source: Houlsby et al. 2019 (1902.00751), where `up` starts near zero instead.
"""

from __future__ import annotations

from typing import Any

import keras
import keras_hub


@keras.saving.register_keras_serializable(package="sterling")
class Adapter(keras.layers.Layer):
    """A residual bottleneck, after dropout of its input.

    Args:
        width: Units of the bottleneck.
        dropout: Dropout rate of what comes in.
    """

    def __init__(self, width: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.width, self.rate = width, dropout
        self.supports_masking = True
        # None rather than a rate of 0, so that there is no random state to keep.
        self.dropout = (
            keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
            if dropout
            else None
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes `down` and `up` for inputs (batch, ..., hidden)."""
        self.down = keras.layers.Dense(
            self.width, activation="gelu", dtype=self.dtype_policy, name="down"
        )
        self.down.build(input_shape)
        self.up = keras.layers.Dense(
            input_shape[-1], kernel_initializer="zeros", dtype=self.dtype_policy, name="up"
        )
        self.up.build((*input_shape[:-1], self.width))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Maps (batch, ..., hidden) to the same shape."""
        if self.dropout is not None:
            inputs = self.dropout(inputs, training=training)
        return inputs + self.up(self.down(inputs))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "width": self.width, "dropout": self.rate}


@keras.saving.register_keras_serializable(package="sterling")
class AdaptedTransformerEncoder(keras_hub.layers.TransformerEncoder):
    """KerasHub's encoder block with an adapter after attention and one after the feed-forward.

    The two dropout layers stand exactly where adapters belong, so adapters take their places.

    Args:
        adapter_width: Units of each bottleneck.
        further: As `keras_hub.layers.TransformerEncoder`.
    """

    def __init__(self, *, adapter_width: int, **further: Any):
        super().__init__(**further)
        self.adapter_width = adapter_width

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Builds the block, then the adapters, for inputs (batch, time, hidden)."""
        super().build(inputs_shape)
        for place in ("self_attention", "feedforward"):
            adapter = Adapter(
                self.adapter_width,
                dropout=self.dropout,
                dtype=self.dtype_policy,
                name=f"{place}_adapter",
            )
            adapter.build(inputs_shape)
            setattr(self, f"_{place}_dropout", adapter)

    @property
    def adapters(self) -> list[Adapter]:
        """The two adapters."""
        return [self._self_attention_dropout, self._feedforward_dropout]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "adapter_width": self.adapter_width}
