"""One function over all examples of a batch at once: TensorFlow's vectorised map, made safe.

A layer called for one example has a batch of one: its products get the shape
`(examples, 1, rows, columns)`. TensorFlow up to 2.21 hands the product of such a tensor and a
weight that all examples share to oneDNN, which reads and writes past their ends
(https://github.com/tensorflow/tensorflow/pull/120199): a wrong gradient that may hold numbers of
other examples, or a crash. So products are vectorised here without axes of size one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.parallel_for import pfor  # no public way to say how to vectorise

# What vectorisation raises for an operation that it cannot vectorise.
_NOT_VECTORISABLE = (ValueError, TypeError, NotImplementedError, tf.errors.OpError)


def map_examples(
    function: Callable[[Any], list[tf.Tensor]], examples: list[tf.Tensor], name: str
) -> list[tf.Tensor]:
    """Applies a function to every example; one by one, with a warning, where it must be.

    Args:
        function: Takes each tensor's row of one example; gives tensors.
        examples: Tensors with leading axis batch.
        name: Whose function it is, for the warning.

    Returns:
        What the function gives, each with leading axis batch.
    """
    try:
        # Not with loops for single operations: those of stateful ones, and of cuDNN's, may fail
        # when they run, and would be slow without a word.
        return tf.vectorized_map(function, examples, fallback_to_while_loop=False)
    except _NOT_VECTORISABLE as error:
        _warn_once(name, str(error).splitlines()[0] if str(error) else type(error).__name__)
    signature = _signature(function, examples)
    return tf.map_fn(function, examples, fn_output_signature=signature)


def product(x: tf.Tensor, y: tf.Tensor, adjoint_x: bool, adjoint_y: bool) -> tf.Tensor:
    """`tf.matmul`, broadcast alike, without handing batch axes of size one to the kernel.

    Args:
        x: (..., m, k); (..., k, m) if `adjoint_x`.
        y: (..., k, n); (..., n, k) if `adjoint_y`.
        adjoint_x: Whether to take the adjoint of `x`.
        adjoint_y: Of `y`.

    Returns:
        (..., m, n), of the batch axes that `x` and `y` broadcast to.
    """
    kernel = {"adjoint_a": adjoint_x, "adjoint_b": adjoint_y}
    if x.shape.rank is None or y.shape.rank is None:
        return tf.matmul(x, y, **kernel)
    axes = max(x.shape.rank, y.shape.rank) - 2
    of_x = [1] * (axes - x.shape.rank + 2) + x.shape[:-2].as_list()
    of_y = [1] * (axes - y.shape.rank + 2) + y.shape[:-2].as_list()
    of_one = [i for i in range(axes) if of_x[i] == of_y[i] == 1]
    if not of_one:
        return tf.matmul(x, y, **kernel)
    result = tf.matmul(_without(x, axes, of_one), _without(y, axes, of_one), **kernel)
    for axis in of_one:
        result = tf.expand_dims(result, axis)
    return result


def _without(x: tf.Tensor, axes: int, of_one: list[int]) -> tf.Tensor:
    """`x` without those of its batch axes, counted as if it had `axes`, leading ones among them."""
    missing = axes - (x.shape.rank - 2)
    own = [axis - missing for axis in of_one if axis >= missing]
    return tf.squeeze(x, own) if own else x


def _vectorised_product(pfor_input: Any) -> Any:
    """What `pfor` makes of a product of matrices."""
    pfor_input.expanddim_inputs_for_broadcast()
    (x, *_), (y, *_) = pfor_input.input(0), pfor_input.input(1)
    result = product(x, y, pfor_input.get_attr("adj_x"), pfor_input.get_attr("adj_y"))
    return pfor.wrap(result, True)


pfor._pfor_converter_registry["BatchMatMulV2"] = _vectorised_product


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
