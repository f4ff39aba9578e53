"""Penalties on weights. They see no example, and so are added after the noise and cost nothing."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


def penalty_gradients(variables: Sequence[keras.Variable], l2: float) -> list[tf.Tensor] | None:
    """Gradients of the recipe's L2 penalty and of the layers' own regularizers.

    Args:
        variables: The trainable ones.
        l2: Weight of the squares of kernels; 0 for none.

    Returns:
        float32, one a variable; None where nothing is penalised.
    """
    values = [tf.convert_to_tensor(v.value) for v in variables]
    regularizers = [v.regularizer for v in variables]
    if not l2 and not any(regularizers):
        return None
    with tf.GradientTape() as tape:
        tape.watch(values)
        terms = [
            l2 * tf.reduce_sum(tf.square(value))
            for variable, value in zip(variables, values, strict=True)
            if l2 and _is_kernel(variable)
        ]
        terms += [r(v) for r, v in zip(regularizers, values, strict=True) if r is not None]
        penalty = tf.add_n([tf.cast(term, tf.float32) for term in terms])
    found = tape.gradient(penalty, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]


def _is_kernel(variable: keras.Variable) -> bool:
    # EinsumDense gives biases of two axes (heads, width).
    return len(variable.shape) >= 2 and "bias" not in variable.name
