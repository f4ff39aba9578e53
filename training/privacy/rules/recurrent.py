"""Recurrent layers: z_t = x_t W + b, then a loop over time which adds what the state gives, h U.

The whole is a fused activation of z: what comes after z_t is the recurrence. So z is taken for all
steps at once, before the loop, and tapped there; Keras' own loop runs over it, and the backward
pass, which goes through that loop anyway, leaves dz (batch, time, gates) behind. With the states
that the loop has met, every kernel's gradient is a product over time, as a Dense layer's:

    dW = sum over t of x_t^T dz_t,    dU = sum over t of h_{t-1}^T dq_t,

where q is the state's part of the pre-activation. Nothing runs twice, and nothing is made for each
example. Masks need no word: a step that is skipped has dz = 0.

Dropout scales inputs and states, each example's by a mask of its own that holds for all steps. With
one mask for every gate, each gate's columns have inputs of their own: blocks side by side.

What one step computes is said by the cells (`recurrent_cells.py`).

Sources: Werbos 1990, backpropagation through time; Gal & Ghahramani 2016 (arXiv:1512.05287) for
dropout that holds for all steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from training.privacy.column_blocks import ColumnBlocks
from training.privacy.gradients import (
    Instantiated,
    OuterProducts,
    PerExampleGradient,
    plain_layout,
)
from training.privacy.rules.base import Gradients, Inside, InsideRule, is_trained

# Masks of dropout, broadcast over what they drop: none, one, or one for each gate.
Masks = Sequence[tf.Tensor]
# Inputs of a kernel's columns, and the gradient at what those gave; each (batch, time, ...).
Block = tuple[tf.Tensor, tf.Tensor]
# (z_t, state) -> output, new state, what the recurrent kernel's gradient needs of this step.
Step = Callable[
    [tf.Tensor, Sequence[tf.Tensor]], tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]
]


class RecurrentRule(InsideRule):
    """One kind of cell, in its own layer or in `RNN`, with whatever options the loop has."""

    cell: type[keras.Layer]

    def applies_to(self, layer: keras.Layer) -> bool:
        cell = layer.cell
        return (
            type(cell) is self.cell
            and not layer.stateful
            and cell.compute_dtype == layer.compute_dtype
            # An activation may be a layer, with weights or random numbers of its own.
            and not cell._flatten_layers(include_self=False)
        )

    @abstractmethod
    def masks(
        self, cell: keras.Layer, inputs: tf.Tensor, state: tf.Tensor
    ) -> tuple[tf.Tensor | list[tf.Tensor] | None, tf.Tensor | list[tf.Tensor] | None]:
        """The masks of `dropout` and of `recurrent_dropout` in training; None for none.

        Args:
            cell: The cell, whose layer has drawn them before, from the cell's seed generator.
            inputs: Of one step, (batch, features).
            state: (batch, units).
        """

    @abstractmethod
    def inputs_part(self, cell: keras.Layer, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """z: what the inputs give, (batch, time, features) -> (batch, time, gates).

        Args:
            cell: The cell.
            inputs: Those of all gates, or of each gate.
        """

    @abstractmethod
    def step(self, cell: keras.Layer, keep: Masks) -> Step:
        """One step of the cell, given its part of z.

        Args:
            cell: The cell.
            keep: The masks of `recurrent_dropout`, (batch, units).
        """

    def state_part(
        self, cell: keras.Layer, factors: Sequence[tf.Tensor], keep: Masks, outer: tf.Tensor
    ) -> list[Block]:
        """The factors of the recurrent kernel's gradient, for all of its columns or in blocks.

        Args:
            cell: The cell.
            factors: What the steps left, each (batch, time, ...).
            keep: The masks of `recurrent_dropout`, (batch, 1, units).
            outer: dz, (batch, time, gates).
        """
        (before,) = factors
        return in_blocks(masked(before, keep), outer)

    def bias(self, cell: keras.Layer, outer: tf.Tensor, blocks: Sequence[Block]) -> tf.Tensor:
        """The bias' gradient, (batch, *shape), of dz and the recurrent kernel's factors."""
        return sum_over_time(outer)

    @contextmanager
    def tapped(self, layer: keras.Layer, watch: Callable[[tf.Tensor], None]) -> Iterator[Inside]:
        inside = Inside()

        def inner_loop(
            sequences: tf.Tensor, initial_state: Any, mask: Any, training: bool = False
        ) -> Any:
            """In place of `keras.layers.RNN.inner_loop`, which runs the cell over the inputs."""
            cell, states = layer.cell, keras.tree.flatten(initial_state)
            drop, keep = self.masks(cell, sequences[:, 0], states[0]) if training else (None, None)
            drop, keep = _as_list(drop), _as_list(keep)
            whole, states = _over_one_batch(tf.cast(sequences, cell.compute_dtype), states)
            inputs = masked(whole, _for_all_steps(drop))
            z = self.inputs_part(cell, inputs)
            watch(z)
            outputs, states, factors = _loop(layer, self.step(cell, keep), z, states, mask)
            inside.outputs.append(z)
            inside.factors += [inputs, factors, _for_all_steps(keep)]
            return outputs[:, -1], outputs, states

        # Through __dict__, past Keras' attribute tracking.
        layer.__dict__["inner_loop"] = inner_loop
        try:
            yield inside
        finally:
            del layer.__dict__["inner_loop"]

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        cell = layer.cell
        inputs, factors, keep = args
        (outer,) = output_gradients
        blocks = self.state_part(cell, factors, keep, outer)
        found: Gradients = []
        if is_trained(layer, cell.kernel):
            found.append((cell.kernel, _products(in_blocks(inputs, outer))))
        if is_trained(layer, cell.recurrent_kernel):
            found.append((cell.recurrent_kernel, _products(blocks)))
        if is_trained(layer, cell.bias):
            found.append((cell.bias, Instantiated(self.bias(cell, outer, blocks))))
        return found


def masked(x: tf.Tensor, masks: Masks) -> list[tf.Tensor]:
    """`x` under each of the masks; as it is where there are none."""
    return [x * mask for mask in masks] or [x]


def in_blocks(inputs: Sequence[tf.Tensor], outer: tf.Tensor) -> list[Block]:
    """Every input with its own share of the columns, all alike."""
    return list(zip(inputs, tf.split(outer, len(inputs), axis=-1), strict=True))


def sum_over_time(outer: tf.Tensor) -> tf.Tensor:
    """(batch, time, gates) -> float32 (batch, gates)."""
    return tf.reduce_sum(tf.cast(outer, tf.float32), axis=1)


def _as_list(masks: tf.Tensor | list[tf.Tensor] | None) -> list[tf.Tensor]:
    if masks is None:
        return []
    return [masks] if tf.is_tensor(masks) else list(masks)


def _for_all_steps(masks: Masks) -> list[tf.Tensor]:
    return [mask[:, None] for mask in masks]


def _over_one_batch(
    inputs: tf.Tensor, states: list[tf.Tensor]
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Repeats whichever of inputs and states is one constant row, which Keras would broadcast.

    At a constant row the gradient is summed over examples, too late to clip.
    """
    sizes = {x.shape[0] for x in (inputs, *states)} - {1}
    if len(sizes) != 1:
        return inputs, states
    (size,) = sizes
    inputs, *states = (
        tf.repeat(x, size, axis=0) if x.shape[0] == 1 else x for x in (inputs, *states)
    )
    return inputs, states


def _loop(
    layer: keras.Layer, step: Step, z: tf.Tensor, states: list[tf.Tensor], mask: Any
) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
    """Keras' loop over z, with the layer's options.

    Returns:
        Outputs, in the order of processing; the last states; what each step left, in order of time.
    """
    left: list[list[tf.Tensor]] = []

    def run(z_t: tf.Tensor, states: Any) -> tuple[Any, list[tf.Tensor]]:
        output, states, factors = step(z_t, states)
        if layer.unroll:
            left.append(factors)
            return output, states
        return (output, *factors), states

    loop = keras.layers.RNN(
        _Cell(run, [x.shape[-1] for x in states]),
        return_sequences=True,
        go_backwards=layer.go_backwards,
        unroll=layer.unroll,
        zero_output_for_mask=layer.zero_output_for_mask,
        name=layer.name,  # a name of its own would move the count of Keras' names
    )
    mask = keras.tree.flatten(mask)[0] if mask is not None else None
    _, outputs, last_states = loop.inner_loop(z, states, mask)
    if layer.unroll:
        factors = [tf.stack(steps, axis=1) for steps in zip(*left, strict=True)]
    else:
        outputs, *factors = outputs
    if layer.go_backwards:
        factors = [tf.reverse(x, axis=[1]) for x in factors]
    return outputs, list(last_states), factors


class _Cell:
    """What Keras asks of the cell of its loop."""

    def __init__(self, call: Callable[..., Any], state_size: list[int]):
        self.call = call
        self.state_size = state_size

    def __call__(self, inputs: tf.Tensor, states: Any) -> Any:
        return self.call(inputs, states)


def _products(blocks: Sequence[Block]) -> PerExampleGradient:
    products = [
        OuterProducts(inputs, outer, plain_layout(inputs.shape[-1], outer.shape[-1]))
        for inputs, outer in blocks
    ]
    whole = products[0] if len(products) == 1 else ColumnBlocks(tuple(products))
    if blocks[0][0].shape[1] is None:  # forms are chosen from static shapes
        return Instantiated(whole.instantiate())
    return whole
