"""The exact fallback: a vector-Jacobian product of the layer for each example, vectorised.

Right for any layer whose output rows depend on their own input rows only: custom layers, layers
holding layers, recurrent layers tapped as a whole. Slower than a rule (it runs the layer's
forward and backward pass again, and holds every example's gradient), so the common layers have
rules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import Instantiated
from training.privacy.rules.base import Gradients, Rule


def _uses_randomness(layer: keras.Layer) -> bool:
    return any(
        getattr(inner, "rate", 0) or getattr(inner, "dropout", 0)
        for inner in layer._flatten_layers()
        if getattr(inner, "seed_generator", None) is not None
    )


class FallbackRule(Rule):
    def refusal(self, layer: keras.Layer, kwargs: Mapping[str, Any]) -> str | None:
        kind = type(layer).__name__
        if getattr(layer, "stateful", False):
            return (
                f"layer '{layer.path}' ({kind}, stateful=True) carries state from one batch to "
                "the next, which the accounting does not cover. Use stateful=False."
            )
        for inner in layer._flatten_layers():
            if isinstance(inner, keras.layers.BatchNormalization) and inner.trainable:
                return (
                    f"layer '{inner.path}' (BatchNormalization inside {kind}) mixes the examples "
                    "of a batch. Set its trainable to False, or use GroupNormalization."
                )
        if kwargs.get("training", True) and _uses_randomness(layer):
            return (
                f"layer '{layer.path}' ({kind}) draws random numbers inside (dropout), and its "
                "private gradient replays the layer, which would draw others. Set its dropout to "
                "0 and put a Dropout layer beside it."
            )
        return None

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        variables = layer.trainable_variables
        batch = output_gradients[0].shape[0]
        flat = tf.nest.flatten((args, dict(kwargs)))
        batched = [
            i
            for i, x in enumerate(flat)
            if tf.is_tensor(x) and x.shape.rank and x.shape[0] == batch
        ]
        compute_dtype = layer.compute_dtype

        def one(example: tuple[list[tf.Tensor], list[tf.Tensor]]) -> list[tf.Tensor]:
            inputs, gradients = example
            flat_one = list(flat)
            for position, x in zip(batched, inputs, strict=True):
                flat_one[position] = x[None]
            own_args, own_kwargs = tf.nest.pack_sequence_as((args, dict(kwargs)), flat_one)
            values = [tf.convert_to_tensor(v.value) for v in variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                with (
                    keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))),
                    keras.src.backend.AutocastScope(
                        compute_dtype if keras.backend.is_float_dtype(compute_dtype) else None
                    ),
                ):
                    outputs = tf.nest.flatten(layer.call(*own_args, **own_kwargs))
            found = tape.gradient(
                outputs,
                values,
                output_gradients=[g[None] for g in gradients],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]

        stacked = tf.vectorized_map(one, ([flat[i] for i in batched], list(output_gradients)))
        return [
            (variable, Instantiated(tf.ensure_shape(values, [batch, *variable.shape])))
            for variable, values in zip(variables, stacked, strict=True)
        ]


class WholeLayerRule(FallbackRule):
    """The fallback for layers that run the layers inside them in a loop."""

    whole = True
