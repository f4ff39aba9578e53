"""The exact fallback: a vector-Jacobian product of the layer for each example, vectorised.

Right for any layer whose output rows depend on their own input rows only: custom layers, layers
holding layers, recurrent cells without a rule. Slower than a rule (it runs the layer's
forward and backward pass again, and holds every example's gradient), so the common layers have
rules of their own.

Constants, whose first axis is not the batch even where its size is, come wrapped in `Shared` and
are given whole to every example.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import Instantiated
from training.privacy.rules.base import Gradients, Rule

# What vectorisation raises for an operation that it cannot vectorise.
_NOT_VECTORISABLE = (ValueError, TypeError, NotImplementedError, tf.errors.OpError)


@dataclass(frozen=True)
class Shared:
    """A tensor among the arguments of a call that is the same for all examples."""

    tensor: tf.Tensor


def _map_examples(
    function: Callable[[Any], list[tf.Tensor]], examples: list[tf.Tensor], name: str
) -> list[tf.Tensor]:
    try:
        # Not with loops for single operations: those of stateful ones, and of cuDNN's, may fail
        # when they run, and would be slow without a word.
        return tf.vectorized_map(function, examples, fallback_to_while_loop=False)
    except _NOT_VECTORISABLE as error:
        _warn_once(name, str(error).splitlines()[0] if str(error) else type(error).__name__)
    signature = _signature(function, examples)
    return tf.map_fn(function, examples, fn_output_signature=signature)


def _signature(
    function: Callable[[Any], list[tf.Tensor]], examples: list[tf.Tensor]
) -> list[tf.TensorSpec]:
    rows = [tf.TensorSpec(x.shape[1:], x.dtype) for x in examples]
    traced = tf.function(lambda *row: function(list(row)), autograph=False)
    outputs = traced.get_concrete_function(*rows).structured_outputs
    return [tf.TensorSpec(x.shape, x.dtype) for x in outputs]


_warned: set[str] = set()


def _warn_once(name: str, reason: str) -> None:
    if name not in _warned:
        _warned.add(name)
        logging.warning(
            "Layer '%s' cannot be vectorised over examples (%s); its per-example gradients are "
            "taken one by one, which is slow.",
            name,
            reason,
        )


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
            found = tape.gradient(
                [x for x in outputs if tf.is_tensor(x) and x.dtype.is_floating],
                values,
                output_gradients=list(batches_of_one),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]

        stacked = _map_examples(one, examples, layer.path)
        return [
            (variable, Instantiated(tf.ensure_shape(values, [batch, *variable.shape])))
            for variable, values in zip(variables, stacked, strict=True)
        ]


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
