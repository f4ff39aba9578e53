"""EinsumDense: z = einsum(equation, x, W) + b, the projections inside attention.

The letters of the equation fall into kinds: *time* (input and output), *contracted* (input and
kernel) and *produced* (kernel and output). With only these, transposing and flattening makes the
layer a Dense over (batch, time, contracted) and the kernel gradient an outer product. An equation
with other letters (a kernel axis shared with time, an input axis summed away) has the per-example
gradient einsum(x, dz), instantiated.

With LoRA (`enable_lora`, Hu et al. 2021), W = W0 + s A B along W's last axis, and the layer is two
such layers one after the other, of kernels A and B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import (
    Instantiated,
    MatrixLayout,
    OuterProducts,
    PerExampleGradient,
)
from training.privacy.rules.base import (
    FusedActivationRule,
    Gradients,
    call_inputs,
    is_trained,
    reduce_to_shape,
)


@dataclass(frozen=True)
class Equation:
    """An einsum equation of two operands, ellipsis written out.

    Attributes:
        inputs: Letters of the input; the first is the batch.
        kernel: Letters of the kernel.
        outputs: Letters of the output.
    """

    inputs: str
    kernel: str
    outputs: str

    @classmethod
    def parse(cls, equation: str, input_rank: int) -> Equation:
        """Parses `equation`; an ellipsis takes as many letters as `input_rank` leaves it."""
        equation = equation.replace(" ", "")
        operands, outputs = equation.split("->")
        inputs, kernel = operands.split(",")
        if "..." in equation:
            unused = (c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation)
            wanted = input_rank - len(inputs.replace("...", ""))
            letters = "".join(next(unused) for _ in range(wanted))
            inputs, outputs = inputs.replace("...", letters), outputs.replace("...", letters)
        return cls(inputs, kernel, outputs)

    @property
    def keeps_batch_first(self) -> bool:
        batch = self.inputs[0]
        return self.outputs[0] == batch and batch not in self.kernel

    @property
    def takes_diagonals(self) -> bool:
        """Whether a letter stands twice in one operand ("abb")."""
        return any(len(set(x)) < len(x) for x in (self.inputs, self.kernel, self.outputs))

    @property
    def time(self) -> str:
        return "".join(c for c in self.inputs[1:] if c in self.outputs)

    @property
    def contracted(self) -> str:
        return "".join(c for c in self.kernel if c in self.inputs)

    @property
    def produced(self) -> str:
        return "".join(c for c in self.kernel if c in self.outputs)

    @property
    def produced_only(self) -> str:
        return "".join(c for c in self.produced if c not in self.inputs)

    @property
    def letters(self) -> set[str]:
        return set(self.inputs + self.kernel + self.outputs)

    @property
    def is_matrix_product(self) -> bool:
        return all(
            sum((c in self.inputs, c in self.kernel, c in self.outputs)) == 2 for c in self.letters
        )


def _flattened(x: tf.Tensor, letters: str, time: str, features: str) -> tf.Tensor:
    """Transposes and reshapes `x` with axes `letters` to (batch, time, features)."""
    order = letters[0] + time + features
    permutation = [letters.index(c) for c in order]
    if permutation != sorted(permutation):
        x = tf.transpose(x, permutation)
    sizes = dict(zip(order, x.shape, strict=True))
    shape = [x.shape[0], prod(sizes[c] for c in time), prod(sizes[c] for c in features)]
    return tf.reshape(x, shape)


def kernel_gradient(
    equation: Equation, kernel_shape: tuple[int, ...], inputs: tf.Tensor, gradient: tf.Tensor
) -> PerExampleGradient:
    """Per-example gradient of the kernel of einsum(equation, inputs, kernel)."""
    if equation.is_matrix_product:
        rows, columns = equation.contracted, equation.produced
        sizes = dict(zip(equation.kernel, kernel_shape, strict=True))
        order = rows + columns
        layout = MatrixLayout(
            tuple(sizes[c] for c in order), tuple(order.index(c) for c in equation.kernel)
        )
        return OuterProducts(
            _flattened(inputs, equation.inputs, equation.time, rows),
            _flattened(gradient, equation.outputs, equation.time, columns),
            layout,
        )
    batch = equation.inputs[0]
    summed = f"{equation.inputs},{equation.outputs}->{batch}{equation.kernel}"
    return Instantiated(
        tf.einsum(summed, tf.cast(inputs, tf.float32), tf.cast(gradient, tf.float32))
    )


def _lora_gradients(
    layer: keras.Layer, equation: Equation, inputs: tf.Tensor, gradient: tf.Tensor
) -> Gradients:
    """A (kernel axes but the last, rank) and B (rank, last axis of the kernel)."""
    scale = layer.lora_alpha / layer.lora_rank
    a, b = layer.lora_kernel_a, layer.lora_kernel_b
    last = equation.kernel[-1]
    rank = next(c for c in "RSTUVWXYZrstuvwxyz" if c not in equation.letters)
    # x A B: A produces the rank where the kernel produced its last axis, and B turns it into that.
    through = equation.outputs.replace(last, rank)
    inputs, gradient = tf.cast(inputs, tf.float32), scale * tf.cast(gradient, tf.float32)
    a_kernel = equation.kernel[:-1] + rank
    inner = tf.einsum(f"{equation.outputs},{rank}{last}->{through}", gradient, b.value)
    low = tf.einsum(f"{equation.inputs},{a_kernel}->{through}", inputs, a.value)
    first = Equation(equation.inputs, a_kernel, through)
    second = Equation(through, rank + last, equation.outputs)
    return [
        (a, kernel_gradient(first, tuple(a.shape), inputs, inner)),
        (b, kernel_gradient(second, tuple(b.shape), low, gradient)),
    ]


class EinsumDenseRule(FusedActivationRule):
    """Any equation that keeps the batch first and takes no diagonal.

    LoRA where the kernel's last axis is produced. Others take the fallback.
    """

    def applies_to(self, layer: keras.Layer) -> bool:
        if layer.quantization_mode is not None or not layer.built:
            return False
        rank = len(layer.input_spec.shape) if layer.input_spec and layer.input_spec.shape else None
        if rank is None:
            rank = layer.input_spec.ndim if layer.input_spec else None
        if rank is None and "..." in layer.equation:
            return False
        equation = Equation.parse(layer.equation, rank or 0)
        seen = set(equation.inputs + equation.outputs)
        if layer.lora_enabled and equation.kernel[-1] not in equation.produced_only:
            return False
        if equation.takes_diagonals or not equation.keeps_batch_first:
            return False
        return set(equation.kernel) <= seen

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        inputs = call_inputs(args, kwargs)
        (gradient,) = output_gradients
        equation = Equation.parse(layer.equation, inputs.shape.rank)
        found: Gradients = []
        if is_trained(layer, layer._kernel):
            kernel = tuple(layer._kernel.shape)
            found.append((layer._kernel, kernel_gradient(equation, kernel, inputs, gradient)))
        if layer.lora_enabled:
            found += _lora_gradients(layer, equation, inputs, gradient)
        if is_trained(layer, layer.bias):
            bias = reduce_to_shape(tf.cast(gradient, tf.float32), tuple(layer.bias.shape))
            found.append((layer.bias, Instantiated(bias)))
        return found
