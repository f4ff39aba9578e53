"""Which operations of a step XLA cannot compile: found in its graph, before anything is run.

A TPU runs a step as one program that XLA compiles, and `training.jit_compile` asks for the same
elsewhere. An operation without an XLA kernel, or on a TPU one whose result has a size that only the
data decide, ends the run at its first step with a message about nodes; here it is named with its
layer and what to do; for a TPU on any machine, before a TPU is paid for.

What XLA:TPU takes is read off TensorFlow's own registry, of the XLA kernels for CPUs. TensorFlow's
build for TPUs (`tensorflow-tpu` 2.20) registers all of those of TensorFlow 2.21 for TPUs too, less
complex128, and the few of `_OF_TPUS_ALONE`: compared kernel by kernel. That list is necessary, not
sufficient: `training.tpu_lowering` translates the whole step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import keras
import tensorflow as tf

from configs.schema import UserError
from training.node_layers import NodeLayers
from training.xla_kernels import fits, types_of, xla_kernels

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
class Compiler:
    """For what XLA compiles a step.

    Attributes:
        setting: The recipe's field that asks for it.
        name: In a message.
        device: Whose kernels TensorFlow has registered.
        otherwise: How to do without, continuing "or ".
        fixed_sizes: Whether no size may depend on the data.
        in_one_order: Whether sums must be added up in the same order each time.
        within: Whether it compiles functions within the step, and not the step.
    """

    setting: str
    name: str
    device: str
    otherwise: str
    fixed_sizes: bool = False
    in_one_order: bool = False
    within: bool = False


TPU = Compiler(
    "training.strategy", "a TPU", "XLA_CPU_JIT", "train on a GPU or CPU", fixed_sizes=True
)


def compiler_here(*, in_one_order: bool, within: bool) -> Compiler:
    """What `training.jit_compile` asks for on this machine; arguments as in `Compiler`."""
    device = "XLA_GPU_JIT" if tf.config.list_logical_devices("GPU") else "XLA_CPU_JIT"
    setting = "training.jit_compile"
    return Compiler(
        setting, "XLA", device, f"leave {setting} off", in_one_order=in_one_order, within=within
    )


@dataclass(frozen=True)
class _Reason:
    """Why operations like these cannot be compiled.

    Attributes:
        matches: Tells by an operation's type whether it is one of them.
        why: Continuing "operation ... ".
        remedy: What to do, a sentence.
        despite_kernel: For what it is refused although XLA has a kernel.
    """

    matches: Callable[[str], bool]
    why: str
    remedy: str
    despite_kernel: Callable[[Compiler], bool] = lambda compiler: False


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
        despite_kernel=lambda compiler: compiler.fixed_sizes,
    ),
    _Reason(
        _like("^MaxPool(3D)?Grad(V2)?$"),
        "has no program that adds up in the same order each time, as training.seed and noise that "
        "builds on earlier noise ask for",
        "Leave training.seed unset, where that is why, or {otherwise}",
        despite_kernel=lambda compiler: compiler.in_one_order,
    ),
    _Reason(
        _like("^Ragged|^Sparse|^(De)?[Ss]erializeSparse"),
        "works on sparse or ragged tensors, which XLA does not have",
        "Use dense tensors, with a mask beside the values",
    ),
    _Reason(
        _among("PyFunc", "PyFuncStateless", "EagerPyFunc"),
        "calls Python on the host, which is out of a compiled program's reach",
        "Write it in TensorFlow operations (keras.ops), or do it in preprocessing, which runs on "
        "the host",
    ),
    _Reason(
        _like("String|Regex|Unicode|Substr|^Decode|^Encode|^Parse|^Lookup|HashTable|Text"),
        "handles text, records or tables, and a compiled program knows numbers alone",
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
    "Use other TensorFlow operations (keras.ops) for it, or {otherwise}",
)
_NO_TYPE = _Reason(
    _like(""),
    "has no XLA kernel for {types}",
    "Compute in float32, bfloat16, int32 or bool",
)


@dataclass(frozen=True)
class Obstacle:
    """An operation that keeps a step from being compiled.

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


def obstacles_of(
    graphs: Iterable[tf.Graph], model: keras.Model, compiler: Compiler = TPU
) -> list[Obstacle]:
    """Every operation of a traced step that XLA cannot compile, once for each layer.

    Args:
        graphs: Of the step's concrete functions (`TrainingStep.trace`). Where `TPUStrategy` made
            one, the replicas' part is looked at; elsewhere all of it, and the functions that it
            calls.
        model: Whose layers are named.
        compiler: For what.
    """
    layers = NodeLayers(model)
    found: dict[tuple[str, str], Obstacle] = {}
    parts = (_computation(graph.as_graph_def(), within=compiler.within) for graph in graphs)
    for node, caller in chain.from_iterable(parts):
        reason = _reason_against(node, compiler)
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
                reason.why.format(types=", ".join(types_of(node))),
                reason.remedy.format(otherwise=compiler.otherwise),
            ),
        )
    return list(found.values())


def refuse_obstacles(obstacles: Sequence[Obstacle], compiler: Compiler = TPU) -> None:
    """Refuses a step that cannot be compiled.

    Raises:
        UserError: With the first obstacle, and how many more there are.
    """
    if not obstacles:
        return
    more = len(obstacles) - 1
    lister = "; sterling check-tpu lists them" if compiler == TPU else ""
    others = f" {more} more such operation(s){lister}." if more else ""
    raise UserError(
        f"{compiler.setting}: {compiler.name} cannot compile the step: {obstacles[0]}{others}"
    )


def _computation(graph: Any, *, within: bool = False) -> Iterator[tuple[Any, str]]:
    """The nodes that are compiled, each with the name of what calls the function it lies in.

    Args:
        graph: Its definition. All of it; or what a TPU's replica runs, where that is marked.
        within: Only functions in it that are compiled.
    """
    functions = {f.signature.name: f.node_def for f in graph.library.function}
    nodes = list(graph.node)
    marked = [n for n in nodes if any(mark in n.attr for mark in _REPLICA_MARKS)]
    compiled = [f for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    waiting = [("", f.node_def) for f in compiled] if within else [("", marked or nodes)]
    seen = set[str]()
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


def _reason_against(node: Any, compiler: Compiler) -> _Reason | None:
    if node.op in _STRUCTURE or node.op in _OF_TPUS_ALONE:
        return None
    known = xla_kernels(compiler.device).get(node.op)
    for reason in _REASONS:
        if reason.matches(node.op) and (known is None or reason.despite_kernel(compiler)):
            return reason
    if known is None:
        return _NO_KERNEL
    return None if any(fits(node, constraints) for constraints in known) else _NO_TYPE
