"""What XLA can compile, read off TensorFlow's own registry of kernels."""

from __future__ import annotations

from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels

# For each kernel of an operation, attribute -> types it may have.
Constraints = list[dict[str, frozenset[int]]]


@cache
def xla_kernels(device: str) -> dict[str, Constraints]:
    """The operations that XLA compiles, each with what its kernels ask of types.

    Args:
        device: `XLA_CPU_JIT` or `XLA_GPU_JIT`.
    """
    # The registry is filled when XLA compiles for the first time.
    tf.function(lambda x: x + 1, jit_compile=True, autograph=False)(tf.constant(0))
    found: dict[str, Constraints] = {}
    for kernel in kernels.get_all_registered_kernels().kernel:
        if kernel.device_type == device:
            found.setdefault(kernel.op, []).append(
                {
                    constraint.name: frozenset(constraint.allowed_values.list.type)
                    - {tf.complex128.as_datatype_enum}
                    for constraint in kernel.constraint
                }
            )
    return found


def fits(node: Any, constraints: dict[str, frozenset[int]]) -> bool:
    """Whether a node's types are among those that a kernel takes."""
    return all(set(_types_at(node, name)) <= allowed for name, allowed in constraints.items())


def types_of(node: Any) -> list[str]:
    """Names of all types that a node works on."""
    numbers = {number for name in node.attr for number in _types_at(node, name)}
    return sorted(tf.as_dtype(number).name for number in numbers)


def _types_at(node: Any, name: str) -> list[int]:
    if name not in node.attr:
        return []
    value = node.attr[name]
    return [value.type] if value.HasField("type") else list(value.list.type)
