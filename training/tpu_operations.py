"""Which operations of a step no TPU can compile: found in its graph, before a TPU is paid for.

A TPU runs a step as one program that XLA compiles. An operation without an XLA kernel, or whose
result has a size that only the data decide, ends the run at its first step with a message about
nodes; here it is named with its layer and what to do, on any machine.

What XLA:TPU takes is read off TensorFlow's own registry, of the XLA kernels for CPUs. TensorFlow's
build for TPUs (`tensorflow-tpu` 2.20) registers all of those of TensorFlow 2.21 for TPUs too, less
complex128, and the few of `_OF_TPUS_ALONE`: compared kernel by kernel. That list is necessary, not
sufficient: `training.tpu_lowering` translates the whole step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework import kernels

from configs.schema import UserError
from training.node_layers import NodeLayers

_DEVICE = "XLA_CPU_JIT"
_OF_TPUS_ALONE = {
    "AllToAll",
    "CollectivePermute",
    "CrossReplicaSum",
    "KthOrderStatistic",
    "MakeUnique",
    "ResizeNearestNeighborGrad",
    "TopKUnique",
    "TopKWithUnique",
}
# What a graph has besides computation, `TPUStrategy`'s own among it.
_STRUCTURE = {
    "Placeholder",
    "TPUCompilationResult",
    "TPUPartitionedInput",
    "TPUPartitionedInputV2",
    "TPUPartitionedOutput",
    "TPUReplicateMetadata",
    "TPUReplicatedInput",
    "TPUReplicatedOutput",
}
# Marks the nodes of a replica's program in a graph that `TPUStrategy` has made.
_REPLICA_MARKS = ("_tpu_replicate", "_replication_info")


@dataclass(frozen=True)
class _Reason:
    """Why operations like these cannot run on a TPU.

    Attributes:
        matches: Tells by an operation's type whether it is one of them.
        why: Continuing "operation ... ".
        remedy: What to do, a sentence.
        despite_kernel: Whether it is refused although XLA has a kernel.
    """

    matches: Callable[[str], bool]
    why: str
    remedy: str
    despite_kernel: bool = False


def _among(*names: str) -> Callable[[str], bool]:
    return lambda operation: operation in names


def _like(pattern: str) -> Callable[[str], bool]:
    return lambda operation: re.search(pattern, operation) is not None


# The first that matches speaks.
_REASONS = (
    _Reason(
        _like("^(Where|Unique.*|DynamicPartition|ListDiff)$"),
        "gives a result whose size depends on the data, and a TPU's shapes are fixed when it "
        "compiles",
        "Keep a fixed size (tf.where with three arguments, a mask beside the values), or do it in "
        "preprocessing, which runs on the host",
        despite_kernel=True,
    ),
    _Reason(
        _like("^Ragged|^Sparse|^(De)?[Ss]erializeSparse"),
        "works on sparse or ragged tensors, which XLA does not have",
        "Use dense tensors, with a mask beside the values",
    ),
    _Reason(
        _among("PyFunc", "PyFuncStateless", "EagerPyFunc"),
        "calls Python on the host, which is out of a TPU's reach",
        "Write it in TensorFlow operations (keras.ops), or do it in preprocessing, which runs on "
        "the host",
    ),
    _Reason(
        _like("String|Regex|Unicode|Substr|^Decode|^Encode|^Parse|^Lookup|HashTable|Text"),
        "handles text, records or tables, and a TPU knows numbers alone",
        "Do it in preprocessing, which runs on the host, and give the model numbers",
    ),
    _Reason(
        _like("^Print|Summary|Timestamp"),
        "speaks to the host in the middle of the step",
        "Take it out; a Keras callback sees the model between steps",
    ),
    _Reason(
        _like("Random|Binomial|Poisson|Gamma$|Multinomial|Categorical|Generator"),
        "draws random numbers in a way that XLA does not have",
        "Draw with keras.random and a keras.random.SeedGenerator",
    ),
    _Reason(
        _like("Queue|Barrier|Dataset|Iterator|ReadFile|WriteFile|Matching"),
        "reads or writes on the host in the middle of the step",
        "Do it in the data pipeline",
    ),
)
_NO_KERNEL = _Reason(
    _like(""),
    "has no XLA kernel",
    "Use other TensorFlow operations (keras.ops) for it, or train on a GPU or CPU",
)
_NO_TYPE = _Reason(
    _like(""),
    "has no XLA kernel for {types}",
    "Compute in float32, bfloat16, int32 or bool",
)


@dataclass(frozen=True)
class Obstacle:
    """An operation that keeps a step from a TPU.

    Attributes:
        operation: Its type.
        node: Its name in the graph.
        layer: Path of the layer that it belongs to; "" where it belongs to none.
        why: What is wrong with it.
        remedy: What to do about it, a sentence.
    """

    operation: str
    node: str
    layer: str
    why: str
    remedy: str

    def __str__(self) -> str:
        subject = f"layer '{self.layer}': " if self.layer else ""
        return f"{subject}{self.operation} (node {self.node}) {self.why}. {self.remedy}."


def obstacles_of(graphs: Iterable[tf.Graph], model: keras.Model) -> list[Obstacle]:
    """Every operation of a traced step that XLA cannot compile for a TPU, once for each layer.

    Args:
        graphs: Of the step's concrete functions (`TrainingStep.trace`). Where `TPUStrategy` made
            one, the replicas' part is looked at; elsewhere all of it, and the functions that it
            calls.
        model: Whose layers are named.
    """
    layers = NodeLayers(model)
    found: dict[tuple[str, str], Obstacle] = {}
    for node, caller in chain.from_iterable(_computation(g.as_graph_def()) for g in graphs):
        reason = _reason_against(node)
        if reason is None:
            continue
        # Some functions' nodes carry the names of the layers around the call, and some do not.
        layer = layers.path_in(node.name) or layers.path_in(caller)
        # A gradient repeats what the layer did.
        found.setdefault(
            (node.op, layer),
            Obstacle(
                node.op,
                node.name,
                layer,
                reason.why.format(types=", ".join(_types_of(node))),
                reason.remedy,
            ),
        )
    return list(found.values())


def refuse_obstacles(obstacles: Sequence[Obstacle]) -> None:
    """Refuses a step that a TPU cannot compile.

    Raises:
        UserError: With the first obstacle, and how many more there are.
    """
    if not obstacles:
        return
    more = len(obstacles) - 1
    others = f" {more} more such operation(s); sterling check-tpu lists them." if more else ""
    raise UserError(f"training.strategy: a TPU cannot compile the step: {obstacles[0]}{others}")


def _computation(graph: Any) -> Iterator[tuple[Any, str]]:
    """The nodes that a replica runs, each with the name of what calls the function it lies in."""
    functions = {f.signature.name: f.node_def for f in graph.library.function}
    nodes = list(graph.node)
    marked = [n for n in nodes if any(mark in n.attr for mark in _REPLICA_MARKS)]
    waiting, seen = [("", marked or nodes)], set[str]()
    while waiting:
        caller, nodes = waiting.pop()
        for node in nodes:
            if node.op in functions:
                called = [node.op]
            else:
                yield node, caller
                called = [f for value in node.attr.values() for f in _functions_in(value)]
            for function in called:
                if function in functions and function not in seen:
                    seen.add(function)
                    waiting.append((f"{caller}/{node.name}", functions[function]))


def _functions_in(value: Any) -> list[str]:
    if value.HasField("func"):
        return [value.func.name]
    return [function.name for function in value.list.func]


def _reason_against(node: Any) -> _Reason | None:
    if node.op in _STRUCTURE or node.op in _OF_TPUS_ALONE:
        return None
    known = _xla_kernels().get(node.op)
    for reason in _REASONS:
        if reason.matches(node.op) and (known is None or reason.despite_kernel):
            return reason
    if known is None:
        return _NO_KERNEL
    return None if any(_fits(node, constraints) for constraints in known) else _NO_TYPE


@cache
def _xla_kernels() -> dict[str, list[dict[str, frozenset[int]]]]:
    """Operation -> for each of its XLA kernels, attribute -> types it may have."""
    # The registry is filled when XLA compiles for the first time.
    tf.function(lambda x: x + 1, jit_compile=True, autograph=False)(tf.constant(0))
    found: dict[str, list[dict[str, frozenset[int]]]] = {}
    for kernel in kernels.get_all_registered_kernels().kernel:
        if kernel.device_type == _DEVICE:
            found.setdefault(kernel.op, []).append(
                {
                    constraint.name: frozenset(constraint.allowed_values.list.type)
                    - {tf.complex128.as_datatype_enum}
                    for constraint in kernel.constraint
                }
            )
    return found


def _fits(node: Any, constraints: dict[str, frozenset[int]]) -> bool:
    return all(set(_types_at(node, name)) <= allowed for name, allowed in constraints.items())


def _types_at(node: Any, name: str) -> list[int]:
    if name not in node.attr:
        return []
    value = node.attr[name]
    return [value.type] if value.HasField("type") else list(value.list.type)


def _types_of(node: Any) -> list[str]:
    numbers = {number for name in node.attr for number in _types_at(node, name)}
    return sorted(tf.as_dtype(number).name for number in numbers)
