"""Whether a device multiplies float32 as float32: measured before a private run relies on it.

Norms and clipped sums are matrix products. On operands rounded to bfloat16 (TPUs, unless told
otherwise) or TensorFloat-32 (GPUs, likewise) a norm is off by up to 2^-8 or 2^-11 of an operand,
and where terms nearly cancel by far more: an example would exceed its bound unseen.
`half_precision.use_whole_float32` asks for whole float32; whether a TPU that another process
compiles for has heard it, only the TPU can say.

The products measured are those that norms and sums consist of: MatMul, alone and batched, and
convolutions with both their gradients. Einsum is not among them and not measured: it makes
activations and gradients, or a factor that norm and sum share, whose rounding clipping takes as
it finds it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from configs.schema import UserError

# Whole in float32; 1 in bfloat16 and in TensorFloat-32.
_FINE = 1.0 + 2.0**-12
_TOLERANCE = 2.0**-16
_WIDTH = 8


def require_whole_float32(strategy: tf.distribute.Strategy) -> None:
    """Makes sure that the replicas' matrix products keep what float32 holds.

    Raises:
        UserError: Names the products that are rounded.
    """

    run = tf.function(lambda one: strategy.run(products, (one,)), autograph=False)
    # Handed over when the program runs, so that no compiler multiplies ahead of it, perhaps on
    # another device.
    measured = strategy.experimental_local_results(run(tf.constant(1.0)))
    rounded = sorted({name for values in measured for name in rounded_products(values)})
    if rounded:
        raise UserError(
            f"training.strategy: this device rounds the operands of {', '.join(rounded)} to less "
            "than float32, and norms computed so do not bound what is released. Train privately "
            "on a TPU of this machine (TPU_NAME=local), whose programs this process compiles, on "
            "a GPU or on a CPU."
        )


def rounded_products(values: tf.Tensor) -> list[str]:
    """Kinds of products whose operands have lost digits that float32 holds.

    Args:
        values: From `products`.
    """
    lost = np.abs(values.numpy() - _FINE) > _TOLERANCE
    return [name for name, is_lost in zip(_PRODUCTS, lost, strict=True) if is_lost]


def products(one: tf.Tensor) -> tf.Tensor:
    """Each kind of product of a number that only whole float32 holds, float32 (kinds,).

    Args:
        one: 1, float32 ().
    """
    return tf.stack([product(one) for product in _PRODUCTS.values()])


def _operands(one: tf.Tensor, first: list[int], second: list[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """The fine number everywhere, and matrices of unity."""
    return tf.fill(first, _FINE) * one, tf.eye(second[-1], batch_shape=second[:-2]) * one


def _matrix_product(one: tf.Tensor) -> tf.Tensor:
    first, second = _operands(one, [_WIDTH, _WIDTH], [_WIDTH, _WIDTH])
    return tf.matmul(first, second)[0, 0]


def _batched_product(one: tf.Tensor) -> tf.Tensor:
    first, second = _operands(one, [2, _WIDTH, _WIDTH], [2, _WIDTH, _WIDTH])
    return tf.matmul(first, second)[1, 0, 0]


def _convolution(one: tf.Tensor) -> tf.Tensor:
    image, kernel = _operands(one, [2, 4, 4, _WIDTH], [1, 1, _WIDTH, _WIDTH])
    return tf.nn.conv2d(image, kernel, 1, "VALID")[1, 0, 0, 0]


def _convolution_of_gradients(one: tf.Tensor) -> tf.Tensor:
    gradient, kernel = _operands(one, [2, 4, 4, _WIDTH], [1, 1, _WIDTH, _WIDTH])
    return tf.nn.conv2d_transpose(gradient, kernel, [2, 4, 4, _WIDTH], 1, "VALID")[1, 0, 0, 0]


def _kernel_gradient(one: tf.Tensor) -> tf.Tensor:
    image, gradient = _operands(one, [1, 1, _WIDTH, _WIDTH], [1, 1, _WIDTH, _WIDTH])
    found = tf.raw_ops.Conv2DBackpropFilter(
        input=image,
        filter_sizes=[1, 1, _WIDTH, _WIDTH],
        out_backprop=gradient,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    return found[0, 0, 0, 0]


_PRODUCTS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "MatMul": _matrix_product,
    "BatchMatMul": _batched_product,
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _convolution_of_gradients,
    "Conv2DBackpropFilter": _kernel_gradient,
}
