"""Operations by which an example reaches the outputs of others: read off a graph, run never.

A dry run with a batch of a size that nothing else has (`sizes_apart`) shows on every tensor which
of its axes is the batch. From the examples to the outputs, and on to the gradients, no operation
may then let that axis go (a mean over the batch), have it twice (every example against every
other), or exchange its rows (a roll, a shuffle). So a coupling is found that a run on a few
examples cannot see: one that is not active yet, is rare, needs larger batches, or is smaller than
what rounding hides.

A constant axis may have that size by chance, so that what is found counts only if it is found again
under another size (`found_again`).

Not seen: what happens behind unknown shapes, within an axis that the batch was merged into, and in
functions of Python. There remains what `training.privacy.inspection.probe` measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import isqrt
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import (  # no public way inside
    function_def_to_graph,
)

from training.privacy.problems import Problem

# A batch of fewer examples often has the size of an axis that is none.
UNMISTAKABLE = 100

# What is made of examples here tells their shape alone.
_SHAPES = {"OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike"}
# Inputs that say how large the output is, and nothing of what it holds.
_SIZES = {
    "Bincount": (1,),
    "BroadcastTo": (1,),
    "DenseBincount": (1,),
    "Fill": (0,),
    "OneHot": (1,),
    "Reshape": (1,),
    "UnsortedSegmentSum": (2,),
}
# Works along all axes between the first and the last.
_ALONG_MIDDLE = {"AvgPool", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "MaxPool"}
_ALONG_LAST = {"LogSoftmax", "Softmax", "TopK", "TopKV2"}
# Where their axes stand among the inputs.
_ALONG_GIVEN = {"CumulativeLogsumexp": 1, "Cumprod": 1, "Cumsum": 1, "ReverseV2": 1, "Roll": 2}
# Operations that run other graphs: where these are named, and the first input that they get.
_CALLS = {
    "If": (("then_branch", "else_branch"), 1),
    "PartitionedCall": (("f",), 0),
    "StatefulPartitionedCall": (("f",), 0),
    "StatelessIf": (("then_branch", "else_branch"), 1),
    "StatelessWhile": (("cond", "body"), 0),
    "While": (("cond", "body"), 0),
}


def sizes_apart(model: keras.Model, inputs: Any, batch_size: int = 0) -> Iterator[int]:
    """Primes, ever larger, that divide no axis of inputs and weights.

    Args:
        model: The model.
        inputs: Its inputs, or their specifications; the first axis is the batch.
        batch_size: The least of them is larger: what a layer does to large batches alone is seen.
    """
    axes = [size for x in tf.nest.flatten(inputs) for size in x.shape[1:] if size]
    axes += [size for variable in model.variables for size in variable.shape if size]
    for size in count(max(batch_size, UNMISTAKABLE) + 1):
        if all(size % i for i in range(2, isqrt(size) + 1)) and all(x % size for x in axes):
            yield size


@dataclass(frozen=True)
class Coupling:
    """An operation in which one example reaches another.

    Attributes:
        kind: The operation's.
        name: Its own, after that of what calls the function it is in.
    """

    kind: str
    name: str

    @property
    def place(self) -> tuple[str, str]:
        """Kind and name, without the numbers that tell one trace from another."""
        return self.kind, re.sub(r"_\d+(?=/|$)", "", self.name)

    def problem(self, where: str) -> Problem:
        """What is wrong with a layer, a model or a loss that does this."""
        return Problem(
            where,
            "makes what it gives for an example depend on the other examples of its batch (by "
            f"{self.kind}, operation '{self.name}')",
            "Compute over each example's own axes alone.",
        )


def found_again(first: Iterable[Coupling], second: Iterable[Coupling]) -> list[Coupling]:
    """Those of the first trace that the second, under another size, has at the same place."""
    known = {coupling.place for coupling in second}
    once = {coupling.place: coupling for coupling in first if coupling.place in known}
    return list(once.values())


def backward_pass(
    tape: tf.GradientTape, outputs: Sequence[tf.Tensor], at: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Gradients of a loss whose gradient at the outputs is the outputs, in the graph being traced.

    A gradient of one's own (`tf.custom_gradient`) may couple examples whose outputs are apart.

    Args:
        tape: That has watched `at`.
        outputs: What is made of the examples.
        at: Where gradients are wanted; those of other graphs (bodies of loops) have none.
    """
    graph = tf.compat.v1.get_default_graph()
    ends = [x for x in outputs if x.dtype.is_floating]
    here = [x for x in at if x.graph is graph]
    if not ends or not here:
        return []
    gradients = tape.gradient(ends, here, output_gradients=ends)
    return [tf.convert_to_tensor(x) for x in gradients if x is not None]


def couplings(
    inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor], size: int
) -> list[Coupling]:
    """The operations between examples and outputs in which one example reaches another.

    Args:
        inputs: What holds the examples, all in one graph.
        outputs: What is made of them, in the same graph.
        size: Examples, a number that no other axis is a multiple of.
    """
    return list(_couplings(inputs, outputs, _Batch(size)))


def _couplings(
    inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor], batch: _Batch
) -> Iterator[Coupling]:
    used = _used_by(outputs)
    of_examples = {id(x) for x in inputs}
    if not outputs:
        return
    for operation in outputs[0].graph.get_operations():
        examined = [x for x in operation.inputs if id(x) in of_examples]
        if not examined or operation.type in _SHAPES:
            continue
        of_examples.update(id(x) for x in operation.outputs)
        if not any(id(x) in used for x in operation.outputs):
            continue
        if operation.type in _CALLS:
            yield from _inside(operation, of_examples, used, batch)
        elif batch.is_coupled_by(operation, examined):
            yield Coupling(operation.type, operation.name)


def _inside(
    operation: tf.Operation, of_examples: set[int], used: set[int], batch: _Batch
) -> Iterator[Coupling]:
    names, first = _CALLS[operation.type]
    given = list(operation.inputs)[first:]
    for name in names:
        graph = _body(operation, operation.get_attr(name).name, [x.shape for x in given])
        pairs = zip(graph.inputs, given, strict=True)
        inner = [x for x, outer in pairs if id(outer) in of_examples]
        made = list(graph.outputs)
        if "While" not in operation.type:  # in which all goes into the next round
            both = zip(made, operation.outputs, strict=True)
            made = [x for x, outer in both if id(outer) in used]
        for found in _couplings(inner, made, batch):
            yield Coupling(found.kind, f"{operation.name}/{found.name}")


def _body(operation: tf.Operation, name: str, shapes: list[tf.TensorShape]) -> Any:
    """The graph that an operation runs, for inputs of these shapes."""
    graph, function = operation.graph, None
    while function is None:
        function, outer = graph._get_function(name), getattr(graph, "outer_graph", None)
        graph = outer
    definition = type(function.cached_definition)()
    definition.CopyFrom(function.cached_definition)
    # A function traced for any batch says so, and would not learn this one's size.
    for attributes in (*definition.arg_attr.values(), *definition.node_def):
        attributes.attr.pop("_output_shapes", None)
    with operation.graph.as_default():
        return function_def_to_graph(definition, input_shapes=shapes)


def _used_by(outputs: Iterable[tf.Tensor]) -> set[int]:
    """Ids of the tensors that outputs are made of."""
    found: set[int] = set()
    waiting = list(outputs)
    while waiting:
        x = waiting.pop()
        if id(x) not in found:
            found.add(id(x))
            if x.op.type not in _SHAPES:
                sizes = _SIZES.get(x.op.type, ())
                waiting.extend(y for i, y in enumerate(x.op.inputs) if i not in sizes)
    return found


@dataclass(frozen=True)
class _Batch:
    """Knows the batch by its size.

    Attributes:
        size: Examples.
    """

    size: int

    def axes(self, x: tf.Tensor) -> list[int]:
        """Axes that are the batch, or that it was merged into with others."""
        if x.shape.rank is None:
            return []
        return [axis for axis, size in enumerate(x.shape) if size and size % self.size == 0]

    def is_coupled_by(self, operation: tf.Operation, examined: Sequence[tf.Tensor]) -> bool:
        """Whether an operation on what examples were made into lets one reach another."""
        before = max(len(self.axes(x)) for x in examined)
        after = max((len(self.axes(x)) for x in operation.outputs), default=0)
        if not before and operation.type != "EnsureShape":
            return False
        return (
            (after == 0 and self._lets_go(operation))
            or (after > 1 and all(len(self.axes(x)) < 2 for x in operation.inputs))
            or _mixes_rows(operation, self)
        )

    def _lets_go(self, operation: tf.Operation) -> bool:
        return not _takes_rows_apart(operation) and all(
            x.shape.is_fully_defined() and x.dtype not in (tf.variant, tf.resource)
            for x in operation.outputs
        )


def _takes_rows_apart(operation: tf.Operation) -> bool:
    """Whether it gives a row, or all one by one, to be put together again (loops in Python)."""
    if operation.type == "StridedSlice":
        return bool(operation.get_attr("shrink_axis_mask"))
    return operation.type == "Unpack"


def _mixes_rows(operation: tf.Operation, batch: _Batch) -> bool:
    x, kind = operation.inputs[0], operation.type
    axes = batch.axes(x)
    if kind == "Einsum":
        return _sums_over_rows(operation, batch)
    if kind == "EnsureShape":  # where it is the first to know
        return x.shape.rank is None and not batch.axes(operation.outputs[0])
    if kind == "RandomShuffle":
        return 0 in axes
    if kind == "FusedBatchNormV3":
        return 0 in axes and operation.get_attr("is_training")
    if kind in _ALONG_MIDDLE:
        return any(0 < axis < x.shape.rank - 1 for axis in axes)
    if kind in _ALONG_LAST:
        return x.shape.rank - 1 in axes
    if kind == "Cumsum" and x.dtype.is_integer:
        return False  # of lengths: offsets
    if kind in _ALONG_GIVEN:
        return any(axis in axes for axis in _axes_given(operation, _ALONG_GIVEN[kind]))
    look = {"GatherV2": _gathers_other_rows, "StridedSlice": _turns_rows_round}.get(kind)
    return look is not None and look(operation, batch)


def _sums_over_rows(operation: tf.Operation, batch: _Batch) -> bool:
    operands, output = operation.get_attr("equation").decode().split("->")
    return any(
        letters[axis] not in output
        for letters, x in zip(operands.split(","), operation.inputs, strict=True)
        if "." not in letters
        for axis in batch.axes(x)
    )


def _axes_given(operation: tf.Operation, position: int) -> list[int]:
    value = tf.get_static_value(operation.inputs[position])
    rank = operation.inputs[0].shape.rank
    return [] if value is None or rank is None else [int(axis) % rank for axis in value.flat]


def _gathers_other_rows(operation: tf.Operation, batch: _Batch) -> bool:
    x, indices = operation.inputs[0], tf.get_static_value(operation.inputs[1])
    # Of an axis merged with others a position of each example may well be taken.
    if not any(x.shape[axis] == batch.size for axis in _axes_given(operation, 2)):
        return False
    return indices is None or indices.tolist() != list(range(batch.size))


def _turns_rows_round(operation: tf.Operation, batch: _Batch) -> bool:
    strides = tf.get_static_value(operation.inputs[3])
    if strides is None or operation.get_attr("new_axis_mask"):
        return False
    ellipsis = operation.get_attr("ellipsis_mask")
    before_ellipsis = len(strides) if not ellipsis else ellipsis.bit_length() - 1
    axes = batch.axes(operation.inputs[0])
    return any(axis < before_ellipsis and strides[axis] < 0 for axis in axes)
