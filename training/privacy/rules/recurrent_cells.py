"""The cells of recurrent layers: one step each, as Keras computes it, with x_t W taken beforehand.

Sums are in Keras' order, so that half precision rounds alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from training.privacy.rules.recurrent import (
    Block,
    Masks,
    RecurrentRule,
    Step,
    in_blocks,
    masked,
    sum_over_time,
)


def _value(variable: keras.Variable, like: keras.Layer) -> tf.Tensor:
    return tf.cast(variable.value, like.compute_dtype)


def _columns(kernel: tf.Tensor, masks: Sequence[Any]) -> list[tf.Tensor]:
    """The whole kernel, or the columns that each of the masks' inputs meets."""
    return tf.split(kernel, len(masks), axis=-1) if len(masks) > 1 else [kernel]


def _product(inputs: Sequence[tf.Tensor], columns: Sequence[tf.Tensor]) -> tf.Tensor:
    parts = [tf.matmul(x, kernel) for x, kernel in zip(inputs, columns, strict=True)]
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)


class SimpleRNNRule(RecurrentRule):
    """h_t = f(x_t W + b + h_{t-1} U). Source: Elman 1990."""

    cell = keras.layers.SimpleRNNCell

    def masks(self, cell: keras.Layer, inputs: tf.Tensor, state: tf.Tensor) -> tuple[Any, Any]:
        return cell.get_dropout_mask(inputs), cell.get_recurrent_dropout_mask(state)

    def inputs_part(self, cell: keras.Layer, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        z = _product(inputs, [_value(cell.kernel, cell)])
        return z if cell.bias is None else z + _value(cell.bias, cell)

    def step(self, cell: keras.Layer, keep: Masks) -> Step:
        kernel = _value(cell.recurrent_kernel, cell)

        def run(z: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            (before,) = states
            output = cell.activation(z + _product(masked(before, keep), [kernel]))
            return output, [output], [before]

        return run


class GatedRule(RecurrentRule):
    """What LSTM and GRU share: their dropout, with one mask or (`implementation=1`) one a gate."""

    def applies_to(self, layer: keras.Layer) -> bool:
        if not super().applies_to(layer):
            return False
        cell = layer.cell
        # Set after the cell was made, `implementation` has not the masks that it asks for.
        fit = (cell.implementation == 1) == hasattr(cell, "dropout_mask_count")
        return fit or not (cell.dropout or cell.recurrent_dropout)

    def masks(self, cell: keras.Layer, inputs: tf.Tensor, state: tf.Tensor) -> tuple[Any, Any]:
        # Keras' gates pass over a rate of 1, as over 0.
        drops, keeps = 0.0 < cell.dropout < 1.0, 0.0 < cell.recurrent_dropout < 1.0
        return (
            cell.get_dropout_mask(inputs) if drops else None,
            cell.get_recurrent_dropout_mask(state) if keeps and cell.implementation == 1 else None,
        )


class LSTMRule(GatedRule):
    """With [i, f, c', o] = x_t W + h_{t-1} U + b, the gates through g and c' through a:

    c_t = f c_{t-1} + i c',  h_t = o a(c_t).

    Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000 for f.
    """

    cell = keras.layers.LSTMCell

    def inputs_part(self, cell: keras.Layer, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        z = _product(inputs, _columns(_value(cell.kernel, cell), inputs))
        return z + _value(cell.bias, cell) if self._adds_bias_first(cell) else z

    def _adds_bias_first(self, cell: keras.Layer) -> bool:
        return cell.bias is not None and cell.implementation == 1

    def step(self, cell: keras.Layer, keep: Masks) -> Step:
        kernel = _columns(_value(cell.recurrent_kernel, cell), keep)
        has_bias = cell.bias is not None and not self._adds_bias_first(cell)
        bias = _value(cell.bias, cell) if has_bias else None
        gate, activation = cell.recurrent_activation, cell.activation

        def run(z: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            before, carry = states
            z = z + _product(masked(before, keep), kernel)
            if bias is not None:
                z = z + bias
            i, f, candidate, o = tf.split(z, 4, axis=-1)
            carry = gate(f) * carry + gate(i) * activation(candidate)
            output = gate(o) * activation(carry)
            return output, [output, carry], [before]

        return run


class GRURule(GatedRule):
    """With z, r = g(x_t [W_z, W_r] + h_{t-1} [U_z, U_r] + b) and the candidate h' through a:

    h_t = z h_{t-1} + (1 - z) h', where

    h' = a(x_t W_h + b_h + r (h_{t-1} U_h + c_h))   with the reset after the product (`reset_after`;
                                                    then z and r have a second bias, too),
    h' = a(x_t W_h + b_h + (r h_{t-1}) U_h)         before it.

    After, the gradient of q = h_{t-1} U + c is dz but for the candidate's part, which is r dz.
    Before, the candidate's columns are a block of their own, with r h_{t-1} for a factor.

    Source: Cho et al. 2014 (arXiv:1406.1078, both versions).
    """

    cell = keras.layers.GRUCell

    def inputs_part(self, cell: keras.Layer, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        z = _product(inputs, _columns(_value(cell.kernel, cell), inputs))
        if cell.bias is None:
            return z
        bias = _value(cell.bias, cell)
        return z + (bias[0] if cell.reset_after else bias)

    def step(self, cell: keras.Layer, keep: Masks) -> Step:
        kernel = _value(cell.recurrent_kernel, cell)
        has_bias = cell.reset_after and cell.bias is not None
        bias = _value(cell.bias, cell)[1] if has_bias else None
        gate, activation = cell.recurrent_activation, cell.activation

        def mixed(update: tf.Tensor, before: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
            return update * before + (1 - update) * activation(h)

        all_gates = _columns(kernel, keep)

        def after(x: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            (before,) = states
            q = _product(masked(before, keep), all_gates)
            if bias is not None:
                q = q + bias
            x_z, x_r, x_h = tf.split(x, 3, axis=-1)
            q_z, q_r, q_h = tf.split(q, 3, axis=-1)
            update, reset = gate(x_z + q_z), gate(x_r + q_r)
            output = mixed(update, before, x_h + reset * q_h)
            return output, [output], [before, reset]

        gates, candidate = kernel[:, : 2 * cell.units], kernel[:, 2 * cell.units :]
        of_gates, of_candidate = keep[:2], keep[2:]
        update_and_reset = _columns(gates, of_gates)

        def first(x: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            (before,) = states
            x_z, x_r, x_h = tf.split(x, 3, axis=-1)
            q = _product(masked(before, of_gates), update_and_reset)
            q_z, q_r = tf.split(q, 2, axis=-1)
            update, reset = gate(x_z + q_z), gate(x_r + q_r)
            (kept,) = masked(before, of_candidate)
            output = mixed(update, before, x_h + tf.matmul(reset * kept, candidate))
            return output, [output], [before, reset * kept]

        return after if cell.reset_after else first

    def state_part(
        self, cell: keras.Layer, factors: Sequence[tf.Tensor], keep: Masks, outer: tf.Tensor
    ) -> list[Block]:
        units = cell.units
        gates, candidate = outer[..., : 2 * units], outer[..., 2 * units :]
        if cell.reset_after:
            before, reset = factors
            recurrent = tf.concat([gates, reset * candidate], axis=-1)
            return in_blocks(masked(before, keep), recurrent)
        before, kept = factors
        return [*in_blocks(masked(before, keep[:2]), gates), (kept, candidate)]

    def bias(self, cell: keras.Layer, outer: tf.Tensor, blocks: Sequence[Block]) -> tf.Tensor:
        of_inputs = sum_over_time(outer)
        if not cell.reset_after:
            return of_inputs
        recurrent = tf.concat([sum_over_time(dq) for _, dq in blocks], axis=-1)
        return tf.stack([of_inputs, recurrent], axis=1)
