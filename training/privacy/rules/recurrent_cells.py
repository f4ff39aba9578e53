"""The cells of recurrent layers: one step each, as Keras computes it, with x_t W taken beforehand.

Sums are in Keras' order, so that half precision rounds alike. `recurrent_dropout` is SimpleRNN's
alone here: with it, Keras' LSTM and GRU have a mask for every gate.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from training.privacy.rules.recurrent import RecurrentRule, Step


def _value(variable: keras.Variable, like: keras.Layer) -> tf.Tensor:
    return tf.cast(variable.value, like.compute_dtype)


class SimpleRNNRule(RecurrentRule):
    """h_t = f(x_t W + b + h_{t-1} U). Source: Elman 1990."""

    cell = keras.layers.SimpleRNNCell

    def inputs_part(self, cell: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
        z = tf.matmul(inputs, _value(cell.kernel, cell))
        return z if cell.bias is None else z + _value(cell.bias, cell)

    def step(self, cell: keras.Layer, keep: tf.Tensor | None) -> Step:
        kernel = _value(cell.recurrent_kernel, cell)

        def run(z: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            (before,) = states
            before = before if keep is None else before * keep
            output = cell.activation(z + tf.matmul(before, kernel))
            return output, [output], [before]

        return run


class LSTMRule(RecurrentRule):
    """With [i, f, c', o] = x_t W + h_{t-1} U + b, the gates through g and c' through a:

    c_t = f c_{t-1} + i c',  h_t = o a(c_t).

    Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000 for f.
    """

    cell = keras.layers.LSTMCell

    def inputs_part(self, cell: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
        return tf.matmul(inputs, _value(cell.kernel, cell))

    def step(self, cell: keras.Layer, keep: tf.Tensor | None) -> Step:
        kernel = _value(cell.recurrent_kernel, cell)
        bias = None if cell.bias is None else _value(cell.bias, cell)
        gate, activation = cell.recurrent_activation, cell.activation

        def run(z: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            before, carry = states
            z = z + tf.matmul(before, kernel)
            if bias is not None:
                z = z + bias
            i, f, candidate, o = tf.split(z, 4, axis=-1)
            carry = gate(f) * carry + gate(i) * activation(candidate)
            output = gate(o) * activation(carry)
            return output, [output, carry], [before]

        return run


class GRURule(RecurrentRule):
    """With z, r = g(x_t [W_z, W_r] + h_{t-1} [U_z, U_r] + b) and the candidate h' through a:

    h_t = z h_{t-1} + (1 - z) h', where

    h' = a(x_t W_h + b_h + r (h_{t-1} U_h + c_h))   with the reset after the product (`reset_after`;
                                                    then z and r have a second bias, too),
    h' = a(x_t W_h + b_h + (r h_{t-1}) U_h)         before it.

    After, the gradient of q = h_{t-1} U + c is dz but for the candidate's part, which is r dz.
    Before, the candidate's part has r h_{t-1} for a factor in place of h_{t-1}: two sums of
    products, which are one over twice the time.

    Source: Cho et al. 2014 (arXiv:1406.1078, both versions).
    """

    cell = keras.layers.GRUCell

    def inputs_part(self, cell: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
        z = tf.matmul(inputs, _value(cell.kernel, cell))
        if cell.bias is None:
            return z
        bias = _value(cell.bias, cell)
        return z + (bias[0] if cell.reset_after else bias)

    def step(self, cell: keras.Layer, keep: tf.Tensor | None) -> Step:
        kernel = _value(cell.recurrent_kernel, cell)
        gates, candidate = kernel[:, : 2 * cell.units], kernel[:, 2 * cell.units :]
        has_bias = cell.reset_after and cell.bias is not None
        bias = _value(cell.bias, cell)[1] if has_bias else None
        gate, activation = cell.recurrent_activation, cell.activation

        def mixed(update: tf.Tensor, before: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
            return update * before + (1 - update) * activation(h)

        def after(x: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            (before,) = states
            q = tf.matmul(before, kernel)
            if bias is not None:
                q = q + bias
            x_z, x_r, x_h = tf.split(x, 3, axis=-1)
            q_z, q_r, q_h = tf.split(q, 3, axis=-1)
            update, reset = gate(x_z + q_z), gate(x_r + q_r)
            output = mixed(update, before, x_h + reset * q_h)
            return output, [output], [before, reset]

        def first(x: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
            (before,) = states
            x_z, x_r, x_h = tf.split(x, 3, axis=-1)
            q_z, q_r = tf.split(tf.matmul(before, gates), 2, axis=-1)
            update, reset = gate(x_z + q_z), gate(x_r + q_r)
            output = mixed(update, before, x_h + tf.matmul(reset * before, candidate))
            return output, [output], [before, reset * before]

        return after if cell.reset_after else first

    def state_part(
        self, cell: keras.Layer, factors: Sequence[tf.Tensor], outer: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        units = cell.units
        gates, candidate = outer[..., : 2 * units], outer[..., 2 * units :]
        if cell.reset_after:
            before, reset = factors
            return before, tf.concat([gates, reset * candidate], axis=-1)
        return tf.concat(factors, axis=1), tf.concat(
            [
                tf.concat([gates, tf.zeros_like(candidate)], axis=-1),
                tf.concat([tf.zeros_like(gates), candidate], axis=-1),
            ],
            axis=1,
        )

    def bias(self, cell: keras.Layer, outer: tf.Tensor, recurrent: tf.Tensor) -> tf.Tensor:
        of_inputs = tf.reduce_sum(outer, axis=1)
        if not cell.reset_after:
            return of_inputs
        return tf.stack([of_inputs, tf.reduce_sum(recurrent, axis=1)], axis=1)
