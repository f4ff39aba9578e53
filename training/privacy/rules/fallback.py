"""The exact fallback: a vector-Jacobian product of the layer for each example, vectorised.

Right for any layer whose output rows depend on their own input rows only: custom layers, layers
holding layers, recurrent cells without a rule. Slower than a rule (it runs the layer's
forward and backward pass again, and holds every example's gradient), so the common layers have
rules of their own.

Constants, whose first axis is not the batch even where its size is, come wrapped in `Shared` and
are given whole to every example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from configs.schema import UserError
from training.privacy.gradients import Instantiated
from training.privacy.rules.base import Gradients, Rule
from training.privacy.rules.vectorization import map_examples


@dataclass(frozen=True)
class Shared:
    """A tensor among the arguments of a call that is the same for all examples."""

    tensor: tf.Tensor


class FallbackRule(Rule):
    """The rule of every layer that has none of its own."""

    covers_inner = True
    replays = True

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        variables = layer.trainable_variables
        batch = output_gradients[0].shape[0]
        structure = (args, dict(kwargs))
        flat = tf.nest.flatten(structure)
        sliced = [i for i, x in enumerate(flat) if _is_row_of(x, batch)]
        masks = [getattr(flat[i], "_keras_mask", None) for i in sliced]
        masked = [i for i, mask in zip(sliced, masks, strict=True) if mask is not None]
        examples = [
            *(flat[i] for i in sliced),
            *(mask for mask in masks if mask is not None),
            *output_gradients,
        ]

        def one(rows: list[tf.Tensor]) -> list[tf.Tensor]:
            batches_of_one = iter([row[None] for row in rows])
            flat_one = [x.tensor if isinstance(x, Shared) else x for x in flat]
            for position in sliced:
                flat_one[position] = next(batches_of_one)
            for position in masked:
                flat_one[position]._keras_mask = next(batches_of_one)
            own_args, own_kwargs = tf.nest.pack_sequence_as(structure, flat_one)
            values = [tf.convert_to_tensor(v.value) for v in variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                state = list(zip(variables, values, strict=True))
                with keras.StatelessScope(state_mapping=state), _without_cudnn(layer):
                    outputs = tf.nest.flatten(layer(*own_args, **own_kwargs))
            outputs = [x for x in outputs if tf.is_tensor(x) and x.dtype.is_floating]
            _require_one_row(layer, outputs)
            found = tape.gradient(
                outputs,
                values,
                output_gradients=list(batches_of_one),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]

        stacked = map_examples(one, examples, layer.path)
        return [
            (variable, Instantiated(tf.ensure_shape(values, [batch, *variable.shape])))
            for variable, values in zip(variables, stacked, strict=True)
        ]


def _require_one_row(layer: keras.Layer, outputs: list[tf.Tensor]) -> None:
    for output in outputs:
        if output.shape[:1] not in ([1], [None]):
            raise UserError(
                f"model: layer '{layer.path}' gives {output.shape[0]} rows for one example: it "
                "uses something of the batch that it was not called with (another layer's output "
                "kept in an attribute, say). Give it as an argument of the call."
            )


@contextmanager
def _without_cudnn(layer: keras.Layer) -> Iterator[None]:
    """Recurrent layers in TensorFlow's operations.

    On a GPU Keras takes cuDNN's, which cannot be vectorised, and with a mask not even looped over.
    """
    recurrent = [inner for inner in layer._flatten_layers() if hasattr(inner, "use_cudnn")]
    before = [inner.use_cudnn for inner in recurrent]
    for inner in recurrent:
        inner.use_cudnn = False
    try:
        yield
    finally:
        for inner, value in zip(recurrent, before, strict=True):
            inner.use_cudnn = value


def _is_row_of(x: Any, batch: int) -> bool:
    return tf.is_tensor(x) and x.shape.rank and x.shape[0] == batch


class WholeLayerRule(FallbackRule):
    """The fallback for layers that run the layers inside them in a loop."""

    whole = True


FALLBACK = FallbackRule()
